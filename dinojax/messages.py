"""What messages quote: short, and without characters that could steer a terminal."""

import unicodedata

MOST_QUOTED = 100
"""Longest quotation, in characters."""
JOINERS = "\u200c\u200d"
"""Format characters that scripts and emoji need."""


def steers(character: str) -> bool:
    """Whether a character could steer a terminal.

    Control and format characters except the `JOINERS`, line and paragraph separators, and halves
    of surrogate pairs could.
    """
    is_special = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return is_special and character not in JOINERS


def visible(text: str) -> str:
    r"""`text` with escapes, such as \x1b, in place of characters that could steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if steers(c) else c for c in text)


def shortened(text: str, most: int = MOST_QUOTED) -> str:
    """`text`, without its middle if it is longer than `most` characters."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} [..] {text[-half:]}"


def quoted(value: object) -> str:
    """A value as a message quotes it: as Python writes it, which is visible, and shortened."""
    return shortened(repr(value))
