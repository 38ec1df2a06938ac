"""Fonts: which of those installed have the characters that are to be drawn."""

import unicodedata
from contextlib import suppress
from functools import cache

import matplotlib
import numpy as np
from matplotlib.font_manager import (
    FontProperties,
    findfont,
    findSystemFonts,
    fontManager,
    get_font,
)
from numpy.typing import NDArray

FONT = "DejaVu Sans"
"""The font of all characters that it has. It comes with matplotlib."""
REGULAR = 400, "normal", "regular", "book"
"""Weights of a font that is neither light nor bold. Another would be chosen with a warning."""
UNFIT = "LastResort", "ColorEmoji"
"""In names of fonts that draw a box for every character, or colours, which matplotlib cannot."""


def families(text: str) -> list[str]:
    """Names of the fonts that draw a text: the default one, and others for what it lacks."""
    found = {family for each in set(text) if (family := _family(each))} - {FONT}
    return [FONT, *sorted(found)]


def is_drawable(character: str) -> bool:
    """Whether an installed font has a visible glyph for a character."""
    return unicodedata.category(character)[0] not in "CZ" and _family(character) is not None


def without_glyph(text: str) -> str:
    """The visible characters of a text that no installed font has, each once."""
    visible = (each for each in dict.fromkeys(text) if unicodedata.category(each)[0] not in "CZ")
    return "".join(each for each in visible if _family(each) is None)


@cache
def _family(character: str) -> str | None:
    """The first font that has a character, by its family's name; the default one goes first."""
    if get_font(findfont(FONT)).get_char_index(ord(character)):
        return FONT
    if unicodedata.category(character)[0] in "CZ":
        return None
    return next((name for name, points in _installed() if ord(character) in points), None)


@cache
def _installed() -> list[tuple[str, NDArray[np.uint32]]]:
    """Names and code points of the installed fonts. This reads every one of them."""
    # Matplotlib's own list may be older than a font.
    for path in set(findSystemFonts()) - {entry.fname for entry in fontManager.ttflist}:
        with suppress(OSError, RuntimeError):
            fontManager.addfont(path)
    found = []
    regular = (x for x in fontManager.ttflist if x.weight in REGULAR and x.style == "normal")
    for name in sorted({entry.name for entry in regular}):
        # A font may be gone or damaged.
        with suppress(OSError, RuntimeError, ValueError):
            path = findfont(FontProperties(family=[name]), fallback_to_default=False)
            font = get_font(path)
            is_own = path.startswith(matplotlib.get_data_path())
            is_unfit = any(each in name.replace(" ", "") for each in UNFIT)
            if font.scalable and not (is_own or is_unfit):
                found.append((name, np.array([*font.get_charmap()], np.uint32)))
    return found
