"""Loss curves of one run or several."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from dinojax.files import read_regular
from dinojax.plots.curves import (
    SMOOTHED_OVER,
    Curve,
    Metrics,
    has_training_time,
    losses_of,
    make_curve,
    reach,
)
from dinojax.plots.fonts import is_drawable
from dinojax.plots.style import new_figure
from dinojax.runs.asked import OF_THE_SWEEP
from dinojax.runs.exchange import CONFIG_FILE, METRICS_FILE, current, not_a_run
from dinojax.runs.metrics import phases, read_metrics
from dinojax.runs.selection import SELECTION

LOSSES = {"training_loss": "training", "validation_loss": "validation"}
"""Keys of the losses in a line of metrics (nats per character), and their labels."""

# The darker colours of Okabe & Ito (2008). The numbers of colours and of dash patterns have no
# common divisor, so 35 runs look different, and neighbours differ even without colour.
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9"
DASHES: tuple[Any, ...] = "-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (9, 3))
MARKERS = "o", "s", "^", "D", "v", "P", "X", "<", ">"
MAX_LABEL = 32
"""Longest run name, in characters, that fits into a legend of two columns."""


def plot_runs(folders: Sequence[Path | str]) -> Figure:
    """The losses of the runs in these folders; see `plot_losses`.

    Runs that differ in their seeds alone are drawn as one: the mean of their losses, and a band of
    its standard error to each side, as far as all of them have come. A run that was refitted is
    drawn with its selection; before its first steps, its selection is drawn alone.

    Raises:
        OSError: a file cannot be read.
        ValueError: a folder is missing or given twice, or its metrics are damaged or hold no loss.
    """
    paths = [each for folder in folders for each in phases(folder)]
    names = short_names(paths)
    for folder in paths:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; expected the folder of a run")
        if not current(folder, METRICS_FILE).exists():
            raise ValueError(not_a_run(folder, METRICS_FILE))
    groups, seeds = dict[str, dict[str, Metrics]](), set[tuple[str, str]]()
    for name, folder in zip(names, paths, strict=True):
        metrics = read_metrics(folder)
        if not losses_of(metrics) and folder / SELECTION in paths:
            continue
        setting, seed = _setting(folder)
        # The same run twice says nothing about the spread over seeds.
        group = str(folder) if (setting, seed) in seeds else setting
        groups.setdefault(group, {})[name] = metrics
        seeds.add((setting, seed))
    return _plot([*groups.values()])


def short_names(folders: Sequence[Path | str]) -> list[str]:
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


def plot_losses(runs: Mapping[str, Metrics]) -> Figure:
    """Training and validation loss against characters seen and against time.

    `runs` maps the name of each run to its lines of metrics. Training losses are drawn twice, as
    they are and smoothed; see `curves.smoothed`.

    Raises:
        ValueError: a run has no loss to draw.
    """
    return _plot([{name: metrics} for name, metrics in runs.items()])


def label_of(name: str, most: int = MAX_LABEL) -> str:
    """A name with up to `most` characters, with escapes for what the font cannot draw."""
    safe = "".join(
        c if c == " " or is_drawable(c) else c.encode("unicode_escape").decode() for c in name
    )
    half = most // 2
    return safe if len(safe) <= most else f"{safe[:half]}…{safe[1 - half :]}"


def draw_curve(axes: Axes, curve: Curve, *, scale: float = 1, **look: Any) -> Line2D:
    """Draw a curve against x / `scale`, and a band of one standard error, if it has one."""
    if curve.error is not None:
        low, high = curve.mean - curve.error, curve.mean + curve.error
        band = axes.fill_between(curve.x / scale, low, high, color=look["color"], alpha=0.2)
        band.set(linewidth=0)
    (line,) = axes.plot(curve.x / scale, curve.mean, **look)
    # About a dozen markers, which may reach over the border, without room in the layout.
    line.set(markevery=max(1, len(curve.x) // 12), clip_on=False, in_layout=False)
    return line


def _setting(folder: Path) -> tuple[str, str]:
    """What determines the run in a folder besides its seed, and its seed."""
    path = current(folder, CONFIG_FILE)
    try:
        config = dict(json.loads(read_regular(path))) if path.exists() else {}
    except (RecursionError, TypeError, ValueError):
        config = {}
    # The same data may have been read from another place.
    setting = {name: x for name, x in config.items() if name not in (*OF_THE_SWEEP, "data")}
    return json.dumps(setting, sort_keys=True) if setting else str(folder), str(config.get("seed"))


def _plot(groups: Sequence[Mapping[str, Metrics]]) -> Figure:
    """The losses of groups of runs, by name; each group is drawn as the mean of its runs."""
    metrics_of = {name: metrics for group in groups for name, metrics in group.items()}
    for name, metrics in metrics_of.items():
        if not any(make_curve([metrics], "characters", loss).x.size for loss in LOSSES):
            raise ValueError(
                f"the metrics of {name} hold no loss; was it stopped at once, or is it an n-gram "
                "model or a mixture, which no steps train?"
            )
    runs = {_name(group): [*group.values()] for group in groups}
    curves = (make_curve(group, "seconds", loss) for group in runs.values() for loss in LOSSES)
    longest = max(curve.x.max(initial=0) for curve in curves)
    unit, num_seconds = ("minutes", 60.0) if longest < 3 * 3600 else ("hours", 3600.0)
    if longest < 300:
        unit, num_seconds = "seconds", 1.0
    notes = _notes(groups)
    height = 4.4 + 0.25 * len(runs) + 0.2 * len(notes)
    with new_figure(11, height, "".join(runs)) as figure:
        over_characters, over_time = figure.subplots(1, 2, sharey=True)
        lines = _draw_losses(over_characters, runs, "characters", 1)
        _draw_losses(over_time, runs, "seconds", num_seconds)
        over_characters.set(xlabel="characters seen in training", ylabel="loss (nats a character)")
        over_characters.xaxis.set_major_formatter(EngFormatter(sep=" "))
        over_characters.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        is_exact = has_training_time(metrics_of.values())
        time = "time in training steps, without compiling" if is_exact else "time in training"
        over_time.set(xlabel=f"{time} ({unit})")
        over_time.xaxis.set_major_locator(MaxNLocator(6))
        # The legend fills one column after the other; this order gives each run a row.
        lines = lines[::2] + lines[1::2]
        numbers = list(map(str, range(len(lines))))
        legend = figure.legend(
            lines, numbers, loc="outside lower center", ncols=2, title="\n".join(notes)
        )
        legend.get_title().set(fontsize=9.5, color="0.35", ha="left")
        # Set afterwards, as `legend` leaves out labels that begin with "_".
        for text, line in zip(legend.get_texts(), lines, strict=True):
            text.set_text(str(line.get_label()))
    return figure


def _name(group: Iterable[str]) -> str:
    """The name of a group of runs."""
    first, *others = group
    return f"{first} and {len(others)} more" if others else first


def _notes(groups: Sequence[Mapping[str, Metrics]]) -> list[str]:
    """What is drawn beside or instead of the losses as they were recorded."""
    notes = []
    if any(reach(len(losses_of(x))) for group in groups for x in group.values()):
        part = f"1/{SMOOTHED_OVER} of the curve"
        notes.append(f"Training loss: faint as recorded, strong as a moving mean over {part}.")
    if any(len(group) > 1 for group in groups):
        over = "runs that differ in their seeds alone"
        notes.append(f"Lines with a band: mean ± standard error over {over}.")
    return notes


def _draw_losses(
    axes: Axes, runs: Mapping[str, Sequence[Metrics]], across: str, scale: float
) -> list[Line2D]:
    """Draw the two losses of each group of runs against `across` / `scale`; returns their lines."""
    lines = []
    looks = zip(cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False)
    for (name, group), (colour, dashes, marker) in zip(runs.items(), looks, strict=False):
        for loss, word in LOSSES.items():
            is_training = loss == "training_loss"
            curve = make_curve(group, across, loss, smooth=is_training)
            label = f"{label_of(name)}, {word if curve.x.size else f'no {word}'}"
            look: dict[str, Any] = {"color": colour, "linestyle": dashes, "label": label}
            if is_training:
                # A line through a single point would be invisible.
                look |= {"linewidth": 1.0, "zorder": 2, "marker": "." if len(curve.x) == 1 else ""}
                if reach(len(curve.x)):
                    recorded = make_curve(group, across, loss)
                    axes.plot(recorded.x / scale, recorded.mean, color=colour, alpha=0.25, lw=0.8)
            else:
                look |= {"linewidth": 2.2, "zorder": 3, "marker": marker}
            lines.append(draw_curve(axes, curve, scale=scale, **look))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    return lines
