"""How commands read their arguments."""

import argparse
import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from dinojax.cli.terminal import BAD_INPUT, Program, describe_error

MAX_DIGITS = 20


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help that shows defaults, except None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line and suggests a flag for an unknown one."""

    def __init__(self, program: Program, description: str) -> None:
        super().__init__(
            prog=program.name,
            description=description,
            allow_abbrev=False,
            formatter_class=HelpFormatter,
        )
        self.program = program

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n")

    def parse_args(  # type: ignore[override]  # argparse declares overloads that differ
        self, args: Sequence[str], namespace: Any = None
    ) -> argparse.Namespace:
        """Parse all arguments, or report the first unknown one."""
        args = join_negative_numbers(args)
        # Before argparse complains about what follows the unknown flag.
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


@contextmanager
def about(what: str) -> Iterator[None]:
    """Prefix the message of a ValueError with `what`, such as the flag that caused it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def add_which(parser: argparse.ArgumentParser) -> None:
    """Add the argument that chooses a checkpoint of a run."""
    parser.add_argument(
        "--which",
        metavar="STEP",
        type=which_checkpoint,
        default="best",
        help="checkpoint: best (by validation loss), last, or a number of steps",
    )


def join_negative_numbers(arguments: Sequence[str]) -> list[str]:
    """Replace "--flag", "-1e-3" by "--flag=-1e-3": argparse takes the number for a flag."""
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
    raise argparse.ArgumentTypeError(f"expected a number such as 0.01, got {text[:MAX_DIGITS]!r}")


def which_checkpoint(text: str) -> str:
    """Argument type: a checkpoint, as "best", "last" or a number of steps."""
    if text in ("best", "last") or (text.isascii() and text.isdigit() and len(text) < MAX_DIGITS):
        return text
    raise argparse.ArgumentTypeError(
        f"expected best, last or a number of steps, got {text[:MAX_DIGITS]!r}"
    )


def path(text: str) -> Path:
    """Argument type: a path."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one")
    return Path(text)
