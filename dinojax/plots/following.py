"""What may come next, as bars."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from dinojax.plots.fonts import is_drawable
from dinojax.plots.style import new_figure

BAR_HEIGHT = 0.28
"""Height of a row, in inches."""
EXPECTED, DRAWN = "#B9C4CF", "#0072B2"
"""Colours of the probabilities under the model and of those under the controls."""


def plot_following(
    labels: Sequence[str],
    probabilities: Sequence[float],
    drawn_probabilities: Sequence[float],
    *,
    title: str = "",
) -> Figure:
    """Bars of the probabilities of characters, from top to bottom, each [num].

    Where the drawn ones differ, they are drawn upon those of the model.
    """
    is_controlled = list(probabilities) != list(drawn_probabilities)
    places = range(len(labels))
    height = len(labels) * BAR_HEIGHT + 1.2
    with new_figure(6.5, height, "".join([*labels, title])) as figure:
        axes = figure.subplots()
        colour = EXPECTED if is_controlled else DRAWN
        axes.barh(places, probabilities, 0.8, color=colour, label="of the model")
        if is_controlled:
            axes.barh(places, drawn_probabilities, 0.4, color=DRAWN, label="as drawn")
            axes.legend(loc="lower right")
        axes.set_yticks(places, ["".join(map(_shown, label)) for label in labels])
        for tick, drawn in zip(axes.get_yticklabels(), drawn_probabilities, strict=True):
            tick.set_color("black" if drawn > 0 else "#999999")
        axes.invert_yaxis()
        axes.tick_params("y", length=0)
        axes.set_xlabel("probability")
        axes.set_title(title, loc="left", fontsize=11)
    return figure


def _shown(character: str) -> str:
    """A character, or its code point if no font has it."""
    return character if is_drawable(character) else f"U+{ord(character):04X}"
