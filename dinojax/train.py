"""Training: one step, many steps in one compiled loop, and what runs these loops."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dinojax.batches import Batch, Dataset
from dinojax.cells import Params, State
from dinojax.loss import summed_cross_entropy
from dinojax.model import CharModel

SMOOTHING = 0.999
"""Share of the old value in the smoothed loss at each step, as in the exercise."""

SHUFFLES, DROPOUT, RESETS = range(3)
"""What a run's key is for; see `key_for`."""

CHUNK_SIZE = 1_000
"""The most steps that run in one compiled call; between calls a run reports, saves and stops."""

CHUNK_CHARACTERS = 250_000
"""About the most characters that one compiled call reads."""


class TrainState(NamedTuple):
    """All of a run that changes, as one pytree."""

    params: Params
    optimizer_state: optax.OptState
    recurrent_state: State
    """State of the model after the last batch, [batch, ...] leaf by leaf."""
    key: jax.Array
    """The run's key; it stays as it is, and every random choice derives from it by `fold_in`."""
    step: jax.Array
    """Steps done."""
    smoothed_loss: jax.Array
    """Exponential average of the loss, nats."""


class Loss(Protocol):
    """What to minimise, of `logits` [time, batch, vocab] and the rest [time, batch].

    Two numbers, each a sum over rows: a total, and the number of those over whom the mean is taken.
    The loss of a batch is total / number, and zero where there is none of them.
    """

    def __call__(
        self, logits: jax.Array, targets: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, jax.Array]: ...


class StepInfo(NamedTuple):
    """What a step met on its way, for reports."""

    loss: jax.Array
    """Of the batch, before the update."""
    gradients: Params
    """Of that loss, before clipping."""


class TrainStep(Protocol):
    """One update from one batch."""

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, StepInfo]: ...


class Summary(Protocol):
    """A few numbers that say how gradients are."""

    def __call__(self, gradients: Params) -> Any: ...


class Progress(NamedTuple):
    """What `run` yields."""

    state: TrainState
    losses: np.ndarray
    """Of the steps since the last yield, [steps]."""
    num_characters: np.ndarray
    """How many counted in each of these steps, [steps]."""
    summary: Any
    """Of the gradients in the last of these steps."""


def key_for(key: jax.Array, purpose: int, number: jax.Array | int) -> jax.Array:
    """The key for one purpose of a run, at one step or epoch."""
    return jax.random.fold_in(jax.random.fold_in(key, purpose), number)


def init_train_state(
    key: jax.Array,
    params: Params,
    model: CharModel,
    optimizer: optax.GradientTransformation,
    batch_size: int = 1,
    smoothed_loss: float = 0.0,
) -> TrainState:
    """The state before the first step; the smoothed loss starts from `smoothed_loss`."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    return TrainState(
        params=params,
        optimizer_state=optimizer.init(params),
        recurrent_state=model.initial_state((batch_size,)),
        key=key,
        step=jnp.zeros((), jnp.int32),
        smoothed_loss=jnp.asarray(smoothed_loss, dtype),
    )


def make_train_step(
    model: CharModel,
    optimizer: optax.GradientTransformation,
    loss: Loss = summed_cross_entropy,
    carry_state: bool = False,
    resets: bool = False,
    reset_rate: float = 0.0,
    axis_name: str | None = None,
) -> TrainStep:
    """A step that reads a batch and updates the parameters.

    Each row starts from the initial recurrent state. With `carry_state` it starts from the one that
    the batch before left: for windows of a text, and for the exercise, whose batch is one name; no
    gradient flows across that border. (With names in a larger batch, a shorter row's state would
    run on over its padding.) With `resets` the state is set back wherever "no character" is read:
    for packed names and for windows. With `reset_rate` it is set back before a batch, row by row,
    with that probability, so that the model learns to start in the midst of a text too.

    With an `axis_name` the rows of a batch are spread over the devices of that axis of a mesh, as
    `run` does it; values and gradients are those of the whole batch.
    """

    def row_keys(state: TrainState, purpose: int, num: int) -> jax.Array:
        rows = jnp.arange(num, dtype=jnp.int32)
        if axis_name is not None:
            rows += num * lax.axis_index(axis_name)
        key = key_for(state.key, purpose, state.step)
        return jax.vmap(jax.random.fold_in, (None, 0))(key, rows)

    def total_loss(
        params: Params, state: State, batch: Batch, dropout_keys: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, State]]:
        time = batch.weights.shape[0]
        # One past the last time step at which anything counts.
        length = jnp.max(jnp.where(batch.weights.any(axis=1), jnp.arange(1, time + 1), 0))
        if axis_name is not None:
            length = lax.pmax(length, axis_name)
        state, logits = model.unroll(params, state, batch.inputs, length, resets, dropout_keys)
        total, num = loss(logits, batch.targets, batch.weights)
        return total, (jnp.asarray(num, total.dtype), state)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepInfo]:
        num = batch.inputs.shape[1]
        first = state.recurrent_state if carry_state else model.initial_state((num,))
        if reset_rate:
            keys = row_keys(state, RESETS, num)
            is_kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - reset_rate, (1,)))(keys)
            first = jax.tree.map(lambda x: x * is_kept.astype(x.dtype), first)
        dropout_keys = row_keys(state, DROPOUT, num)
        (total, (num_counted, last)), gradients = jax.value_and_grad(total_loss, has_aux=True)(
            state.params, first, batch, dropout_keys
        )
        if axis_name is not None:
            # Each device has added up its own rows.
            total, num_counted, gradients = lax.psum((total, num_counted, gradients), axis_name)
        num_counted = jnp.where(num_counted == 0, 1, num_counted)
        value, gradients = jax.tree.map(lambda x: x / num_counted, (total, gradients))
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        new = TrainState(
            params=optax.apply_updates(state.params, updates),
            optimizer_state=optimizer_state,
            recurrent_state=last,
            key=state.key,
            step=state.step + 1,
            smoothed_loss=SMOOTHING * state.smoothed_loss + (1 - SMOOTHING) * value,
        )
        return new, StepInfo(value, gradients)

    return train_step


def train_steps(
    train_step: TrainStep,
    state: TrainState,
    examples: Batch,
    order: jax.Array,
    num_steps: jax.Array | int | None = None,
    summarize: Summary = lambda gradients: None,
) -> tuple[TrainState, jax.Array, Any]:
    """Train by each entry of `order` [steps, ..] in turn, or by the first `num_steps`: one loop.

    Entry i holds the indices into `examples` of what step i reads (see `batches`). Returns the new
    state, the losses [steps], NaN from `num_steps` on, and the summary of the last gradients.
    Because `num_steps` is data and the compiled program the same for all, cutting a run into pieces
    changes no bit of it.
    """
    if num_steps is None:
        num_steps = len(order)

    def no_summary(gradients: Params) -> Any:
        return jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(summarize, gradients)
        )

    def body(i: jax.Array, carry: Any) -> Any:
        state, _, losses = carry
        indices = lax.dynamic_index_in_dim(order, i, keepdims=False)
        batch = jax.tree.map(lambda a: jnp.asarray(a)[..., indices], examples)
        state, info = train_step(state, batch)
        # Only where it will be seen: a norm at every step costs a tenth of the speed.
        summary = lax.cond(i == num_steps - 1, summarize, no_summary, info.gradients)
        return state, summary, lax.dynamic_update_index_in_dim(losses, info.loss, i, 0)

    losses = jnp.full(len(order), jnp.nan, state.smoothed_loss.dtype)
    start = state, no_summary(state.params), losses
    state, summary, losses = lax.fori_loop(0, num_steps, body, start)
    return state, losses, summary


def epoch_order(key: jax.Array, epoch: jax.Array | int, num: int) -> jax.Array:
    """A fresh permutation of `num` things for each epoch of a run with this key, [num]."""
    return jax.random.permutation(key_for(key, SHUFFLES, epoch), num)


def run(
    train_step: TrainStep,
    state: TrainState,
    dataset: Dataset,
    steps: int,
    mesh: Mesh | None = None,
    stops: Sequence[int] = (),
    summarize: Summary = lambda gradients: None,
) -> Iterator[Progress]:
    """Train until `steps` steps are done, and tell what happened twice a second or more often.

    It yields at each multiple of `CHUNK_SIZE` and of each of `stops` at least. The caller may leave
    at any time and go on from the last state: neither that nor `stops` changes a bit of the run.

    With a `mesh` of one axis, whose name `train_step` must know, each of its devices reads its
    share of the rows of every batch, and keeps their recurrent state; the rest is the same on all.

    Raises:
        ValueError: the devices cannot share the rows of a batch evenly.
        FloatingPointError: a loss or a parameter is not finite; names the step. The states that
            came before are good.
    """
    draw_order = jax.jit(epoch_order, static_argnames="num")
    # Once, not at every call.
    examples = jax.device_put(dataset.examples)
    key = state.key

    # A long list takes many calls to read once, and a second to shuffle.
    @lru_cache(maxsize=2)
    def read_epoch(epoch: int) -> np.ndarray:
        return dataset.arrange(np.asarray(draw_order(key, epoch, num=dataset.num_shuffled)))

    indices = read_epoch(0)[0]
    num_characters = dataset.examples.inputs[..., indices].size
    chunk_size = max(1, min(CHUNK_SIZE, CHUNK_CHARACTERS // num_characters))
    train_chunk: Callable[..., Any] = partial(train_steps, train_step, summarize=summarize)
    if mesh is not None:
        train_chunk, state, examples = _spread(train_chunk, mesh, state, examples, indices)
    compiled = jax.jit(train_chunk)
    weights = dataset.examples.weights
    counts = weights.sum(axis=0) if weights.ndim == 2 else weights
    step, size = int(state.step), 1
    while step < steps:
        started = time.monotonic()
        # Up to a multiple of the largest size, so that reports fall on round numbers.
        num_steps = min(size, steps - step, *(n - step % n for n in (chunk_size, *stops)))
        order = _read(read_epoch, step, chunk_size, dataset.steps_per_epoch)
        state, losses, summary = compiled(state, examples, order, num_steps)
        new_losses = np.asarray(losses)[:num_steps]
        _check_finite(state.params, new_losses, step)
        step += num_steps
        num_characters = counts[order[:num_steps]].reshape(num_steps, -1).sum(axis=1)
        yield Progress(state, new_losses, num_characters, summary)
        seconds = time.monotonic() - started
        # Twice as long a call stays below half a second.
        if seconds < 0.25:
            size = min(size * 2, chunk_size)
        elif seconds > 0.6:
            size = max(1, size // 2)


def _spread(
    train_chunk: Callable[..., Any],
    mesh: Mesh,
    state: TrainState,
    examples: Batch,
    indices: np.ndarray,
) -> tuple[Callable[..., Any], TrainState, Batch]:
    """The function for many devices, and its arguments as they should lie on these."""
    (axis_name,) = mesh.axis_names
    if indices.shape[-1] % mesh.size:
        raise ValueError(
            f"expected a batch size that is a multiple of {mesh.size}, the number of devices, got "
            f"{indices.shape[-1]}"
        )
    everywhere = PartitionSpec()
    state_spec = jax.tree.map(lambda _: everywhere, state)._replace(
        recurrent_state=jax.tree.map(lambda _: PartitionSpec(axis_name), state.recurrent_state)
    )
    # Around all steps, not each.
    spread = jax.shard_map(
        train_chunk,
        mesh=mesh,
        in_specs=(
            state_spec,
            everywhere,
            PartitionSpec(*[None] * indices.ndim, axis_name),
            everywhere,
        ),
        out_specs=(state_spec, everywhere, everywhere),
        check_vma=False,
    )
    # Where a later call finds its arguments; elsewhere at first, all would be compiled twice.
    state = jax.tree.map(
        lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), state, state_spec
    )
    return spread, state, jax.device_put(examples, NamedSharding(mesh, everywhere))


def _read(
    read_epoch: Callable[[int], np.ndarray], first: int, num: int, steps_per_epoch: int
) -> np.ndarray:
    """What the steps `first`, `first + 1`, .. read, [num, ..]: one epoch follows the other."""
    epoch, offset = divmod(first, steps_per_epoch)
    num_epochs = -(-(offset + num) // steps_per_epoch)
    epochs = [read_epoch(epoch + i) for i in range(num_epochs)]
    return np.concatenate(epochs)[offset : offset + num]


def _check_finite(params: Params, losses: np.ndarray, step: int) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise FloatingPointError(f"the loss is {losses[bad[0]]} in step {step + int(bad[0]) + 1}")
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise FloatingPointError(f"a parameter is not finite after step {step + len(losses)}")
