"""Recurrent cells: what one layer does with its state and its input at one time step.

A cell is a named tuple of pure functions. What a step does is split into three parts, so that each
runs where it is cheapest: `project` needs no state and runs over all time steps at once,
`preactivate` holds the one matrix product that must wait for the state, and `update` is arithmetic
without parameters. A cell of your own is another `Cell`; nothing else changes.

All functions accept any leading batch dimensions, written `...` in shapes.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

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
    """What the inputs contribute: characters' ids [...] or vectors [..., features]."""

    def __call__(self, params: Params, inputs: jax.Array) -> Activations: ...


class CellPreactivate(Protocol):
    """What goes into the nonlinearities: the inputs' contribution joined by that of the state."""

    def __call__(self, params: Params, state: State, projected: Activations) -> Activations: ...


class CellUpdate(Protocol):
    """The new state, of the same structure as `state`, and the output [..., hidden]."""

    def __call__(self, state: State, preactivations: Activations) -> tuple[State, jax.Array]: ...


class Cell(NamedTuple):
    """One recurrent layer.

    state, output = update(state, preactivate(params, state, project(params, inputs)))
    """

    hidden_size: int
    """Size of the output."""
    init: CellInit
    initial_state: CellInitialState
    project: CellProject
    preactivate: CellPreactivate
    update: CellUpdate


def vanilla(input_size: int, hidden_size: int, dtype: DTypeLike = jnp.float32) -> Cell:
    """The simple recurrent cell of Elman (1990), as the dinosaur-name exercise uses it.

        h_t = tanh(x_t W_x + b + h_{t-1} W_h)

    Row vectors: the exercise writes W_x and W_h transposed. The state is h, [..., hidden], zero at
    first, and is the output too. Parameters: `input_kernel` W_x [input, hidden], uniform as in
    Glorot & Bengio (2010); `recurrent_kernel` W_h [hidden, hidden], orthogonal as in Saxe et al.
    (2014), which neither grows nor shrinks the state; `bias` b [hidden], zero. The exercise draws
    both kernels from N(0, 0.01^2) instead.
    """

    def init(key: jax.Array) -> Params:
        key_input, key_recurrent = jax.random.split(key)
        glorot, orthogonal = jax.nn.initializers.glorot_uniform(), jax.nn.initializers.orthogonal()
        return {
            "input_kernel": glorot(key_input, (input_size, hidden_size), dtype),
            "recurrent_kernel": orthogonal(key_recurrent, (hidden_size, hidden_size), dtype),
            "bias": jnp.zeros(hidden_size, dtype),
        }

    def initial_state(batch_shape: tuple[int, ...]) -> State:
        return jnp.zeros((*batch_shape, hidden_size), dtype)

    def project(params: Params, inputs: jax.Array) -> Activations:
        return affine(params["input_kernel"], params["bias"], inputs)

    def preactivate(params: Params, state: State, projected: Activations) -> Activations:
        return projected + linear(params["recurrent_kernel"], state)

    def update(state: State, preactivations: Activations) -> tuple[State, jax.Array]:
        del state
        hidden = jnp.tanh(preactivations)
        return hidden, hidden

    return Cell(hidden_size, init, initial_state, project, preactivate, update)


def linear(kernel: jax.Array, inputs: jax.Array) -> jax.Array:
    """Vectors [..., input] times `kernel` [input, features]; ids [...] count as one-hot vectors.

    An id gives its row of the kernel; the id `input`, "no character", gives zeros.
    """
    if jnp.issubdtype(inputs.dtype, jnp.integer):
        return jnp.take(kernel, inputs, axis=0, mode="fill", fill_value=0)
    return _product(inputs, kernel)


def _multiply(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    flat = inputs.reshape(-1, inputs.shape[-1])
    return (flat @ kernel).reshape(*inputs.shape[:-1], kernel.shape[1])


_product = jax.custom_vjp(_multiply)


def _product_forward(inputs: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    return _multiply(inputs, kernel), (inputs, kernel)


# For the gradient of the kernel, JAX's own rule makes a product that XLA on the CPU runs without
# its fast routines: this one gives 1.1 times the steps a second in the exercise's recipe.
def _product_backward(residuals: Any, d_outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = residuals
    leading = tuple(range(inputs.ndim - 1))
    d_kernel = jax.lax.dot_general(inputs, d_outputs, ((leading, leading), ((), ())))
    return _multiply(d_outputs, kernel.T), d_kernel


_product.defvjp(_product_forward, _product_backward)


def affine(kernel: jax.Array, bias: jax.Array, inputs: jax.Array) -> jax.Array:
    """`linear(kernel, inputs)` plus `bias` [features]."""
    outputs = linear(kernel, inputs)
    return outputs + jnp.broadcast_to(bias, outputs.shape)
