"""Reading names and running texts from files, and splitting them into parts."""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

MAX_NAME_LENGTH = 1_000
"""Longest name, in characters. All names of a list are padded to the length of its longest."""


def bundled_names() -> Path:
    """Path of the dinosaur names that come with dinojax."""
    package = Path(__file__).parents[1]
    installed = package / "bundled" / "dinos.txt"
    return installed if installed.exists() else package.parent / "data" / "dinos.txt"


def read_text(path: Path) -> str:
    r"""The text of a UTF-8 file in Unicode's composed form (NFC).

    A byte order mark is dropped, and the line ends "\r\n" and "\r" become "\n".

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not UTF-8; the message gives the offset of the first bad byte.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset "
            f"{error.start}; convert the file to UTF-8"
        ) from None
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text)


def read_names(path: Path, lowercase: bool = True) -> tuple[list[str], int]:
    """The names in a file, one a line, and the number of blank lines, which are skipped.

    Names are stripped of white space and, by default, in lower case, as in the exercise.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not UTF-8, has no name, or has one longer than `MAX_NAME_LENGTH`.
    """
    # str.splitlines would also split at U+2028 and other characters that may occur in a name.
    lines = read_text(path).removesuffix("\n").split("\n")
    stripped = [composed(line.strip(), lowercase) for line in lines]
    for number, name in enumerate(stripped, start=1):
        if len(name) > MAX_NAME_LENGTH:
            raise ValueError(
                f"{path}, line {number}: a name of {len(name):,} characters; names may have up to "
                f"{MAX_NAME_LENGTH:,}; is there one name a line?"
            )
    names = [name for name in stripped if name]
    if not names:
        raise ValueError(f"{path} holds no names; expected one name a line")
    return names, len(lines) - len(names)


def read_running_text(path: Path, lowercase: bool = False) -> str:
    """The text in a file, composed (NFC) and optionally in lower case.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not UTF-8, or is empty.
    """
    text = composed(read_text(path), lowercase)
    if not text:
        raise ValueError(f"{path} is empty; expected a text")
    return text


def split_names(
    names: Sequence[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    learned: Iterable[str] = (),
) -> tuple[list[str], list[str], list[str]]:
    """Split names at random into training, validation and test parts, each in the given order.

    All copies of a name go to the same part. Fractions are of the distinct names; a fraction above
    zero gives at least one. The test part, then the validation part, takes names already `learned`
    by an earlier run only where no others are left. The split depends on the set of names, on
    `learned` and on `seed`, not on the order.

    Raises:
        ValueError: no name would be left for training.
    """
    distinct = sorted(set(names))
    sizes = _sizes(len(distinct), "distinct names", validation_fraction, test_fraction)
    known, order = set(learned), np.random.default_rng(seed).permutation(len(distinct))
    drawn = sorted((distinct[i] for i in order.tolist()), key=known.__contains__)
    # The test part is drawn first, so that it does not depend on the validation fraction.
    parts = np.repeat([2, 1, 0], sizes[::-1])
    part_of = dict(zip(drawn, parts.tolist(), strict=True))
    train, validation, test = ([name for name in names if part_of[name] == i] for i in range(3))
    return train, validation, test


def split_text(text: str, validation_fraction: float, test_fraction: float) -> tuple[str, str, str]:
    """Split a text into training, validation and test parts, which follow each other.

    Fractions are of the characters; a fraction above zero gives at least one.

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


def composed(text: str, lowercase: bool) -> str:
    """`text` in Unicode's composed form (NFC), optionally in lower case."""
    return unicodedata.normalize("NFC", text.lower() if lowercase else text)


def capitalized(name: str) -> str:
    """`name` with its first letter in upper case, as the exercise prints names."""
    first = name[:1].upper()
    return first + name[1:] if len(first) == 1 else name
