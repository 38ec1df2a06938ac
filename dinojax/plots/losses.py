"""Loss curves of one run or several."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from dinojax.plots.style import is_drawable, new_figure
from dinojax.runs.exchange import METRICS_FILE, current, not_a_run
from dinojax.runs.metrics import read_metrics

LOSSES = {"training_loss": "training", "validation_loss": "validation"}
"""Keys of the losses in a line of metrics (nats per character), and their labels."""

# The darker colours of Okabe & Ito (2008). The numbers of colours and of dash patterns have no
# common divisor, so 35 runs look different, and neighbours differ even without colour.
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9"
DASHES: tuple[Any, ...] = "-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (9, 3))
MARKERS = "o", "s", "^", "D", "v", "P", "X", "<", ">"
MAX_LABEL = 32
"""Longest run name, in characters, that fits into a legend of two columns."""


def plot_runs(folders: Sequence[Path]) -> Figure:
    """The losses of the runs in these folders; see `plot_losses`.

    Raises:
        OSError: a file cannot be read.
        ValueError: a folder is missing or given twice, or its metrics are damaged or hold no loss.
    """
    names = short_names(folders)
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; expected the folder of a run")
        if not current(folder, METRICS_FILE).exists():
            raise ValueError(not_a_run(folder, METRICS_FILE))
    return plot_losses(dict(zip(names, map(read_metrics, folders), strict=True)))


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each folder's path, as many as distinguish it; no folder may come twice."""
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


def plot_losses(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Training and validation loss against characters seen and against time.

    `runs` maps the name of each run to its lines of metrics.

    Raises:
        ValueError: a run has no loss to draw.
    """
    for name, metrics in runs.items():
        if not any(len(points(metrics, "characters", loss)[0]) for loss in LOSSES):
            raise ValueError(
                f"the metrics of {name} hold no loss; was it stopped at once, or is it an n-gram "
                "model or a mixture, which no steps train?"
            )
    curves = (points(lines, "seconds", loss) for lines in runs.values() for loss in LOSSES)
    longest = max(x.max(initial=0) for x, _ in curves)
    unit, num_seconds = ("minutes", 60.0) if longest < 3 * 3600 else ("hours", 3600.0)
    if longest < 300:
        unit, num_seconds = "seconds", 1.0
    with new_figure(11, 4.4 + 0.25 * len(runs)) as figure:
        over_characters, over_time = figure.subplots(1, 2, sharey=True)
        _draw_losses(over_characters, runs, "characters", 1)
        _draw_losses(over_time, runs, "seconds", num_seconds)
        over_characters.set(xlabel="characters seen in training", ylabel="loss (nats a character)")
        over_characters.xaxis.set_major_formatter(EngFormatter(sep=" "))
        over_characters.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        over_time.set(xlabel=f"time in training ({unit})")
        over_time.xaxis.set_major_locator(MaxNLocator(6))
        # The legend fills one column after the other; this order gives each run a row.
        lines = over_characters.get_lines()
        lines = lines[::2] + lines[1::2]
        numbers = list(map(str, range(len(lines))))
        legend = figure.legend(lines, numbers, loc="outside lower center", ncols=2)
        # Set afterwards, as `legend` leaves out labels that begin with "_".
        for text, line in zip(legend.get_texts(), lines, strict=True):
            text.set_text(str(line.get_label()))
    return figure


def points(
    metrics: Iterable[Mapping[str, Any]], across: str, loss: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The curve of one loss, x [num] and y [num], from the lines where both are finite numbers."""
    found = [(line.get(across), line.get(loss)) for line in metrics if "event" not in line]
    finite = [
        pair for pair in found if all(isinstance(n, int | float) and math.isfinite(n) for n in pair)
    ]
    x, y = np.array(finite, float).reshape(-1, 2).T
    return x, y


def label_of(name: str, most: int = MAX_LABEL) -> str:
    """A name with up to `most` characters, with escapes for what the font cannot draw."""
    safe = "".join(
        c if c == " " or is_drawable(c) else c.encode("unicode_escape").decode() for c in name
    )
    half = most // 2
    return safe if len(safe) <= most else f"{safe[:half]}…{safe[1 - half :]}"


def _draw_losses(
    axes: Axes, runs: Mapping[str, Sequence[Mapping[str, Any]]], across: str, scale: float
) -> None:
    """Draw the two losses of each run against `across` / `scale`."""
    looks = zip(cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False)
    for (name, metrics), (colour, dashes, marker) in zip(runs.items(), looks, strict=False):
        for loss, word in LOSSES.items():
            x, y = points(metrics, across, loss)
            label = f"{label_of(name)}, {word if x.size else f'no {word}'}"
            (line,) = axes.plot(x / scale, y, color=colour, linestyle=dashes, label=label)
            if loss == "validation_loss":
                line.set(linewidth=2.2, marker=marker, zorder=3)
            else:
                # A line through a single point would be invisible.
                line.set(linewidth=1.0, marker="." if len(x) == 1 else "", zorder=2)
            # About a dozen markers, which may reach over the border, without room in the layout.
            line.set(markevery=max(1, len(x) // 12), clip_on=False, in_layout=False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
