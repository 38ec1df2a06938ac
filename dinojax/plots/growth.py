"""The loss of a run as it falls, with names that the run wrote on the way."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from dinojax.plots.losses import COLOURS, label_of
from dinojax.plots.style import new_figure
from dinojax.runs.growth import Moment

WIDTH, MIN_WIDTH = 0.95, 6.0
"""Width of a moment and least width of the picture, in inches."""
MAX_NAME = 16
"""Longest name, in characters, that fits beside others."""
LINE = 14
"""Height of a line of text, in points."""


def plot_growth(moments: Sequence[Moment]) -> Figure:
    """The loss at each of some moments of a run, and its names above; see `runs.growth`."""
    num_names = max(len(moment.names) for moment in moments)
    text = "".join(name for moment in moments for name in moment.names)
    width = max(MIN_WIDTH, WIDTH * len(moments) + 0.8)
    places = range(len(moments))
    with new_figure(width, 2.9 + 2 * (num_names * LINE + 10) / 72, text) as figure:
        axes = figure.subplots()
        losses = [moment.loss for moment in moments]
        axes.plot(places, losses, color=COLOURS[0], linewidth=2.2, marker="o", clip_on=False)
        top = max(losses) + 0.06 * (max(losses) - min(losses) or 1)
        axes.set(xlim=(-0.5, len(moments) - 0.5), ylim=(None, top))
        for place, moment in zip(places, moments, strict=True):
            # Neighbours stand on two levels, so that each has room to both sides.
            height = 8 + place % 2 * (num_names * LINE + 10)
            axes.plot([place, place], [moment.loss, top], color="0.8", linewidth=0.8, zorder=1)
            axes.annotate(
                "\n".join(label_of(name, MAX_NAME) for name in moment.names),
                (place, top), (0, height), textcoords="offset points", ha="center", va="bottom",
                fontsize=10.5, arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.8},
                annotation_clip=False,
            )  # fmt: skip
        axes.set_xticks(places, [f"{moment.step:,}" for moment in moments])
        axes.set(xlabel="steps of training (not to scale)", ylabel="loss (nats a character)")
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure
