"""Pictures of runs: their losses, how surprising strings are, what single units do along a text.

Data in, a matplotlib `Figure` out, and `save` for the files. The only module that needs matplotlib.
"""

import io
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from dinojax.data.batches import Batch
from dinojax.evaluation.score import log_probability
from dinojax.files import write_atomically
from dinojax.models.cells import Params, State
from dinojax.models.model import CharModel

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "text.parse_math": False,
    "svg.hashsalt": "dinojax",
}
"""On top of matplotlib's defaults, in the place of the user's settings, which could turn TeX on."""
DOTS_PER_INCH = 160
MAX_PIXELS = 30_000
"""Longest side of a PNG; twice as many are more than matplotlib can draw."""

LOSSES = {"training_loss": "training", "validation_loss": "validation"}
"""The losses of a line of metrics, nats a character, and what they are called."""

# Okabe & Ito (2008), the darker of their colours; as many styles of line as have no common divisor
# with the colours, so that 35 runs differ, and neighbours differ without colours too.
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9"
DASHES: tuple[Any, ...] = "-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (9, 3))
MARKERS = "o", "s", "^", "D", "v", "P", "X", "<", ">"
MARKERS_A_LINE = 12

COLUMNS = 40
"""Characters of a text side by side, before it goes on below."""
CELL_WIDTH, CELL_HEIGHT = 0.3, 0.34
"""Of a heat map, in inches."""
MIN_COLUMNS = 16
"""Of a heat map, some of them empty: room for what stands below it."""
MARK_SIZE, CODE_SIZE = 12, 6.5
"""Of what stands for a character, and of a code point in its place, in points."""
MARKS = {" ": "␣", "\n": "↵", "\t": "⇥"}
"""What stands for characters that cannot be seen."""
MARKED = {" ": "space", "\n": "newline", "\t": "tab"}
MAX_LABEL = 32
"""Characters of a run's name that fit beside another."""


def surprisal(
    params: Params, model: CharModel, strings: Sequence[NDArray[np.integer]]
) -> list[NDArray[np.floating]]:
    """How surprising each character of `strings`, ids [time] each, is to the model: nats [time].

    Minus the log-probability of each character after those before it, each string from its start.
    """
    targets = np.zeros((max(map(len, strings)), len(strings)), int)
    for column, ids in zip(targets.T, strings, strict=True):
        column[: len(ids)] = ids
    inputs = np.concatenate([np.full_like(targets[:1], model.vocab_size), targets[:-1]])
    weights = np.ones(targets.shape, np.float32)
    columns = -np.asarray(log_probability(params, model, Batch(inputs, targets, weights))).T
    return [column[: len(ids)] for column, ids in zip(columns, strings, strict=True)]


def hidden_states(
    params: Params, model: CharModel, text: NDArray[np.integer]
) -> list[NDArray[np.floating]]:
    """What each layer puts out, [time, hidden], after each character of `text`, ids [time].

    The text starts from the fresh state, as in training.
    """

    def read(state: State, character: jax.Array) -> tuple[State, tuple[jax.Array, ...]]:
        return model.layer_outputs(params, state, character)

    inputs = jnp.concatenate([jnp.full(1, model.vocab_size), jnp.asarray(text, int)])
    _, layers = lax.scan(read, model.initial_state(()), inputs)
    return [np.asarray(layer)[1:] for layer in layers]


def most_varying(activations: NDArray[np.floating], num: int) -> list[int]:
    """The `num` units whose `activations` [time, hidden] vary most, the most varying first."""
    order = np.argsort(-activations.var(axis=0), kind="stable")
    return [int(unit) for unit in order[:num]]


def plot_losses(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Training and validation loss of runs, by name, against characters seen and against time.

    Of the lines of a run's metrics, those count that hold both numbers of a point.

    Raises:
        ValueError: a run has not one point.
    """
    for name, metrics in runs.items():
        if not any(len(points(metrics, "characters", loss)[0]) for loss in LOSSES):
            raise ValueError(f"the metrics of {name} hold no loss; was it stopped at once?")
    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(11, 4.4 + 0.25 * len(runs)), layout="constrained")
        over_characters, over_time = figure.subplots(1, 2, sharey=True)
        longest = max(
            points(metrics, "seconds", loss)[0].max(initial=0)
            for metrics in runs.values()
            for loss in LOSSES
        )
        unit, num_seconds = _unit_of_time(longest)
        _draw_losses(over_characters, runs, "characters", 1)
        _draw_losses(over_time, runs, "seconds", num_seconds)
        over_characters.set(xlabel="characters seen in training", ylabel="loss (nats a character)")
        over_characters.xaxis.set_major_formatter(EngFormatter(sep=" "))
        over_characters.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        over_time.set(xlabel=f"time in training ({unit})")
        over_time.xaxis.set_major_locator(MaxNLocator(6))
        # A run a row: the legend fills one column after the other.
        lines = over_characters.get_lines()
        lines = lines[::2] + lines[1::2]
        legend = figure.legend(
            lines,
            [str(number) for number in range(len(lines))],
            loc="outside lower center",
            ncols=2,
            frameon=False,
            handlelength=4,
        )
        # Not above: matplotlib leaves out a label that begins with "_".
        for text, line in zip(legend.get_texts(), lines, strict=True):
            text.set_text(str(line.get_label()))
        _settle(figure)
    return figure


def _draw_losses(
    axes: Axes, runs: Mapping[str, Sequence[Mapping[str, Any]]], across: str, scale: float
) -> None:
    """Two lines for each run: its training and validation loss against `across` / `scale`."""
    looks = zip(cycle(COLOURS), cycle(DASHES), cycle(MARKERS), strict=False)
    for (name, metrics), (colour, dashes, marker) in zip(runs.items(), looks, strict=False):
        for loss, word in LOSSES.items():
            x, y = points(metrics, across, loss)
            is_validation = loss == "validation_loss"
            axes.plot(
                x / scale,
                y,
                color=colour,
                linestyle=dashes,
                linewidth=2.2 if is_validation else 1.0,
                # One point is no line.
                marker=marker if is_validation else "." if len(x) == 1 else "",
                markersize=7,
                markeredgecolor="white",
                markevery=max(1, len(x) // MARKERS_A_LINE),
                zorder=3 if is_validation else 2,
                # Markers at the border are whole; the layout need not make room for them.
                clip_on=False,
                in_layout=False,
                label=f"{_label(name)}, {word if x.size else f'no {word}'}",
            )
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)


def points(
    metrics: Iterable[Mapping[str, Any]], across: str, loss: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The curve of one loss, x and y, [num] each: of the lines that hold both as finite numbers."""
    found = [(line.get(across), line.get(loss)) for line in metrics if "event" not in line]
    finite = [pair for pair in found if all(map(_is_number, pair))]
    x, y = np.array(finite, float).reshape(-1, 2).T
    return x, y


def plot_surprisal(strings: Sequence[str], nats: Sequence[ArrayLike]) -> Figure:
    """A heat map of how surprising each character of each string is, in bits.

    `nats` holds for each string an array [len(string)], as from `surprisal`. Strings of more than
    `COLUMNS` characters go on in the next row; beside its first row stands a string's total.
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
    with style.context(STYLE, after_reset=True):
        figure = _figure(columns, len(rows) * CELL_HEIGHT + 1.35)
        axes = figure.subplots()
        # Never from 0 to 0, where nothing is surprising.
        mesh = _heat_map(axes, grid, "cividis", 0, max(1.0, float(np.nanmax(grid))), columns)
        for row, (characters, bits) in enumerate(rows):
            for column, (character, value) in enumerate(zip(characters, bits, strict=True)):
                mark = _mark(character)
                is_code = "\n" in mark
                axes.annotate(
                    mark,
                    (column, row),
                    # All on one line, whatever their heights.
                    (0, 0 if is_code else -MARK_SIZE / 3),
                    textcoords="offset points",
                    ha="center",
                    va="center" if is_code else "baseline",
                    color=_readable_on(mesh.to_rgba(value)),
                    fontsize=CODE_SIZE if is_code else MARK_SIZE,
                    linespacing=1,
                )
        places = [place for place in range(columns) if place == 0 or place % 5 == 4]
        axes.set_xticks(places, [str(place + 1) for place in places])
        axes.set_yticks(list(totals), list(totals.values()))
        wraps = len(rows) > len(strings)
        place = "place in the row" if wraps else "place in the string"
        axes.set_xlabel(f"{place} (characters){_explain_marks(strings)}")
        axes.set_ylabel("total (bits)")
        _colour_bar(figure, mesh, [axes], label="surprisal (bits)")
        _settle(figure)
    return figure


def plot_activations(text: str, activations: ArrayLike, units: Sequence[int], layer: int) -> Figure:
    """A heat map of what units of a layer put out after each character of a text.

    `activations` [len(text), hidden] are from -1 to 1, as from `hidden_states`; `units` are
    columns of it. A text of more than `COLUMNS` characters goes on in the next panel.
    """
    shown = np.asarray(activations, float)[:, list(units)].T
    columns = min(COLUMNS, len(text))
    starts = range(0, len(text), columns)
    with style.context(STYLE, after_reset=True):
        figure = _figure(columns, len(starts) * (len(units) * CELL_HEIGHT * 0.75 + 0.45) + 0.95)
        panels = figure.subplots(len(starts), squeeze=False)[:, 0]
        for axes, start in zip(panels, starts, strict=True):
            mesh = _heat_map(axes, shown[:, start : start + columns], "RdBu_r", -1, 1, columns)
            marks = [_mark(character) for character in text[start : start + columns]]
            axes.set_xticks(range(len(marks)), marks, va="baseline", linespacing=1)
            axes.tick_params("x", pad=14)
            for tick, mark in zip(axes.get_xticklabels(), marks, strict=True):
                tick.set_fontsize(CODE_SIZE if "\n" in mark else MARK_SIZE)
            axes.set_yticks(range(len(units)), [str(unit) for unit in units])
        figure.supylabel(f"unit of layer {layer}", fontsize=11)
        panels[-1].set_xlabel(f"the text, a character a column{_explain_marks([text])}")
        _colour_bar(
            figure,
            mesh,
            list(panels),
            ticks=[-1, -0.5, 0, 0.5, 1],
            label="activation after the character (-1 to 1)",
        )
        _settle(figure)
    return figure


def save(figure: Figure, path_without_suffix: Path) -> list[Path]:
    """Write a picture as PNG and as SVG, and return the two paths; the same picture, same bytes.

    Raises:
        OSError: a file cannot be written.
    """
    dots = min(DOTS_PER_INCH, MAX_PIXELS / max(figure.get_size_inches()))
    paths = []
    with style.context(STYLE, after_reset=True):
        for suffix, options in ("png", {"dpi": dots}), ("svg", {"metadata": {"Date": None}}):
            content = io.BytesIO()
            figure.savefig(content, format=suffix, **options)
            # Not with_suffix, which would replace what follows a dot in the name.
            path = path_without_suffix.with_name(f"{path_without_suffix.name}.{suffix}")
            write_atomically(path, content.getvalue())
            paths.append(path)
    return paths


def _heat_map(
    axes: Axes,
    values: NDArray[np.float64],
    colours: str,
    low: float,
    high: float,
    columns: int,
) -> QuadMesh:
    """Cells of `values` [rows, up to columns], each around its indices, the first row on top."""
    num_rows, num_columns = values.shape
    mesh = axes.pcolormesh(
        np.arange(num_columns + 1) - 0.5,
        np.arange(num_rows + 1) - 0.5,
        np.ma.masked_invalid(values),
        cmap=colours,
        vmin=low,
        vmax=high,
        edgecolors="white",
        linewidth=0.5,
    )
    # The same for every panel, so that all cells are of one size.
    axes.set_xlim(-0.5, max(MIN_COLUMNS, columns) - 0.5)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return mesh


def _figure(columns: int, height: float) -> Figure:
    """A figure for heat maps of so many columns, `height` inches high."""
    width = max(MIN_COLUMNS, columns) * CELL_WIDTH + 1
    return Figure(figsize=(width, height), layout="constrained")


def _colour_bar(figure: Figure, mesh: QuadMesh, panels: list[Axes], **options: Any) -> None:
    """A bar of one size, below the panels."""
    shrink = MIN_COLUMNS * CELL_WIDTH / figure.get_size_inches()[0]
    figure.colorbar(mesh, ax=panels, location="bottom", aspect=30, shrink=shrink, **options)


def _settle(figure: Figure) -> None:
    """Lay out once and for all: every drawing would move things a little, and the bytes differ."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _unit_of_time(seconds: float) -> tuple[str, float]:
    """The unit in which a time is best read, and how many seconds it has."""
    if seconds < 300:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _readable_on(colour: Any) -> str:
    """Black or white, whichever can be read on a colour (red, green, blue, ..)."""
    lightness = np.dot(np.asarray(colour)[:3], [0.299, 0.587, 0.114])
    return "black" if lightness > 0.5 else "white"


@cache
def _drawable() -> frozenset[int]:
    """Code points of which the font, which comes with matplotlib, has a picture."""
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _mark(character: str) -> str:
    """What stands for a character in a cell: itself, a mark, or its code point on two lines."""
    if character in MARKS:
        return MARKS[character]
    kind = unicodedata.category(character)[0]
    if ord(character) not in _drawable() or kind in "CZ":
        code = f"{ord(character):04X}"
        return f"{code[:-2]}\n{code[-2:]}"
    # A mark that joins the character before it gets a circle to join.
    return f"◌{character}" if kind == "M" else character


def _explain_marks(texts: Iterable[str]) -> str:
    """What the marks in the texts mean: "; ␣ space, ↵ newline"."""
    present: set[str] = set().union(*texts)
    meanings = [f"{MARKS[mark]} {meaning}" for mark, meaning in MARKED.items() if mark in present]
    if any("\n" in _mark(character) for character in present):
        meanings.append("in small digits: code points")
    return f"; {', '.join(meanings)}" if meanings else ""


def _label(name: str) -> str:
    """A run's name in one short line, what the font cannot draw as escapes."""
    safe = "".join(
        c
        if c == " " or (ord(c) in _drawable() and unicodedata.category(c)[0] not in "CZ")
        else c.encode("unicode_escape").decode()
        for c in name
    )
    half = MAX_LABEL // 2
    return safe if len(safe) <= MAX_LABEL else f"{safe[:half]}…{safe[1 - half :]}"
