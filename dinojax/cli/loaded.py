"""The run that a command works on."""

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from dinojax.cli.arguments import Parser

if TYPE_CHECKING:
    from dinojax.runs.folder import Run


def load(parser: Parser, arguments: Namespace) -> "Run":
    """The run in the folder `arguments.run`, at its checkpoint `arguments.which`.

    It prints a note on each damaged checkpoint that was passed over.

    Raises:
        OSError: a file cannot be read.
        ValueError: the folder holds no run, or no such checkpoint.
    """
    from dinojax.runs.folder import load_run

    run = load_run(arguments.run, arguments.which)
    note_damaged(parser, run)
    return run


def note_damaged(parser: Parser, run: "Run") -> None:
    """Print a note on each damaged checkpoint that was passed over."""
    for file in run.damaged:
        print(
            f"{parser.prog}: note: {file} cannot be used; using {run.checkpoint.name}",
            file=sys.stderr,
        )
