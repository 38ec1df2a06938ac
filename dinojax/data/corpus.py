"""Names or a running text from a file, read once, and split into parts."""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dinojax.data.sources import decoded
from dinojax.data.stored import NameList, Text
from dinojax.data.text import INVISIBLE, composed
from dinojax.files import digest
from dinojax.messages import about, count

MAX_NAME_LENGTH = 1_000
"""Longest name, in characters."""
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


def shown(file: Path) -> str:
    """What messages call a file that is read."""
    return "standard input" if file == STANDARD_INPUT else str(file)


def shown_all(files: Sequence[Path]) -> str:
    """What messages call several files that are read."""
    more = f" and {count(len(files) - 1, 'other')}" if files[1:] else ""
    return shown(files[0]) + more


def bundled_names() -> Path:
    """Path of the dinosaur names that come with dinojax."""
    package = Path(__file__).parents[1]
    installed = package / "bundled" / "dinos.txt"
    return installed if installed.exists() else package.parent / "data" / "dinos.txt"


def read_names(file: Path, lowercase: bool = True) -> Corpus[list[str]]:
    """The names in a file, one a line; see `read_text` and `clean_names`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is no text, has no name, or has one longer than `MAX_NAME_LENGTH`.
    """
    text, sha256, notes = read_text(file, lowercase)
    with about(shown(file)):
        names, more = clean_names(lines_of(text))
    return Corpus(names, sha256, [*notes, *more])


def lines_of(text: str) -> list[str]:
    """The lines of a text; an end of line at its end begins no further one."""
    # str.splitlines would also split at U+2028 and other characters that may occur in a name.
    return text.removesuffix("\n").split("\n")


def read_running_text(file: Path, lowercase: bool = False) -> Corpus[str]:
    """The text in a file, as `read_text` reads it; a ValueError if it is empty."""
    corpus = read_text(file, lowercase)
    if not corpus.data:
        raise ValueError(f"{shown(file)} is empty; expected a text")
    return corpus


def read_text(file: Path, lowercase: bool = False) -> Corpus[str]:
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


def read_bytes(file: Path) -> bytes:
    """The content of a file, or of a pipe or a terminal until it is closed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a device, or a pipe with more than `MAX_PIPE` bytes.
    """
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
    stripped = [line.strip() for line in lines]
    check_length(stripped)
    names = [name for name in stripped if name]
    if not names:
        raise ValueError("no names; expected one name a line")
    longest = longest_usual(names)
    longer = [(i, len(name)) for i, name in enumerate(stripped, start=1) if len(name) > longest]
    num_blank, num_repeated = len(stripped) - len(names), len(names) - len(set(names))
    return names, notes_on(num_blank, num_repeated, longer[0] if longer else None, len(longer))


def check_length(lines: Iterable[str], first_line: int = 1) -> None:
    """Raise a ValueError if a line is longer than `MAX_NAME_LENGTH`."""
    for number, name in enumerate(lines, start=first_line):
        if len(name) > MAX_NAME_LENGTH:
            raise ValueError(
                f"line {number:,}: a name of {len(name):,} characters; names may have up to "
                f"{MAX_NAME_LENGTH:,}; is there one name a line?"
            )


def notes_on(
    num_blank: int, num_repeated: int, first_longer: tuple[int, int] | None, num_longer: int
) -> list[str]:
    """What is unusual about a list of names.

    `first_longer` is the first line that is far longer than the others, and its length.
    """
    notes = []
    if num_blank:
        notes.append(f"{count(num_blank, 'blank line')} skipped")
    if num_repeated:
        notes.append(f"{count(num_repeated, 'duplicate')} kept")
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


def split_names(
    names: Sequence[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    learned: Iterable[str] = (),
) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """Split names at random into training, validation and test parts, each in the given order.

    All copies of a name go to the same part. Fractions are of the distinct names; a fraction above
    zero gives at least one. The test part, then the validation part, takes names already `learned`
    by an earlier run only where no others are left. The split depends on the set of names, on
    `learned` and on `seed`, not on the order.

    Raises:
        ValueError: no name would be left for training.
    """
    if isinstance(names, NameList):
        return _split_list(names, validation_fraction, test_fraction, seed, learned)
    distinct = sorted(set(names))
    sizes = _sizes(len(distinct), "distinct names", validation_fraction, test_fraction)
    known, order = set(learned), np.random.default_rng(seed).permutation(len(distinct))
    drawn = sorted((distinct[i] for i in order.tolist()), key=known.__contains__)
    # The test part is drawn first, so that it does not depend on the validation fraction.
    parts = np.repeat([2, 1, 0], sizes[::-1])
    part_of = dict(zip(drawn, parts.tolist(), strict=True))
    train, validation, test = ([name for name in names if part_of[name] == i] for i in range(3))
    return train, validation, test


def _split_list(
    names: NameList, validation: float, test: float, seed: int, learned: Iterable[str]
) -> tuple[NameList, NameList, NameList]:
    """`split_names` by the numbers of distinct names instead of the names, all of a store."""
    ranks = names.store.ranks
    sizes = _sizes(int(ranks.max()) + 1, "distinct names", validation, test)
    known = np.zeros(sum(sizes), bool)
    known[[rank for name in learned if (rank := names.rank(name)) is not None]] = True
    order = np.random.default_rng(seed).permutation(len(known))
    part_of = np.empty(len(known), np.int8)
    part_of[order[np.argsort(known[order], kind="stable")]] = np.repeat([2, 1, 0], sizes[::-1])
    train, held_out, tested = (np.flatnonzero(part_of[ranks] == i) for i in range(3))
    parts = (replace(names, rows=rows.astype(np.uint32)) for rows in (train, held_out, tested))
    return next(parts), next(parts), next(parts)


def split_text(
    text: str | Text, validation_fraction: float, test_fraction: float
) -> tuple[str | Text, str | Text, str | Text]:
    """Split a text into training, validation and test parts, which follow each other.

    Fractions are of the characters, of all documents together; a fraction above zero gives at least
    one. A document may end in the next part.

    Raises:
        ValueError: no character would be left for training.
    """
    start, num, _ = _sizes(len(text), "characters", validation_fraction, test_fraction)
    return text[:start], text[start : start + num], text[start + num :]


def _sizes(num: int, things: str, *fractions: float) -> tuple[int, int, int]:
    """The sizes of the training, validation and test parts of `num` things."""
    validation, test = (max(1, round(f * num)) if f else 0 for f in fractions)
    if validation + test >= num:
        raise ValueError(
            f"no data would be left to learn from: expected more than {num:,} {things}, or smaller "
            "fractions for validation and test"
        )
    return num - validation - test, validation, test
