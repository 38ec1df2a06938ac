"""Names or a running text from a file, read once."""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dinojax.data.labels import Labelled, with_labels
from dinojax.data.looks import hints
from dinojax.data.sources import decoded
from dinojax.data.stored import NameList
from dinojax.data.tables import SKIPPED, STRIPPED, Columns, Rows, layout_of, plain_rows, rows_of
from dinojax.data.text import INVISIBLE, composed
from dinojax.files import digest
from dinojax.messages import about, count

MAX_NAME_LENGTH = 1_000
"""Longest name, in characters."""
NO_NAMES = "no names; expected one name a line"
MAX_REPEATED = 10**7
"""Most names that the counts of a table may stand for."""
MIN_LIMIT = 50
"""Least number of characters after which samples of names are cut, unless a call says otherwise."""
MAX_PIPE = 2**28
"""Most bytes that are read from what is not a file."""
STANDARD_INPUT = Path("-")
"""What stands for standard input in place of a file."""

Data_co = TypeVar("Data_co", covariant=True)


class Corpus(NamedTuple, Generic[Data_co]):
    """What was read from a file."""

    data: Data_co
    """Names, or a text."""
    sha256: str
    """Checksum of the bytes that were read."""
    notes: Sequence[str]
    """What is unusual or was changed, as in "2 blank lines skipped"."""


def read_once(files: Iterable[Path | str]) -> list[Path]:
    """Those of some files that cannot be read again: standard input, pipes and devices."""
    paths = map(Path, files)
    return [
        x for x in paths if x == STANDARD_INPUT or (x.exists() and not (x.is_file() or x.is_dir()))
    ]


def shown(file: Path | str) -> str:
    """What messages call a file that is read."""
    file = Path(file)
    return "standard input" if file == STANDARD_INPUT else str(file)


def shown_all(files: Sequence[Path | str]) -> str:
    """What messages call several files that are read."""
    more = f" and {count(len(files) - 1, 'other')}" if files[1:] else ""
    return shown(files[0]) + more


def bundled_names() -> Path:
    """Path of the dinosaur names that come with dinojax."""
    package = Path(__file__).parents[1]
    installed = package / "bundled" / "dinos.txt"
    return installed if installed.exists() else package.parent / "data" / "dinos.txt"


def read_names(
    file: Path | str, lowercase: bool = True, *, labels: Sequence[str] = (), **columns: str
) -> Corpus[list[str]]:
    """The names in a file, one a line or, with `columns` as in `tables.Columns`, in a table.

    Text is composed as by `read_text`. Lines are stripped of white space; blank ones and comments
    are skipped. A name with a count stands in the list as often as it says, and one with a label
    comes after it; for those known as `labels`, see `with_labels`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is no text, has no name, or has one longer than `MAX_NAME_LENGTH`; or
            a row of the table is not suitable.
    """
    content, which = read_bytes(file), Columns(**columns)
    text, notes = parsed(content, shown(file), lowercase)
    with about(shown(file)):
        names, more = joined([rows_in(text, which)], labels)
    return Corpus(names, digest(content), [*notes, *more, *hints(content, which)])


def rows_in(text: str, columns: Columns) -> Rows:
    """What the lines of a list hold; see `tables` for the errors raised, and `check_length`."""
    lines = lines_of(text)
    rows = rows_of(lines, layout_of(lines, columns))
    check_length(rows.names)
    return rows


def lines_of(text: str) -> list[str]:
    """The lines of a text; an end of line at its end begins no further one."""
    # str.splitlines would also split at U+2028 and other characters that may occur in a name.
    return text.removesuffix("\n").split("\n")


def read_running_text(file: Path | str, lowercase: bool = False) -> Corpus[str]:
    """The text in a file, as `read_text` reads it; a ValueError if it is empty."""
    content = read_bytes(file)
    text, notes = parsed(content, shown(file), lowercase)
    if not text:
        raise ValueError(f"{shown(file)} is empty; expected a text")
    return Corpus(text, digest(content), [*notes, *hints(content)])


def read_text(file: Path | str, lowercase: bool = False) -> Corpus[str]:
    """The text of a UTF-8 file without its byte order mark, as `composed` gives it.

    Raises:
        OSError: the file cannot be read.
        ValueError: see `read_bytes` and `composed`; or the file is not UTF-8, where the message
            gives the offset of the first bad byte.
    """
    content = read_bytes(file)
    text, notes = parsed(content, shown(file), lowercase)
    return Corpus(text, digest(content), notes)


def parsed(content: bytes, name: str, lowercase: bool) -> tuple[str, list[str]]:
    """The text that bytes of a file called `name` hold, and notes; see `read_text`."""
    text = decoded(content, 0, name).removeprefix("\ufeff")
    num_invisible = sum(map(text.count, INVISIBLE))
    notes = [f"{count(num_invisible, 'invisible character')} dropped"] if num_invisible else []
    with about(name):
        return composed(text, lowercase), notes


def read_bytes(file: Path | str) -> bytes:
    """The content of a file, or of a pipe or a terminal until it is closed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a device, or a pipe with more than `MAX_PIPE` bytes.
    """
    file = Path(file)
    is_standard = file == STANDARD_INPUT
    with open(0 if is_standard else file, "rb", closefd=not is_standard) as stream:
        mode = os.fstat(stream.fileno()).st_mode
        if stat.S_ISREG(mode):
            return stream.read()
        if (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and not stream.isatty():
            raise ValueError(f"{shown(file)} is a device; expected a file or a pipe")
        # Read once, as a terminal is open again after its end.
        content = stream.read(MAX_PIPE + 1)
    if len(content) > MAX_PIPE:
        message = f"gave more than {MAX_PIPE:,} bytes; write them to a file first"
        raise ValueError(f"{shown(file)} {message}")
    return content


def clean_names(lines: Iterable[str]) -> tuple[list[str], list[str]]:
    """Lines, as `composed` gives them, stripped of white space and without blank ones; and notes.

    Raises:
        ValueError: there is no name, or one is longer than `MAX_NAME_LENGTH`.
    """
    rows = plain_rows(lines)
    check_length(rows.names)
    return joined([rows])


def joined(files: Sequence[Rows], known: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The names of several lists, each as often as its count says; and notes.

    They have labels if the lists have; see `with_labels` for those `known`.

    Raises:
        ValueError: there is no name, there are more than `MAX_REPEATED` by their counts, or see
            `with_labels`.
    """
    skipped = sum((Counter(rows.skipped) for rows in files), Counter[str]())
    once = [name for rows in files for name in rows.names if name]
    if not once:
        raise ValueError(NO_NAMES)
    labels = [label for rows in files for label in rows.labels or () if label]
    labelled = with_labels(once, labels, known) if labels else None
    names = once = once if labelled is None else list(labelled)
    if any(rows.counts for rows in files):
        counts = [num for rows in files for num in rows.counts or () if num]
        check_total(sum(counts))
        # One string for all copies of a name.
        names = list(chain.from_iterable(map(repeat, names, counts)))
    longest = longest_usual(names) - bool(labels)
    longer = [
        (i, len(name))
        for rows in files
        for i, name in enumerate(rows.names, start=1)
        if len(name) > longest
    ]
    num_repeated, first = len(once) - len(set(once)), longer[0] if longer else None
    notes = notes_on(skipped, len(once), len(names), num_repeated, first, len(longer))
    return names if labelled is None else Labelled(names, labelled.labels), notes


def num_characters_of(rows: Rows) -> int:
    """The number of characters of the names of a list, each as often as its count says."""
    counts = rows.counts or repeat(1)
    return sum(num * (len(name) + 1) for name, num in zip(rows.names, counts, strict=False) if name)


def check_total(num: int) -> None:
    """Raise a ValueError if counts stand for more than `MAX_REPEATED` names."""
    if num > MAX_REPEATED:
        raise ValueError(
            f"the counts stand for {num:,} names; expected up to {MAX_REPEATED:,}; divide them by "
            f"{-(-num // MAX_REPEATED):,} or more"
        )


def check_length(lines: Iterable[str], first_line: int = 1) -> None:
    """Raise a ValueError if a line is longer than `MAX_NAME_LENGTH`."""
    for number, name in enumerate(lines, start=first_line):
        if len(name) > MAX_NAME_LENGTH:
            raise ValueError(
                f"line {number:,}: a name of {len(name):,} characters; names may have up to "
                f"{MAX_NAME_LENGTH:,}; is there one name a line? If so, shorten or remove this one"
            )


def notes_on(
    skipped: Mapping[str, int],
    num_rows: int,
    num_names: int,
    num_repeated: int,
    first_longer: tuple[int, int] | None,
    num_longer: int,
) -> list[str]:
    """What is unusual about a list of names.

    Its rows stand for more names if they have counts; some of them repeat others. `first_longer` is
    the first line that is far longer than the others, and its length.
    """
    notes = [f"{count(skipped[what], what)} skipped" for what in SKIPPED if skipped.get(what)]
    if num := skipped.get(STRIPPED):
        notes.append(f"white space at the ends of {count(num, 'line')} dropped")
    if num_repeated:
        notes.append(f"{count(num_repeated, 'duplicate')} kept")
    if num_names != num_rows:
        notes.append(f"{count(num_rows, 'row')} counted as {num_names:,} names")
    if first_longer:
        line, num = first_longer
        notes.append(f"line {line:,} is far longer than the others, {num:,} characters")
        if num_longer > 1:
            notes[-1] += f", and so are {num_longer - 1:,} more"
    return notes


def longest_usual(names: Sequence[str]) -> int:
    """Length of the longest name that is not far longer than the others; see `usual_length`.

    Raises:
        ValueError: there is no name.
    """
    if not names:
        raise ValueError("expected at least one name, got none")
    if isinstance(names, NameList):
        return usual_length(names.lengths - 1)
    return usual_length(np.fromiter(map(len, names), int))


def usual_length(lengths: NDArray[np.integer]) -> int:
    """The largest of these lengths of names [num] that is not far larger than the others.

    A name is far longer if it has more than 32 characters and more than four times the 95th
    percentile of all lengths. Batches hold it in pieces, so that it changes little for the others.
    """
    lengths = np.sort(lengths)
    limit = max(32, 4 * int(lengths[int(0.95 * (len(lengths) - 1))]))
    return int(lengths[lengths <= limit].max())


def length_limit(names: Sequence[str]) -> int:
    """Where to cut samples of a model that learned from `names`, in characters.

    That is 1.5 times the length of the longest usual one of them, but at least `MIN_LIMIT`.
    """
    return max(MIN_LIMIT, 3 * longest_usual(names) // 2)
