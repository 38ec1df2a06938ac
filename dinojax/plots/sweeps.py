"""Validation curves of a sweep: a mean over seeds, and a band, for each setting."""

from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from dinojax.plots.curves import Metrics, make_curve
from dinojax.plots.losses import COLOURS, DASHES, MARKERS, draw_curve, label_of
from dinojax.plots.style import new_figure
from dinojax.runs.exchange import METRICS_FILE, current
from dinojax.runs.metrics import read_metrics
from dinojax.runs.sweep import DIVERGED, plan, read_outcomes, read_sweep

MAX_SETTINGS = 35
"""Most settings in one picture: as many looks as there are."""
MAX_LABEL = 64
"""Longest name of a setting, in characters, that fits into the legend."""


def plot_sweep(folder: Path | str) -> Figure:
    """The validation losses of a sweep's settings against the characters seen in training.

    Each setting has a line, the mean over its seeds, and a band: that mean plus and minus its
    standard error. Both are drawn as far as all of its seeds have come, except those that diverged
    or have no validation yet; one seed has no band.

    Raises:
        OSError: a file cannot be read.
        ValueError: the folder holds no sweep, no validation yet, or too many settings for one
            picture.
    """
    folder = Path(folder)
    outcomes, settings = read_outcomes(folder), dict[str, list[Path]]()
    for replica in plan(read_sweep(folder)):
        outcome = outcomes.get(replica.folder)
        runs = settings.setdefault(replica.setting, [])
        if outcome is None or outcome.status != DIVERGED:
            runs.append(folder / replica.folder)
    if len(settings) > MAX_SETTINGS:
        expected = f"expected up to {MAX_SETTINGS} settings in one picture"
        raise ValueError(f"{expected}, {folder} has {len(settings):,}; draw runs of some of them")
    curves = {}
    for name, runs in settings.items():
        validated = [metrics for run in runs if (metrics := _validated(run))]
        if validated and (curve := make_curve(validated, "characters", "validation_loss")).x.size:
            curves[name] = curve, len(validated)
    if not curves:
        raise ValueError(f"{folder} holds no validation yet")
    looks = zip(cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False)
    with new_figure(7.5, 4.4 + 0.25 * len(curves), "".join(curves)) as figure:
        axes = figure.subplots()
        for (name, (curve, num)), (colour, dashes, marker) in zip(
            curves.items(), looks, strict=False
        ):
            label = f"{label_of(name, MAX_LABEL)}, {num} seed{'s' * (num > 1)}"
            look = {"color": colour, "linestyle": dashes, "marker": marker, "linewidth": 2.2}
            draw_curve(axes, curve, label=label, **look)
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


def _validated(run: Path) -> Metrics:
    """The lines of metrics of a run; none if it was not validated yet."""
    metrics = read_metrics(run) if current(run, METRICS_FILE).exists() else []
    return metrics if make_curve([metrics], "characters", "validation_loss").x.size else []
