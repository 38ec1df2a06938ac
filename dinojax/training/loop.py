"""The driver: it runs training steps in compiled calls, and reports between them."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from dinojax import parallel
from dinojax.data.batches import Dataset
from dinojax.models.cells import Params
from dinojax.training.averaging import begun
from dinojax.training.fetch import make_fetch
from dinojax.training.step import Chunk, Summary, TrainState, TrainStep, train_steps

CHUNK_SIZE = 1_000
"""The most steps in one compiled call. Between calls a run reports, saves and stops."""

CHUNK_CHARACTERS = 250_000
"""About the most characters that one compiled call reads."""


class Progress(NamedTuple):
    """What `run` yields."""

    state: TrainState
    losses: np.ndarray
    """Of the steps since the last yield, [steps]."""
    num_characters: np.ndarray
    """Targets that counted in each of these steps, [steps]."""
    summary: Any
    """Of the gradients in the last of these steps."""
    seconds: float
    """Time that these steps took. The first call in a process compiles, too."""
    begin_average: Callable[[], TrainState]
    """Begin to average the parameters with these, before further steps are taken.

    It returns the state that the run goes on from; see `averaging.begun`."""


def run(
    train_step: TrainStep,
    state: TrainState,
    dataset: Dataset,
    *,
    steps: int,
    mesh: Mesh | None = None,
    stops: Sequence[int] = (),
    summarize: Summary = lambda gradients: None,
    chunk_size: int = CHUNK_SIZE,
    chunk_characters: int = CHUNK_CHARACTERS,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Progress]:
    """Train until `steps` steps are done, and yield twice a second or more often.

    It yields at least at each multiple of `chunk_size` and of each of `stops`. The caller may stop
    at any time and continue from the last state. Neither that nor `stops`, the sizes or the
    `clock`, in seconds, changes a bit of the run. Several processes need a common clock.

    With a `mesh`, whose axis `train_step` must know, each device reads its share of the rows of
    every batch and keeps their recurrent state; all else is the same on all devices.

    Raises:
        ValueError: the devices cannot share the rows of a batch evenly.
        FloatingPointError: a loss or a parameter is not finite; names the step. The states yielded
            before are good.
    """
    num_devices = parallel.num_devices(mesh)
    batch_size = dataset.step_shape[-1]
    if batch_size % num_devices:
        raise ValueError(
            f"expected a batch size that is a multiple of {num_devices}, the number of devices, "
            f"got {batch_size}"
        )
    num_characters = dataset.time * batch_size
    chunk_size = max(1, min(chunk_size, chunk_characters // num_characters))
    fetch = make_fetch(state.key, dataset, mesh, chunk_size)
    everywhere = None
    state_axes = TrainState._make([everywhere] * len(TrainState._fields))
    state_axes = state_axes._replace(recurrent_state=0)
    # Around all steps, not each.
    train_chunk = jax.jit(
        parallel.spread(
            partial(train_steps, train_step, summarize=summarize),
            mesh,
            in_axes=(state_axes, everywhere, len(dataset.step_shape), everywhere),
            out_axes=Chunk._make([state_axes, everywhere, everywhere]),
        )
    )
    state = parallel.place(state, mesh, state_axes)

    def begin_average() -> TrainState:
        nonlocal state
        state = parallel.place(begun(state), mesh, state_axes)
        return state

    step, size = int(state.step), 1
    while step < steps:
        started = clock()
        # Up to a multiple of the largest size, so that reports fall on round numbers.
        num_steps = min(size, steps - step, *(n - step % n for n in (chunk_size, *stops)))
        following = step + num_steps if step + num_steps < steps else None
        examples, order, counts = fetch(step, num_steps, following)
        shares = parallel.place(order, mesh, len(dataset.step_shape))
        state, losses, summary = train_chunk(state, examples, shares, num_steps)
        new_losses = np.asarray(losses)[:num_steps]
        check_finite(state.params, new_losses, step)
        step += num_steps
        seconds = clock() - started
        yield Progress(state, new_losses, counts[:num_steps], summary, seconds, begin_average)
        # A call of twice the size stays below half a second.
        if seconds < 0.25:
            size = min(size * 2, chunk_size)
        elif seconds > 0.6:
            size = max(1, size // 2)


def check_finite(params: Params, losses: np.ndarray, step: int) -> None:
    """Check the `losses` [num] of the steps after `step` and the parameters after them.

    Raises:
        FloatingPointError: one is not finite; names the step.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise FloatingPointError(f"the loss is {losses[bad[0]]} in step {step + int(bad[0]) + 1}")
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise FloatingPointError(f"a parameter is not finite after step {step + len(losses)}")
