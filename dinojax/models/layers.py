"""One recurrent layer over a whole sequence, however it runs."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from dinojax.config import CellName
from dinojax.messages import about
from dinojax.models import code, linear_recurrence, recurrence
from dinojax.models.cells import CELLS, Activations, Cell, Init, InitialState, Params, State
from dinojax.models.linear_cells import LINEAR_CELLS, LinearCell
from dinojax.models.mogrifier import mogrifier
from dinojax.models.products import ProductDType, are_ids
from dinojax.own import brief

Step = Callable[[Params, State, jax.Array], tuple[State, jax.Array]]
"""Reads one time step, ids [...] or vectors [..., features].

Returns the new state, of the same structure as the old one, and the outputs [..., features]."""


Run = Callable[
    [Cell, Params, State, Activations, jax.Array, jax.Array | None], tuple[State, jax.Array]
]
"""Runs a cell over some time steps: `recurrence.loop`, or another that computes the same."""


class LayerUnroll(Protocol):
    """Repeats `step` over `inputs`: ids [time, ...] or vectors [time, ..., features].

    Returns the last state, and the outputs [time, ..., output_size]. Where `resets` [time, ...] is
    true, the state is reset before the step. With a `length` from 0 to time, which may be traced,
    only so many steps run: the state is the one after them, and later outputs mean nothing.
    """

    def __call__(
        self,
        params: Params,
        state: State,
        inputs: jax.Array,
        length: jax.Array | None = None,
        resets: jax.Array | None = None,
    ) -> tuple[State, jax.Array]: ...


class Layer(NamedTuple):
    """One layer of a model, as pure functions. How `unroll` runs is its own affair."""

    output_size: int
    """Features of the outputs."""
    init: Init
    initial_state: InitialState
    step: Step
    unroll: LayerUnroll


def from_cell(cell: Cell, run: Run = recurrence.loop) -> Layer:
    """The layer that runs a cell step by step.

    Without a `length` it unrolls by `recurrence.scan`, which JAX can differentiate to any order;
    with one by `run`, which trains faster.
    """

    def step(params: Params, state: State, inputs: jax.Array) -> tuple[State, jax.Array]:
        state = recurrence.step(cell, params, state, cell.project(params, inputs))
        return state, cell.output(state)

    def unroll(
        params: Params,
        state: State,
        inputs: jax.Array,
        length: jax.Array | None = None,
        resets: jax.Array | None = None,
    ) -> tuple[State, jax.Array]:
        projected = cell.project(params, inputs)
        if length is None:
            return recurrence.scan(cell, params, state, projected, resets)
        return run(cell, params, state, projected, length, resets)

    return Layer(cell.hidden_size, cell.init, cell.initial_state, step, unroll)


def from_linear_cell(
    cell: LinearCell, run: linear_recurrence.Run = linear_recurrence.by_platform
) -> Layer:
    """The layer that computes the decays and terms of all time steps at once, and `run`s them."""

    def step(params: Params, state: State, inputs: jax.Array) -> tuple[State, jax.Array]:
        projected = cell.project(params, inputs)
        decay, term = cell.coefficients(params, projected)
        state = linear_recurrence.advance(decay, state, term)
        return state, cell.output(params, state, projected)

    def unroll(
        params: Params,
        state: State,
        inputs: jax.Array,
        length: jax.Array | None = None,
        resets: jax.Array | None = None,
    ) -> tuple[State, jax.Array]:
        time = len(inputs)
        if length is not None and not are_ids(inputs):
            # In the gradient of the kernel, zero times NaN would be NaN.
            is_read = (jnp.arange(time) < length).reshape(-1, *[1] * (inputs.ndim - 1))
            inputs = jnp.where(is_read, inputs, 0)
        projected = cell.project(params, inputs)
        decays, terms = cell.coefficients(params, projected)
        if resets is not None:
            decays = tuple(jnp.where(resets[..., None], 0, x) for x in decays)
        states = linear_recurrence.unroll(run, decays, terms, state)
        outputs = cell.output(params, states, projected)
        last = time if length is None else length
        return jax.tree.map(lambda first, rest: _after(last, first, rest), state, states), outputs

    return Layer(cell.hidden_size, cell.init, cell.initial_state, step, unroll)


def make_layer(
    name: CellName | str,
    *sizes: int,
    run: Run = recurrence.loop,
    product_dtype: ProductDType = None,
    mogrifier_rounds: int = 0,
    mogrifier_rank: int = 24,
    **options: Any,
) -> Layer:
    """The layer of the cell of this name, with its arguments; see `CELLS` and `LINEAR_CELLS`.

    The name may also be that of a cell of the user's own; see `own_cell`. A `Cell` trains by `run`;
    see `from_cell`. An LSTM may have `mogrifier_rounds`; see `mogrifier`.
    """
    makers: Mapping[str, Callable[..., Cell | LinearCell]] = {**CELLS, **LINEAR_CELLS}
    cell = makers.get(name, partial(own_cell, name))(*sizes, product_dtype=product_dtype, **options)
    if not isinstance(cell, Cell):
        return from_linear_cell(cell)
    if mogrifier_rounds:
        options = {"rounds": mogrifier_rounds, "rank": mogrifier_rank}
        cell = mogrifier(cell, sizes[0], product_dtype=product_dtype, **options)
    return from_cell(cell, run)


def own_cell(
    value: str, input_size: int, hidden_size: int, *, product_dtype: ProductDType = None
) -> Cell | LinearCell:
    """The cell that the function of the user's own in a setting returns; see `models.code`.

    The function gets the input size and the hidden size, and `product_dtype` if that is not None.

    Raises:
        ValueError: it cannot be called so, or does not return a cell.
    """
    make = code.load(value)
    options = {} if product_dtype is None else {"product_dtype": product_dtype}
    with about(f"cell: {brief(value)}"):
        cell = code.call(value, make, input_size, hidden_size, **options)
        if not isinstance(cell, Cell | LinearCell):
            got = type(cell).__name__
            raise ValueError(f"expected a Cell or a LinearCell of dinojax.models, got {got}")
    return cell


def _after(length: jax.Array | int, start: jax.Array, states: jax.Array) -> jax.Array:
    """The state after `length` steps, from that at the start and those after each step."""
    all_states = jnp.concatenate([start[None], states])
    return lax.dynamic_index_in_dim(all_states, length, keepdims=False)
