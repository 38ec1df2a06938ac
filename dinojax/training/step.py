"""One training step, and many of them in one compiled loop: pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dinojax import parallel
from dinojax.data.batches import Batch
from dinojax.models.cells import Params, State
from dinojax.models.model import CharModel
from dinojax.models.recurrence import reset
from dinojax.training.loss import summed_cross_entropy

SMOOTHING = 0.999
"""Share of the old value in the smoothed loss at each step, as in the exercise."""

SHUFFLES, DROPOUT, RESETS = range(3)
"""The purposes of a run's key; see `key_for`."""


class Average(NamedTuple):
    """An average of the parameters of many steps; see `averaging`."""

    params: Params
    start: jax.Array
    """It is taken over the parameters after each step that follows this one."""


class TrainState(NamedTuple):
    """All of a run that changes, as one pytree."""

    params: Params
    optimizer_state: optax.OptState
    recurrent_state: State
    """State of the model after the last batch, [batch, ...] leaf by leaf."""
    key: jax.Array
    """The run's key. It never changes: every random choice derives from it by `fold_in`."""
    step: jax.Array
    """Steps done."""
    smoothed_loss: jax.Array
    """Exponential average of the loss, nats."""
    average: Average | None = None
    """None for a run without an average."""

    @property
    def model_params(self) -> Params:
        """The parameters that are validated, sampled and saved as the model: any average of them.

        The optimizer works on `params`.
        """
        return self.params if self.average is None else self.average.params


Loss = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""From `logits` [time, batch, vocab], `targets` and `weights` [time, batch]: a total and a number.

Both are sums over rows. The loss of a batch is total / number, or zero if the number is zero."""


class StepInfo(NamedTuple):
    """What a step reports besides the new state."""

    loss: jax.Array
    """Of the batch, before the update."""
    gradients: Params
    """Of that loss, before clipping."""


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepInfo]]
"""Updates the parameters once, from one batch."""
Averaging = Callable[[TrainState], Average]
"""The average after a step, from the state after that step with the average before it."""
Summary = Callable[[Params], Any]
"""Reduces gradients to a few numbers."""


def key_for(key: jax.Array, purpose: int, number: jax.Array | int) -> jax.Array:
    """The key for one purpose of a run, at one step or epoch."""
    return jax.random.fold_in(jax.random.fold_in(key, purpose), number)


def init_train_state(
    key: jax.Array,
    params: Params,
    model: CharModel,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int = 1,
    smoothed_loss: float = 0.0,
) -> TrainState:
    """The state before the first step. The smoothed loss starts from `smoothed_loss`."""
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
    *,
    carry_state: bool = False,
    resets: bool = False,
    reset_rate: float = 0.0,
    averaging: Averaging | None = None,
    axis: str | None = None,
    replicas: str | None = None,
) -> TrainStep:
    """A step that reads a batch and updates the parameters.

    Each row starts from the initial recurrent state. With `carry_state` it starts from the state
    after the batch before, as windows of a text need it, and the exercise, whose batch is one name;
    no gradient flows across that border. (In a larger batch of names, the state of a shorter row
    would run on over its padding.) With `resets` the state is reset wherever "no character" is
    read, as packed names and windows need it. With `reset_rate`, the state of each row is reset
    before a batch with that probability, so that the model also learns to start within a text.
    With `averaging`, an average of the parameters is kept, on which the updates do not depend.

    With an `axis`, the rows of a batch are spread over the devices of a mesh (see
    `parallel.spread`). Values and gradients are those of the whole batch. `replicas` names the axis
    of a `jax.vmap` over replicas. All read as many time steps as the longest row of any of them
    has, so that their loops over time end together; what follows their own rows has no effect on
    the loss. If they carry the state, their rows must be equally long; otherwise the state after a
    batch, which nothing reads, is not kept.
    """

    def row_keys(state: TrainState, purpose: int, num: int) -> jax.Array:
        key = key_for(state.key, purpose, state.step)
        return jax.vmap(jax.random.fold_in, (None, 0))(key, parallel.row_numbers(num, axis))

    def total_loss(
        params: Params, state: State, batch: Batch, dropout_keys: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, State]]:
        time = batch.weights.shape[0]
        # One past the last time step at which anything counts.
        length = jnp.max(jnp.where(batch.weights.any(axis=1), jnp.arange(1, time + 1), 0))
        length = parallel.largest(parallel.largest(length, axis), replicas)
        state, logits = model.unroll(params, state, batch.inputs, length, resets, dropout_keys)
        total, num = loss(logits, batch.targets, batch.weights)
        return total, (jnp.asarray(num, total.dtype), state)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepInfo]:
        num = batch.inputs.shape[1]
        first = state.recurrent_state if carry_state else model.initial_state((num,))
        if reset_rate:
            keys = row_keys(state, RESETS, num)
            is_kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - reset_rate))(keys)
            first = reset(model.initial_state, first, ~is_kept)
        dropout_keys = row_keys(state, DROPOUT, num)
        (total, (num_counted, last)), gradients = jax.value_and_grad(total_loss, has_aux=True)(
            state.params, first, batch, dropout_keys
        )
        total, num_counted, gradients = parallel.total((total, num_counted, gradients), axis)
        num_counted = jnp.where(num_counted == 0, 1, num_counted)
        value, gradients = jax.tree.map(lambda x: x / num_counted, (total, gradients))
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        if replicas is not None and not carry_state:
            last = state.recurrent_state
        new = TrainState(
            params=optax.apply_updates(state.params, updates),
            optimizer_state=optimizer_state,
            recurrent_state=last,
            key=state.key,
            step=state.step + 1,
            smoothed_loss=SMOOTHING * state.smoothed_loss + (1 - SMOOTHING) * value,
            average=state.average,
        )
        if averaging:
            new = new._replace(average=averaging(new))
        return new, StepInfo(value, gradients)

    return train_step


class Chunk(NamedTuple):
    """What many training steps return."""

    state: TrainState
    losses: jax.Array
    """Of each step, [steps]; NaN for steps that were not run."""
    summary: Any
    """Of the gradients of the last step."""


def train_steps(
    train_step: TrainStep,
    state: TrainState,
    examples: Batch,
    order: jax.Array,
    num_steps: jax.Array | int | None = None,
    *,
    summarize: Summary = lambda gradients: None,
) -> Chunk:
    """Train by each entry of `order` [steps, ..] in turn, or by the first `num_steps`: one loop.

    Entry i holds the indices into `examples` of what step i reads (see `batches`). `num_steps` is
    data, so the compiled program is the same for any number: cutting a run into pieces changes no
    bit of it.
    """
    if num_steps is None:
        num_steps = len(order)

    def no_summary(gradients: Params) -> Any:
        return jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(summarize, gradients)
        )

    def body(i: jax.Array, chunk: Chunk) -> Chunk:
        indices = lax.dynamic_index_in_dim(order, i, keepdims=False)
        batch = jax.tree.map(lambda a: jnp.asarray(a)[..., indices], examples)
        state, info = train_step(chunk.state, batch)
        losses = lax.dynamic_update_index_in_dim(chunk.losses, info.loss, i, 0)
        # Only for the last step, the one that is reported: a norm costs time.
        summary = lax.cond(i == num_steps - 1, summarize, no_summary, info.gradients)
        return Chunk(state, losses, summary)

    losses = jnp.full(len(order), jnp.nan, state.smoothed_loss.dtype)
    return lax.fori_loop(0, num_steps, body, Chunk(state, losses, no_summary(state.params)))


def epoch_order(key: jax.Array, epoch: jax.Array | int, num: int) -> jax.Array:
    """A fresh permutation of `num` things for each epoch of a run with this key, [num]."""
    return jax.random.permutation(key_for(key, SHUFFLES, epoch), num)
