"""Training: the optimizer, one step, many steps in one compiled scan, and the loop around them."""

import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from dinojax.cells import Params, State
from dinojax.data import Batch
from dinojax.loss import summed_cross_entropy
from dinojax.model import CharModel

SMOOTHING = 0.999
"""Share of the old value in the smoothed loss at each step, as in the exercise."""

CHUNK_SIZE = 1_000
"""The most steps that run in one compiled call; between calls a run reports, saves and stops."""


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
    """A scalar to minimise, of `logits` [time, batch, vocab] and the rest [time, batch]."""

    def __call__(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array: ...


class TrainStep(Protocol):
    """One update from one batch: the new state, and the loss before the update."""

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]: ...


def clipped_sgd(learning_rate: float, clip_value: float) -> optax.GradientTransformation:
    """The exercise's optimizer: SGD on gradients clipped entry by entry to +-clip_value."""
    return optax.chain(optax.clip(clip_value), optax.sgd(learning_rate))


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
) -> TrainStep:
    """A step that reads a batch of names, each from its start, and updates the parameters.

    The recurrent state is the initial one at the start of each name. With `carry_state` it is the
    one that the batch before left, as in the exercise, whose batch is one name; no gradient flows
    across that border. (In a larger batch, a shorter row's state would run on over its padding.)
    """

    def batch_loss(params: Params, state: State, batch: Batch) -> tuple[jax.Array, State]:
        time = batch.weights.shape[0]
        # One past the last time step at which anything counts.
        length = jnp.max(jnp.where(batch.weights.any(axis=1), jnp.arange(1, time + 1), 0))
        state, logits = model.unroll(params, state, batch.inputs, length)
        return loss(logits, batch.targets, batch.weights), state

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        batch_shape = batch.inputs.shape[1:]
        first = state.recurrent_state if carry_state else model.initial_state(batch_shape)
        (value, last), gradients = jax.value_and_grad(batch_loss, has_aux=True)(
            state.params, first, batch
        )
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        new = TrainState(
            params=optax.apply_updates(state.params, updates),
            optimizer_state=optimizer_state,
            recurrent_state=last,
            key=state.key,
            step=state.step + 1,
            smoothed_loss=SMOOTHING * state.smoothed_loss + (1 - SMOOTHING) * value,
        )
        return new, value

    return train_step


def train_steps(
    train_step: TrainStep,
    state: TrainState,
    examples: Batch,
    order: jax.Array,
    num_steps: jax.Array | int | None = None,
) -> tuple[TrainState, jax.Array]:
    """Train on each row of `order` [steps, batch] in turn, or the first `num_steps`: a `lax.scan`.

    Row i holds the indices of the examples [time, num_examples] that step i trains on. Returns the
    new state and the losses [steps], NaN from `num_steps` on. Because `num_steps` is data and the
    compiled program the same for all, cutting a run into pieces changes no bit of it.
    """
    if num_steps is None:
        num_steps = len(order)

    def body(state: TrainState, x: tuple[jax.Array, jax.Array]) -> tuple[TrainState, jax.Array]:
        i, indices = x

        def train(state: TrainState) -> tuple[TrainState, jax.Array]:
            return train_step(state, jax.tree.map(lambda a: jnp.asarray(a)[:, indices], examples))

        def skip(state: TrainState) -> tuple[TrainState, jax.Array]:
            return state, jnp.full_like(state.smoothed_loss, jnp.nan)

        return lax.cond(i < num_steps, train, skip, state)

    return lax.scan(body, state, (jnp.arange(len(order)), order))


def epoch_order(key: jax.Array, epoch: jax.Array | int, num_examples: int) -> jax.Array:
    """Indices of all examples in the order in which an epoch reads them, [num_examples].

    A fresh permutation for each epoch, drawn from `fold_in(key, epoch)`.
    """
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)


def example_order(
    read_epoch: Callable[[int], np.ndarray], first: int, num: int, num_examples: int
) -> np.ndarray:
    """Indices of the examples that a run reads as its `first`, `first + 1`, .., [num].

    `read_epoch(epoch)` gives the `epoch_order` of each. One epoch follows the other without a gap,
    so that every example is read equally often, whatever the batch size.
    """
    epoch, offset = divmod(first, num_examples)
    num_epochs = -(-(offset + num) // num_examples)
    epochs = [read_epoch(epoch + i) for i in range(num_epochs)]
    return np.concatenate(epochs)[offset : offset + num]


def run(
    train_step: TrainStep, state: TrainState, examples: Batch, steps: int, batch_size: int = 1
) -> Iterator[tuple[TrainState, np.ndarray]]:
    """Train until `steps` steps are done; yields the state and the losses of the steps since.

    It yields every `CHUNK_SIZE` steps, or several times a second where that many take longer. The
    caller may stop at any time and go on from the last state: the run does not depend on it.

    Raises:
        FloatingPointError: a loss or a parameter is not finite; names the step. The states that
            came before are good.
    """
    compiled = jax.jit(partial(train_steps, train_step))
    draw_epoch = jax.jit(epoch_order, static_argnames="num_examples")
    num_examples = examples.inputs.shape[1]

    key = state.key

    # A long list takes many calls to read once, and a second to shuffle.
    @lru_cache(maxsize=2)
    def read_epoch(epoch: int) -> np.ndarray:
        return np.asarray(draw_epoch(key, epoch, num_examples=num_examples))

    step, size = int(state.step), 1
    while step < steps:
        started = time.monotonic()
        num = CHUNK_SIZE * batch_size
        order = example_order(read_epoch, step * batch_size, num, num_examples)
        # Up to a multiple of the largest size, so that reports fall on round numbers.
        num_steps = min(size, CHUNK_SIZE - step % CHUNK_SIZE, steps - step)
        order = order.reshape(CHUNK_SIZE, batch_size)
        state, losses = compiled(state, examples, order, num_steps)
        new_losses = np.asarray(losses)[:num_steps]
        _check_finite(state.params, new_losses, step)
        step += num_steps
        yield state, new_losses
        is_fast = time.monotonic() - started < 0.1
        size = min(size * 2, CHUNK_SIZE) if is_fast else max(1, size // 2)


def _check_finite(params: Params, losses: np.ndarray, step: int) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise FloatingPointError(f"the loss is {losses[bad[0]]} in step {step + int(bad[0]) + 1}")
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise FloatingPointError(f"a parameter is not finite after step {step + len(losses)}")
