"""Characters in a terminal: how they are shown, how wide they are, and colours for surprisal."""

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable

from dinojax.messages import visible

COLOURS = 17, 19, 60, 102, 144, 186, 228
"""Terminal colours behind characters of 0, 1, 2, .. bits: dark (the first three) to light."""
WHITE, BLACK, BLUE = 231, 16, 67


def in_colour() -> bool:
    """Whether standard output is a terminal that shows colours, and the user wants them."""
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not is_plain


def painted(text: str, bits: float) -> str:
    """A text for a terminal on the colour of a number of bits, rounded down.

    It is readable on a light and on a dark background, as it brings its own.
    """
    highest = len(COLOURS) - 1
    level = int(bits) if bits < highest else highest
    return f"\x1b[48;5;{COLOURS[level]};38;5;{WHITE if level < 3 else BLACK}m{text}\x1b[0m"


def scale() -> str:
    """The colours in a row, each with its number of bits."""
    *levels, last = range(len(COLOURS))
    return "".join(painted(f" {level} ", level) for level in levels) + painted(f" {last}+ ", last)


def blue(text: str) -> str:
    """A text for a terminal in a blue that stands out from a light and from a dark background."""
    return f"\x1b[38;5;{BLUE}m{text}\x1b[0m"


def struck(text: str) -> str:
    """A text for a terminal, faint and struck through."""
    return f"\x1b[2;9m{text}\x1b[0m"


def character(one: str) -> str:
    """A character as a terminal can show it alone."""
    # A combining character gets a circle to combine with.
    return f"◌{one}" if unicodedata.category(one)[0] == "M" else visible(one)


def width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    spacing = [c for c in text if unicodedata.category(c) not in ("Mn", "Me", "Cf")]
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in spacing)


def padded(text: str, columns: int) -> str:
    """A text with blanks after it, up to this width."""
    return text + " " * (columns - width(text))


def can_show(text: str) -> bool:
    """Whether the encoding of standard output has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def in_rows(cells: Iterable[tuple[str, str]], between: str = "") -> list[str]:
    """Pairs of a text and how it is shown, joined: in a terminal, by rows that fit its width."""
    most = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    rows, used = list[list[str]]([[]]), 0
    for text, shown in cells:
        if rows[-1] and used + width(text) > most:
            rows.append([])
            used = 0
        rows[-1].append(shown)
        used += width(text) + len(between)
    return [between.join(row) for row in rows]
