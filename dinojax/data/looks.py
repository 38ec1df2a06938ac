"""What the first lines of a file look like: a list of names, a running text or a table."""

import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Literal

from dinojax.data import sources
from dinojax.data.tables import (
    NUM_FIRST,
    WHOLE_LINES,
    Columns,
    delimiter_of,
    fields_of,
    is_row,
    layout_of,
    num_alike,
)
from dinojax.messages import count, quoted

FEW = 5
"""Fewer lines than these are no table, and not judged."""
LOOKED = 2**16
"""How many bytes at the beginning of a file are looked at."""
MANY_WORDS = 20
"""More words than a name has."""
NUMBER = re.compile(r"\s*-?[\d.,]*\d%?\s*")


def looks_like(lines: Sequence[str]) -> Literal["names", "text", "table"]:
    """What these lines look like, by the first `NUM_FIRST` that are neither blank nor comments.

    A table has at least `FEW` rows, of which nine of ten have as many fields as the first one, two
    or more, between tabs, semicolons or commas. In a text, at least half of the words are in lines
    like parts of sentences: lines of four words or more that end with a punctuation mark, or of
    whose words most begin with a small letter; lines of `MANY_WORDS`; and indented ones, as in a
    program. All else is a list of names.
    """
    rows = list(islice(filter(is_row, lines), NUM_FIRST))
    if len(rows) >= FEW and 10 * num_alike(rows, delimiter_of(rows)) >= 9 * len(rows):
        return "table"
    words = [len(row.split()) for row in rows]
    in_sentences = sum(num for num, row in zip(words, rows, strict=True) if _is_in_sentence(row))
    return "text" if in_sentences and 2 * in_sentences >= sum(words) else "names"


def _is_in_sentence(line: str) -> bool:
    words = line.split()
    if line[0].isspace() or len(words) >= MANY_WORDS:
        return True
    num_small = sum(word[0].islower() for word in words)
    is_end = unicodedata.category(words[-1][-1])[0] == "P"
    return len(words) >= 4 and (is_end or 2 * num_small > len(words))


def first_lines(content: bytes) -> list[str]:
    """The lines of up to `LOOKED` bytes of a file; what is not UTF-8 in them is left out."""
    text = content[:LOOKED].decode(errors="ignore").removeprefix("\ufeff")
    return re.split(r"\r\n|\r|\n", text)


def columns_in(data: Path | str, columns: Columns) -> Columns:
    """These columns if a file, or the first of a folder, is a table that has them, else none.

    What is not a regular file cannot be looked at before it is read, and is assumed to have them.
    For the errors raised see `sources.data_files` and `sources.opened`.
    """
    file = sources.data_files([data])[0]
    if not any(columns) or not file.is_file():
        return columns
    with suppress(ValueError):
        layout = layout_of(first_lines(sources.beginning(file, LOOKED)), columns)
        if layout and (layout.num_fields > 1 or layout.header_line):
            return columns
    return WHOLE_LINES


def hints(content: bytes, columns: Columns | None = None) -> list[str]:
    """A note if what a file holds does not look like what it is read as.

    It is read as a list of names in some `columns`, or as a running text where that is None.
    """
    rows = list(islice(filter(is_row, first_lines(content)), NUM_FIRST))
    if len(rows) < FEW:
        return []
    if any(columns or ()):
        return _hints_on_header(rows, columns or WHOLE_LINES)
    looks = looks_like(rows)
    if columns is None:
        return ["it looks like a list of names, not a text"] if looks == "names" else []
    if looks == "text":
        return ["it looks like a text, not a list of names"]
    if looks == "table":
        num = len(fields_of(rows[0], delimiter_of(rows)))
        return [f"it looks like a table of {count(num, 'column')}; choose the column of the names"]
    return []


def _hints_on_header(rows: Sequence[str], columns: Columns) -> list[str]:
    """A note if the first row is read as a name, but seems to name the columns.

    It does if the name in it is "name", or where it has no number in a column of numbers.
    """
    # What cannot be read is an error elsewhere.
    with suppress(ValueError):
        layout = layout_of(rows, columns)
        if layout and not layout.header_line:
            header, *others = (fields_of(row, layout.delimiter) for row in rows)
            name = header[layout.at_name].strip()
            has_text_over_numbers = any(
                not NUMBER.fullmatch(first) and all(map(NUMBER.fullmatch, rest))
                for first, *rest in zip(header, *others, strict=True)
            )
            if has_text_over_numbers or name.lower() in ("name", "names"):
                read = f"the first row is read as the name {quoted(name)}"
                return [f"{read}; if it names the columns, choose one by its name"]
    return []
