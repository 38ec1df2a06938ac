"""What the scripts share: how they read arguments, say what is wrong, and end."""

import argparse
import difflib
import os
import shlex
import shutil
import signal
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM
MAX_DIGITS = 20


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows defaults, where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with a suggestion for an unknown flag."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=HelpFormatter,
        )

    def add_which(self) -> None:
        """Add the argument that chooses a checkpoint of a run."""
        self.add_argument(
            "--which",
            metavar="STEP",
            type=which_checkpoint,
            default="best",
            help="checkpoint: best (by validation loss), last, or a number of steps",
        )

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n")

    def parse_args(  # type: ignore[override]  # argparse declares overloads that differ
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Parse all arguments, or report the first that is unknown."""
        args = join_negative_numbers(sys.argv[1:] if args is None else args)
        # Before argparse complains of what followed the unknown flag.
        for argument in args:
            self._check_flag(argument)
        parsed: argparse.Namespace
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown argument {unknown[0]}; see --help")
        return parsed

    def _check_flag(self, argument: str) -> None:
        flag = argument.split("=")[0]
        flags = [name for action in self._actions for name in action.option_strings]
        if flag.startswith("--") and flag not in [*flags, "--"]:
            close = difflib.get_close_matches(flag, flags, n=1)
            hint = f"did you mean {close[0]}?" if close else "see --help"
            self.error(f"unknown argument {flag}; {hint}")

    @contextmanager
    def reported_errors(self) -> Iterator[None]:
        """Report a ValueError or OSError from reading the user's input as an error of usage."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.error(describe_error(error))


def join_negative_numbers(arguments: Sequence[str]) -> list[str]:
    """The arguments with "--flag", "-1e-3" as "--flag=-1e-3": argparse takes it for a flag."""
    joined: list[str] = []
    for argument in arguments:
        with suppress(ValueError):
            flag = joined[-1] if joined else ""
            if argument.startswith("-") and flag.startswith("--") and "=" not in flag:
                float(argument)
                joined[-1] += f"={argument}"
                continue
        joined.append(argument)
    return joined


def whole_number(text: str) -> int:
    """The type of an argument that is a whole number."""
    with suppress(ValueError):
        if len(text) <= MAX_DIGITS:
            return int(text)
    shown = repr(text) if len(text) <= MAX_DIGITS else f"{len(text):,} characters"
    raise argparse.ArgumentTypeError(f"expected a whole number such as 1000, got {shown}")


def number(text: str) -> float:
    """The type of an argument that is a number."""
    with suppress(ValueError):
        return float(text)
    raise argparse.ArgumentTypeError(f"expected a number such as 0.01, got {text[:MAX_DIGITS]!r}")


def which_checkpoint(text: str) -> str:
    """The type of an argument that chooses a checkpoint: "best", "last", or a number of steps."""
    if text in ("best", "last") or (text.isascii() and text.isdigit() and len(text) < MAX_DIGITS):
        return text
    raise argparse.ArgumentTypeError(
        f"expected best, last or a number of steps, got {text[:MAX_DIGITS]!r}"
    )


def path(text: str) -> Path:
    """The type of an argument that is a path."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one")
    return Path(text)


def check_writable(path: Path) -> None:
    """Raise an OSError if a file cannot be written there, before the work whose result it takes."""
    is_new = not path.exists()
    path.open("a").close()
    if is_new:
        path.unlink()


def count(num: int, noun: str) -> str:
    """A number of things: "1 name", "1,538 names"."""
    return f"{num:,} {noun}{'' if num == 1 else 's'}"


def visible(text: str) -> str:
    """What may be shown in a terminal: control characters, which could steer it, as escapes."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) == "Cc" else c for c in text
    )


def say_damaged(damaged: Sequence[Path], used: Path) -> None:
    """Say on standard error which checkpoints were passed over."""
    program = os.path.basename(sys.argv[0])
    for file in damaged:
        print(f"{program}: note: {file} cannot be used; using {used.name}", file=sys.stderr)


def describe_error(error: Exception) -> str:
    """An exception in one line: what was wrong and where."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def shell_command(script: Path, *arguments: str) -> str:
    """The shell command that runs a script with this Python, from this folder."""
    is_python = shutil.which("python") == sys.executable
    python = "python" if is_python else short_path(sys.executable)
    return shlex.join([python, short_path(script.resolve()), *arguments])


def short_path(file: str | Path) -> str:
    """A path relative to this folder where that is shorter."""
    short = min(str(file), os.path.relpath(file), key=len)
    # What starts with a dash would be taken for a flag.
    return os.path.join(os.curdir, short) if short.startswith("-") else short


def run(main: Callable[[], int]) -> NoReturn:
    """Call `main` and exit with its code; an interrupt or an OSError is one line."""
    program = os.path.basename(sys.argv[0])
    # As after `>&-`: what nobody wants to read is written nowhere.
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")

    def interrupt(*_: Any) -> NoReturn:
        # Not by an exception: libraries turn one that meets them at work into errors of their own,
        # and JAX may crash when Python takes down what it was compiling.
        os.write(sys.stderr.fileno(), f"{program}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, interrupt)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its code point, not a traceback.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone, as in `| head`; keep Python from failing again at its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        print(f"{program}: error: {describe_error(error)}", file=sys.stderr)
        code = BAD_INPUT
    # All is said; Python takes a moment to end, in which a late Ctrl-C would change the exit code.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """The signals, Ctrl-C or SIGTERM, that ask to stop; a second Ctrl-C ends at once.

    A second later or more, that is: a key that is held down means it once.
    """
    signals: list[int] = []
    stopped = 0.0

    def handle(signal_number: int, frame: Any) -> None:
        nonlocal stopped
        if not signals:
            stopped = time.monotonic()
            signals.append(signal_number)
        elif signal_number == signal.SIGINT and time.monotonic() - stopped > 1:
            at_once(signal_number, frame)

    at_once: Any = signal.signal(signal.SIGINT, handle)
    terminate = signal.signal(signal.SIGTERM, handle)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, at_once)
        signal.signal(signal.SIGTERM, terminate)
