"""Recurrent cells: what one layer does with its state and its input at one time step.

A cell is a named tuple of pure functions. What a step does is split into three parts, so that each
runs where it is cheapest: `project` needs no state and runs over all time steps at once,
`preactivate` holds the one matrix product that must wait for the state, and `update` is arithmetic
without parameters. A cell of your own is another `Cell`; nothing else changes.

All functions accept any leading batch dimensions, written `...` in shapes. Every cell takes a
`dtype`, of its parameters and its state, and a `product_dtype` for its products; see
`products.linear`.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.models.products import affine, are_ids, linear, per_gate

Params = Any
"""A pytree of parameters."""
State = Any
"""A pytree of arrays [..., hidden]: what a cell remembers."""
Activations = Any
"""A pytree of arrays [..., features]."""


class CellInit(Protocol):
    """Draws initial parameters."""

    def __call__(self, key: jax.Array) -> Params: ...


class CellInitialState(Protocol):
    """The state [*batch_shape, hidden] before the first input."""

    def __call__(self, batch_shape: tuple[int, ...]) -> State: ...


class CellProject(Protocol):
    """What the inputs contribute: characters' ids [...] or vectors [..., features].

    Ids may be passed on as they are, for `preactivate` to look up.
    """

    def __call__(self, params: Params, inputs: jax.Array) -> Activations: ...


class CellPreactivate(Protocol):
    """What goes into the nonlinearities: the inputs' contribution joined by that of the state."""

    def __call__(self, params: Params, state: State, projected: Activations) -> Activations: ...


class CellUpdate(Protocol):
    """The new state, of the same structure as `state`."""

    def __call__(self, state: State, preactivations: Activations) -> State: ...


class CellOutput(Protocol):
    """The part of a state [..., hidden] that the layer above reads."""

    def __call__(self, state: State) -> jax.Array: ...


class Cell(NamedTuple):
    """One recurrent layer.

    new_state = update(state, preactivate(params, state, project(params, inputs)))
    """

    hidden_size: int
    """Size of the output."""
    init: CellInit
    initial_state: CellInitialState
    project: CellProject
    preactivate: CellPreactivate
    update: CellUpdate
    output: CellOutput


def vanilla(
    input_size: int,
    hidden_size: int,
    dtype: DTypeLike = jnp.float32,
    product_dtype: DTypeLike | None = None,
) -> Cell:
    """The simple recurrent cell of Elman (1990), as the dinosaur-name exercise uses it.

        h_t = tanh(x_t W_x + b + h_{t-1} W_h)

    Row vectors: the exercise writes W_x and W_h transposed. The state is h, [..., hidden], zero at
    first, and is the output too. Parameters: `input_kernel` W_x [input, hidden], `recurrent_kernel`
    W_h [hidden, hidden], `bias` b [hidden]; see `init_gates` for their initial values. The exercise
    draws both kernels from N(0, 0.01^2) instead.
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

    return Cell(hidden_size, init, initial_state, project, preactivate, update, output)


def gru(
    input_size: int,
    hidden_size: int,
    dtype: DTypeLike = jnp.float32,
    product_dtype: DTypeLike | None = None,
) -> Cell:
    """The gated recurrent unit of Cho et al. (2014), in the form that cuDNN and PyTorch compute.

        r_t = sigmoid(x_t W_xr + b_r + h_{t-1} W_hr)                  reset gate
        z_t = sigmoid(x_t W_xz + b_z + h_{t-1} W_hz)                  update gate
        n_t = tanh(x_t W_xn + b_n + r_t * (h_{t-1} W_hn + b_hn))      candidate
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}

    The reset gate acts after the matrix product, which can then be one for all gates; in the paper
    it acts before. The state is h, [..., hidden], zero at first, and is the output too. Parameters,
    gates side by side in the order r, z, n: `input_kernel` [input, 3 hidden], `recurrent_kernel`
    [hidden, 3 hidden], `bias` [3 hidden], and `candidate_bias` b_hn [hidden], zero at first; see
    `init_gates` for the others' initial values.
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
        reset_gate, update_gate = sigmoid(reset), sigmoid(update)
        candidate = jnp.tanh(candidate + reset_gate * recurrent_candidate)
        return candidate + update_gate * (state - candidate)

    def output(state: State) -> jax.Array:
        return state

    return Cell(hidden_size, init, initial_state, project, preactivate, update, output)


def lstm(
    input_size: int,
    hidden_size: int,
    dtype: DTypeLike = jnp.float32,
    product_dtype: DTypeLike | None = None,
) -> Cell:
    """The long short-term memory of Hochreiter & Schmidhuber (1997).

        i_t = sigmoid(x_t W_xi + b_i + h_{t-1} W_hi)      input gate
        f_t = sigmoid(x_t W_xf + b_f + h_{t-1} W_hf)      forget gate
        g_t = tanh(x_t W_xg + b_g + h_{t-1} W_hg)         candidate
        o_t = sigmoid(x_t W_xo + b_o + h_{t-1} W_ho)      output gate
        c_t = f_t * c_{t-1} + i_t * g_t
        h_t = o_t * tanh(c_t)

    With the forget gate of Gers et al. (2000), and without peepholes.

    The state is the pair (c, h), each [..., hidden], zero at first; h is the output. Parameters,
    gates side by side in the order i, f, g, o: `input_kernel` [input, 4 hidden], `recurrent_kernel`
    [hidden, 4 hidden], `bias` [4 hidden]; see `init_gates` for their initial values, but that the
    forget gate's bias is one, so that the cell remembers at first (Jozefowicz et al., 2015).
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
        memory = sigmoid(forget_gate) * memory + sigmoid(input_gate) * jnp.tanh(candidate)
        return memory, sigmoid(output_gate) * jnp.tanh(memory)

    def output(state: State) -> jax.Array:
        _, hidden = state
        return hidden

    return Cell(hidden_size, init, initial_state, project, preactivate, update, output)


CELLS = {"vanilla": vanilla, "gru": gru, "lstm": lstm}
"""All cells by name."""


def init_gates(
    key: jax.Array, input_size: int, hidden_size: int, num_gates: int, dtype: DTypeLike
) -> Params:
    """Initial parameters of a cell whose gates stand side by side, each gate drawn on its own.

    `input_kernel` [input, gates hidden] is uniform as in Glorot & Bengio (2010); `recurrent_kernel`
    [hidden, gates hidden] is orthogonal as in Saxe et al. (2014), which neither grows nor shrinks
    the state; `bias` [gates hidden] is zero.
    """
    key_input, key_recurrent = jax.random.split(key)
    glorot, orthogonal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()

    def draw(initializer: Any, key: jax.Array, rows: int) -> jax.Array:
        keys = jax.random.split(key, num_gates) if num_gates > 1 else [key]
        gates = [initializer(key, (rows, hidden_size), dtype) for key in keys]
        return jnp.concatenate(gates, axis=1)

    return {
        "input_kernel": draw(glorot, key_input, input_size),
        "recurrent_kernel": draw(orthogonal, key_recurrent, hidden_size),
        "bias": jnp.zeros(num_gates * hidden_size, dtype),
    }


def project_gates(
    params: Params, inputs: jax.Array, num_gates: int, product_dtype: DTypeLike | None
) -> Activations:
    """What the inputs contribute to each gate, [..., hidden]; ids are passed on as they are."""
    # They wait for their step: to write the rows of them all and read these again takes longer than
    # to look each up where it is needed. An LSTM of 256 units trains 1.03 to 1.06 times as fast.
    if are_ids(inputs):
        return inputs
    return affine_gates(params, inputs, num_gates, product_dtype)


def contributions(
    params: Params,
    hidden: jax.Array,
    projected: Activations,
    num_gates: int,
    product_dtype: DTypeLike | None,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """What the inputs, as `project_gates` gives them, and the state contribute to each gate."""
    if not isinstance(projected, tuple):
        projected = affine_gates(params, projected, num_gates, product_dtype)

    def product(kernel: jax.Array) -> jax.Array:
        return linear(kernel, hidden, product_dtype)

    return projected, per_gate(product, num_gates, params["recurrent_kernel"])


def affine_gates(
    params: Params, inputs: jax.Array, num_gates: int, product_dtype: DTypeLike | None
) -> tuple[jax.Array, ...]:
    """What the inputs contribute to each gate, [..., hidden], be they ids or vectors."""

    def product(kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return affine(kernel, bias, inputs, product_dtype)

    return per_gate(product, num_gates, params["input_kernel"], params["bias"])


def sigmoid(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-x)), as (tanh(x / 2) + 1) / 2, of which XLA on the CPU makes faster code."""
    half = jnp.broadcast_to(jnp.asarray(0.5, x.dtype), x.shape)
    return half * jnp.tanh(half * x) + half
