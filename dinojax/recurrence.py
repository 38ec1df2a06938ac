"""A cell along time: the plain scan, and the faster loop derived from it that training uses."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dinojax.cells import Activations, Cell, Params, State


def step(cell: Cell, params: Params, state: State, projected: Activations) -> State:
    """One time step of a cell: the new state."""
    return cell.update(state, cell.preactivate(params, state, projected))


def scan(
    cell: Cell,
    params: Params,
    state: State,
    projected: Activations,
    keep: jax.Array | None = None,
) -> tuple[State, jax.Array]:
    """A cell over `projected` [time, ...]: its last state, and outputs [time, ..., hidden].

    Where `keep` [time, ...] is 0, not 1, the state is set back to zero before the step.

    This is the definition; JAX differentiates it to any order (forward over reverse, too).
    """

    def kept_step(state: State, inputs: Any) -> tuple[State, jax.Array]:
        projected, keep = inputs
        state = step(cell, params, _kept(state, keep), projected)
        return state, cell.output(state)

    return lax.scan(kept_step, state, (projected, keep))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def loop(
    cell: Cell,
    params: Params,
    state: State,
    projected: Activations,
    length: jax.Array,
    keep: jax.Array | None = None,
) -> tuple[State, jax.Array]:
    """`scan` over the first `length` time steps only; outputs are zero from `length` on.

    The same values and gradients (reverse mode, first order) as `scan` on inputs cut to `length`,
    which must be from 0 to time and may change from call to call without compiling anew.
    """
    return _loop_forward(cell, params, state, projected, length, keep)[0]


# `scan` under `jax.grad` steps through the padding too and adds up the gradient of the weights at
# every time step. Here both loops end with the longest name, and that gradient is one product over
# all time steps after the loop: 1.3 times the steps a second in the exercise's recipe.
def _loop_forward(
    cell: Cell,
    params: Params,
    state: State,
    projected: Activations,
    length: jax.Array,
    keep: jax.Array | None,
) -> tuple[tuple[State, jax.Array], Any]:
    def record(state: State, projected: Activations) -> tuple[State, Activations]:
        preactivations = cell.preactivate(params, state, projected)
        return cell.update(state, preactivations), preactivations

    def body(t: jax.Array, carry: Any) -> Any:
        state, records = carry
        values = record(_kept(state, _at(keep, t)), _at(projected, t))
        return values[0], _put(records, values, t)

    time = jax.tree.leaves(projected)[0].shape[0]
    shapes = jax.eval_shape(record, state, jax.eval_shape(lambda: _at(projected, 0)))
    records = jax.tree.map(lambda x: jnp.zeros((time, *x.shape), x.dtype), shapes)
    last, (states, preactivations) = lax.fori_loop(0, length, body, (state, records))
    residuals = params, state, projected, states, preactivations, length, keep
    return (last, cell.output(states)), residuals


def _loop_backward(cell: Cell, residuals: Any, cotangents: Any) -> Any:
    params, first, projected, states, preactivations, length, keep = residuals
    d_state, d_outputs = cotangents
    # Those that the steps began from.
    states = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y[:-1]]), first, states)
    states = _kept(states, keep)

    def update(state: State, preactivations: Activations) -> tuple[State, jax.Array]:
        state = cell.update(state, preactivations)
        return state, cell.output(state)

    def body(i: jax.Array, carry: Any) -> Any:
        d_new_state, d_preactivations = carry
        t = length - 1 - i
        state, inputs = _at(states, t), _at(projected, t)
        _, pull_update = jax.vjp(update, state, _at(preactivations, t))
        _, pull_state = jax.vjp(lambda state: cell.preactivate(params, state, inputs), state)
        d_state, d_preactivation = pull_update((d_new_state, _at(d_outputs, t)))
        (d_state_too,) = pull_state(d_preactivation)
        d_state = _kept(jax.tree.map(jnp.add, d_state, d_state_too), _at(keep, t))
        return d_state, _put(d_preactivations, d_preactivation, t)

    zeros = jax.tree.map(jnp.zeros_like, preactivations)
    d_state, d_preactivations = lax.fori_loop(0, length, body, (d_state, zeros))
    _, pull_rest = jax.vjp(lambda p, x: cell.preactivate(p, states, x), params, projected)
    d_params, d_projected = pull_rest(d_preactivations)
    return d_params, d_state, d_projected, None, None


loop.defvjp(_loop_forward, _loop_backward)


def _kept(state: State, keep: jax.Array | None) -> State:
    if keep is None:
        return state
    return jax.tree.map(lambda x: x * keep[..., None].astype(x.dtype), state)


def _at(tree: Any, t: jax.Array | int) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, t, keepdims=False), tree)


def _put(buffers: Any, values: Any, t: jax.Array) -> Any:
    return jax.tree.map(
        lambda buffer, value: lax.dynamic_update_index_in_dim(buffer, value, t, 0), buffers, values
    )
