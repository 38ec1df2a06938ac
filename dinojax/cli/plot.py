"""Draw the losses of runs, how surprising strings are, what units do; see --help."""

import logging
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dinojax.cli.arguments import Parser, path, whole_number
from dinojax.config import check_range
from dinojax.data.text import composed
from dinojax.startup import start_jax

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dinojax.runs.folder import Run

UNITS = 10
"""Units whose activations are drawn, unless they are chosen."""
MAX_CHARACTERS = 2_000
"""Of the texts in one picture."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax plot`."""
    add = parser.add_argument
    add(
        "runs",
        metavar="RUN",
        nargs="+",
        type=path,
        help="folder of a run, such as runs/dinos; several are compared",
    )
    add(
        "--strings",
        metavar="TEXT",
        nargs="+",
        help="draw how surprising each character of these is, in bits",
    )
    add(
        "--text",
        metavar="TEXT",
        help="draw what units of a layer put out along this",
    )
    add(
        "--units",
        metavar="N",
        nargs="+",
        type=whole_number,
        help=f"which, from 0 (default: the {UNITS} that vary most along the text)",
    )
    add(
        "--layer",
        metavar="N",
        type=whole_number,
        help="of which layer, from 0, the one that reads the characters (default: the last)",
    )


def main(parser: Parser, arguments: Namespace) -> int:
    """Draw, save and print the files' names; returns the exit code."""
    for flag in "strings", "text":
        if getattr(arguments, flag) is not None and len(arguments.runs) > 1:
            parser.error(f"--{flag} is for one run, got {len(arguments.runs)}")
    for flag in "units", "layer":
        if getattr(arguments, flag) is not None and arguments.text is None:
            parser.error(f"--{flag} needs --text, along which units are drawn")
    with parser.reported_errors():
        for flag, texts in ("strings", arguments.strings or []), ("text", [arguments.text]):
            if "" in texts:
                raise ValueError(f"--{flag}: expected a text, got an empty one")
            num_characters = sum(len(text or "") for text in texts)
            check_range(f"characters of --{flag}", num_characters, 0, MAX_CHARACTERS)
    # It speaks of its font cache where that takes a moment.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    # A ValueError is what a setting of the user's, such as MPLBACKEND, may raise.
    with parser.reported_errors():
        try:
            # Only to see whether it is there.
            import matplotlib  # noqa: F401
        except ImportError:
            raise ValueError(
                "matplotlib is missing; install it: pip install 'dinojax[plot]'"
            ) from None
    of_a_model = arguments.strings is not None or arguments.text is not None
    with parser.reported_errors():
        names = short_names(arguments.runs)
        for folder in arguments.runs:
            if not folder.is_dir():
                raise ValueError(f"{folder} is not a folder; expected one that train.py wrote")
        if of_a_model:
            start_jax()
    from dinojax import plots
    from dinojax.runs import folder as runs
    from dinojax.runs.metrics import read_metrics

    figures: dict[str, Figure] = {}
    with parser.reported_errors():
        metrics = [read_metrics(folder) for folder in arguments.runs]
        figures["loss"] = plots.plot_losses(dict(zip(names, metrics, strict=True)))
        if of_a_model:
            loaded = runs.load_run(arguments.runs[0])
            if arguments.strings is not None:
                figures["surprisal"] = draw_surprisal(loaded, arguments.strings)
            if arguments.text is not None:
                figures["activations"] = draw_activations(loaded, arguments)
    for name, figure in figures.items():
        for file in plots.save(figure, arguments.runs[0] / name):
            print(file)
    return 0


def short_names(folders: Sequence[Path]) -> list[str]:
    """The name of each folder, with as many folders above it as tell it from the others.

    Raises:
        ValueError: a folder is given twice.
    """
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    names = []
    for folder, own in zip(folders, parts, strict=True):
        if parts.count(own) > 1:
            raise ValueError(f"{folder} is given twice")
        shown = 1
        while sum(other[-shown:] == own[-shown:] for other in parts) > 1:
            shown += 1
        names.append("/".join(own[-shown:]))
    return names


def read(loaded: "Run", flag: str, text: str) -> str:
    """A text as the model's data were read.

    Raises:
        ValueError: it holds a character that the model does not know, or is no name.
    """
    text = composed(text, loaded.config.lowercase)
    try:
        loaded.vocab.encode(text)
    except ValueError as error:
        raise ValueError(f"--{flag}: {error}") from None
    if not loaded.config.is_text and "\n" in text:
        raise ValueError(f"--{flag}: a name holds no newline")
    return text


def draw_surprisal(loaded: "Run", strings: Sequence[str]) -> "Figure":
    """How surprising strings are; where the run is of names, their end too."""
    from dinojax import plots

    end = "" if loaded.config.is_text else "\n"
    texts = [read(loaded, "strings", string) + end for string in strings]
    ids = [loaded.vocab.encode(text) for text in texts]
    return plots.plot_surprisal(texts, plots.surprisal(loaded.params, loaded.model, ids))


def draw_activations(loaded: "Run", arguments: Namespace) -> "Figure":
    """What units of a layer do along a text."""
    from dinojax import plots

    config = loaded.config
    text = read(loaded, "text", arguments.text)
    layer = config.num_layers - 1 if arguments.layer is None else arguments.layer
    check_range("--layer", layer, 0, config.num_layers - 1)
    for unit in arguments.units or []:
        check_range("--units", unit, 0, config.hidden_size - 1)
    ids = loaded.vocab.encode(text)
    activations = plots.hidden_states(loaded.params, loaded.model, ids)[layer]
    units = arguments.units or plots.most_varying(activations, UNITS)
    return plots.plot_activations(text, activations, units, layer)
