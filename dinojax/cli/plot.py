"""Draw losses, names as a run learned, how surprising strings are, what units do; see --help."""

import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dinojax.cli.arguments import Parser, path, require, whole_number
from dinojax.config import check_range
from dinojax.data.text import composed
from dinojax.messages import about, count, quoted, visible
from dinojax.startup import start_jax

if TYPE_CHECKING:
    from dinojax.runs.folder import Run

MAX_CHARACTERS, MAX_CELLS = 2_000, 20_000
"""Largest pictures: they take some ten seconds."""
MAX_CHECKPOINTS, NAMES = 12, 2
"""Most checkpoints beside each other in a picture, and names of each."""
COMPARED = "loss-compared"
"""Name of the picture of several runs."""


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
    help_names = "draw the loss and the names that a run wrote as it learned, at N of its "
    help_names += f"checkpoints (train with a larger --keep), up to {MAX_CHECKPOINTS}"
    number("--names", help=help_names)
    help_out = "folder to write to; it is made if needed (default: that of the first run)"
    add("--out", metavar="FOLDER", type=path, help=help_out)


def main(parser: Parser, arguments: Namespace) -> int:
    """Draw, save and print the names of the files; returns the exit code."""
    for flag in "strings", "text", "names":
        if getattr(arguments, flag) is not None and len(arguments.runs) > 1:
            parser.error(f"--{flag} is for one run, got {len(arguments.runs)}")
    for flag in "units", "layer":
        if getattr(arguments, flag) is not None and arguments.text is None:
            parser.error(f"--{flag} needs --text, along which units are drawn")
    with parser.reported_errors():
        for flag, texts in ("strings", arguments.strings or []), ("text", [arguments.text]):
            num_characters = sum(len(text or "") for text in texts)
            check_range(f"characters of --{flag}", num_characters, 0, MAX_CHARACTERS)
        if arguments.names is not None:
            check_range("--names", arguments.names, 1, MAX_CHECKPOINTS)
        if arguments.out:
            check_folder(arguments.out, arguments.runs)
        out = arguments.out or arguments.runs[0]
        # Matplotlib logs a message while it builds its font cache.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        # A setting of the user's, such as MPLBACKEND, may raise a ValueError.
        require("matplotlib", "plot")
        from dinojax.plots.fonts import without_glyph
        from dinojax.plots.losses import plot_runs, short_names
        from dinojax.plots.style import save
        from dinojax.plots.sweeps import plot_sweep
        from dinojax.runs.sweep import is_sweep

        run, figures, drawn = None, {}, "".join(short_names(arguments.runs))
        if any(each is not None for each in (arguments.strings, arguments.text, arguments.names)):
            start_jax()
            from dinojax.plots.heat_maps import plot_strings, plot_text
            from dinojax.runs.folder import check_is_network, check_without_labels
            from dinojax.runs.mixtures import load_any

            run = load_any(arguments.runs[0])
        if len(arguments.runs) == 1 and is_sweep(arguments.runs[0]):
            figures["loss"] = plot_sweep(arguments.runs[0])
        # A run before its first step, such as an imported one, has no loss, but a model to draw.
        elif run is None or (run.step and not run.description.model):
            # A comparison never takes the place of a run's own picture.
            name = "loss" if len(arguments.runs) == 1 else COMPARED
            figures[name] = plot_runs(arguments.runs)
        if run is not None:
            if arguments.strings is not None:
                with about("--strings"):
                    strings = [as_read(run, string) for string in arguments.strings]
                as_names = not run.config.is_text
                figures["surprisal"] = plot_strings(run.trained, strings, as_names=as_names)
                drawn += "".join(strings)
            if arguments.text is not None:
                check_is_network(run, "--text draws the units of a network")
                check_without_labels(run, "--text is read without one")
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
                drawn += text
            if arguments.names is not None:
                from dinojax.plots.growth import plot_growth
                from dinojax.runs.growth import growth

                moments = growth(arguments.runs[0], arguments.names, num_names=NAMES)
                figures["names"] = plot_growth(moments)
                drawn += "".join(name for moment in moments for name in moment.names)
                if len(moments) < arguments.names:
                    kept = count(len(moments), "checkpoint")
                    parser.note(f"the run has only {kept}; train with a larger --keep for more")
        out.mkdir(parents=True, exist_ok=True)
        if missing := without_glyph(drawn):
            fonts = "they are shown as code points; a font with them, such as Noto, helps"
            parser.note(f"no installed font can draw {quoted(missing)}; {fonts}")
    for name, figure in figures.items():
        for file in save(figure, out / name):
            print(visible(str(file)))
    return 0


def check_folder(folder: Path, runs: Sequence[Path]) -> None:
    """Raise a ValueError if pictures of these runs could replace those of another, or cannot be."""
    from dinojax.runs.exchange import CONFIG_FILE, METRICS_FILE
    from dinojax.runs.sweep import SWEEP_FILE

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out: {folder} is not a folder")
    is_own = folder.resolve() in {run.resolve() for run in runs}
    files = CONFIG_FILE, METRICS_FILE, SWEEP_FILE
    if not is_own and any((folder / name).exists() for name in files):
        raise ValueError(f"--out: {folder} holds another run, or a sweep; choose another folder")


def as_read(run: "Run", text: str) -> str:
    """The text in the form of the data of a run; a ValueError if the run cannot read it."""
    text = composed(text, run.config.lowercase)
    if not text:
        raise ValueError("expected a text, got an empty one")
    run.vocab.plain.encode(text)
    if not run.config.is_text and "\n" in text:
        raise ValueError("a name holds no newline")
    return text
