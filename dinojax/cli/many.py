"""What sweeps and searches share: flags, data, signals and errors."""

import signal
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dinojax.cli import terminal
from dinojax.cli.arguments import Parser
from dinojax.cli.jobs import check_there
from dinojax.config import check_range
from dinojax.data.corpus import read_once
from dinojax.data.standard_library import library_path
from dinojax.presets import PRESETS

SOME_FAILED = 1


def check_shared(arguments: Namespace, kind: str) -> None:
    """Raise a ValueError if the flags that sweeps and searches share are not suitable."""
    check_range("--jobs", 1 if arguments.jobs is None else arguments.jobs, 1, 4096)
    if read_once(arguments.data or []):
        raise ValueError(f"--data: a {kind} reads its data several times; give a file")


def data_to_begin(arguments: Namespace, preset: str) -> str:
    """Paths of the data of something new, one a line."""
    from dinojax.runs.replica import paths_in_lines

    return paths_in_lines(arguments.data or [library_path()] * PRESETS[preset].is_text)


def data_given(arguments: Namespace) -> str | None:
    """Paths of the data that are given, one a line."""
    from dinojax.runs.replica import paths_in_lines

    return paths_in_lines(arguments.data) if arguments.data else None


def check_data_there(arguments: Namespace, data: str, file: Path) -> None:
    """Raise a ValueError if data that a file names are gone, and no others are given."""
    for each in data.split("\n") if data and not arguments.data else []:
        check_there(Path(each), file, "--data")


@contextmanager
def waiting(parser: Parser, folder: Path) -> Iterator[tuple[list[int], str]]:
    """The signals that come while the runs in a folder are trained, and how to resume them.

    An error is one line that says so, too.
    """
    # Now, as the current folder may be gone when training ends.
    line = parser.program.shell_line("sweep", "--resume", terminal.short_path(folder))
    again = f"resume with: {line}"
    try:
        with terminal.stop_on_signal(parser.prog) as signals:
            yield signals, again
    except BrokenPipeError:
        # The output is no longer read; see `terminal.run`.
        raise
    except (OSError, ValueError) as error:
        parser.error(f"{terminal.describe_error(error)}; fix that and {again}")


def tell_interrupted(parser: Parser, signals: Sequence[int], ended: str, again: str) -> int:
    """Say how many runs had ended when a signal came; returns the exit code."""
    print(file=sys.stderr)
    terminal.tell(parser.prog, f"interrupted; {ended} ended, all others are saved; {again}")
    return terminal.INTERRUPTED if signals[0] == signal.SIGINT else terminal.TERMINATED
