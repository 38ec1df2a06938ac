"""Texts of documents and lists of names as ids, which may lie in a file instead of in memory."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from dinojax.data.tables import Columns
from dinojax.data.vocab import Vocab
from dinojax.messages import quoted

Ids = NDArray[np.unsignedinteger]
Places = NDArray[np.integer]


class Store(NamedTuple):
    """Prepared data: the ids of all characters, end to end, in a file that is mapped to memory."""

    key: str
    """Name of its folder; see `prepared`."""
    files: tuple[Path, ...]
    """What it was made from."""
    sha256: str
    """Checksum of what was read."""
    vocab: Vocab
    ids: Ids
    """[num_characters]; names are followed by newline."""
    notes: tuple[str, ...]
    """As in `Corpus`."""
    starts: Places
    """Where the documents of a text start, or the names of a list, [num]."""
    lengths: Places
    """Of names, with newline, [num]; of texts, empty. So are the next two."""
    order: Places
    """Which name comes n-th by code points, [num]."""
    ranks: Places
    """The number of each name among the distinct ones by code points, [num]."""
    counts: Places
    """How often each name stands in the list, [num]; empty for once each."""
    columns: Columns | None
    """What was read of a list; None where comments, too, were read as names."""

    def with_counts(self, rows: Places) -> Places:
        """Rows of names [num], each repeated as often as the name stands in the list."""
        rows = rows.astype(np.uint32)
        return np.repeat(rows, self.counts[rows]) if len(self.counts) else rows


@dataclass(frozen=True, eq=False)
class Text(Sequence[str]):
    """Documents that are read one after the other, each from the initial state, as ids.

    Like a string, it is a sequence of characters.
    """

    vocab: Vocab
    ids: Ids
    """[num_characters] in the vocabulary of the `store`, if there is one, or in `vocab`."""
    starts: Places
    """Where documents start, in ascending order, [num]; the first is 0."""
    store: Store | None = None
    """Where the ids lie if they do not lie in memory."""
    first: int = 0
    """Their first place there."""

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Text": ...
    def __getitem__(self, index: int | slice) -> "str | Text":
        """A character, or those from one place to another, of which the first starts a document."""
        if not isinstance(index, slice):
            return str(self[index : index + 1])
        start, stop, _ = index.indices(len(self))
        inside = self.starts[(self.starts > start) & (self.starts < stop)]
        starts = np.concatenate([[0], inside - start]).astype(np.int64)
        ids, first = self.ids[start:stop], self.first + start
        return replace(self, ids=ids, starts=starts, first=first)

    def __str__(self) -> str:
        """The documents, joined without anything between them."""
        return self.vocab.decode(self.take(slice(None)))

    def documents(self) -> Iterator[str]:
        """The text of each document."""
        for start, stop in pairwise([*self.starts.tolist(), len(self)]):
            yield str(self[start:stop])

    def take(self, places: Places | slice) -> Ids:
        """The ids at these places, of any shape."""
        ids = self.ids[places]
        return ids if self._table is None else self._table[ids]

    def in_memory(self) -> "Text":
        """The same text with its ids in memory."""
        return Text(self.vocab, np.array(self.take(slice(None))), self.starts)

    @cached_property
    def _table(self) -> Ids | None:
        return None if self.store is None else _table(self.store.vocab, self.vocab)


@dataclass(frozen=True, eq=False)
class NameList(Sequence[str]):
    """Names of a store, and some in memory after them."""

    store: Store
    rows: Places
    """Which names of the store, [num]."""
    vocab: Vocab
    more: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows) + len(self.more)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "NameList": ...
    def __getitem__(self, index: int | slice) -> "str | NameList":
        if isinstance(index, slice):
            chosen = np.arange(len(self))[index]
            inside = chosen < len(self.rows)
            more = tuple(self.more[i - len(self.rows)] for i in chosen[~inside].tolist())
            return replace(self, rows=self.rows[chosen[inside]], more=more)
        index = range(len(self))[index]
        if index >= len(self.rows):
            return self.more[index - len(self.rows)]
        return self._name(int(self.rows[index]))

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.rows), 2**16):
            rows = self.rows[start : start + 2**16]
            ids = self.store.ids[places_of(self.store.starts[rows], self.store.lengths[rows])]
            yield from self.store.vocab.decode(ids).removesuffix("\n").split("\n")
        yield from self.more

    def __contains__(self, name: Any) -> bool:
        rank = self.rank(name)
        return (rank is not None and bool(self._has[rank])) or name in self.more

    @property
    def lengths(self) -> Places:
        """Of the names of the store, with newline, [num]."""
        return self.store.lengths[self.rows]

    @property
    def starts(self) -> Places:
        """Where they start in the store, [num]."""
        return self.store.starts[self.rows]

    def take(self, places: Places) -> Ids:
        """The ids at these places of the store, of any shape."""
        ids = self.store.ids[places]
        return ids if self._table is None else self._table[ids]

    def rank(self, name: str) -> int | None:
        """The number of a name among the distinct ones of the store; None if it has no such name.

        By binary search.
        """
        low, high = 0, len(self.store.order)
        while low < high:
            middle = (low + high) // 2
            row = int(self.store.order[middle])
            if (found := self._name(row)) == name:
                return int(self.store.ranks[row])
            low, high = (middle + 1, high) if found < name else (low, middle)
        return None

    def num_in(self, others: "NameList") -> int:
        """How many of these names are among `others`."""
        if self.more or others.more or self.store.key != others.store.key:
            return sum(name in others for name in self)
        return int(np.count_nonzero(others._has[self.store.ranks[self.rows]]))

    def _name(self, row: int) -> str:
        start, length = int(self.store.starts[row]), int(self.store.lengths[row])
        return self.store.vocab.decode(self.store.ids[start : start + length - 1])

    @cached_property
    def _has(self) -> NDArray[np.bool]:
        """Whether each distinct name of the store is one of these."""
        has = np.zeros(len(self.store.ranks), bool)
        has[self.store.ranks[self.rows]] = True
        return has

    @cached_property
    def _table(self) -> Ids | None:
        return _table(self.store.vocab, self.vocab)


Stored = TypeVar("Stored", bound=Text | NameList)


def joined_documents(documents: Sequence[str], vocab: Vocab) -> Text:
    """Documents as one text in memory; see `Vocab.encode` for the error raised."""
    lengths = np.array(list(map(len, documents)), np.int64)
    return Text(vocab, vocab.encode("".join(documents)), np.cumsum(lengths) - lengths)


def in_vocab(data: Stored, vocab: Vocab) -> Stored:
    """The same data in the ids of another vocabulary.

    Raises:
        ValueError: it lacks a character of theirs.
    """
    unknown = sorted(set(data.vocab.characters) - set(vocab.characters))
    if unknown:
        raise ValueError(
            f"{quoted(unknown[0])} is not in the vocabulary of {vocab.size:,} characters "
            f"{quoted(vocab.characters)}"
        )
    if isinstance(data, Text) and data.store is None:
        return replace(data, ids=vocab.encode(data.vocab.characters)[data.ids], vocab=vocab)
    return replace(data, vocab=vocab)


def is_prepared(data: Any) -> bool:
    """Whether data lie in a store, and not in memory."""
    return isinstance(data, NameList) or (isinstance(data, Text) and data.store is not None)


def excerpt(data: Any, most: int) -> Any:
    """Data that can be measured in memory: of stored ones, about `most` characters.

    These are the beginning of a text, and names spread evenly over a list. Other data stay whole.
    """
    if not is_prepared(data):
        return data
    if isinstance(data, Text):
        return data[:most].in_memory()
    return list(_spread(data, most))


def num_in_excerpt(data: Any, most: int) -> int:
    """The number of characters of a text, or of names, that `excerpt` gives."""
    if not is_prepared(data):
        return len(data)
    return min(len(data), most) if isinstance(data, Text) else len(_spread(data, most))


def _spread(names: NameList, most: int) -> NameList:
    return names[:: -(-int(names.lengths.sum(dtype=np.int64)) // most)]


def num_characters(data: Any) -> int:
    """The number of characters of a text, or of names with their newlines."""
    if isinstance(data, str | Text):
        return len(data)
    if isinstance(data, NameList):
        return int(data.lengths.sum(dtype=np.int64)) + sum(len(name) + 1 for name in data.more)
    return sum(len(name) + 1 for name in data)


def has_borders(data: Any) -> bool:
    """Whether a text has more than one document."""
    return isinstance(data, Text) and len(data.starts) > 1


def lookup(names: Sequence[str]) -> Container[str]:
    """The names as a container that finds a name fast."""
    return names if isinstance(names, NameList) else set(names)


def places_of(starts: Places, lengths: Places) -> Places:
    """All places of pieces that start at `starts` and have these `lengths`, end to end."""
    lengths = lengths.astype(np.int64)
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


def _table(source: Vocab, target: Vocab) -> Ids | None:
    """The id in `target` of each id in `source`; None if they are the same."""
    return None if source == target else target.encode(source.characters)
