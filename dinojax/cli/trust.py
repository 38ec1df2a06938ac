"""Say that the code in the folder of a run may be executed; see --help."""

from argparse import ArgumentParser, Namespace

from dinojax.cli.arguments import Parser, path
from dinojax.messages import visible


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax trust`."""
    text = "folder of a run, a sweep or a search with a cell, a loss or an optimizer of its own"
    parser.add_argument("run", metavar="RUN", type=path, help=text)


def main(parser: Parser, arguments: Namespace) -> int:
    """Keep the code, and say which; returns the exit code."""
    from dinojax.runs.code import trust

    with parser.reported_errors():
        for file in trust(arguments.run):
            print(visible(f"From now on, {file} may be executed"))
    return 0
