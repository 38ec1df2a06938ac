"""What training steps read: in memory of the devices, or fetched while the devices work."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dinojax import parallel
from dinojax.data.batches import Batch, Dataset, Order
from dinojax.training.step import SHUFFLES, epoch_order, key_for

LONG = 2**21
"""From this length on, an order is drawn without XLA, which sorts slowly; see `draw_order`."""


class Fetched(NamedTuple):
    """What some steps read."""

    examples: Batch
    """On the devices."""
    order: np.ndarray
    """Indices into them, [chunk_size, ..], of which later steps may have none."""
    num_characters: np.ndarray
    """Targets that count in each of those steps."""


def make_reader(key: jax.Array, dataset: Dataset) -> Callable[[int, int], np.ndarray]:
    """A function that says what steps of the run with this key read: one epoch follows the other.

    It takes the steps done before and a number of steps, and returns entries of an order as
    `train_steps` expects them, [num, ..].
    """
    draw = jax.jit(epoch_order, static_argnames="num")

    # Shuffling a long list takes a second, and reading it once many calls.
    @lru_cache(maxsize=2)
    def read_epoch(epoch: int) -> Order:
        num = dataset.num_shuffled
        drawn = np.asarray(draw(key, epoch, num=num)) if num < LONG else draw_order(key, epoch, num)
        return dataset.arrange(drawn)

    def read(first: int, num: int) -> np.ndarray:
        found, last = list[np.ndarray](), first + num
        while first < last:
            epoch, offset = divmod(first, dataset.steps_per_epoch)
            found.append(read_epoch(epoch)[offset : offset + last - first])
            first += len(found[-1])
        return np.concatenate(found)

    return read


def make_counter(examples: Batch) -> Callable[[np.ndarray], np.ndarray]:
    """A function from an order [num, ..] to the targets that count in each of its steps, [num]."""
    weights = np.asarray(examples.weights)
    counts = weights.sum(axis=0) if weights.ndim == 2 else weights
    return lambda order: counts[order].reshape(len(order), -1).sum(axis=1)


def make_fetch(
    key: jax.Array, dataset: Dataset, mesh: Mesh | None, chunk_size: int
) -> Callable[[int, int, int | None], Fetched]:
    """A function from a step to what some steps from it on read, at most `chunk_size`.

    It takes their number, and the step of the next call, or None: what that may need is read in the
    meantime if the examples do not lie in memory.
    """
    read_order = make_reader(key, dataset)
    if dataset.examples is not None:
        examples = parallel.place(dataset.examples, mesh, None)
        count = make_counter(dataset.examples)

        def fetch_order(step: int, num: int, _: int | None) -> Fetched:
            found = read_order(step, num)
            # Of one shape, whatever their number, so that nothing is compiled again.
            order = np.zeros((chunk_size, *found.shape[1:]), found.dtype)
            order[:num] = found
            return Fetched(examples, order, count(found))

        return fetch_order
    assert dataset.read is not None
    read, worker, coming = dataset.read, ThreadPoolExecutor(1), dict[int, Future[Fetched]]()

    def fetch(step: int) -> Fetched:
        indices = read_order(step, chunk_size)
        found = read(indices.reshape(-1))
        order = np.arange(indices.size, dtype=np.int32).reshape(indices.shape)
        return Fetched(parallel.place(found, mesh, None), order, make_counter(found)(order))

    def fetch_in_advance(step: int, _: int, following: int | None) -> Fetched:
        ready = coming.pop(step).result() if step in coming else fetch(step)
        if following is not None:
            coming[following] = worker.submit(fetch, following)
        return ready

    return fetch_in_advance


def draw_order(key: jax.Array, epoch: int, num: int) -> np.ndarray:
    """A fresh permutation of `num` things for each epoch, like `epoch_order`, by NumPy's generator.

    Ten million take 0.4 s; XLA, which sorts random numbers, takes seven.
    """
    seed = np.asarray(jax.random.bits(key_for(key, SHUFFLES, epoch), (4,), np.uint32))
    return np.random.default_rng(seed).permutation(np.arange(num, dtype=np.int32))
