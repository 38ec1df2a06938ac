"""The optimizer and the learning-rate schedule that a configuration describes."""

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from dinojax.config import TrainConfig
from dinojax.messages import about
from dinojax.models import code
from dinojax.models.cells import Params
from dinojax.own import brief
from dinojax.training.muon import muon


def clipped_sgd(learning_rate: float, clip_value: float) -> optax.GradientTransformation:
    """The exercise's optimizer: SGD on gradients clipped entrywise to [-clip_value, clip_value]."""
    return optax.chain(optax.clip(clip_value), optax.sgd(learning_rate))


def make_schedule(config: TrainConfig) -> optax.Schedule:
    """The learning rate of each step, counted from 0.

    It rises linearly over the fraction `warmup` of the steps, then stays constant or falls along
    half a cosine. From a constant rate r, it falls over the fraction `cooldown` of the steps, at
    the end: r (1 - sqrt(s)) after a share s of them (Hägele et al., 2024), so that the schedule is
    that of warm-up, stable phase and decay (WSD; Hu et al., 2024).
    """
    rises = round(config.warmup * config.steps)
    stays_or_falls = (
        optax.constant_schedule(config.learning_rate)
        if config.schedule == "constant"
        else optax.cosine_decay_schedule(config.learning_rate, max(1, config.steps - rises))
    )
    rising = optax.linear_schedule(0.0, config.learning_rate, rises)
    schedules, ends = [rising, stays_or_falls], [rises]
    if config.cooldown:
        num = max(1, config.steps - config.cooldown_start)
        schedules.append(
            lambda step: config.learning_rate * (1 - jnp.sqrt(jnp.clip(step / num, 0, 1)))
        )
        ends.append(config.cooldown_start)
    return optax.join_schedules(schedules, ends)


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Clipping by value, clipping by norm, and the optimizer with its schedule, in this order.

    That of `schedule_free` is AdamW without momentum at points between its steps and their average
    (Defazio et al., 2024), which is the model; see `averaging`.

    A function of the user's own gets the learning rate, a number or a schedule, and returns the
    optimizer, any `optax.GradientTransformation`; see `models.code`.

    Raises:
        ValueError: it returns another thing, or raises an exception.
    """
    rate = config.learning_rate if config.has_constant_rate else make_schedule(config)
    optimizers = {
        "sgd": lambda: optax.sgd(rate),
        "momentum": lambda: optax.sgd(rate, momentum=0.9, nesterov=True),
        "rmsprop": lambda: optax.rmsprop(rate),
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(rate, weight_decay=config.weight_decay),
        "lion": lambda: optax.lion(rate, weight_decay=config.weight_decay),
        "schedule_free": lambda: contrib.schedule_free_adamw(
            rate, weight_decay=config.weight_decay
        ),
        "muon": lambda: muon(rate, config.weight_decay, config.hidden_size),
    }
    parts = [optimizers.get(config.optimizer, lambda: _own_optimizer(config.optimizer, rate))()]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.clip_value:
        parts.insert(0, optax.clip(config.clip_value))
    return optax.chain(*parts)


def _own_optimizer(value: str, rate: float | optax.Schedule) -> optax.GradientTransformation:
    make = code.load(value)
    with about(f"optimizer: {brief(value)}"):
        optimizer = code.call(value, make, rate)
        if not isinstance(optimizer, optax.GradientTransformation):
            got = type(optimizer).__name__
            raise ValueError(f"expected an optax.GradientTransformation, got {got}")
    return optimizer


def describe_gradients(
    gradients: Params, clip_value: float = 0.0, clip_norm: float = 0.0
) -> dict[str, jax.Array]:
    """The global norm of the gradients, and the fraction of their entries that clipping changes.

    A bound of zero means no clipping. Clipping by value comes first, as in `make_optimizer`.
    """
    leaves = jax.tree.leaves(gradients)
    norm = optax.tree_utils.tree_norm(gradients)
    num = sum(leaf.size for leaf in leaves)
    clipped = jnp.zeros((), jnp.float32)
    if clip_value:
        sizes = [jnp.sum(jnp.abs(leaf) > clip_value) for leaf in leaves]
        clipped = sum(sizes, jnp.zeros((), int)).astype(jnp.float32) / num
        gradients = jax.tree.map(lambda x: jnp.clip(x, -clip_value, clip_value), gradients)
    if clip_norm:
        clipped = jnp.where(optax.tree_utils.tree_norm(gradients) > clip_norm, 1, clipped)
    return {"gradient_norm": norm, "clipped_share": clipped}
