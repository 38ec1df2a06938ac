"""Recurrent cells: one time step of a layer.

A cell is a named tuple of pure functions. A time step has three parts, so that each can run where
it is cheapest: `project` needs no state and runs over all time steps at once, `preactivate` has the
only matrix product that depends on the state, and `update` is arithmetic without parameters. To
add a cell, write another function that returns a `Cell`.

All functions accept any leading batch dimensions, written `...` in shapes. The `dtype` of a cell is
that of its parameters and its state; for its `product_dtype` see `products.linear`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.models.gates import (
    Gate,
    contributions,
    init_gates,
    input_contributions,
    project_gates,
    sigmoid,
)
from dinojax.models.products import ProductDType, affine, linear, per_gate

Params = Any
"""A pytree of parameters."""
State = Any
"""A pytree of arrays [..., hidden]."""
Activations = Any
"""A pytree of arrays [..., features]."""
Init = Callable[[jax.Array], Params]
"""Draws initial parameters, by a key."""
InitialState = Callable[[tuple[int, ...]], State]
"""The state before the first input, for a batch of the given shape."""


class Product(NamedTuple):
    """The matrix product of a step, for cells in which the state takes part in no other.

    `preactivate(params, state, projected)` is then `preactivate(params, zeros, projected)` plus, in
    each leaf named here, the output of the state times its share of the columns of
    `params["recurrent_kernel"]`. The output of such a cell is a leaf of its state, and its initial
    state zero.
    """

    leaves: tuple[int, ...]
    """The leaves of the preactivations to which the product is added, in the order of columns."""
    dtype: ProductDType
    """Type of its factors."""


class Cell(NamedTuple):
    """A recurrent cell.

    new_state = update(state, preactivate(params, state, project(params, inputs)))
    """

    hidden_size: int
    """Features of the output."""
    init: Init
    initial_state: InitialState
    project: Callable[[Params, jax.Array], Activations]
    """The part of a step that depends on inputs alone: ids [...] or vectors [..., features].

    A cell may return ids unchanged and look them up in `preactivate`."""
    preactivate: Callable[[Params, State, Activations], Activations]
    """The arguments of the nonlinearities, from the state and the projected inputs."""
    update: Callable[[State, Activations], State]
    """The new state, with the structure of the old one, from that and the preactivations."""
    output: Callable[[State], jax.Array]
    """The part of a state, [..., hidden], that the next layer reads and that pictures show."""
    product: Product | None = None
    """Where the state enters, so that a kernel can run all time steps at once; see `fused`."""
    parts: tuple[Callable[..., Any], ...] = ()
    """`preactivate` as functions that run one after another, for a cell in which one product reads
    the result of another: `recurrence.loop` then computes each product of the gradient only once.

    Each takes `params`, a state and activations. The first reads what `preactivate` does, and each
    of the others what the one before returns, all of it floating-point."""


def vanilla(
    input_size: int,
    hidden_size: int,
    dtype: DTypeLike = jnp.float32,
    product_dtype: ProductDType = None,
) -> Cell:
    """The simple recurrent cell of Elman (1990), as the dinosaur-name exercise uses it.

        h_t = tanh(x_t W_x + b + h_{t-1} W_h)

    Vectors are rows: the exercise writes W_x and W_h transposed. The state is h [..., hidden],
    initially zero, and is also the output. Parameters: `input_kernel` W_x [input, hidden],
    `recurrent_kernel` W_h [hidden, hidden], `bias` b [hidden]; see `init_gates` for their initial
    values. The exercise draws both kernels from N(0, 0.01^2) instead.
    """

    def init(key: jax.Array) -> Params:
        return init_gates(key, input_size, hidden_size, 1, dtype)

    def initial_state(batch_shape: tuple[int, ...]) -> State:
        return jnp.zeros((*batch_shape, hidden_size), dtype)

    def project(params: Params, inputs: jax.Array) -> Activations:
        return affine(params["input_kernel"], params["bias"], inputs, product_dtype)

    def preactivate(params: Params, state: State, projected: Activations) -> Activations:
        return projected + linear(params["recurrent_kernel"], state, product_dtype)

    def update(state: State, preactivations: Activations) -> State:
        del state
        return jnp.tanh(preactivations)

    def output(state: State) -> jax.Array:
        return state

    product = Product((0,), product_dtype)
    return Cell(hidden_size, init, initial_state, project, preactivate, update, output, product)


def gru(
    input_size: int,
    hidden_size: int,
    dtype: DTypeLike = jnp.float32,
    product_dtype: ProductDType = None,
    *,
    gate: Gate = sigmoid,
) -> Cell:
    """The gated recurrent unit of Cho et al. (2014), in the form that cuDNN and PyTorch compute.

        r_t = sigmoid(x_t W_xr + b_r + h_{t-1} W_hr)                  reset gate
        z_t = sigmoid(x_t W_xz + b_z + h_{t-1} W_hz)                  update gate
        n_t = tanh(x_t W_xn + b_n + r_t * (h_{t-1} W_hn + b_hn))      candidate
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}

    `gate` takes the place of sigmoid. The reset gate acts after the matrix product, so that one
    product serves all gates; in the paper it acts before, see `gru_reset_before`. The state is h
    [..., hidden], initially zero, and is also the output. Parameters, with the gates side by side
    in the order r, z, n: `input_kernel` [input, 3 hidden], `recurrent_kernel` [hidden, 3 hidden],
    `bias` [3 hidden], and `candidate_bias` b_hn [hidden], initially zero; see `init_gates` for the
    other initial values.
    """

    def init(key: jax.Array) -> Params:
        params = init_gates(key, input_size, hidden_size, 3, dtype)
        return params | {"candidate_bias": jnp.zeros(hidden_size, dtype)}

    def initial_state(batch_shape: tuple[int, ...]) -> State:
        return jnp.zeros((*batch_shape, hidden_size), dtype)

    def project(params: Params, inputs: jax.Array) -> Activations:
        return project_gates(params, inputs, 3, product_dtype)

    def preactivate(params: Params, state: State, projected: Activations) -> Activations:
        inputs, recurrent = contributions(params, state, projected, 3, product_dtype)
        bias = jnp.broadcast_to(params["candidate_bias"], recurrent[2].shape)
        return inputs[0] + recurrent[0], inputs[1] + recurrent[1], inputs[2], recurrent[2] + bias

    def update(state: State, preactivations: Activations) -> State:
        reset, update, candidate, recurrent_candidate = preactivations
        reset_gate, update_gate = gate(reset), gate(update)
        candidate = jnp.tanh(candidate + reset_gate * recurrent_candidate)
        return candidate + update_gate * (state - candidate)

    def output(state: State) -> jax.Array:
        return state

    product = Product((0, 1, 3), product_dtype)
    return Cell(hidden_size, init, initial_state, project, preactivate, update, output, product)


def gru_reset_before(
    input_size: int,
    hidden_size: int,
    dtype: DTypeLike = jnp.float32,
    product_dtype: ProductDType = None,
    *,
    gate: Gate = sigmoid,
) -> Cell:
    """The gated recurrent unit as Cho et al. (2014) wrote it: the reset gate acts on the state.

        n_t = tanh(x_t W_xn + b_n + (r_t * h_{t-1}) W_hn)

    Otherwise it is as in `gru`, without `candidate_bias`. A step takes two products, one after the
    other, and the gradient one more.
    """

    def init(key: jax.Array) -> Params:
        return init_gates(key, input_size, hidden_size, 3, dtype)

    def preactivate(params: Params, state: State, projected: Activations) -> Activations:
        reset, update, candidate = input_contributions(params, projected, 3, product_dtype)
        of_gates, of_candidate = jnp.split(params["recurrent_kernel"], [2 * hidden_size], axis=1)
        to_reset, to_update = per_gate(lambda x: linear(x, state, product_dtype), 2, of_gates)
        kept = gate(reset + to_reset) * state
        return update + to_update, candidate + linear(of_candidate, kept, product_dtype)

    def update(state: State, preactivations: Activations) -> State:
        update, candidate = preactivations
        candidate = jnp.tanh(candidate)
        return candidate + gate(update) * (state - candidate)

    after = gru(input_size, hidden_size, dtype, product_dtype)
    return after._replace(init=init, preactivate=preactivate, update=update, product=None)


def lstm(
    input_size: int,
    hidden_size: int,
    dtype: DTypeLike = jnp.float32,
    product_dtype: ProductDType = None,
    *,
    gate: Gate = sigmoid,
) -> Cell:
    """The long short-term memory of Hochreiter & Schmidhuber (1997).

        i_t = sigmoid(x_t W_xi + b_i + h_{t-1} W_hi)      input gate
        f_t = sigmoid(x_t W_xf + b_f + h_{t-1} W_hf)      forget gate
        g_t = tanh(x_t W_xg + b_g + h_{t-1} W_hg)         candidate
        o_t = sigmoid(x_t W_xo + b_o + h_{t-1} W_ho)      output gate
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = o_t * tanh(c_t)

    `gate` takes the place of sigmoid. The cell has the forget gate of Gers et al. (2000) and no
    peepholes. The state is the pair (c, h), each [..., hidden], initially zero; h is the output.
    Parameters, with the gates side by side in the order i, f, g, o: `input_kernel`
    [input, 4 hidden], `recurrent_kernel` [hidden, 4 hidden], `bias` [4 hidden]; see `init_gates`
    for their initial values. The bias of the forget gate is initially one instead, so that the cell
    remembers (Jozefowicz et al., 2015).
    """

    def init(key: jax.Array) -> Params:
        params = init_gates(key, input_size, hidden_size, 4, dtype)
        forget = slice(hidden_size, 2 * hidden_size)
        return params | {"bias": params["bias"].at[forget].set(1)}

    def initial_state(batch_shape: tuple[int, ...]) -> State:
        zeros = jnp.zeros((*batch_shape, hidden_size), dtype)
        return zeros, zeros

    def project(params: Params, inputs: jax.Array) -> Activations:
        return project_gates(params, inputs, 4, product_dtype)

    def preactivate(params: Params, state: State, projected: Activations) -> Activations:
        _, hidden = state
        return tuple(map(jnp.add, *contributions(params, hidden, projected, 4, product_dtype)))

    def update(state: State, preactivations: Activations) -> State:
        memory, _ = state
        input_gate, forget_gate, candidate, output_gate = preactivations
        memory = gate(forget_gate) * memory + gate(input_gate) * jnp.tanh(candidate)
        return memory, gate(output_gate) * jnp.tanh(memory)

    def output(state: State) -> jax.Array:
        _, hidden = state
        return hidden

    product = Product((0, 1, 2, 3), product_dtype)
    return Cell(hidden_size, init, initial_state, project, preactivate, update, output, product)


CELLS: dict[str, Callable[..., Cell]] = {
    "vanilla": vanilla,
    "gru": gru,
    "gru_reset_before": gru_reset_before,
    "lstm": lstm,
}
"""All cells by name."""
