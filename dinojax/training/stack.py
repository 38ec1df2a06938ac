"""Replicas of one run, which differ in their seeds, stacked and trained by one program.

`loop.run` trains one; here each replica has such an iterator of its own, and all share the work.

The rule: a replica equals the same run trained alone up to rounding, not to the bit. The products
of all replicas are computed together, by other routines, and rounding even depends on how many are
stacked, though not on the place in the stack nor on what the others compute: one that diverges or
ends changes no bit of another. In float32 on a CPU, after 20 steps of any preset, no parameter
differed by more than 5e-7 of the largest in its array; differences grow with further steps, as any
rounding does.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from dinojax.data.batches import Dataset
from dinojax.models.recurrence import choose_rows
from dinojax.training.averaging import begun
from dinojax.training.fetch import make_counter, make_reader
from dinojax.training.loop import CHUNK_SIZE, Progress, check_finite
from dinojax.training.step import Summary, TrainState, TrainStep, train_steps

REPLICAS = "replicas"
"""The axis of the stack; `step.make_train_step` takes it."""

CHUNK_INDICES = 2**24
"""About the most indices into the data that one compiled call reads, for all replicas."""

SECONDS_PER_CALL = 0.5
"""A call is doubled while it takes less. The states of all replicas leave the device after it."""


def run(
    train_step: TrainStep,
    states: Sequence[TrainState],
    dataset: Dataset,
    *,
    steps: int,
    stops: Sequence[int] = (),
    summarize: Summary = lambda gradients: None,
    chunk_size: int = CHUNK_SIZE,
    chunk_indices: int = CHUNK_INDICES,
    clock: Callable[[], float] = time.monotonic,
) -> list[Generator[Progress]]:
    """Train each of `states` until `steps` steps are done: an iterator for each, as of `loop.run`.

    `train_step` must be made for the axis `REPLICAS`. Replicas that have done more steps wait for
    the others. Whichever iterator is read takes steps of all that have done fewest; what the others
    yield is kept until they are read. So read the one with the lowest step first.
    One that raises, or that the caller closes or drops, ends alone: its place in the stack stays,
    so that the others are computed as before. The states that they yield are NumPy arrays.

    Raises:
        FloatingPointError: from one of the iterators; see `loop.run`.
    """
    num = len(states)
    done = [int(state.step) for state in states]
    if dataset.examples is None:
        raise ValueError("expected data that fit into memory; train replicas on others one by one")
    readers = [make_reader(state.key, dataset) for state in states]
    keys, count_targets = [state.key for state in states], make_counter(dataset.examples)
    train_chunk = jax.jit(
        jax.vmap(
            partial(train_steps, train_step, summarize=summarize),
            in_axes=(0, None, 0, None),
            axis_name=REPLICAS,
        )
    )
    hold = jax.jit(choose_rows)
    entry = readers[0](0, 1)[0]
    chunk_size = max(1, min(chunk_size, chunk_indices // (num * entry.size)))
    order = np.zeros((num, chunk_size, *entry.shape), entry.dtype)
    # On the host, as XLA would compile a program for so many arrays.
    arrays = jax.device_get([x._replace(key=jax.random.key_data(x.key)) for x in states])
    stacked = jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *arrays))
    key_implementation = jax.random.key_impl(keys[0])
    stacked = stacked._replace(key=jax.random.wrap_key_data(stacked.key, impl=key_implementation))
    examples = jax.device_put(dataset.examples)
    unread: list[deque[Progress | FloatingPointError]] = [deque() for _ in states]
    active, size = {i for i in range(num) if done[i] < steps}, 1

    def begin_average(i: int, state: TrainState) -> TrainState:
        nonlocal stacked
        state = begun(state)
        average = jax.tree.map(lambda x, new: x.at[i].set(new), stacked.average, state.average)
        stacked = stacked._replace(average=average)
        return state

    def advance() -> None:
        """Take some steps of the replicas that have done fewest, and keep what they yield."""
        nonlocal stacked, size
        started, first = clock(), min(done[i] for i in active)
        moving = [i for i in sorted(active) if done[i] == first]
        ahead = [done[i] - first for i in active if done[i] > first]
        num_steps = min(size, steps - first, *(n - first % n for n in stops), *ahead)
        # The others read the same as one that moves: rows of a text must be equally long.
        order[:, :num_steps] = readers[moving[0]](first, num_steps)
        for i in moving[1:]:
            order[i, :num_steps] = readers[i](first, num_steps)
        before = stacked
        stacked, losses, summaries = train_chunk(stacked, examples, order, num_steps)
        if ahead:
            stacked = hold(np.isin(range(num), moving), stacked, before)
        # All at once, as one transfer takes less time than many.
        rest = stacked._replace(key=None)
        rest, losses, summaries = jax.device_get((rest, losses[:, :num_steps], summaries))
        seconds = clock() - started
        for i in moving:
            done[i] += num_steps
            state, summary = jax.tree.map(lambda x, i=i: x[i], (rest, summaries))
            try:
                check_finite(state.params, losses[i], first)
            except FloatingPointError as error:
                unread[i].append(error)
                active.discard(i)
                continue
            counts = count_targets(order[i, :num_steps])
            state = state._replace(key=keys[i])
            begin = partial(begin_average, i, state)
            unread[i].append(Progress(state, losses[i], counts, summary, seconds, begin))
        active.difference_update([i for i in active if done[i] >= steps])
        if seconds < SECONDS_PER_CALL:
            size = min(size * 2, chunk_size)
        elif seconds > 2.5 * SECONDS_PER_CALL:
            size = max(1, size // 2)

    def replica(i: int) -> Generator[Any]:
        try:
            yield  # Closing a generator has no effect before its first step.
            while unread[i] or i in active:
                while not unread[i]:
                    advance()
                progress = unread[i].popleft()
                if isinstance(progress, FloatingPointError):
                    raise progress
                yield progress
        finally:
            active.discard(i)
            unread[i].clear()

    replicas = [replica(i) for i in range(num)]
    for each in replicas:
        next(each)
    return replicas
