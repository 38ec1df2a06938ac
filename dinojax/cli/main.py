"""The command `dinojax`: finds the sub-command, imports it alone, and runs it."""

import importlib
import os
import sys
from collections.abc import Sequence
from functools import partial
from keyword import iskeyword
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import dinojax
from dinojax.cli.arguments import Parser, hint, may_be_file
from dinojax.cli.terminal import BAD_INPUT, Program, run, short_path, tell
from dinojax.messages import quoted

COMMANDS = {
    "train": "Train a recurrent network on a list of names or a text. It learns to predict "
    "the next character.",
    "sweep": "Train and compare combinations of settings, with several seeds. "
    "A flag for a setting takes one value, for all runs, or several.",
    "advise": "Propose what to train on a list of names or a text. It measures the data and this "
    "machine for some seconds, and says how long training takes and what loss to expect.",
    "prepare": "Read large texts or lists into the user's cache ahead of training.",
    "sample": "Write new names, or continue a text, with a trained model.",
    "next": "Show what a model expects after the beginning of a name or a text.",
    "score": "Say how probable names, or a text, are to a trained model.",
    "evaluate": "Measure a model's exact loss over data, beside n-gram models.",
    "mix": "Mix models of several runs, and an n-gram model, into a better one.",
    "plot": "Draw losses, surprisal, activations, and names as a run learned. Writes PNG and SVG "
    "files. Runs that differ in their seeds alone are drawn as their mean. Needs matplotlib.",
    "import": "Make a run of a model that Keras or PyTorch saved.",
    "export": "Write a model in another program's format, and check the result.",
    "page": "Write a page of HTML in which a trained model runs. It invents, predicts and shows "
    "what surprises it, in any browser and offline.",
    "trust": "Allow the code in the folder of a run to be executed. A run with a cell, a loss or "
    "an optimizer of its own holds a copy of its file, code-*.py. Read it before you trust it.",
    "reproduce": "Replay the dinosaur-name exercise in float64, number by number.",
    "doctor": "Say whether dinojax works on this machine. It looks at what is installed, whether "
    "gradients, seeds, samples and checkpoints are right, and how fast it is, in ten seconds.",
    "completion": "Print the completion script for a shell. Needs shtab.",
}
"""The sub-commands; see `module_of`."""
HELP = """\
usage: dinojax COMMAND ...
       dinojax FILE ...

Train a character-level language model on a list of names or a text, and have it
write new ones.

{}

Begin with:
  dinojax train                    learns dinosaur names, in a few seconds
  dinojax sample runs/dinos        writes new ones
  dinojax FILE                     learns your names, one a line, or your text

dinojax COMMAND --help shows the arguments of a command."""


def main() -> NoReturn:
    """Run the sub-command that the command line names, and exit with its code.

    A file in its place is one to train on.
    """
    command, *words = sys.argv[1:] or ["--help"]
    if command in COMMANDS:
        program = Program(command, sys.argv[0])
        run(program, partial(call, program, words))
    if not command.startswith("-") and may_be_file(command):
        program = Program("train", sys.argv[0])
        run(program, partial(call, program, [command, *words]))
    program = Program("", sys.argv[0])
    run(program, partial(answer, program, command))


def run_script(file: str) -> NoReturn:
    """Run the sub-command after which the script `file` is named, and exit with its code."""
    program = Program(Path(file).stem, file)
    run(program, partial(call, program, sys.argv[1:]))


def call(program: Program, arguments: Sequence[str]) -> int:
    """Run a sub-command with these arguments; returns its code."""
    module = module_of(program.command)
    parser = Parser(program, COMMANDS[program.command])
    module.add_arguments(parser)
    return module.main(parser, parser.parse_args(arguments))


def module_of(command: str) -> ModuleType:
    """The module of this package with the name of a sub-command; `import_` for a keyword."""
    return importlib.import_module(f"dinojax.cli.{command}{'_' * iskeyword(command)}")


def answer(program: Program, argument: str) -> int:
    """Print the help or the version, or say that there is no such command; returns the code."""
    if argument in ("--help", "-h"):
        width = max(map(len, COMMANDS)) + 2
        lines = [f"  {name:{width}}{text.split('.')[0]}" for name, text in COMMANDS.items()]
        print(HELP.format("\n".join(lines)))
        return 0
    if argument == "--version":
        print(f"dinojax {dinojax.__version__}")
        return 0
    shown = argument or quoted(argument)
    remedy = hint(argument, COMMANDS)
    if argument == "-":
        remedy = f"standard input: {program.shell_line('train', 'names', '--data', '-')}"
    elif os.path.exists(argument):
        remedy = f"the file of this name: {program.shell_line('train', short_path(argument))}"
    tell(program.name, f"error: unknown command {shown}; {remedy}")
    return BAD_INPUT
