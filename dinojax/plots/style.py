"""The look of all pictures, and how they are saved."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from dinojax.files import remove_leftovers, write_atomically
from dinojax.plots.fonts import FONT, families

STYLE = {
    "font.family": FONT,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "legend.frameon": False,
    "legend.handlelength": 4,
    "lines.markeredgecolor": "white",
    "lines.markersize": 7,
    "text.parse_math": False,
    "svg.hashsalt": "dinojax",
}
"""Changes to matplotlib's defaults. The user's settings, which could turn TeX on, are ignored."""
SUFFIXES = ".png", ".svg"
MAX_PIXELS = 30_000
"""Longest side of a PNG file. Matplotlib fails at twice as many."""


@contextmanager
def new_figure(width: float, height: float, text: str = "") -> Iterator[Figure]:
    """A figure of this size in inches, to be drawn on in the `with` block.

    `text` has the characters that it may show besides those of messages and numbers.
    """
    with matplotlib.style.context(STYLE | {"font.family": families(text)}, after_reset=True):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        # Fix the layout: each rendering would move things a little, and so change the bytes.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def save(figure: Figure, path_without_suffix: Path | str) -> list[Path]:
    """Write a figure as PNG and as SVG; returns the two paths. Equal figures give equal bytes.

    Raises:
        OSError: a file cannot be written.
    """
    path_without_suffix = Path(path_without_suffix)
    paths = []
    remove_leftovers(path_without_suffix.parent)
    for suffix in SUFFIXES:
        # with_suffix would replace whatever follows a dot in the name.
        path = path_without_suffix.with_name(f"{path_without_suffix.name}{suffix}")
        save_as(figure, path)
        paths.append(path)
    return paths


def save_as(figure: Figure, path: Path | str) -> None:
    """Write a figure as PNG or as SVG, by the suffix of the path. Equal figures give equal bytes.

    Raises:
        OSError: the file cannot be written.
        ValueError: the suffix is another.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    dpi = min(160, MAX_PIXELS / max(figure.get_size_inches()))
    options: dict[str, Any] = {".png": {"dpi": dpi}, ".svg": {"metadata": {"Date": None}}}
    content = io.BytesIO()
    with matplotlib.style.context(STYLE, after_reset=True):
        figure.savefig(content, format=path.suffix[1:], **options[path.suffix])
    write_atomically(path, content.getvalue())
