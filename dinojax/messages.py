"""How messages are worded, and what they quote: short, and unable to steer a terminal."""

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

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


def count(num: int, noun: str) -> str:
    """A number of things: "1 name", "1,538 names"."""
    return f"{num:,} {noun}{'' if num == 1 else 's'}"


def why(error: Exception) -> str:
    """Why something failed, in one line that says no more than a command would."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def about(what: object) -> Iterator[None]:
    """Prefix the message of a ValueError with `what`, such as the file or flag that caused it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
