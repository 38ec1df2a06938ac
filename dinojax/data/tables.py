"""The lines of a list of names: one name each, or the rows of a table with counts and labels."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from dinojax.config import COLUMNS, TrainConfig
from dinojax.data.text import composed
from dinojax.messages import about, count, quoted, shortened

DELIMITERS = {"\t": "tab", ";": "semicolon", ",": "comma"}
NUM_FIRST = 100
"""How many rows tell what delimits the fields of a table."""
MAX_DIGITS = 12
"""Most digits of a count, so that the sum of any list fits into 64 bits."""
BLANK, COMMENT, ZERO = SKIPPED = "blank line", "comment line", "zero count"
"""Why a line gives no name."""
STRIPPED = "stripped line"
"""A line that gives its name without the white space at its ends."""


class Columns(NamedTuple):
    """Which columns of a table to read, by name or by number from 1; "" for none.

    Without any, each line is a name. Where another is given, `column` is 1 unless given.
    """

    column: str = ""
    """That of the names."""
    count_column: str = ""
    """That of the counts: how many times each name stands in the list."""
    label_column: str = ""
    """That of the labels."""


WHOLE_LINES = Columns()
"""Each line is a name."""


class Layout(NamedTuple):
    """How the fields of a table lie in its lines."""

    delimiter: str
    num_fields: int
    header_line: int
    """Number of the line that names the columns; 0 for none."""
    at_name: int
    """Place of the name among the fields."""
    at_count: int | None
    at_label: int | None


class Rows(NamedTuple):
    """What some lines hold. Each list has an entry for every line, so that lines can be counted."""

    names: list[str]
    """Stripped of white space; "" where the line gives no name."""
    counts: list[int] | None
    """How many times each name stands in the list, 0 for ""; None for once each."""
    labels: list[str] | None
    """The label of each name; None if there is no column of labels."""
    skipped: Mapping[str, int]
    """How many lines give no name, by `BLANK`, `COMMENT` and `ZERO`; how many are `STRIPPED`."""


def columns_of(config: TrainConfig) -> Columns:
    """The columns that a run reads."""
    return Columns(*(getattr(config, name) for name in COLUMNS))


def layout_of(lines: Sequence[str], columns: Columns, first_line: int = 1) -> Layout | None:
    """How a table that begins with these lines is laid out.

    It is None if no column is asked for, and while there is no row. The first row names the columns
    if one is asked for by name, or if its count is no number. Capitals, and white space around a
    name, make no difference. A whole number is always the number of a column. For the delimiter,
    see `delimiter_of`; the first `NUM_FIRST` rows tell it.

    Raises:
        ValueError: a column is not there, or two have its name.
    """
    if not any(columns):
        return None
    numbered = enumerate(lines, first_line)
    first = list(islice(((i, x) for i, x in numbered if is_row(x)), NUM_FIRST))
    if not first:
        return None
    (line, text), delimiter = first[0], delimiter_of([row for _, row in first])
    with about(f"line {line:,}"):
        header = [field.strip() for field in fields_of(text, delimiter)]
    name, num, label = (_place(header, wanted) for wanted in (columns[0] or "1", *columns[1:]))
    assert name is not None
    has_header = any(wanted and _number(wanted) is None for wanted in columns)
    has_header |= num is not None and _number(header[num]) is None
    return Layout(delimiter, len(header), line if has_header else 0, name, num, label)


def delimiter_of(lines: Sequence[str]) -> str:
    """What delimits the fields of a table with these lines: a tab, a semicolon or a comma.

    It is what divides the most lines into as many fields as the first one, at least two; of
    several, the first of these three.
    """
    return max(DELIMITERS, key=lambda each: num_alike(lines, each))


def num_alike(lines: Sequence[str], delimiter: str) -> int:
    """How many lines have as many fields as the first one; 0 if that has only one."""
    nums = [len(_fields_if_any(line, delimiter)) for line in lines]
    return nums.count(nums[0]) if nums and nums[0] > 1 else 0


def rows_of(lines: Sequence[str], layout: Layout | None, first_line: int = 1) -> Rows:
    """What lines of a list hold; those of a table must have its `layout`.

    Blank lines and comments give no name, nor do rows with a count of 0.

    Raises:
        ValueError: a row cannot be read, has more or fewer fields than the first one, a count that
            is no whole number, or no label.
    """
    if layout is None:
        rows = plain_rows(lines)
        comments = [i for i, line in enumerate(lines) if line[:1] == "#" and is_comment(line)]
        for i in comments:
            rows.names[i] = ""
        skipped = {BLANK: rows.skipped[BLANK], COMMENT: len(comments)}
        return rows._replace(skipped={**skipped, STRIPPED: num_stripped(lines, rows.names)})
    skipped = Counter[str]()
    names, counts, labels = [""] * len(lines), [0] * len(lines), [""] * len(lines)
    for i, line in enumerate(lines):
        if first_line + i == layout.header_line:
            continue
        if not is_row(line):
            skipped[COMMENT if line.strip() else BLANK] += 1
            continue
        with about(f"line {first_line + i:,}"):
            name, num, label = _row(line, layout)
        if name and num:
            names[i], counts[i], labels[i] = name, num, label
        else:
            skipped[ZERO if name else BLANK] += 1
    return Rows(
        names,
        None if layout.at_count is None else counts,
        None if layout.at_label is None else labels,
        skipped,
    )


def plain_rows(lines: Iterable[str]) -> Rows:
    """The same of lines that are all names, or blank."""
    lines = list(lines)
    names = [line.strip() for line in lines]
    skipped = {BLANK: names.count(""), STRIPPED: num_stripped(lines, names)}
    return Rows(names, None, None, skipped)


def num_stripped(lines: Sequence[str], names: Sequence[str]) -> int:
    """How many of these lines had white space around their names."""
    return sum(bool(name) and name != line for line, name in zip(lines, names, strict=True))


def is_row(line: str) -> bool:
    """Whether a line is neither blank nor a comment."""
    return bool(line.strip()) and not is_comment(line)


def is_comment(line: str) -> bool:
    """Whether a line is a comment: "#", followed by a space, a tab, "#", "!" or nothing."""
    return line[:1] == "#" and line[1:2] in ("", " ", "\t", "#", "!")


def fields_of(line: str, delimiter: str) -> list[str]:
    """The fields of a row; those in double quotes may hold the delimiter, and quotes as "".

    Raises:
        ValueError: quotes are not where they may be, or not closed on the line.
    """
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise ValueError("a double quote is not closed; a name has no line breaks") from None
        raise ValueError(f"a row that cannot be read: {error}") from None


def row_text(*fields: str) -> str:
    """The row of a table that holds these fields, with tabs between them, as `rows_of` reads it."""
    if is_comment(fields[0]) or any(c in field for field in fields for c in '"\t'):
        fields = tuple(f'"{x}"' for x in (field.replace('"', '""') for field in fields))
    return "\t".join(fields)


def _fields_if_any(line: str, delimiter: str) -> list[str]:
    try:
        return fields_of(line, delimiter)
    except ValueError:
        return []


def _row(line: str, layout: Layout) -> tuple[str, int, str]:
    """The name, the count and the label of a row."""
    fields = fields_of(line, layout.delimiter)
    if len(fields) != layout.num_fields:
        raise ValueError(
            f"expected {count(layout.num_fields, 'field')}, as in the first row, got "
            f"{len(fields):,}; put double quotes around a field that holds a "
            f"{DELIMITERS[layout.delimiter]}"
        )
    num, label = 1, ""
    if layout.at_count is not None:
        found = _number(fields[layout.at_count])
        if found is None:
            got = quoted(fields[layout.at_count].strip())
            raise ValueError(f"a count is a whole number, 0 or more; got {got}")
        num = found
    if layout.at_label is not None and not (label := fields[layout.at_label].strip()):
        raise ValueError("expected a label, got none")
    return fields[layout.at_name].strip(), num, label


def _number(text: str) -> int | None:
    """A whole number, 0 or more; None for another text."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None


def _place(header: Sequence[str], wanted: str) -> int | None:
    """The place of a column among the fields of the first row; None if none is wanted."""
    if not wanted:
        return None
    if (number := _number(wanted)) is not None:
        if not 1 <= number <= len(header):
            fields = count(len(header), "field")
            raise ValueError(f"there is no column {number:,}; the first row has {fields}")
        return number - 1
    alike = composed(wanted.strip(), lowercase=True)
    places = [i for i, name in enumerate(header) if composed(name, lowercase=True) == alike]
    if len(places) != 1:
        known = shortened(", ".join(map(repr, header)))
        found = "two columns are called" if places else "there is no column"
        raise ValueError(f"{found} {quoted(wanted)}; the first row has {known}")
    return places[0]
