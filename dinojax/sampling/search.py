"""The most probable names of a model, found exactly."""

import heapq
import math
from itertools import count
from typing import Any, NamedTuple

import jax
import numpy as np

from dinojax.models.cells import Params
from dinojax.models.labelled import IMPOSSIBLE
from dinojax.models.trained import Trained
from dinojax.sampling.strings import Names, begin, named, num_to_draw


class MostProbable(NamedTuple):
    """The most probable names, in order, and how they were found."""

    names: Names
    share: float
    """Sum of their probabilities."""
    num_prefixes: int
    """Number of prefixes that were read."""


class _Prefix(NamedTuple):
    """The start of a name; tuples compare by cost and number."""

    cost: float
    """Minus its log-probability."""
    number: int
    ids: tuple[int, ...]
    """Last character of the prompt, or "no character", and all characters after it."""
    state: Any
    """State of the model before the last of `ids`."""


def most_probable_names(
    trained: Trained,
    num: int,
    *,
    prompt: str = "",
    label: str | None = None,
    max_length: int | None = None,
    max_prefixes: int = 1_000_000,
    batch_size: int = 256,
) -> MostProbable:
    """The `num` most probable names that begin with `prompt` and end within `max_length` more.

    None of them is empty. `max_length` is `trained.max_length` by default, and a `label` is as in
    `draw_names`. This is a best-first search that reads `batch_size` prefixes side by side. No name
    is more probable than its prefix, so once `num` names are at least as probable as every unread
    prefix, they are the most probable ones. After `max_prefixes`, only those names are returned
    that are certain. The loop is in Python and calls `jax.jit`.

    Raises:
        ValueError: see `begin`.
    """
    model, params, vocab, limit = trained
    max_length = (limit if max_length is None else max_length) + num_to_draw(vocab, label)

    @jax.jit
    def read(params: Params, state: Any, previous: jax.Array) -> tuple[Any, jax.Array]:
        state, logits = model.step(params, state, previous)
        return state, jax.nn.log_softmax(logits, axis=-1)

    # A name of blanks alone is empty, see `composed_names`, and so is one of a label alone.
    blanks = {i for i, character in enumerate(vocab.plain.characters) if character.isspace()}
    blanks |= set(range(vocab.plain.size, vocab.size))
    is_begun = prompt.strip()
    state, previous, log_probability = jax.device_get(
        begin(trained, prompt, is_name=True, label=label)
    )
    numbers = count()
    prefixes = [_Prefix(-float(log_probability), next(numbers), (int(previous),), state)]
    found: list[tuple[float, int, tuple[int, ...]]] = []
    # What cannot follow is never read.
    num_prefixes, least = 0, IMPOSSIBLE / 2
    while prefixes and num_prefixes < max_prefixes:
        batch: list[_Prefix] = []
        room = min(batch_size, max_prefixes - num_prefixes)
        while prefixes and len(batch) < room and -prefixes[0].cost > least:
            batch.append(heapq.heappop(prefixes))
        if not batch:
            break
        num_prefixes += len(batch)
        # Padded, so that it is compiled once.
        rows = [*batch, *[batch[0]] * (batch_size - len(batch))]
        states = jax.tree.map(lambda *x: np.stack(x), *(prefix.state for prefix in rows))
        last = np.array([prefix.ids[-1] for prefix in rows])
        new_states, log_probabilities = jax.device_get(read(params, states, last))
        for row, (cost, _, ids, _) in enumerate(batch):
            values = log_probabilities[row].astype(float) - cost
            # Among equally probable names, those found first stay.
            ended = float(values[model.newline]), -next(numbers), ids[1:]
            if not is_begun and blanks.issuperset(ids[1:]):
                pass
            elif len(found) == num and ended > found[0]:
                heapq.heapreplace(found, ended)
            elif len(found) < num and ended[0] > least:
                heapq.heappush(found, ended)
            if len(found) == num:
                least = found[0][0]
            if len(ids) > max_length:
                continue
            state = jax.tree.map(lambda x, row=row: x[row], new_states)
            for character in np.flatnonzero(values > least).tolist():
                if character != model.newline:
                    total = float(values[character])
                    longer = _Prefix(-total, next(numbers), (*ids, character), state)
                    heapq.heappush(prefixes, longer)
    bound = -prefixes[0].cost if prefixes else -math.inf
    certain = sorted((x for x in found if x[0] >= bound), reverse=True)
    totals = np.array([x[0] for x in certain])
    undrawn, has_ended = np.full(len(certain), np.nan), np.full(len(certain), True)
    drawn_as = [prompt + vocab.decode(x[2]) for x in certain]
    names = named(vocab, drawn_as, label, totals, undrawn, has_ended)
    return MostProbable(names, math.fsum(map(math.exp, totals)), num_prefixes)
