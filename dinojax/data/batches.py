"""Three ways to fill the same three arrays: names padded, names packed, windows of a running text.

A data set is its examples, which stay where they are, and a rule that says which of them each
training step reads: integers that point into the examples.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dinojax.data.vocab import Vocab


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


class Dataset(NamedTuple):
    """Examples, and the order in which training reads them."""

    examples: Batch
    """Names as columns, [time, num], or characters end to end, [num]; the last is padding."""
    num_shuffled: int
    """How many things an epoch shuffles."""
    steps_per_epoch: int
    """Training steps in which every example is read once."""
    arrange: Callable[[np.ndarray], np.ndarray]
    """From a permutation [num_shuffled] to the indices that each step of an epoch reads:
    [steps_per_epoch, batch] into columns, [steps_per_epoch, time, batch] into characters."""


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


def padded(names: Sequence[str], vocab: Vocab, batch_size: int = 1) -> Dataset:
    """Names one a column, each epoch in a fresh order; see `pad_names`.

    Where the names are no multiple of `batch_size`, padding completes the last batch of an epoch.

    Raises:
        ValueError: there is no name, or a name holds a newline or an unknown character.
    """
    examples = _with_padding(pad_names(names, vocab), vocab)
    num = len(names)
    steps = -(-num // batch_size)

    def arrange(permutation: np.ndarray) -> np.ndarray:
        indices = np.full(steps * batch_size, num, np.int32)
        indices[:num] = permutation
        return indices.reshape(steps, batch_size)

    return Dataset(examples, num, steps, arrange)


def packed(names: Sequence[str], vocab: Vocab, batch_size: int, window: int) -> Dataset:
    """Names end to end in rows of `window` characters, none cut, each epoch in a fresh order.

    A model must set its state back at each start, which "no character" marks. How the rows are
    filled depends on the lengths alone, so every epoch has the same number of steps.

    Raises:
        ValueError: there is no name, a name holds a newline or an unknown character, or the
            longest does not fit into `window`.
    """
    columns = pad_names(names, vocab)
    counts = columns.weights.astype(bool)
    lengths = counts.sum(axis=0)
    if lengths.max() > window:
        raise ValueError(
            f"expected names of up to {window - 1} characters, which with their newline fit into a "
            f"window of {window}, got one of {lengths.max() - 1}; choose a larger window"
        )
    # Name by name, that is column by column.
    flat = _with_padding(Batch(*(field.T[counts.T] for field in columns)), vocab)
    first = np.cumsum(lengths) - lengths
    sorted_lengths = np.sort(lengths)
    places = _fill(sorted_lengths, window)
    steps = -(-(int(places.max()) + 1) // (window * batch_size))
    rows = steps * batch_size
    # Where each character of the sorted names goes, and how far into its name it stands.
    within = np.arange(lengths.sum()) - np.repeat(
        np.cumsum(sorted_lengths) - sorted_lengths, sorted_lengths
    )
    targets = np.repeat(places, sorted_lengths) + within

    def arrange(permutation: np.ndarray) -> np.ndarray:
        # One permutation of names and rows holds one of either.
        order, row_order = permutation[permutation < len(names)], permutation - len(names)
        order = order[np.argsort(lengths[order], kind="stable")]
        indices = np.full(rows * window, len(flat.inputs) - 1, np.int32)
        indices[targets] = np.repeat(first[order], sorted_lengths) + within
        shuffled = indices.reshape(rows, window)[row_order[row_order >= 0]]
        return shuffled.reshape(steps, batch_size, window).swapaxes(1, 2)

    return Dataset(flat, len(names) + rows, steps, arrange)


def windows(text: str, vocab: Vocab, batch_size: int, window: int) -> Dataset:
    """A text cut into `batch_size` rows, which are read side by side, `window` characters a step.

    A model must carry its state from one step to the next (truncated backpropagation through
    time), and set it back where a row begins, which "no character" marks. Every character is a
    target once an epoch; the rows' ends are padded.

    Raises:
        ValueError: the text is shorter than one window in each row, or holds an unknown character.
    """
    if len(text) < batch_size * window:
        raise ValueError(
            f"expected at least {batch_size * window:,} characters to learn from, one window of "
            f"{window} in each of {batch_size} rows, got {len(text):,}; choose a smaller batch "
            "size or window"
        )
    targets = vocab.encode(text)
    length = -(-len(text) // batch_size)
    starts = np.arange(0, len(text), length)
    inputs = np.roll(targets, 1)
    inputs[starts] = vocab.no_character
    flat = _with_padding(Batch(inputs, targets, np.ones(len(text), np.float32)), vocab)
    steps = -(-length // window)
    place = np.arange(steps * window).reshape(steps, window, 1)
    indices = place + length * np.arange(batch_size)
    indices = np.where((place < length) & (indices < len(text)), indices, len(text))
    indices = indices.astype(np.int32)

    def arrange(permutation: np.ndarray) -> np.ndarray:
        del permutation
        return indices

    return Dataset(flat, 1, steps, arrange)


def cut_text(text: str, vocab: Vocab, window: int) -> Batch:
    """A text as columns of one batch [window, num], to be read each from a fresh state.

    Every character is a target once. Each column reads the character before its first target; the
    first, as nothing comes before it, "no character". The last may be padded.

    Raises:
        ValueError: the text is empty, or holds an unknown character.
    """
    if not text:
        raise ValueError("expected a text, got an empty one")
    ids = vocab.encode(text)
    num = -(-len(ids) // window)
    targets = np.full(num * window, vocab.newline, vocab.dtype)
    targets[: len(ids)] = ids
    inputs = np.concatenate([np.full(1, vocab.no_character, vocab.dtype), targets[:-1]])
    weights = (np.arange(num * window) < len(ids)).astype(np.float32)
    return Batch(*(field.reshape(num, window).T for field in (inputs, targets, weights)))


def _with_padding(batch: Batch, vocab: Vocab) -> Batch:
    """The batch with one more entry at the end of the last axis, of which nothing counts."""
    values = vocab.no_character, vocab.newline, 0
    widths = [(0, 0)] * (batch.inputs.ndim - 1) + [(0, 1)]
    fields = zip(batch, values, strict=True)
    return Batch(*(np.pad(field, widths, constant_values=value) for field, value in fields))


def _fill(sorted_lengths: np.ndarray, window: int) -> np.ndarray:
    """Places, in rows of `window` end to end, for things of these lengths, the shortest first.

    Row by row it takes the length of which most are left, of those after which the room that
    remains can be filled to the end. For 20,000 names of dinosaurs in rows of 64 characters, one
    place in 10,000 stays empty; one in 20, if the longest go first where there is most room.
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
    """An integer whose bit n tells whether lengths, each any number of times, can add up to n."""
    sums, mask = 1, (1 << window + 1) - 1
    for length in lengths:
        multiple = length
        while multiple <= window:
            sums |= sums << multiple & mask
            multiple *= 2
    return sums
