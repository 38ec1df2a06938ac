"""Validation curves of a sweep: a mean over seeds, and a band, for each setting."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from dinojax.plots.losses import COLOURS, DASHES, MARKERS, label_of, points
from dinojax.plots.style import new_figure
from dinojax.runs.exchange import METRICS_FILE, current
from dinojax.runs.metrics import read_metrics
from dinojax.runs.sweep import DIVERGED, plan, read_outcomes, read_sweep

MAX_SETTINGS = 35
"""Most settings in one picture: as many looks as there are."""
MAX_LABEL = 64
"""Longest name of a setting, in characters, that fits into the legend."""


def plot_sweep(folder: Path) -> Figure:
    """The validation losses of a sweep's settings against the characters seen in training.

    Each setting has a line, the mean over its seeds, and a band: that mean plus and minus its
    standard error. Both are drawn as far as all of its seeds have come, except those that diverged
    or have no validation yet; one seed has no band.

    Raises:
        OSError: a file cannot be read.
        ValueError: the folder holds no sweep, no validation yet, or too many settings for one
            picture.
    """
    outcomes, settings = read_outcomes(folder), dict[str, list[Path]]()
    for replica in plan(read_sweep(folder)):
        outcome = outcomes.get(replica.folder)
        runs = settings.setdefault(replica.setting, [])
        if outcome is None or outcome.status != DIVERGED:
            runs.append(folder / replica.folder)
    if len(settings) > MAX_SETTINGS:
        expected = f"expected up to {MAX_SETTINGS} settings in one picture"
        raise ValueError(f"{expected}, {folder} has {len(settings):,}; draw runs of some of them")
    found = {name: _curve(runs) for name, runs in settings.items()}
    curves = {name: curve for name, curve in found.items() if curve[0].size}
    if not curves:
        raise ValueError(f"{folder} holds no validation yet")
    looks = zip(cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False)
    with new_figure(7.5, 4.4 + 0.25 * len(curves)) as figure:
        axes = figure.subplots()
        for (name, (x, losses)), (colour, dashes, marker) in zip(
            curves.items(), looks, strict=False
        ):
            mean, num = losses.mean(axis=0), len(losses)
            if num > 1:
                error = losses.std(axis=0, ddof=1) / np.sqrt(num)
                band = axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.2)
                band.set(linewidth=0)
            label = f"{label_of(name, MAX_LABEL)}, {num} seed{'s' * (num > 1)}"
            (line,) = axes.plot(x, mean, color=colour, linestyle=dashes, label=label, marker=marker)
            line.set(linewidth=2.2, markevery=max(1, len(x) // 12), clip_on=False)
        axes.set(
            xlabel="characters seen in training",
            ylabel="validation loss (nats a character)\nmean ± standard error over seeds",
        )
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlim(left=0)
        figure.legend(loc="outside lower center", ncols=1)
    return figure


def _curve(runs: Sequence[Path]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean characters seen [num] and losses [runs, num] at the validations that all runs have."""
    found = []
    for run in runs:
        if current(run, METRICS_FILE).exists():
            metrics = read_metrics(run)
            steps, losses = points(metrics, "step", "validation_loss")
            characters, _ = points(metrics, "characters", "validation_loss")
            if 0 < len(steps) == len(characters):
                found.append(dict(zip(steps, zip(characters, losses, strict=True), strict=True)))
    common = sorted(set(found[0]).intersection(*found[1:])) if found else []
    table = np.array([[each[step] for step in common] for each in found], float)
    table = table.reshape(len(found), len(common), 2)
    return table[..., 0].mean(axis=0) if found else np.zeros(0), table[..., 1]
