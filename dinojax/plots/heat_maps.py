"""Heat maps of texts: how surprising each character is, and what the units of a layer do."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from dinojax.evaluation.probe import hidden_states, most_varying
from dinojax.evaluation.strings import judged, text_nats
from dinojax.models.trained import Trained
from dinojax.plots.fonts import is_drawable
from dinojax.plots.style import new_figure

COLUMNS = 40
"""Characters in a row. Longer texts continue in the next row."""
CELL_WIDTH, CELL_HEIGHT = 0.3, 0.34
"""Size of a cell, in inches."""
MIN_COLUMNS = 16
"""Smallest width in cells, which leaves room for the label and the colour bar."""
MARK_SIZE, CODE_SIZE = 12.0, 6.5
"""Font sizes of characters and of code points, in points."""
MARKS = {" ": ("␣", "space"), "\n": ("↵", "newline"), "\t": ("⇥", "tab")}
"""Signs for invisible characters, and what they mean."""
CHARACTERS_PER_CELL = 3.5
"""How many characters of a label fit under a cell."""


def plot_strings(trained: Trained, strings: Sequence[str], *, as_names: bool = True) -> Figure:
    """A heat map of how surprising each character of `strings` is to a model.

    Each string is read as a name, whose newline is drawn too, or as a text. A model of names with
    labels does not know the label.

    Raises:
        ValueError: a string is empty, is not a name, or has a character unknown to the model.
    """
    if as_names:
        return plot_surprisal([f"{name}\n" for name in strings], judged(trained, strings)[0])
    return plot_surprisal(strings, [text_nats(trained, string) for string in strings])


def plot_text(
    trained: Trained, text: str, layer: int = -1, units: Sequence[int] | None = None
) -> Figure:
    """A heat map of the outputs of a layer of a model along a text.

    `units` are the units to draw; None chooses the ten whose outputs vary most.

    Raises:
        IndexError: the model has no such layer or unit.
        ValueError: the text has a character unknown to the model.
    """
    layers = hidden_states(trained, text)
    activations, layer = layers[layer], range(len(layers))[layer]
    chosen = most_varying(activations, 10) if units is None else units
    return plot_activations(text, activations, chosen, layer)


def plot_surprisal(strings: Sequence[str], nats: Sequence[ArrayLike]) -> Figure:
    """A heat map of the surprisal of each character, in bits.

    `nats` holds an array [len(string)] for each string, as `names_nats` and `text_nats` return it.
    The total of each string is written beside its first row.
    """
    columns = min(COLUMNS, max(map(len, strings)))
    rows: list[tuple[str, NDArray[np.float64]]] = []
    totals: dict[int, str] = {}
    for string, values in zip(strings, nats, strict=True):
        bits = np.asarray(values, float) / math.log(2)
        totals[len(rows)] = f"{bits.sum():.1f}"
        starts = range(0, len(string), columns)
        rows += [(string[i : i + columns], bits[i : i + columns]) for i in starts]
    grid = np.full((len(rows), columns), np.nan)
    for line, (_, bits) in zip(grid, rows, strict=True):
        line[: len(bits)] = bits
    width = max(MIN_COLUMNS, columns)
    height = len(rows) * CELL_HEIGHT + 1.35
    with new_figure(width * CELL_WIDTH + 1, height, "".join(strings)) as figure:
        axes = figure.subplots()
        # The range of colours must not be empty, even if no character is surprising.
        mesh = _heat_map(axes, grid, "cividis", 0, max(1.0, float(np.nanmax(grid))), width)
        for row, (characters, bits) in enumerate(rows):
            for column, (character, value) in enumerate(zip(characters, bits, strict=True)):
                mark = _mark(character)
                lightness = np.dot(mesh.to_rgba(value)[:3], [0.299, 0.587, 0.114])
                colour = "black" if lightness > 0.5 else "white"
                # Characters share a baseline, whatever their heights.
                align, size, shift = "baseline", MARK_SIZE, -MARK_SIZE / 3
                if "\n" in mark:
                    align, size, shift = "center", CODE_SIZE, 0
                cell = axes.annotate(mark, (column, row), (0, shift), textcoords="offset points")
                cell.set(ha="center", va=align, color=colour, fontsize=size, linespacing=1)
        places = [0, *range(4, columns, 5)]
        axes.set_xticks(places, [str(place + 1) for place in places])
        axes.set_yticks(list(totals), list(totals.values()))
        whole = "row" if len(rows) > len(strings) else "string"
        axes.set_xlabel(_label(f"place in the {whole} (characters)", strings, width))
        axes.set_ylabel("total (bits)")
        _colour_bar(figure, mesh, [axes], label="surprisal (bits)")
    return figure


def plot_activations(text: str, activations: ArrayLike, units: Sequence[int], layer: int) -> Figure:
    """A heat map of the outputs of some units of a layer after each character of a text.

    `activations` [len(text), hidden] are from -1 to 1, as `probe.hidden_states` returns them;
    `units` are columns of it.
    """
    shown = np.asarray(activations, float)[:, list(units)].T
    columns = min(COLUMNS, len(text))
    starts = range(0, len(text), columns)
    width = max(MIN_COLUMNS, columns)
    height = len(starts) * (len(units) * CELL_HEIGHT * 0.75 + 0.45) + 0.95
    with new_figure(width * CELL_WIDTH + 1, height, text) as figure:
        panels = figure.subplots(len(starts), squeeze=False)[:, 0]
        for axes, start in zip(panels, starts, strict=True):
            mesh = _heat_map(axes, shown[:, start : start + columns], "RdBu_r", -1, 1, width)
            marks = [_mark(character) for character in text[start : start + columns]]
            axes.set_xticks(range(len(marks)), marks, va="baseline", linespacing=1)
            axes.tick_params("x", pad=14)
            for tick, mark in zip(axes.get_xticklabels(), marks, strict=True):
                tick.set_fontsize(CODE_SIZE if "\n" in mark else MARK_SIZE)
            axes.set_yticks(range(len(units)), [str(unit) for unit in units])
        figure.supylabel(f"unit of layer {layer}", fontsize=11)
        panels[-1].set_xlabel(_label("the text, a character a column", [text], width))
        label, ticks = "activation after the character (-1 to 1)", [-1, -0.5, 0, 0.5, 1]
        _colour_bar(figure, mesh, list(panels), ticks=ticks, label=label)
    return figure


def _heat_map(
    axes: Axes, values: NDArray[np.float64], colours: str, low: float, high: float, width: int
) -> QuadMesh:
    """Draw `values` [rows, up to width], each cell centred on its indices, first row on top."""
    num_rows, num_columns = values.shape
    x, y = np.arange(num_columns + 1) - 0.5, np.arange(num_rows + 1) - 0.5
    mesh = axes.pcolormesh(x, y, np.ma.masked_invalid(values), cmap=colours, vmin=low, vmax=high)
    mesh.set(edgecolor="white", linewidth=0.5)
    # Equal limits in all panels give cells of equal size.
    axes.set_xlim(-0.5, width - 0.5)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return mesh


def _colour_bar(figure: Figure, mesh: QuadMesh, panels: list[Axes], **options: Any) -> None:
    """Draw a colour bar of fixed size below the panels."""
    shrink = MIN_COLUMNS * CELL_WIDTH / figure.get_size_inches()[0]
    figure.colorbar(mesh, ax=panels, location="bottom", aspect=30, shrink=shrink, **options)


def _mark(character: str) -> str:
    """The text for a character in a cell: itself, a sign, or its code point on two lines."""
    if character in MARKS:
        return MARKS[character][0]
    if not is_drawable(character):
        code = f"{ord(character):04X}"
        return f"{code[:-2]}\n{code[-2:]}"
    # A combining mark is drawn on a dotted circle.
    return f"◌{character}" if unicodedata.category(character)[0] == "M" else character


def _label(what: str, texts: Iterable[str], width: int) -> str:
    """What is drawn along x, and the meaning of the signs in the texts, on a second line if long.

    An example is "the text, a character a column; ␣ space, ↵ newline". `width` is in cells.
    """
    present: set[str] = set().union(*texts)
    meanings = [" ".join(MARKS[character]) for character in MARKS if character in present]
    if any("\n" in _mark(character) for character in present):
        meanings.append("in small digits: code points")
    label = "; ".join([what, ", ".join(meanings)] if meanings else [what])
    return label if len(label) <= CHARACTERS_PER_CELL * width else label.replace("; ", ";\n", 1)
