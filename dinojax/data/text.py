"""From a file to names or a running text."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MAX_NAME_LENGTH = 1_000
"""Characters a name may have: padding makes every name as long as the longest."""


def bundled_names() -> Path:
    """Path of the dinosaur names that come with dinojax."""
    package = Path(__file__).parents[1]
    installed = package / "bundled" / "dinos.txt"
    return installed if installed.exists() else package.parent / "data" / "dinos.txt"


def read_text(path: Path) -> str:
    r"""The text of a UTF-8 file in Unicode's composed form (NFC), lines ending in "\n".

    A byte order mark is dropped; "\r\n" and "\r" count as line ends; nothing else does.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8; names the offset of the first bad byte.
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
    """The names in a file, one a line, lower-cased and stripped, and the number of blank lines.

    Blank lines are skipped; what follows the last line end is no line. The exercise lower-cases
    its file too.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, holds no name, or has a line of more than `MAX_NAME_LENGTH`
            characters.
    """
    names, num_blank = [], 0
    # str.splitlines would also split at U+2028 and other characters that may stand in a name.
    lines = read_text(path).removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        name = composed(line.strip(), lowercase)
        if len(name) > MAX_NAME_LENGTH:
            raise ValueError(
                f"{path}, line {number}: a name of {len(name):,} characters; names may have up to "
                f"{MAX_NAME_LENGTH:,}; is there one name a line?"
            )
        if name:
            names.append(name)
        else:
            num_blank += 1
    if not names:
        raise ValueError(f"{path} holds no names; expected one name a line")
    return names, num_blank


def read_running_text(path: Path, lowercase: bool = False) -> str:
    """A text of any length, composed (NFC), in lower case where that is asked for.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, or empty.
    """
    text = composed(read_text(path), lowercase)
    if not text:
        raise ValueError(f"{path} is empty; expected a text")
    return text


def split_names(
    names: Sequence[str], validation_fraction: float, test_fraction: float, seed: int
) -> tuple[list[str], list[str], list[str]]:
    """Names to learn from, names to validate by and names to test by, each in the order given.

    Which is which is drawn by `seed` and does not depend on the order. A name that occurs several
    times is one name: all its copies go to the same part, which so share none. A fraction is of the
    distinct names; above zero it means at least one.

    Raises:
        ValueError: nothing would be left to learn from.
    """
    distinct = sorted(set(names))
    num_test, num_validation = (
        _part(fraction, len(distinct)) for fraction in (test_fraction, validation_fraction)
    )
    _check_rest(len(distinct) - num_test - num_validation, len(distinct), "distinct names")
    order = np.random.default_rng(seed).permutation(len(distinct))
    part_of = dict.fromkeys(distinct, 0)
    # The test part first: it stays the same whatever is set apart for validation.
    for i, place in enumerate(order[: num_test + num_validation].tolist()):
        part_of[distinct[place]] = 2 if i < num_test else 1
    train, validation, test = ([name for name in names if part_of[name] == i] for i in range(3))
    return train, validation, test


def split_text(text: str, validation_fraction: float, test_fraction: float) -> tuple[str, str, str]:
    """The beginning of a text to learn from, what follows to validate by, its end to test by.

    A fraction is of the characters; above zero it means at least one.

    Raises:
        ValueError: nothing would be left to learn from.
    """
    num_test, num_validation = (
        _part(fraction, len(text)) for fraction in (test_fraction, validation_fraction)
    )
    num_train = len(text) - num_test - num_validation
    _check_rest(num_train, len(text), "characters")
    end = num_train + num_validation
    return text[:num_train], text[num_train:end], text[end:]


def _part(fraction: float, num: int) -> int:
    return max(1, round(fraction * num)) if fraction else 0


def _check_rest(num: int, of: int, things: str) -> None:
    if num < 1:
        raise ValueError(
            f"no data would be left to learn from: expected more than {of:,} {things}, or smaller "
            "fractions for validation and test"
        )


def composed(text: str, lowercase: bool) -> str:
    """`text` in Unicode's composed form (NFC), in lower case where that is asked for."""
    return unicodedata.normalize("NFC", text.lower() if lowercase else text)


def capitalized(name: str) -> str:
    """`name` with its first letter in upper case, as the exercise prints names."""
    first = name[:1].upper()
    return first + name[1:] if len(first) == 1 else name
