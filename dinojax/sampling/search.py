"""The most probable names of a model, found exactly."""

import heapq
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.models.cells import Params
from dinojax.models.model import CharModel
from dinojax.sampling.draw import Beginning, read_prompt

BATCH = 256
"""Prefixes that are read side by side."""
MAX_PREFIXES = 1_000_000
"""The most prefixes that are read before the search gives up."""


class Found(NamedTuple):
    """Names, the most probable first."""

    names: list[tuple[int, ...]]
    """Ids of their characters, without those of the beginning."""
    log_probabilities: list[float]
    """Of the whole names, newline included, in nats."""
    num_prefixes: int
    """Number of prefixes that were read."""


class _Prefix(NamedTuple):
    """The beginning of a name; tuples compare by their first two fields."""

    cost: float
    """Minus its log-probability."""
    number: int
    """Breaks ties."""
    ids: tuple[int, ...]
    last: int
    """Id of the last character, which has not been read yet."""
    states: Any
    """The state before that character is in this batch of states, .."""
    row: int
    """.. in this row."""


def most_probable(
    params: Params,
    model: CharModel,
    num: int,
    max_length: int,
    *,
    beginning: Beginning | None = None,
    max_prefixes: int = MAX_PREFIXES,
    batch_size: int = BATCH,
) -> Found:
    """The `num` most probable names that end within `max_length` characters, and no others.

    A best-first search over prefixes. No name is more probable than its prefix, so once `num` names
    are at least as probable as every prefix that was not read, they are the most probable ones. If
    that would take more than `max_prefixes`, only those names are returned that are certain. The
    loop is in Python and calls `jax.jit`.
    """
    if beginning is None:
        beginning = read_prompt(params, model, jnp.zeros(0, int))

    @jax.jit
    def read(params: Params, state: Any, previous: jax.Array) -> tuple[Any, jax.Array]:
        state, logits = model.step(params, state, previous)
        return state, jax.nn.log_softmax(logits, axis=-1)

    first = jax.device_get(jax.tree.map(lambda x: x[None], beginning.state))
    numbers = count()
    cost = -float(beginning.log_probability)
    prefixes = [_Prefix(cost, next(numbers), (), int(beginning.previous), first, 0)]
    found: list[tuple[float, int, tuple[int, ...]]] = []
    num_prefixes = 0
    while prefixes and num_prefixes < max_prefixes:
        least = found[0][0] if len(found) == num else -np.inf
        batch: list[_Prefix] = []
        room = min(batch_size, max_prefixes - num_prefixes)
        while prefixes and len(batch) < room and -prefixes[0].cost > least:
            batch.append(heapq.heappop(prefixes))
        if not batch:
            break
        num_prefixes += len(batch)
        # Padded, so that it is compiled once.
        rows = [*batch, *[batch[0]] * (batch_size - len(batch))]
        states = [jax.tree.map(lambda x, i=prefix.row: x[i], prefix.states) for prefix in rows]
        state = jax.tree.map(lambda *x: np.stack(x), *states)
        previous = np.array([prefix.last for prefix in rows])
        new_states, log_probabilities = jax.device_get(read(params, state, previous))
        for row, prefix in enumerate(batch):
            totals = log_probabilities[row].astype(float) - prefix.cost
            # Among equally probable names, those found first stay.
            ended = float(totals[model.newline]), -next(numbers), prefix.ids
            if len(found) < num:
                heapq.heappush(found, ended)
            elif ended > found[0]:
                heapq.heapreplace(found, ended)
            if len(prefix.ids) == max_length:
                continue
            least = found[0][0] if len(found) == num else -np.inf
            for character in np.flatnonzero(totals > least).tolist():
                if character != model.newline:
                    longer = _Prefix(
                        -float(totals[character]),
                        next(numbers),
                        (*prefix.ids, character),
                        character,
                        new_states,
                        row,
                    )
                    heapq.heappush(prefixes, longer)
    bound = -prefixes[0].cost if prefixes else -np.inf
    certain = sorted((x for x in found if x[0] >= bound), reverse=True)
    return Found([x[2] for x in certain], [x[0] for x in certain], num_prefixes)
