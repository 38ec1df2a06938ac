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

from dinojax.batches import Batch, Dataset
from dinojax.cells import Params, State
from dinojax.config import TrainConfig
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
    """A scalar to minimise, of `logits` [time, batch, vocab] and the rest [time, batch]."""

    def __call__(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array: ...


class TrainStep(Protocol):
    """One update from one batch: the new state, and the loss before the update."""

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]: ...


def key_for(key: jax.Array, purpose: int, number: jax.Array | int) -> jax.Array:
    """The key for one purpose of a run, at one step or epoch."""
    return jax.random.fold_in(jax.random.fold_in(key, purpose), number)


def clipped_sgd(learning_rate: float, clip_value: float) -> optax.GradientTransformation:
    """The exercise's optimizer: SGD on gradients clipped entry by entry to +-clip_value."""
    return optax.chain(optax.clip(clip_value), optax.sgd(learning_rate))


def make_optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """The optimizer that a configuration describes, for a run of so many steps.

    Gradients are clipped first, entry by entry or by their norm. The learning rate rises in a
    straight line over the share `warmup` of the steps, then stays or falls along half a cosine.
    """
    rises = round(config.warmup * steps)
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, rises),
            optax.constant_schedule(config.learning_rate)
            if config.schedule == "constant"
            else optax.cosine_decay_schedule(config.learning_rate, max(1, steps - rises)),
        ],
        [rises],
    )
    is_constant = config.schedule == "constant" and not rises
    rate = config.learning_rate if is_constant else schedule
    optimizers = {
        "sgd": lambda: optax.sgd(rate),
        "momentum": lambda: optax.sgd(rate, momentum=0.9, nesterov=True),
        "rmsprop": lambda: optax.rmsprop(rate),
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(rate, weight_decay=config.weight_decay),
        "lion": lambda: optax.lion(rate, weight_decay=config.weight_decay),
    }
    parts = [optimizers[config.optimizer]()]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.clip_value:
        parts.insert(0, optax.clip(config.clip_value))
    return optax.chain(*parts)


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
) -> TrainStep:
    """A step that reads a batch and updates the parameters.

    Each row starts from the initial recurrent state. With `carry_state` it starts from the one that
    the batch before left: for windows of a text, and for the exercise, whose batch is one name; no
    gradient flows across that border. (With names in a larger batch, a shorter row's state would
    run on over its padding.) With `resets` the state is set back wherever "no character" is read:
    for packed names and for windows. With `reset_rate` it is set back before a batch, row by row,
    with that probability, so that the model learns to start in the midst of a text too.
    """

    def batch_loss(
        params: Params, state: State, batch: Batch, dropout_key: jax.Array
    ) -> tuple[jax.Array, State]:
        time = batch.weights.shape[0]
        # One past the last time step at which anything counts.
        length = jnp.max(jnp.where(batch.weights.any(axis=1), jnp.arange(1, time + 1), 0))
        state, logits = model.unroll(params, state, batch.inputs, length, resets, dropout_key)
        return loss(logits, batch.targets, batch.weights), state

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
        batch_shape = batch.inputs.shape[1:]
        first = state.recurrent_state if carry_state else model.initial_state(batch_shape)
        if reset_rate:
            key = key_for(state.key, RESETS, state.step)
            is_kept = jax.random.bernoulli(key, 1 - reset_rate, (*batch_shape, 1))
            first = jax.tree.map(lambda x: x * is_kept.astype(x.dtype), first)
        dropout_key = key_for(state.key, DROPOUT, state.step)
        (value, last), gradients = jax.value_and_grad(batch_loss, has_aux=True)(
            state.params, first, batch, dropout_key
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
    """Train by each entry of `order` [steps, ..] in turn, or the first `num_steps`: a `lax.scan`.

    Entry i holds the indices into `examples` of what step i reads (see `batches`). Returns the
    new state and the losses [steps], NaN from `num_steps` on. Because `num_steps` is data and the
    compiled program the same for all, cutting a run into pieces changes no bit of it.
    """
    if num_steps is None:
        num_steps = len(order)

    def body(state: TrainState, x: tuple[jax.Array, jax.Array]) -> tuple[TrainState, jax.Array]:
        i, indices = x

        def train(state: TrainState) -> tuple[TrainState, jax.Array]:
            return train_step(state, jax.tree.map(lambda a: jnp.asarray(a)[..., indices], examples))

        def skip(state: TrainState) -> tuple[TrainState, jax.Array]:
            return state, jnp.full_like(state.smoothed_loss, jnp.nan)

        return lax.cond(i < num_steps, train, skip, state)

    return lax.scan(body, state, (jnp.arange(len(order)), order))


def epoch_order(key: jax.Array, epoch: jax.Array | int, num: int) -> jax.Array:
    """A fresh permutation of `num` things for each epoch of a run with this key, [num]."""
    return jax.random.permutation(key_for(key, SHUFFLES, epoch), num)


def run(
    train_step: TrainStep, state: TrainState, dataset: Dataset, steps: int
) -> Iterator[tuple[TrainState, np.ndarray]]:
    """Train until `steps` steps are done; yields the state and the losses of the steps since.

    It yields every `CHUNK_SIZE` steps, or fewer where steps are large, and several times a second
    where these take longer. The caller may stop at any time and go on from the last state: the run
    does not depend on it.

    Raises:
        FloatingPointError: a loss or a parameter is not finite; names the step. The states that
            came before are good.
    """
    compiled = jax.jit(partial(train_steps, train_step))
    draw_order = jax.jit(epoch_order, static_argnames="num")
    # Once, not at every call.
    examples = jax.device_put(dataset.examples)
    key = state.key

    # A long list takes many calls to read once, and a second to shuffle.
    @lru_cache(maxsize=2)
    def read_epoch(epoch: int) -> np.ndarray:
        return dataset.arrange(np.asarray(draw_order(key, epoch, num=dataset.num_shuffled)))

    first = dataset.examples.inputs[..., read_epoch(0)[0]]
    chunk_size = max(1, min(CHUNK_SIZE, CHUNK_CHARACTERS // first.size))
    step, size = int(state.step), 1
    while step < steps:
        started = time.monotonic()
        # Up to a multiple of the largest size, so that reports fall on round numbers.
        num_steps = min(size, chunk_size - step % chunk_size, steps - step)
        order = _read(read_epoch, step, chunk_size, dataset.steps_per_epoch)
        state, losses = compiled(state, examples, order, num_steps)
        new_losses = np.asarray(losses)[:num_steps]
        _check_finite(state.params, new_losses, step)
        step += num_steps
        yield state, new_losses
        is_fast = time.monotonic() - started < 0.1
        size = min(size * 2, chunk_size) if is_fast else max(1, size // 2)


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
