"""How commands read their arguments, and report errors in them."""

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from dinojax.cli.terminal import BAD_INPUT, Program, describe_error, tell
from dinojax.files import check_writable
from dinojax.messages import quoted

MAX_DIGITS = 20
ALSO_CALLED = {
    "--learning-rate": "lr", "--hidden-size": "units", "--cell": "model rnn",
    "--weight-decay": "wd", "--batch-size": "batch bs", "--steps": "iterations iters max-iters",
    "--clip-norm": "clip grad-clip max-norm", "--window": "seq-length seq-len block-size",
    "--validation-fraction": "val-split val", "--out": "output output-dir o",
    "--data": "input file train-file", "--resume": "load checkpoint", "--which": "checkpoint",
    "--patience": "early-stopping", "--devices": "gpus gpu device", "--temperature": "temp t",
    "--num": "n count num-samples", "--samples": "n num", "--prompt": "prefix start start-text",
    "--average-share": "ema average", "--mogrifier-rounds": "mogrifier rounds",
    "--best": "beam", "--match": "regex pattern", "--top-p": "nucleus p", "--top-k": "k",
    "--jobs": "workers", "--search": "trials num-trials n-trials", "--split": "part set",
}  # fmt: skip
"""What other programs call a flag, where spelling does not tell which one is meant."""
PLAIN_NEGATIVE = re.compile(r"-(?:\d+|\d*\.\d+)", re.ASCII)


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line and suggests a flag for an unknown one."""

    def __init__(self, program: Program, description: str) -> None:
        super().__init__(program.name, description=description, allow_abbrev=False)
        self.program = program
        self.is_silent = False
        """Whether notes are for another process to print."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        tell(self.prog, f"error: {message}")
        self.exit(BAD_INPUT)

    def note(self, message: str) -> None:
        """Print one line that the user may want to know."""
        if not self.is_silent:
            tell(self.prog, f"note: {message}")

    def print_help(self, file: Any = None) -> None:
        """Print the help; unlike argparse, raise an OSError if it cannot be written."""
        print(self.format_help(), end="", file=file or sys.stdout)

    def parse_args(  # type: ignore[override]  # argparse declares overloads that differ
        self, args: Sequence[str], namespace: Any = None
    ) -> argparse.Namespace:
        """Parse all arguments, or report the first unknown one."""
        args = join_negative_numbers(args)
        flags = [name for action in self._actions for name in action.option_strings]
        # Before argparse complains about what follows the unknown flag.
        for flag in (argument.split("=")[0] for argument in args):
            if flag.startswith("--") and flag not in [*flags, "--"]:
                self.error(f"unknown argument {flag}; {hint(flag, flags)}")
        parsed: argparse.Namespace
        parsed, unknown = self.parse_known_args(args, namespace)
        # argparse ends a list of words at the first flag.
        lists = [x.dest for x in self._actions if x.nargs == "*" and not x.option_strings]
        for argument in unknown:
            if argument.startswith("-") or not lists:
                self.error(f"unknown argument {argument}; see --help")
            setattr(parsed, lists[0], [*getattr(parsed, lists[0]), argument])
        return parsed

    @contextmanager
    def reported_errors(self) -> Iterator[None]:
        """Report a ValueError or OSError from reading the user's input as an error of usage."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.error(describe_error(error))


def hint(word: str, known: Iterable[str]) -> str:
    """What to try in place of an unknown word: the closest of those `known`, or --help."""
    # Without dashes, which would make any two flags alike.
    dashes = "--" if word.startswith("--") else ""
    plain = word.removeprefix(dashes)
    names = {x.removeprefix(dashes): x for x in known if x.startswith(dashes)}
    close = [x for x in names.values() if plain in ALSO_CALLED.get(x, "").split()]
    close += [names[x] for x in difflib.get_close_matches(plain, names, n=1)]
    return f"did you mean {close[0]}?" if close else "see --help"


def join_negative_numbers(arguments: Sequence[str]) -> list[str]:
    """Replace "--flag", "-1e-3" by "--flag=-1e-3": argparse takes the number for a flag.

    It knows plain ones such as -5, and a flag may have several of them.
    """
    joined: list[str] = []
    for argument in arguments:
        with suppress(ValueError):
            flag = joined[-1] if joined else ""
            is_odd = argument.startswith("-") and not PLAIN_NEGATIVE.fullmatch(argument)
            if is_odd and flag.startswith("--") and "=" not in flag:
                float(argument)
                joined[-1] += f"={argument}"
                continue
        joined.append(argument)
    return joined


def whole_number(text: str) -> int:
    """Argument type: a whole number."""
    with suppress(ValueError):
        if len(text) <= MAX_DIGITS:
            return int(text)
    shown = repr(text) if len(text) <= MAX_DIGITS else f"{len(text):,} characters"
    raise argparse.ArgumentTypeError(f"expected a whole number such as 1000, got {shown}")


def number(text: str) -> float:
    """Argument type: a number."""
    with suppress(ValueError):
        return float(text)
    raise argparse.ArgumentTypeError(f"expected a number such as 0.01, got {quoted(text)}")


def take_preset(arguments: argparse.Namespace, presets: Iterable[str]) -> None:
    """Let the preset follow the files of --data, of which it then seems to be the last."""
    files = arguments.data or []
    last = str(files[-1]) if files[1:] else ""
    if arguments.preset is None and last in presets and not files[-1].exists():
        arguments.preset = last
        files.pop()


def may_be_file(word: str) -> bool:
    """Whether a word that is no command or preset is meant as a file or folder.

    It is if it exists, holds a dot or a path separator, or stands for standard input.
    """
    has_mark = any(each in word for each in (".", "/", os.sep))
    return has_mark or word == "-" or os.path.exists(word)


def take_files(arguments: argparse.Namespace, presets: Sequence[str]) -> bool:
    """Let the files of data follow the preset, or stand in its place, without --data.

    Returns whether they do.

    Raises:
        ValueError: the first word is neither a preset nor a file, or there are files and --data.
    """
    words = [str(each) for each in (arguments.preset, *arguments.files) if each is not None]
    arguments.preset = words.pop(0) if words[:1] and words[0] in presets else None
    if words and not (arguments.preset or may_be_file(words[0])):
        raise ValueError(
            f"{quoted(words[0])} is neither a file nor one of the presets {', '.join(presets)}; "
            f"{hint(words[0], presets)}"
        )
    if words and arguments.data:
        raise ValueError(f"give all files after --data, or none; {quoted(words[0])} precedes it")
    try:
        arguments.data = list(map(path, words)) or arguments.data
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from None
    return bool(words)


def require(package: str, extra: str) -> None:
    """Raise a ValueError, with the remedy, if a package of dinojax[`extra`] is missing."""
    try:
        importlib.import_module(package)
    except ImportError:
        remedy = f"install it: pip install 'dinojax[{extra}]'"
        raise ValueError(f"{package} is missing; {remedy}") from None


def output_file(flag: str, file: Path, inputs: Iterable[Path] = ()) -> Path:
    """The file that a flag names, or the one that a link leads to, before any work is done.

    Raises:
        OSError: it cannot be written.
        ValueError: it is a directory or a device, one of the `inputs` or a file of a run, or its
            folder does not exist.
    """
    from dinojax.runs.exchange import LOCK_FILE, RUN_FILE

    # The file that a link leads to is replaced, not the link.
    target = Path(os.path.realpath(file)) if file.is_symlink() else file
    if target.exists() and not target.is_file():
        raise ValueError(f"{flag}: {file} is a directory or a device, not a file")
    if target.resolve() in map(Path.resolve, inputs):
        raise ValueError(f"{flag}: {file} is read, too; choose another file")
    is_of_run = RUN_FILE.fullmatch(target.name) or target.name == LOCK_FILE
    if is_of_run and any(target.parent.glob("checkpoint-*.npz")):
        raise ValueError(f"{flag}: {file} is a file of a run; choose another name")
    if not target.parent.exists():
        raise ValueError(f"{flag}: there is no folder {target.parent}; make it first")
    check_writable(target)
    return target


def path(text: str) -> Path:
    """Argument type: a path. One that is not UTF-8 could not be recorded with a run."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one")
    if re.match("[a-z]{2,}://", text):
        message = f"expected a path, got the address {quoted(text)}; download the file first"
        raise argparse.ArgumentTypeError(message)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"expected a path in UTF-8, got {quoted(text)}; rename it"
        raise argparse.ArgumentTypeError(message) from None
    return Path(text)
