"""What the scripts share: how they read arguments, and how they say what is wrong."""

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

BAD_INPUT = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with a suggestion for an unknown flag."""

    def __init__(self, description: str) -> None:
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n")

    def parse_args(  # type: ignore[override]  # argparse declares overloads that differ
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Parse all arguments, or report the first that is unknown."""
        parsed: argparse.Namespace
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].split("=")[0]
            flags = [name for action in self._actions for name in action.option_strings]
            close = difflib.get_close_matches(flag, flags, n=1)
            hint = f"did you mean {close[0]}?" if close else "see --help"
            self.error(f"unknown argument {unknown[0]}; {hint}")
        return parsed

    @contextmanager
    def reported_errors(self) -> Iterator[None]:
        """Report a ValueError or OSError from reading the user's input as an error of usage."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.error(describe(error))


def describe(error: Exception) -> str:
    """An exception in one line: what was wrong and where."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


def run(main: Callable[[], int]) -> NoReturn:
    """Call `main` and exit with its code; an interrupt or a failing device is one line."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its code point, not a traceback.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    program = os.path.basename(sys.argv[0])
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader has gone, as in `| head`; keep Python from failing again at its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        print(f"{program}: error: {describe(error)}", file=sys.stderr)
        code = BAD_INPUT
    sys.exit(code)
