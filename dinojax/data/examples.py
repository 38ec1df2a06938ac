"""Batches of inputs, targets and weights, of names in memory or of data in a file."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dinojax.data.packing import Integers
from dinojax.data.stored import Ids, NameList, Text
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


def end_to_end(names: Sequence[str], vocab: Vocab) -> tuple[Batch, np.ndarray]:
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
    return from_ids(targets, np.cumsum(lengths) - lengths, vocab), lengths


def from_ids(ids: Ids, starts: Integers, vocab: Vocab) -> Batch:
    """Characters [num] end to end, each after the one before it, or "no character" at `starts`."""
    inputs = np.roll(ids, 1)
    inputs[starts] = vocab.no_character
    return Batch(inputs, ids, np.ones(len(ids), np.float32))


def as_columns(characters: Batch, lengths: np.ndarray, vocab: Vocab) -> Batch:
    """Characters [num_characters] as columns [time, num] of these lengths [num], with padding."""
    is_read = np.arange(lengths.max()) < lengths[:, None]
    columns = []
    for field, value in zip(characters, padding(vocab), strict=True):
        rows = np.full(is_read.shape, value, field.dtype)
        rows[is_read] = field
        columns.append(rows.T)
    return Batch(*columns)


def padding(vocab: Vocab) -> Batch:
    """What stands for no character in each field."""
    return Batch(vocab.no_character, vocab.newline, 0)


def with_padding(batch: Batch, vocab: Vocab) -> Batch:
    """The batch with one more entry on the last axis, which is padding."""
    widths = [(0, 0)] * (batch.inputs.ndim - 1) + [(0, 1)]
    fields = zip(batch, padding(vocab), strict=True)
    return Batch(*(np.pad(field, widths, constant_values=value) for field, value in fields))


def text_reader(text: Text, starts: Integers) -> Callable[[np.ndarray], Batch]:
    """A function from places in a text, -1 for padding, to a batch; "no character" at `starts`."""
    vocab = text.vocab

    def read(places: np.ndarray) -> Batch:
        next_start = starts[np.minimum(np.searchsorted(starts, places), len(starts) - 1)]
        return _batch(text, places, next_start == places, vocab)

    return read


def name_reader(names: NameList) -> Callable[[np.ndarray], Batch]:
    """A function from places in the store of names, -1 for padding, to a batch."""
    newline = names.vocab.newline
    # The first name, too, comes after a newline: the last of all, at -1.
    return lambda places: _batch(names, places, names.take(places - 1) == newline, names.vocab)


def _batch(source: Text | NameList, places: np.ndarray, starts: np.ndarray, vocab: Vocab) -> Batch:
    is_padding = places < 0
    no_character, newline, _ = padding(vocab)
    inputs = np.where(starts | is_padding, no_character, source.take(places - 1))
    targets = np.where(is_padding, newline, source.take(places))
    return Batch(inputs, targets, (~is_padding).astype(np.float32))
