"""The most probable names of a model, found exactly."""

import heapq
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.cells import Params
from dinojax.model import CharModel
from dinojax.sample import Beginning, read_prompt

BATCH = 256
"""Prefixes read side by side."""
MAX_PREFIXES = 1_000_000
"""The most that are read before the search gives up."""


class Found(NamedTuple):
    """Names, the most probable first."""

    names: list[tuple[int, ...]]
    """Ids of their characters, without what they begin with."""
    log_probabilities: list[float]
    """Of the whole names, newline included, in nats."""
    num_prefixes: int
    """How many beginnings of names were read to know."""


def most_probable(
    params: Params,
    model: CharModel,
    newline: int,
    num: int,
    max_length: int,
    beginning: Beginning | None = None,
    max_prefixes: int = MAX_PREFIXES,
) -> Found:
    """The `num` most probable names that end within `max_length` characters, and no other.

    Best-first search over prefixes: no name is more probable than what it begins with, so once
    `num` names are at least as probable as every prefix not yet read, they are the most probable.
    Where that would take more than `max_prefixes`, fewer are returned, those that are certain.
    The loop is in Python and calls `jax.jit`.
    """
    if beginning is None:
        beginning = read_prompt(params, model, jnp.zeros(0, int))

    @jax.jit
    def read(params: Params, state: Any, previous: jax.Array) -> tuple[Any, jax.Array]:
        state, logits = model.step(params, state, previous)
        return state, jax.nn.log_softmax(logits, axis=-1)

    first = jax.device_get(jax.tree.map(lambda x: x[None], beginning.state))
    order = count()
    # Minus log-probability, a number that breaks ties, ids, states and the row among them.
    prefixes: list[Any] = [
        (-float(beginning.log_probability), next(order), (), int(beginning.previous), first, 0)
    ]
    found: list[tuple[float, int, tuple[int, ...]]] = []
    num_prefixes = 0
    while prefixes and num_prefixes < max_prefixes:
        least = found[0][0] if len(found) == num else -np.inf
        batch: list[Any] = []
        room = min(BATCH, max_prefixes - num_prefixes)
        while prefixes and len(batch) < room and -prefixes[0][0] > least:
            batch.append(heapq.heappop(prefixes))
        if not batch:
            break
        num_prefixes += len(batch)
        # Padded, so that it is compiled once.
        rows = [*batch, *[batch[0]] * (BATCH - len(batch))]
        states = [jax.tree.map(lambda x, i=entry[5]: x[i], entry[4]) for entry in rows]
        state = jax.tree.map(lambda *x: np.stack(x), *states)
        previous = np.array([entry[3] for entry in rows])
        new_state, log_probabilities = jax.device_get(read(params, state, previous))
        for row, (cost, _, ids, *_) in enumerate(batch):
            totals = log_probabilities[row].astype(float) - cost
            # Of several as probable, those found first stay.
            ended = float(totals[newline]), -next(order), ids
            if len(found) < num:
                heapq.heappush(found, ended)
            elif ended > found[0]:
                heapq.heapreplace(found, ended)
            if len(ids) == max_length:
                continue
            least = found[0][0] if len(found) == num else -np.inf
            for character in np.flatnonzero(totals > least).tolist():
                if character != newline:
                    entry = (-float(totals[character]), next(order), (*ids, character), character)
                    heapq.heappush(prefixes, (*entry, new_state, row))
    bound = -prefixes[0][0] if prefixes else -np.inf
    certain = sorted((x for x in found if x[0] >= bound), reverse=True)
    return Found([x[2] for x in certain], [x[0] for x in certain], num_prefixes)
