"""Print a script that completes the arguments of `dinojax` in a shell."""

from argparse import ArgumentParser, Namespace

from dinojax.cli.arguments import Parser, path, require
from dinojax.cli.settings import OrCode


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax completion`."""
    shells = ["bash", "zsh", "fish"]
    parser.add_argument("shell", choices=shells, help="shell that reads the script")


def main(parser: Parser, arguments: Namespace) -> int:
    """Print the script; returns the exit code."""
    # Imported late, as main imports this module.
    from dinojax.cli.main import COMMANDS, module_of

    with parser.reported_errors():
        require("shtab", "completion")
    import shtab

    # Where a file may be given, too, shtab can offer it in bash alone.
    files = [shtab.Choice("file")] if arguments.shell == "bash" else []
    root = ArgumentParser("dinojax")
    subparsers = root.add_subparsers()
    for name, description in COMMANDS.items():
        command = subparsers.add_parser(name, description=description, help=description)
        module = module_of(name)
        module.add_arguments(command)
        for action in command._actions:
            if action.type is path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab reads it
            elif action.dest == "preset" and not action.choices:
                action.choices = [*module.CHOICES, *files]
            elif isinstance(action.choices, OrCode):
                action.choices = [*action.choices[:-1], *files]
    print(shtab.complete(root, arguments.shell))
    return 0
