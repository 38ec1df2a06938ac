"""One recurrent layer over a whole sequence, however it runs."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax

from dinojax.models import recurrence
from dinojax.models.cells import Activations, Cell, Init, InitialState, Params, State

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
