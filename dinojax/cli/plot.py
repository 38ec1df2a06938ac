"""Draw the losses of runs or of a sweep, how surprising strings are, what units do; see --help."""

import logging
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import TYPE_CHECKING

from dinojax.cli.arguments import Parser, path, require, whole_number
from dinojax.config import check_range
from dinojax.data.text import composed
from dinojax.messages import about, visible
from dinojax.startup import start_jax

if TYPE_CHECKING:
    from dinojax.runs.folder import Run

MAX_CHARACTERS, MAX_CELLS = 2_000, 20_000
"""Largest pictures: they take some ten seconds."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax plot`."""
    add = parser.add_argument
    help_runs = "folder of a run, such as runs/dinos, or of a sweep; several runs are compared"
    add("runs", metavar="RUN", nargs="+", type=path, help=help_runs)
    help_strings = "draw how surprising each character of these is"
    add("--strings", metavar="TEXT", nargs="+", help=help_strings)
    add("--text", metavar="TEXT", help="draw the outputs of units of a layer along this text")
    number = partial(add, metavar="N", type=whole_number)
    number("--units", nargs="+", help="units to draw, from 0 (default: those that vary most)")
    number("--layer", help="layer of the units; 0 reads the characters (default: the last)")


def main(parser: Parser, arguments: Namespace) -> int:
    """Draw, save and print the names of the files; returns the exit code."""
    for flag in "strings", "text":
        if getattr(arguments, flag) is not None and len(arguments.runs) > 1:
            parser.error(f"--{flag} is for one run, got {len(arguments.runs)}")
    for flag in "units", "layer":
        if getattr(arguments, flag) is not None and arguments.text is None:
            parser.error(f"--{flag} needs --text, along which units are drawn")
    with parser.reported_errors():
        for flag, texts in ("strings", arguments.strings or []), ("text", [arguments.text]):
            num_characters = sum(len(text or "") for text in texts)
            check_range(f"characters of --{flag}", num_characters, 0, MAX_CHARACTERS)
        # Matplotlib logs a message while it builds its font cache.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        # A setting of the user's, such as MPLBACKEND, may raise a ValueError.
        require("matplotlib", "plot")
        from dinojax.plots.losses import plot_runs
        from dinojax.plots.style import save
        from dinojax.plots.sweeps import plot_sweep
        from dinojax.runs.sweep import is_sweep

        run, figures = None, {}
        if arguments.strings is not None or arguments.text is not None:
            start_jax()
            from dinojax.plots.heat_maps import plot_strings, plot_text
            from dinojax.runs.folder import check_is_network
            from dinojax.runs.mixtures import load_any

            run = load_any(arguments.runs[0])
        if len(arguments.runs) == 1 and is_sweep(arguments.runs[0]):
            figures["loss"] = plot_sweep(arguments.runs[0])
        # A run before its first step, such as an imported one, has no loss, but a model to draw.
        elif run is None or (run.step and not run.description.model):
            figures["loss"] = plot_runs(arguments.runs)
        if run is not None:
            if arguments.strings is not None:
                with about("--strings"):
                    strings = [as_read(run, string) for string in arguments.strings]
                as_names = not run.config.is_text
                figures["surprisal"] = plot_strings(run.trained, strings, as_names=as_names)
            if arguments.text is not None:
                check_is_network(run, "--text draws the units of a network")
                layer = run.config.num_layers - 1 if arguments.layer is None else arguments.layer
                check_range("--layer", layer, 0, run.config.num_layers - 1)
                units = arguments.units or []
                cells = len(units) * len(arguments.text)
                check_range("--units times characters of --text", cells, 0, MAX_CELLS)
                for unit in units:
                    check_range("--units", unit, 0, run.config.hidden_size - 1)
                with about("--text"):
                    text = as_read(run, arguments.text)
                figures["activations"] = plot_text(run.trained, text, layer, arguments.units)
    for name, figure in figures.items():
        for file in save(figure, arguments.runs[0] / name):
            print(visible(str(file)))
    return 0


def as_read(run: "Run", text: str) -> str:
    """The text in the form of the data of a run; a ValueError if the run cannot read it."""
    text = composed(text, run.config.lowercase)
    if not text:
        raise ValueError("expected a text, got an empty one")
    run.vocab.encode(text)
    if not run.config.is_text and "\n" in text:
        raise ValueError("a name holds no newline")
    return text
