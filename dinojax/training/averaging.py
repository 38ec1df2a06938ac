"""Averages of the parameters over many steps, which often predict better than those of the last."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from dinojax.config import TrainConfig
from dinojax.models.cells import Params
from dinojax.training.step import Average, Averaging, TrainState

NOT_BEGUN = np.iinfo(np.int32).max
"""The start of an average that has not begun: it equals the parameters."""


def init_average(params: Params, config: TrainConfig) -> Average | None:
    """The average before the first step: the parameters. None where none is taken."""
    if not config.is_averaged:
        return None
    return Average(params, jnp.array(NOT_BEGUN if config.average_trigger else 0, jnp.int32))


def make_averaging(config: TrainConfig) -> Averaging | None:
    """The rule of the average after a step; None where none is taken.

    With the parameters p_1, p_2, .. after each step, the average after step t is

        sum_i d^(t - i) p_i / sum_i d^(t - i)    over i = 1 .. t, with an `average_share`
        sum_i p_i / (t - T + 1)                  over i = T .. t, with an `average_trigger`

    Here d = 1 - 1 / (average_share * steps): the weights fall by a factor e over that share of the
    planned steps, in a run of any length.

    The first has its bias corrected as Adam's moments have, so that it does not depend on the
    random parameters of the start. The second is that of NT-ASGD (Merity et al., 2018), which
    begins at a validation after T steps; see `begun`. Its departure: the steps are those of the
    run's own optimizer and learning rate, not of SGD with a constant rate.

    The average of the optimizer `schedule_free` is its own.

    The others are kept as averages, not as sums: a + w (p - a) replaces a, where w is the weight of
    the latest parameters.
    """
    if not config.is_averaged:
        return None
    if config.optimizer == "schedule_free":
        return _of_optimizer
    num_averaged = config.average_share * config.steps
    log_decay = math.log1p(-1 / num_averaged) if num_averaged > 1 else -math.inf

    def averaging(state: TrainState) -> Average:
        assert state.average is not None
        start = state.average.start
        num = jnp.maximum(state.step - start, 1).astype(jnp.float32)
        # 1 - d by `expm1`, as d is close to 1.
        weight = jnp.expm1(log_decay) / jnp.expm1(num * log_decay) if num_averaged else 1 / num
        return Average(optax.incremental_update(state.params, state.average.params, weight), start)

    return averaging


def _of_optimizer(state: TrainState) -> Average:
    assert state.average is not None

    def is_its_state(x: Any) -> bool:
        return isinstance(x, contrib.ScheduleFreeState)

    states = jax.tree.leaves(state.optimizer_state, is_leaf=is_its_state)
    (found,) = filter(is_its_state, states)
    params = contrib.schedule_free_eval_params(found, state.params)
    return state.average._replace(params=params)


def begun(state: TrainState) -> TrainState:
    """The state with an average that begins with its parameters; on the host."""
    assert state.average is not None
    start = jnp.asarray(int(state.step) - 1, jnp.int32)
    return state._replace(average=state.average._replace(start=start))


def is_begun(state: TrainState) -> bool:
    """Whether the state has an average that has begun."""
    return state.average is not None and int(state.average.start) != NOT_BEGUN
