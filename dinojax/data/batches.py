"""Data sets for training: padded names, packed names, and windows of a running text.

A data set holds examples and a rule for the indices of the examples that each step reads.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dinojax.data.corpus import longest_usual
from dinojax.data.vocab import Vocab
from dinojax.messages import quoted


class Batch(NamedTuple):
    """Inputs, targets and weights, each a NumPy or JAX array [time, batch]."""

    inputs: Any
    """Ids of the characters to read. `Vocab.no_character` marks the start of a name or a text."""
    targets: Any
    """Ids of the characters that follow the inputs, to be predicted."""
    weights: Any
    """Weights of the targets in the loss: 1, or 0 for padding."""


class Dataset(NamedTuple):
    """Examples, and the order in which training reads them."""

    examples: Batch
    """Names as columns [time, num], or characters end to end [num]. The last entry is padding."""
    num_shuffled: int
    """Length of the permutation that `arrange` takes."""
    steps_per_epoch: int
    """Number of training steps that read every example once."""
    arrange: Callable[[np.ndarray], np.ndarray]
    """A function from a permutation [num_shuffled] to the indices that each step of an epoch reads:
    [steps_per_epoch, batch] of columns, or [steps_per_epoch, time, batch] of characters."""


def pad_names(names: Sequence[str], vocab: Vocab) -> Batch:
    """The names as one batch [time, len(names)], where time is the longest length plus one.

    The inputs of a name "abc" are (no character, a, b, c), its targets (a, b, c, newline). Shorter
    names are padded at the end with "no character", newline, and weights of zero.

    Raises:
        ValueError: there is no name, or a name holds a newline or an unknown character.
    """
    return _as_columns(*_end_to_end(names, vocab), vocab)


def padded(names: Sequence[str], vocab: Vocab, batch_size: int = 1) -> Dataset:
    """Names, one in each column (see `pad_names`, also for errors), in a new order in each epoch.

    Padding completes the last batch of an epoch. A name that is far longer than the others (see
    `longest_usual`) is cut into columns of their length.
    """
    characters, lengths = _end_to_end(names, vocab)
    pieces, _ = _pieces(lengths, longest_usual(names) + 1)
    num, steps = len(pieces), -(-len(pieces) // batch_size)

    def arrange(permutation: np.ndarray) -> np.ndarray:
        indices = np.pad(permutation, (0, steps * batch_size - num), constant_values=num)
        return indices.astype(np.int32).reshape(steps, batch_size)

    columns = _as_columns(characters, pieces, vocab)
    return Dataset(_with_padding(columns, vocab), num, steps, arrange)


def packed(names: Sequence[str], vocab: Vocab, batch_size: int, window: int) -> Dataset:
    """Whole names end to end in rows of `window` characters, in a new order in each epoch.

    The model must reset its state at the start of each name, where the input is "no character".
    Rows are filled by the lengths of names alone, so all epochs have the same number of steps. A
    name that is far longer than the others (see `longest_usual`) and than a row is cut into pieces,
    each in a row of its own.

    Raises:
        ValueError: see `pad_names`; or the longest other name does not fit into `window`.
    """
    characters, whole = _end_to_end(names, vocab)
    if (longest := longest_usual(names)) >= window:
        raise ValueError(
            f"expected names of up to {window - 1} characters, which with their newline fit into a "
            f"window of {window}, got one of {longest}; choose a larger window"
        )
    lengths, is_cut = _pieces(whole, window)
    flat = _with_padding(characters, vocab)
    first = np.cumsum(lengths) - lengths
    room = np.where(is_cut, window, lengths)
    sorted_room = np.sort(room)
    places = _fill(sorted_room, window)
    steps = -(-(int(places.max()) + 1) // (window * batch_size))
    rows = steps * batch_size
    # For each character of the sorted names: its position in its name, and its place in the rows.
    starts = np.cumsum(sorted_room) - sorted_room
    within = np.arange(room.sum()) - np.repeat(starts, sorted_room)
    targets = np.repeat(places, sorted_room) + within

    def arrange(permutation: np.ndarray) -> np.ndarray:
        # The order of the names and that of the rows, from one permutation of both.
        is_name = permutation < len(lengths)
        order, row_order = permutation[is_name], permutation[~is_name] - len(lengths)
        order = order[np.argsort(room[order], kind="stable")]
        sources = np.repeat(first[order], sorted_room) + within
        sources[within >= np.repeat(lengths[order], sorted_room)] = len(characters.inputs)
        indices = np.full(rows * window, len(characters.inputs), np.int32)
        indices[targets] = sources
        shuffled = indices.reshape(rows, window)[row_order]
        return shuffled.reshape(steps, batch_size, window).swapaxes(1, 2)

    return Dataset(flat, len(lengths) + rows, steps, arrange)


def windows(text: str, vocab: Vocab, batch_size: int, window: int) -> Dataset:
    """A text cut into `batch_size` rows; each step reads up to `window` characters of all rows.

    The model must carry its state from one step to the next (truncated backpropagation through
    time), and reset it at the start of each row, where the input is "no character". Every character
    is a target once in an epoch. Rows, and the steps of a row, have equally many characters, up to
    one, in as few steps as there can be.

    Raises:
        ValueError: the text is shorter than `batch_size` windows, or holds an unknown character.
    """
    if len(text) < batch_size * window:
        raise ValueError(
            f"expected at least {batch_size * window:,} characters to learn from, one window of "
            f"{window} in each of {batch_size} rows, got {len(text):,}; choose a smaller batch "
            "size or window"
        )
    targets = vocab.encode(text)
    length = -(-len(text) // batch_size)
    edges = np.arange(batch_size + 1) * len(text) // batch_size
    starts, ends = edges[:-1], edges[1:]
    inputs = np.roll(targets, 1)
    inputs[starts] = vocab.no_character
    flat = _with_padding(Batch(inputs, targets, np.ones(len(text), np.float32)), vocab)
    # A few characters left for a last step of their own would weigh as much as a whole window.
    steps = -(-length // window)
    cuts = np.arange(steps + 1) * length // steps
    # All rows read equally many in a step: padding, which changes the state, comes at the end.
    place = cuts[:-1, None, None] + np.arange(-(-length // steps))[:, None]
    indices = (starts + place).astype(np.int32)
    indices[(place >= cuts[1:, None, None]) | (indices >= ends)] = len(text)
    return Dataset(flat, 1, steps, lambda _: indices)


def cut_text(text: str, vocab: Vocab, window: int) -> Batch:
    """A text as columns of one batch [window, num], each to be read from the initial state.

    Every character is a target once. The first input of a column is the character before its first
    target; in the first column it is "no character". The last column may be padded.

    Raises:
        ValueError: the text is empty, or holds an unknown character.
    """
    if not text:
        raise ValueError("expected a text, got an empty one")
    padding = 0, -len(text) % window
    targets = np.pad(vocab.encode(text), padding, constant_values=vocab.newline)
    inputs = np.roll(targets, 1)
    inputs[0] = vocab.no_character
    weights = np.pad(np.ones(len(text), np.float32), padding)
    return Batch(*(field.reshape(-1, window).T for field in (inputs, targets, weights)))


def _end_to_end(names: Sequence[str], vocab: Vocab) -> tuple[Batch, np.ndarray]:
    """The characters of all names and their newlines [num_characters], and lengths [len(names)]."""
    if not names:
        raise ValueError("expected at least one name, got none")
    for name in names:
        if "\n" in name:
            raise ValueError(f"expected names without newlines, got {quoted(name)}")
    try:
        targets = vocab.encode("".join(f"{name}\n" for name in names))
    except ValueError:
        # Encode name by name, for an error with the position in the name.
        for name in names:
            vocab.encode(name)
        raise
    lengths = np.array([len(name) + 1 for name in names])
    inputs = np.roll(targets, 1)
    inputs[np.cumsum(lengths) - lengths] = vocab.no_character
    return Batch(inputs, targets, np.ones(len(targets), np.float32)), lengths


def _pieces(lengths: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """The fewest pieces of up to `longest`: their lengths, and whether each is a mere part, [num].

    The parts of one length differ by up to one.
    """
    counts = -(-lengths // longest)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    whole, count = np.repeat(lengths, counts), np.repeat(counts, counts)
    return (number + 1) * whole // count - number * whole // count, count > 1


def _as_columns(characters: Batch, lengths: np.ndarray, vocab: Vocab) -> Batch:
    """Characters [num_characters] as columns [time, num] of these lengths [num], with padding."""
    is_read = np.arange(lengths.max()) < lengths[:, None]
    columns = []
    for field, value in zip(characters, _padding(vocab), strict=True):
        rows = np.full(is_read.shape, value, field.dtype)
        rows[is_read] = field
        columns.append(rows.T)
    return Batch(*columns)


def _padding(vocab: Vocab) -> Batch:
    """What stands for no character in each field."""
    return Batch(vocab.no_character, vocab.newline, 0)


def _with_padding(batch: Batch, vocab: Vocab) -> Batch:
    """The batch with one more entry on the last axis, which is padding."""
    widths = [(0, 0)] * (batch.inputs.ndim - 1) + [(0, 1)]
    fields = zip(batch, _padding(vocab), strict=True)
    return Batch(*(np.pad(field, widths, constant_values=value) for field, value in fields))


def _fill(sorted_lengths: np.ndarray, window: int) -> np.ndarray:
    """Start positions for names of these lengths, in rows of `window` that stand end to end.

    Each row is filled with the lengths of which most are left, provided that the rest of the row
    can still be filled completely. With 20,000 dinosaur names in rows of 64 characters, this leaves
    one place in 10,000 empty; worst-fit decreasing leaves one in 20.
    """
    lengths, counts = np.unique(sorted_lengths, return_counts=True)
    left = dict(zip(lengths.tolist(), counts.tolist(), strict=True))
    places: dict[int, list[int]] = {length: [] for length in left}
    sums = _sums(left, window)
    end = 0
    while left:
        room = window
        while fitting := [length for length in left if length <= room]:
            filling = [length for length in fitting if sums >> (room - length) & 1]
            length = max(filling, key=left.__getitem__) if filling else fitting[-1]
            places[length].append(end + window - room)
            room -= length
            left[length] -= 1
            if not left[length]:
                del left[length]
                sums = _sums(left, window)
        end += window
    return np.concatenate(list(places.values()))


def _sums(lengths: Iterable[int], window: int) -> int:
    """An integer whose bit n is set if lengths, repeats allowed, can add up to n."""
    sums, mask = 1, (1 << window + 1) - 1
    for length in lengths:
        multiple = length
        while multiple <= window:
            sums |= sums << multiple & mask
            multiple *= 2
    return sums
