"""The vocabulary, which maps characters to ids and back."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dinojax.data.labels import label_character
from dinojax.messages import quoted


@dataclass(frozen=True)
class Vocab:
    """The characters a model knows. The id of a character is its index in `characters`.

    Characters are Unicode code points, unique and in order of code point. Newline, which ends a
    name, is always one of them. The id `no_character`, one past the last, is the input at the start
    of a name or a text. It has no character and is never a target.

    Names may have labels (see `labels`). Their characters are the last ones.

    Raises:
        ValueError: the characters are not unique and sorted, or newline or a label's is missing.
    """

    characters: str
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        got = quoted(self.characters)
        if list(self.characters) != sorted(set(self.characters)):
            raise ValueError(
                f"expected unique characters in order of code point, got {got}; "
                "build the vocabulary with build_vocab"
            )
        if "\n" not in self.characters:
            raise ValueError(f"expected newline among the characters, got {got}")
        if not self.characters.endswith("".join(map(label_character, range(len(self.labels))))):
            raise ValueError(f"expected a character for each label at the end, got {got}")

    @property
    def size(self) -> int:
        """Number of characters, including newline."""
        return len(self.characters)

    @cached_property
    def plain(self) -> "Vocab":
        """The vocabulary of names without labels; all characters have the same ids."""
        return Vocab(self.characters[: self.size - len(self.labels)]) if self.labels else self

    @property
    def newline(self) -> int:
        """Id of newline."""
        return self.characters.index("\n")

    @property
    def no_character(self) -> int:
        """Id that means "no character yet"."""
        return self.size

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Smallest unsigned integer type that holds every id and `no_character`."""
        return np.min_scalar_type(self.no_character)

    def encode(self, text: str) -> NDArray[np.unsignedinteger]:
        """Ids [len(text)] of the characters of `text`.

        Raises:
            ValueError: a character is not in the vocabulary; the message gives its position.
        """
        points = code_points(text)
        last = min(len(self._id_of) - 1, np.iinfo(points.dtype).max)
        ids = self._id_of[np.minimum(points, points.dtype.type(last))]
        is_unknown = ids == self.no_character
        if is_unknown.any():
            position = int(is_unknown.argmax())
            raise ValueError(
                f"{text[position]!r} at position {position} is not in the vocabulary of "
                f"{self.size:,} characters {quoted(self.characters)}"
            )
        return ids

    @cached_property
    def _id_of(self) -> NDArray[np.unsignedinteger]:
        """The id of each code point; `no_character` for unknown ones, such as the last entry."""
        known = code_points(self.characters)
        table = np.full(int(known.max()) + 2, self.no_character, self.dtype)
        table[known] = np.arange(self.size)
        return table

    def spell(self, names: Sequence[str]) -> list[str]:
        """The names with each unknown character as the known ones that it is composed of, if any.

        A model may spell "\u00e9" as "e\u0301" and know no other way to write it.
        """
        known, spellings = set(self.characters), {}
        for character in set[str]().union(*names) - known:
            parts = unicodedata.normalize("NFD", character)
            for num in range(len(parts) - 1, 0, -1):
                spelled = unicodedata.normalize("NFC", parts[:num]) + parts[num:]
                if known.issuperset(spelled):
                    spellings[ord(character)] = spelled
                    break
        return [name.translate(spellings) for name in names]

    def decode(self, ids: ArrayLike) -> str:
        """The text with these ids [length].

        Raises:
            ValueError: an id belongs to no character.
        """
        array = np.asarray(ids, dtype=np.int64)
        invalid = array[(array < 0) | (array >= self.size)]
        if invalid.size:
            raise ValueError(f"expected ids from 0 to {self.size - 1}, got {int(invalid[0])}")
        return "".join(self.characters[i] for i in array)


def build_vocab(texts: Iterable[str], labels: Sequence[str] = ()) -> Vocab:
    """The vocabulary of newline, every character in `texts`, and the `labels` of names."""
    characters = map(label_character, range(len(labels)))
    return Vocab("".join(sorted({"\n", *characters}.union(*texts))), tuple(labels))


def code_points(text: str) -> NDArray[np.unsignedinteger]:
    """The code points of a text [len(text)], in one byte each if all are below 128."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
