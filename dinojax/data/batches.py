"""Data sets for training: padded names, packed names, and windows of a running text.

A data set holds examples and a rule for the indices of the examples that each step reads.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dinojax.data.corpus import longest_usual
from dinojax.data.examples import Batch as Batch
from dinojax.data.examples import (
    as_columns,
    end_to_end,
    from_ids,
    name_reader,
    text_reader,
    with_padding,
)
from dinojax.data.packing import Integers, pieces_of, places_in_rows
from dinojax.data.stored import NameList, Text, joined_documents, places_of
from dinojax.data.vocab import Vocab
from dinojax.messages import count


class Order(Sequence[np.ndarray]):
    """The indices that each step of an epoch reads, made when they are asked for.

    `make(start, stop)` gives those of some steps: [steps, batch] of columns, or [steps, time,
    batch] of characters.
    """

    def __init__(self, num_steps: int, make: Callable[[int, int], np.ndarray]) -> None:
        self._num_steps, self._make = num_steps, make

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, index: Any) -> Any:
        steps = range(self._num_steps)[index]
        if isinstance(steps, range):
            return self._make(steps.start, max(steps.start, steps.stop))
        return self._make(steps, steps + 1)[0]


class Dataset(NamedTuple):
    """Examples, and the order in which training reads them."""

    examples: Batch | None
    """Names as columns [time, num], or characters end to end [num]. The last entry is padding. None
    where they do not lie in memory; then there is `read`."""
    num_shuffled: int
    """Length of the permutation that `arrange` takes."""
    steps_per_epoch: int
    """Number of training steps that read every example once."""
    arrange: Callable[[np.ndarray], Order]
    """A function from a permutation [num_shuffled] to the indices that each step of an epoch reads:
    [steps_per_epoch, batch] of columns, or [steps_per_epoch, time, batch] of characters."""
    num_characters: int
    """Number of targets that count in an epoch."""
    time: int
    """Most characters of a row of a batch."""
    step_shape: tuple[int, ...]
    """Of the indices of a step: batch, or time and batch."""
    read: Callable[[np.ndarray], Batch] | None = None
    """A function from indices [num] to these examples, arranged as `examples` would be."""


def pad_names(names: Sequence[str], vocab: Vocab) -> Batch:
    """The names as one batch [time, len(names)], where time is the longest length plus one.

    The inputs of a name "abc" are (no character, a, b, c), its targets (a, b, c, newline). Shorter
    names are padded at the end with "no character", newline, and weights of zero.

    Raises:
        ValueError: there is no name, or a name holds a newline or an unknown character.
    """
    return as_columns(*end_to_end(names, vocab), vocab)


def padded(names: Sequence[str], vocab: Vocab, batch_size: int = 1) -> Dataset:
    """Names, one in each column (see `pad_names`, also for errors), in a new order in each epoch.

    Padding completes the last batch of an epoch. A name that is far longer than the others (see
    `longest_usual`) is cut into columns of their length.
    """
    source, characters, whole = _read(names, vocab)
    lengths, _ = pieces_of(whole, longest_usual(names) + 1)
    num, steps, time = len(lengths), -(-len(lengths) // batch_size), int(lengths.max())

    def arrange(permutation: np.ndarray) -> Order:
        indices = np.pad(
            permutation.astype(np.int32), (0, steps * batch_size - num), constant_values=num
        )
        indices = indices.reshape(steps, batch_size)
        return Order(steps, lambda start, stop: indices[start:stop])

    shape = num, steps, arrange, int(whole.sum(dtype=np.int64)), time, (batch_size,)
    if source is None:
        return Dataset(with_padding(as_columns(characters, lengths, vocab), vocab), *shape)
    starts, lengths = (np.append(x, 0) for x in (_starts(names, whole, lengths), lengths))
    read = name_reader(source)

    def read_columns(columns: np.ndarray) -> Batch:
        within = np.arange(time)[:, None]
        return read(np.where(within < lengths[columns], starts[columns] + within, -1))

    return Dataset(None, *shape, read_columns)


def packed(names: Sequence[str], vocab: Vocab, batch_size: int, window: int) -> Dataset:
    """Whole names end to end in rows of `window` characters, in a new order in each epoch.

    The model must reset its state at the start of each name, where the input is "no character".
    Rows are filled by the lengths of names alone, so all epochs have the same number of steps. A
    name that is far longer than the others (see `longest_usual`) and than a row is cut into pieces,
    each in a row of its own.

    Raises:
        ValueError: see `pad_names`; or the longest other name does not fit into `window`.
    """
    source, characters, whole = _read(names, vocab)
    if (longest := longest_usual(names)) >= window:
        raise ValueError(
            f"expected names of up to {window - 1} characters, which with their newline fit into a "
            f"window of {window}, got one of {longest}; choose a larger window"
        )
    lengths, is_cut = pieces_of(whole, window)
    starts = _starts(names, whole, lengths)
    room = np.where(is_cut, np.int64(window), lengths) if is_cut.any() else lengths
    # Places of names, in the order of their length, and the same in the order of the rows.
    places = places_in_rows(np.sort(room), window)
    steps = -(-(int(places.max()) + 1) // (window * batch_size))
    rows = steps * batch_size
    by_row = np.argsort(places)
    edges = np.searchsorted(places[by_row], np.arange(rows + 1) * window)
    within, by_row = (places % window).astype(np.int32), by_row.astype(np.int32)
    padding, kind = (len(characters.inputs), np.int32) if source is None else (-1, np.int64)

    def arrange(permutation: np.ndarray) -> Order:
        # The order of the names and that of the rows, from one permutation of both.
        is_name = permutation < len(lengths)
        order, row_order = permutation[is_name], permutation[~is_name] - len(lengths)
        order = order[np.argsort(room[order], kind="stable")]

        def make(start: int, stop: int) -> np.ndarray:
            chosen = row_order[start * batch_size : stop * batch_size]
            counts = edges[chosen + 1] - edges[chosen]
            found = by_row[places_of(edges[chosen], counts)]
            read = order[found]
            begins = np.repeat(np.arange(len(chosen)) * window, counts) + within[found]
            indices = np.full(len(chosen) * window, padding, kind)
            indices[places_of(begins, lengths[read])] = places_of(starts[read], lengths[read])
            return indices.reshape(-1, batch_size, window).swapaxes(1, 2)

        return Order(steps, make)

    step_shape = window, batch_size
    num_characters = int(whole.sum(dtype=np.int64))
    shape = len(lengths) + rows, steps, arrange, num_characters, window, step_shape
    if source is None:
        return Dataset(with_padding(characters, vocab), *shape)
    return Dataset(None, *shape, name_reader(source))


def windows(text: str | Text, vocab: Vocab, batch_size: int, window: int) -> Dataset:
    """A text cut into `batch_size` rows; each step reads up to `window` characters of all rows.

    The model must carry its state from one step to the next (truncated backpropagation through
    time), and reset it at the start of each row and each document, where the input is "no
    character". Every character is a target once in an epoch. Rows, and the steps of a row, have
    equally many characters, up to one, in as few steps as there can be.

    Raises:
        ValueError: the text is shorter than `batch_size` windows, or holds an unknown character.
    """
    if (num := len(text)) < batch_size * window:
        raise ValueError(
            f"expected at least {batch_size * window:,} characters to learn from, one window of "
            f"{window:,} in each of {count(batch_size, 'row')}, got {num:,}; choose a smaller "
            "batch size or window"
        )
    text = _as_text(text, vocab)
    length = -(-num // batch_size)
    edges = np.arange(batch_size + 1) * num // batch_size
    starts, ends = edges[:-1], edges[1:]
    # A few characters left for a last step of their own would weigh as much as a whole window.
    steps = -(-length // window)
    cuts, time = np.arange(steps + 1) * length // steps, -(-length // steps)
    padding, kind = (num, np.int32) if text.store is None else (-1, np.int64)

    def make(start: int, stop: int) -> np.ndarray:
        # All rows read equally many in a step: padding, which changes the state, comes at the end.
        place = cuts[start:stop, None, None] + np.arange(time)[:, None]
        indices: np.ndarray = (starts + place).astype(kind)
        is_past = (place >= cuts[start + 1 : stop + 1, None, None]) | (indices >= ends)
        indices[is_past] = padding
        return indices

    begins = np.union1d(starts, text.starts)
    shape = 1, steps, lambda _: Order(steps, make), num, time, (time, batch_size)
    if text.store is None:
        return Dataset(with_padding(from_ids(text.ids, begins, vocab), vocab), *shape)
    return Dataset(None, *shape, text_reader(text, begins))


def cut_text(text: str | Text, vocab: Vocab, window: int, most: int | None = None) -> Batch:
    """A text as columns of one batch [window, num], each to be read from the initial state.

    Every character is a target once. The first input of a column is the character before its first
    target; at the start of a document it is "no character". The last column may be padded. Of a
    text with more than `most` characters, there are that many, in columns spread evenly over it.

    Raises:
        ValueError: the text is empty, or holds an unknown character.
    """
    if not len(text):
        raise ValueError("expected a text, got an empty one")
    text = _as_text(text, vocab)
    if most is not None and len(text) > most:
        num = max(1, most // window)
        chosen = np.linspace(0, (len(text) - 1) // window, num).astype(np.int64)
        places = chosen * window + np.arange(window)[:, None]
        return text_reader(text, text.starts)(np.where(places < len(text), places, -1))
    padded = 0, -len(text) % window
    ids = np.pad(text.take(slice(None)), padded, constant_values=vocab.newline)
    inputs, targets, _ = from_ids(ids, text.starts, vocab)
    weights = np.pad(np.ones(len(text), np.float32), padded)
    return Batch(*(field.reshape(-1, window).T for field in (inputs, targets, weights)))


def _read(names: Sequence[str], vocab: Vocab) -> tuple[NameList | None, Any, Integers]:
    """Names that do not lie in memory, or the characters of others; and the lengths of all."""
    if isinstance(names, NameList) and len(names):
        return names, None, names.lengths
    return None, *end_to_end(names, vocab)


def _as_text(text: str | Text, vocab: Vocab) -> Text:
    return joined_documents([text], vocab) if isinstance(text, str) else text


def _starts(names: Sequence[str], whole: Integers, lengths: Integers) -> Integers:
    """Where each piece of the names of the lengths `whole` starts among all characters, [num]."""
    if not isinstance(names, NameList):
        return np.cumsum(lengths, dtype=np.int64) - lengths
    if len(whole) == len(lengths):
        return names.starts
    # All pieces of a name follow each other from its start.
    return places_of(names.starts, whole)[np.cumsum(lengths, dtype=np.int64) - lengths]
