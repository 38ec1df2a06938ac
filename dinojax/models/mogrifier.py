"""The Mogrifier: the input and the state of an LSTM gate each other before each step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from dinojax.models.cells import Activations, Cell, Params, State
from dinojax.models.gates import sigmoid
from dinojax.models.products import ProductDType, affine, are_ids, linear


def mogrifier(
    cell: Cell, input_size: int, *, rounds: int, rank: int, product_dtype: ProductDType = None
) -> Cell:
    """An LSTM whose input x and output h gate each other first (Melis et al., 2020).

        x <- 2 sigmoid(h Q_1 + b_1) * x
        h <- 2 sigmoid(x R_2 + b_2) * h        and so on in turn, `rounds` in all

    Each Q [hidden, input] and R [input, hidden] is a product of two matrices of this `rank`. The
    input is a vector in all layers; that of the first is one-hot, so that a character is read with
    a weight, and gates h by a vector of its own. The paper reads an embedding instead.

    Parameters: those of the cell, and `rounds`, a list with `down` [.., rank] and `up` [rank, ..],
    uniform as in Glorot & Bengio (2010), and `bias`, zero, of each round. `cell` has the state
    (c, h), as `lstm` has; c takes no part.

    Raises:
        ValueError: the cell has another state.
    """
    if not isinstance(jax.eval_shape(cell.initial_state, ()), tuple):
        raise ValueError("Mogrifier rounds: expected a cell with the state of an LSTM, (c, h)")

    def init(key: jax.Array) -> Params:
        key_cell, *key_rounds = jax.random.split(key, 1 + rounds)
        params, glorot = cell.init(key_cell), jax.nn.initializers.glorot_uniform()
        dtype = params["bias"].dtype

        def draw(i: int, key: jax.Array) -> Params:
            sizes = cell.hidden_size, input_size
            read, gated = sizes[::-1] if i % 2 else sizes
            key_down, key_up = jax.random.split(key)
            return {
                "down": glorot(key_down, (read, rank), dtype),
                "up": glorot(key_up, (rank, gated), dtype),
                "bias": jnp.zeros(gated, dtype),
            }

        return params | {"rounds": [draw(i, each) for i, each in enumerate(key_rounds)]}

    def project(params: Params, inputs: jax.Array) -> Activations:
        if not are_ids(inputs):
            return inputs
        return jax.nn.one_hot(inputs, input_size, dtype=params["bias"].dtype)

    def gated(own: Params, read: jax.Array, values: jax.Array) -> jax.Array:
        low = linear(own["down"], read, product_dtype)
        return 2 * sigmoid(affine(own["up"], own["bias"], low, product_dtype)) * values

    def take_round(
        i: int, params: Params, state: State, inputs: jax.Array
    ) -> tuple[State, jax.Array]:
        own, (memory, hidden) = params["rounds"][i], state
        if i % 2:
            return (memory, gated(own, inputs, hidden)), inputs
        return state, gated(own, hidden, inputs)

    def after_rounds(params: Params, state: State, inputs: jax.Array) -> Activations:
        return cell.preactivate(params, state, cell.project(params, inputs))

    parts: tuple[Callable[..., Any], ...]
    parts = *(partial(take_round, i) for i in range(rounds)), after_rounds

    def preactivate(params: Params, state: State, projected: Activations) -> Activations:
        values: Any = state, projected
        for part in parts:
            values = part(params, *values)
        return values

    return cell._replace(
        init=init, project=project, preactivate=preactivate, product=None, parts=parts
    )
