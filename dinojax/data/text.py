"""Strings in the form in which models read them, and as they are shown."""

import re
import unicodedata

INVISIBLE = "\u00ad\u200b\u2060\u2061\u2062\u2063\u2064\ufeff"
"""Characters that are dropped: soft hyphen, zero width space, word joiner, invisible operators and
byte order mark. Joiners that change how letters are written stay."""
MAX_MARKS = 100
"""Most combining marks in a row. Composing them takes time that grows with their square."""


def composed(text: str, lowercase: bool, *, first_line: int = 1) -> str:
    r"""`text` in Unicode's composed form (NFC), optionally in lower case.

    The line ends "\r\n" and "\r" become "\n", and the characters in `INVISIBLE` are dropped. Errors
    count lines from `first_line`.

    Raises:
        ValueError: the text holds NUL, or more than `MAX_MARKS` combining marks in a row.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + first_line
        raise ValueError(f"line {line:,} holds NUL; if the text is in UTF-16, convert it to UTF-8")
    if not text.isascii():
        for character in INVISIBLE:
            text = text.replace(character, "")
        marks = "".join(filter(unicodedata.combining, set(text)))
        too_many = re.search(f"[{re.escape(marks)}]{{{MAX_MARKS + 1},}}", text) if marks else None
        if too_many:
            line = text.count("\n", 0, too_many.start()) + first_line
            num = len(too_many[0])
            raise ValueError(
                f"line {line:,} holds {num:,} combining marks in a row; expected up to {MAX_MARKS}"
            )
        text = unicodedata.normalize("NFC", text)
    return unicodedata.normalize("NFC", text.lower()) if lowercase else text


def composed_start(text: str, lowercase: bool) -> str:
    """`composed` for a text that may end within a word: its last letter is not at a word's end."""
    # Greek has another small sigma there.
    return composed(f"{text}x", lowercase)[:-1]


def capitalized(name: str) -> str:
    """`name`, composed, with its first letter in title case, as the exercise prints names."""
    first = name[:1].title()
    return unicodedata.normalize("NFC", first + name[1:]) if len(first) == 1 else name
