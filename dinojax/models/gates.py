"""The gates of a cell, side by side: their initial values, their products, their functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.models.products import ProductDType, affine, are_ids, linear, per_gate

Gate = Callable[[jax.Array], jax.Array]
"""The function of a gate, from its argument [..., hidden] to a share from 0 to 1."""
Projected = jax.Array | tuple[jax.Array, ...]
"""Ids [...], or what the inputs contribute to each gate, [..., hidden]."""


def sigmoid(x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-x)), as (tanh(x / 2) + 1) / 2: XLA on the CPU makes faster code of it."""
    half = jnp.broadcast_to(jnp.asarray(0.5, x.dtype), x.shape)
    return half * jnp.tanh(half * x) + half


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """0.2 x + 0.5, cut at 0 and 1, as Keras 2 and Theano have it; Keras 3 has x / 6 + 0.5."""
    return jnp.clip(0.2 * x + 0.5, 0.0, 1.0)


GATES: dict[str, Gate] = {"sigmoid": sigmoid, "hard_sigmoid": hard_sigmoid}
"""All functions of gates by name."""


def init_gates(
    key: jax.Array, input_size: int, hidden_size: int, num_gates: int, dtype: DTypeLike
) -> dict[str, jax.Array]:
    """Initial parameters of a cell with its gates side by side, each drawn with its own key.

    `input_kernel` [input, gates hidden] is uniform as in Glorot & Bengio (2010), `recurrent_kernel`
    [hidden, gates hidden] orthogonal as in Saxe et al. (2014), so that it neither grows nor shrinks
    the state, and `bias` [gates hidden] zero.
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
    params: dict[str, jax.Array], inputs: jax.Array, num_gates: int, product_dtype: ProductDType
) -> Projected:
    """The contribution of the inputs to each gate, [..., hidden]; ids are returned unchanged."""
    # Writing the rows of all ids and reading them back takes longer than a lookup in each step.
    if are_ids(inputs):
        return inputs
    return affine_gates(params, inputs, num_gates, product_dtype)


def contributions(
    params: dict[str, jax.Array],
    hidden: jax.Array,
    projected: Projected,
    num_gates: int,
    product_dtype: ProductDType,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """The contributions of the inputs, from `project_gates`, and of the state to each gate."""

    def product(kernel: jax.Array) -> jax.Array:
        return linear(kernel, hidden, product_dtype)

    inputs = input_contributions(params, projected, num_gates, product_dtype)
    return inputs, per_gate(product, num_gates, params["recurrent_kernel"])


def input_contributions(
    params: dict[str, jax.Array], projected: Projected, num_gates: int, product_dtype: ProductDType
) -> tuple[jax.Array, ...]:
    """The contribution of the inputs, from `project_gates`, to each gate, [..., hidden]."""
    if isinstance(projected, tuple):
        return projected
    return affine_gates(params, projected, num_gates, product_dtype)


def affine_gates(
    params: dict[str, jax.Array], inputs: jax.Array, num_gates: int, product_dtype: ProductDType
) -> tuple[jax.Array, ...]:
    """The contribution of ids or vectors to each gate, [..., hidden]."""

    def product(kernel: jax.Array, bias: jax.Array) -> jax.Array:
        return affine(kernel, bias, inputs, product_dtype)

    return per_gate(product, num_gates, params["input_kernel"], params["bias"])
