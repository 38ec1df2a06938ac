"""A cell along time: the plain scan, and the faster loop derived from it that training uses."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dinojax.models.cells import Activations, Cell, InitialState, Params, State
from dinojax.models.products import are_ids


def step(cell: Cell, params: Params, state: State, projected: Activations) -> State:
    """The state of a cell after one more time step."""
    return cell.update(state, cell.preactivate(params, state, projected))


def choose_rows(condition: jax.Array, on_true: State, on_false: State) -> State:
    """Row by row, `on_true` where `condition` [...] is true, `on_false` elsewhere.

    Both are pytrees of arrays [..., *features]. The values that are not chosen have no effect, not
    even as NaN.
    """

    def choose(x: jax.Array, y: jax.Array) -> jax.Array:
        rows = condition.reshape(condition.shape + (1,) * (y.ndim - condition.ndim))
        return jnp.where(rows, x, y)

    return jax.tree.map(choose, on_true, on_false)


def reset(initial_state: InitialState, state: State, resets: jax.Array | None) -> State:
    """`state`, with the initial state in the rows where `resets` [...] is true.

    `initial_state` is that of a cell, a layer or a model. None resets no row.
    """
    if resets is None:
        return state
    return choose_rows(resets, initial_state(resets.shape), state)


def scan(
    cell: Cell,
    params: Params,
    state: State,
    projected: Activations,
    resets: jax.Array | None = None,
    unroll: int = 1,
) -> tuple[State, jax.Array]:
    """Run a cell over `projected` [time, ...]; see `Cell.project`.

    Returns the last state, and the outputs [time, ..., hidden]. Where `resets` [time, ...] is true,
    the state is reset before the step. XLA compiles `unroll` steps as one step of its loop.

    This is the definition of a cell along time. JAX can differentiate it to any order.
    """

    def reset_and_step(state: State, inputs: Any) -> tuple[State, jax.Array]:
        projected, resets = inputs
        state = step(cell, params, reset(cell.initial_state, state, resets), projected)
        return state, cell.output(state)

    return lax.scan(reset_and_step, state, (projected, resets), unroll=unroll)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def loop(
    cell: Cell,
    params: Params,
    state: State,
    projected: Activations,
    length: jax.Array,
    resets: jax.Array | None = None,
) -> tuple[State, jax.Array]:
    """`scan` over the first `length` time steps only; later outputs are zero.

    Values and gradients are those of `scan` on inputs cut to `length`, from 0 to time, which may
    change from call to call without a new compilation. It can be differentiated once, in reverse
    mode.
    """
    return _loop_forward(cell, params, state, projected, length, resets)[0]


class _Records(NamedTuple):
    """What the forward loop keeps of each time step, [time, ...] leaf by leaf."""

    states: State
    """Before the step, after any reset."""
    between: list[tuple[State, Activations]]
    """What each part of `preactivate` but the first reads."""
    preactivations: Activations
    outputs: jax.Array


# Under `jax.grad`, `scan` also steps through the padding, and adds to the gradient of the weights
# at each time step. Here both loops end at `length`, and the gradient of the weights is one product
# over all time steps, after the loop. It needs the gradients of what each part of `preactivate`
# returns, which the loop has computed.
#
# The gradients need the state before each step. It is recorded even though most of it is the output
# of the step before: shifting all outputs by one step would read and write them once more.
def _loop_forward(
    cell: Cell,
    params: Params,
    state: State,
    projected: Activations,
    length: jax.Array,
    resets: jax.Array | None,
) -> tuple[tuple[State, jax.Array], Any]:
    def record(state: State, projected: Activations) -> tuple[State, _Records]:
        values: Any = state, projected
        between = []
        for part in _parts(cell):
            values = part(params, *values)
            between.append(values)
        preactivations = between.pop()
        new_state = cell.update(state, preactivations)
        return new_state, _Records(state, between, preactivations, cell.output(new_state))

    def body(t: jax.Array, carry: tuple[State, _Records]) -> tuple[State, _Records]:
        state, records = carry
        first = reset(cell.initial_state, state, _at(resets, t))
        state, values = record(first, _at(projected, t))
        return state, _put(records, values, t)

    time = jax.tree.leaves(projected)[0].shape[0]
    shapes = jax.eval_shape(record, state, jax.eval_shape(lambda: _at(projected, 0)))[1]
    records = jax.tree.map(lambda x: jnp.zeros((time, *x.shape), x.dtype), shapes)
    last, records = lax.fori_loop(0, length, body, (state, records))
    return (last, records.outputs), (params, projected, records, length, resets)


class _Backward(NamedTuple):
    """What the backward loop carries."""

    d_state: State
    """Gradient of the state after the step."""
    preactivations: Activations
    """Of the step, read ahead: XLA copies an array that is read beside where it is written."""
    mixed: Activations
    """Preactivations of earlier steps and gradients of later ones, [time, ...]: no array of its own
    for the gradients has to be filled with zeros first."""
    d_between: list[tuple[State, Activations]]
    """Gradients of `_Records.between`, of later steps."""


def _loop_backward(cell: Cell, residuals: Any, cotangents: Any) -> Any:
    params, projected, records, length, resets = residuals
    d_last, d_outputs = cotangents
    first, *others = _parts(cell)

    def update(state: State, preactivations: Activations) -> tuple[State, jax.Array]:
        state = cell.update(state, preactivations)
        return state, cell.output(state)

    def body(i: jax.Array, carry: _Backward) -> _Backward:
        t = length - 1 - i
        state, inputs = _at(records.states, t), _at(projected, t)
        _, pull_update = jax.vjp(update, state, carry.preactivations)
        _, pull_state = jax.vjp(lambda state: first(params, state, inputs), state)
        d_state, d_preactivations = pull_update((carry.d_state, _at(d_outputs, t)))
        d_values: Any = d_preactivations
        d_between: list[tuple[State, Activations]] = []
        for part, values in zip(others[::-1], _at(records.between, t)[::-1], strict=True):
            d_values = jax.vjp(partial(part, params), *values)[1](d_values)
            d_between.insert(0, d_values)
        (d_state_too,) = pull_state(d_values)
        d_state = jax.tree.map(jnp.add, d_state, d_state_too)
        if resets is not None:
            # Nothing flows back to the state that a reset replaced.
            d_state = choose_rows(_at(resets, t), jax.tree.map(jnp.zeros_like, d_state), d_state)
        mixed = _put(carry.mixed, d_preactivations, t)
        put = _put(carry.d_between, d_between, t)
        return _Backward(d_state, _at(mixed, jnp.maximum(t - 1, 0)), mixed, put)

    last = _at(records.preactivations, jnp.maximum(length - 1, 0))
    zeros = jax.tree.map(jnp.zeros_like, records.between)
    start = _Backward(d_last, last, records.preactivations, zeros)
    d_state, _, d_preactivations, d_between = lax.fori_loop(0, length, body, start)
    if not are_ids(jax.tree.leaves(projected)[0]):
        # If `preactivate` is not linear, NaN past the length would be NaN in the gradient too.
        is_read = jnp.arange(jax.tree.leaves(projected)[0].shape[0]) < length
        projected = choose_rows(is_read, projected, jax.tree.map(jnp.zeros_like, projected))

    def all_parts(params: Params, projected: Activations) -> list[Any]:
        read = [(records.states, projected), *records.between]
        return [part(params, *values) for part, values in zip(_parts(cell), read, strict=True)]

    _, pull_rest = jax.vjp(all_parts, params, projected)
    d_params, d_projected = pull_rest([*d_between, d_preactivations])
    return d_params, d_state, d_projected, None, None


loop.defvjp(_loop_forward, _loop_backward)


def _parts(cell: Cell) -> tuple[Callable[..., Any], ...]:
    return cell.parts or (cell.preactivate,)


def _at(tree: Any, t: jax.Array | int) -> Any:
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, t, keepdims=False), tree)


def _put(buffers: Any, values: Any, t: jax.Array) -> Any:
    return jax.tree.map(
        lambda buffer, value: lax.dynamic_update_index_in_dim(buffer, value, t, 0), buffers, values
    )
