"""Exact costs of prepared data, read block by block, so that memory does not grow with them.

They are those of the same data in memory, with one exception: the state is carried along up to 64
stretches of a text at once, as carrying it along the whole text takes three times as long.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from dinojax.data.batches import Batch
from dinojax.data.examples import name_reader, text_reader
from dinojax.data.stored import NameList, Places, Stored, Text, in_vocab, places_of
from dinojax.data.vocab import Vocab
from dinojax.evaluation.losses import BLOCK, Costs, nats_per_column
from dinojax.models.cells import Params, State
from dinojax.models.trained import Trained
from dinojax.training.loss import cross_entropy

AT_ONCE = 2**20
"""About how many characters are taken from the memory map at a time."""
STRETCHES, SHORTEST = 64, 2**16
"""The most stretches of a text along which the state is carried, and their least length."""


def piece_costs(trained: Trained, part: Stored, window: int = 0) -> Costs:
    """The costs of each name, or of each `window` of a text, read from a fresh state."""
    model, params, vocab, _ = trained
    part = in_vocab(part, vocab)
    starts: Places
    lengths: Places
    if isinstance(part, Text):
        starts = np.arange(0, len(part), window)
        lengths = np.minimum(window, len(part) - starts)
        read, times, resets = text_reader(part, part.starts), [window], len(part.starts) > 1
        time_of = np.full(len(starts), window)
    else:
        starts, lengths, read, resets = part.starts, part.lengths, name_reader(part), False
        # Powers of two, so that few shapes are compiled.
        time_of = 1 << np.ceil(np.log2(lengths)).astype(int)
        times = np.unique(time_of).tolist()
    evaluate = jax.jit(partial(nats_per_column, model=model, resets=resets))
    nats = np.empty(len(starts))
    for time in times:
        chosen = np.flatnonzero(time_of == time)
        num = min(max(1, AT_ONCE // time), 1 << (len(chosen) - 1).bit_length())
        for first in range(0, len(chosen), num):
            some = chosen[first : first + num]
            places = starts[some] + np.arange(time)[:, None]
            places = np.where(np.arange(time)[:, None] < lengths[some], places, -1)
            examples = read(np.pad(places, [(0, 0), (0, num - len(some))], constant_values=-1))
            nats[some] = np.asarray(evaluate(params, examples=examples))[: len(some)]
    return Costs(nats, lengths.astype(float))


def num_stretches(num_characters: int) -> int:
    """Along how many stretches of a text of this length the state is carried."""
    return max(1, min(STRETCHES, num_characters // SHORTEST))


def carried_costs(trained: Trained, text: Text, num: int) -> Costs:
    """The costs of the blocks of `num` equal stretches of a text, along which the state is carried.

    A stretch has a fresh state at its start, and at that of each document.
    """
    model, params, vocab, _ = trained
    text = in_vocab(text, vocab)
    edges = np.arange(num + 1) * len(text) // num
    read = text_reader(text, np.union1d(edges[:-1], text.starts))
    state = model.initial_state((num,))

    @jax.jit
    def step(params: Params, state: State, examples: Batch) -> tuple[State, jax.Array]:
        state, logits = model.unroll(params, state, examples.inputs, resets=True)
        return state, cross_entropy(logits, examples.targets, examples.weights).sum(axis=0)

    nats, counts = [], []
    for first in range(0, int(np.diff(edges).max()), BLOCK):
        places = edges[:-1] + first + np.arange(BLOCK)[:, None]
        # Padding comes after all characters of its stretch.
        examples = read(np.where(places < edges[1:], places, -1))
        state, each = step(params, state, examples)
        nats.append(np.asarray(each, float))
        counts.append(examples.weights.sum(axis=0, dtype=float))
    is_read = np.array(counts).T > 0
    return Costs(np.array(nats).T[is_read], np.array(counts).T[is_read])


def blocks(
    vocab: Vocab, part: NameList | Text, before: int, size: int = AT_ONCE
) -> Iterator[tuple[NDArray[Any], NDArray[np.bool], int]]:
    """The ids of a part, block by block, whether a name or document begins at each, and a number.

    So many characters at the beginning belong to the block before: `before` ones of a text.
    """
    if isinstance(part, NameList):
        part = in_vocab(part, vocab)
        ends = np.cumsum(part.lengths, dtype=np.int64)
        edges = np.searchsorted(ends, np.arange(0, int(ends[-1]) + size, size))
        edges[-1] = len(part.rows)
        for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if first < last:
                lengths = part.lengths[first:last].astype(np.int64)
                ids = part.take(places_of(part.starts[first:last], lengths))
                starts = np.zeros(len(ids), bool)
                starts[np.cumsum(lengths) - lengths] = True
                yield ids, starts, 0
        return
    part = in_vocab(part, vocab)
    for first in range(0, len(part), size):
        begin = max(0, first - before)
        starts = np.zeros(min(size, len(part) - first) + first - begin, bool)
        inside = part.starts[(part.starts >= begin) & (part.starts < begin + len(starts))]
        starts[inside - begin] = True
        starts[0] = True
        yield part.take(slice(begin, begin + len(starts))), starts, first - begin
