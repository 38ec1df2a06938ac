"""From a file of names to the arrays a model trains on."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinojax.vocab import Vocab

MAX_NAME_LENGTH = 1_000
"""Characters a name may have: padding makes every name as long as the longest."""


class Batch(NamedTuple):
    """What a model reads, what it should predict, and what counts; a whole data set is one too.

    Each field has the shape [time, batch] and is a NumPy or a JAX array.
    """

    inputs: Any
    """Ids of the characters read; the vocabulary's `no_character` marks the start of a name."""
    targets: Any
    """Ids of the characters to predict: at each step, the one that comes next."""
    weights: Any
    """How much each target counts: 1, or 0 for padding."""


def bundled_names() -> Path:
    """Path of the dinosaur names that come with dinojax."""
    package = Path(__file__).parent
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


def read_names(path: Path) -> tuple[list[str], int]:
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
        name = lowercase(line.strip())
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


def lowercase(text: str) -> str:
    """`text` in lower case, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", text.lower())


def capitalized(name: str) -> str:
    """`name` with its first letter in upper case, as the exercise prints names."""
    first = name[:1].upper()
    return first + name[1:] if len(first) == 1 else name


def pad_names(names: Sequence[str], vocab: Vocab) -> Batch:
    """The names as one batch [time, len(names)] of NumPy arrays, time being the longest plus one.

    A name "abc" reads (no character, a, b, c) and is to predict (a, b, c, newline). Shorter names
    are padded at the end with weights of zero, where inputs are "no character" and targets newline.

    Raises:
        ValueError: there is no name, or a name holds a newline or an unknown character.
    """
    if not names:
        raise ValueError("expected at least one name, got none")
    for name in names:
        if "\n" in name:
            raise ValueError(f"expected names without newlines, got {name!r}")
    try:
        ids = vocab.encode("".join(names))
    except ValueError:
        # It gives the position in all the names: say it again of the one name.
        for name in names:
            vocab.encode(name)
        raise
    lengths = np.array([len(name) for name in names])
    time = np.arange(lengths.max() + 1)[:, None]
    shape = len(time), len(names)
    # Written name by name, that is column by column, as the names stand one after the other.
    targets = np.full(shape, vocab.newline, vocab.dtype)
    targets.T[(time < lengths).T] = ids
    inputs = np.full(shape, vocab.no_character, vocab.dtype)
    inputs[1:] = np.where(time[1:] <= lengths, targets[:-1], vocab.no_character)
    return Batch(inputs, targets, (time <= lengths).astype(np.float32))
