"""Characters and vectors times a kernel, so that XLA takes its fast paths; the gradients, too."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

LARGE_KERNEL = 2**14
"""Entries from which on it pays to turn a kernel over once, before a loop, for its gradient: XLA
would read it across in every step. A GRU of 256 units trains 1.2 times as fast; smaller kernels
stand in loops that are compiled whole, which this would break up."""

LARGE_GATES = 2**16
"""Entries of a recurrent kernel from which on each gate has a product of its own: no gate is cut
from another's array, and XLA on the CPU takes kernels of up to so many entries faster. An LSTM of
256 units trains 1.15 times as fast. Smaller kernels are slower in parts."""

COLUMNS_AT_ONCE = 16
"""Columns that XLA on the CPU multiplies a single row by at once; those left over, one by one."""


def are_ids(inputs: jax.Array) -> bool:
    """Whether these are characters' ids [...], not vectors [..., features]."""
    return jnp.issubdtype(inputs.dtype, jnp.integer)


def linear(
    kernel: jax.Array, inputs: jax.Array, product_dtype: DTypeLike | None = None
) -> jax.Array:
    """Vectors [..., input] times `kernel` [input, features]; ids [...] count as one-hot vectors.

    An id gives its row of the kernel; the id `input`, "no character", gives zeros. Where a
    `product_dtype` is given, the product and those of its gradient multiply numbers rounded to it;
    sums and results keep the precision of the kernel.
    """
    if are_ids(inputs):
        return jnp.take(kernel, inputs, axis=0, mode="fill", fill_value=0)
    return _product(inputs, kernel, product_dtype)


def affine(
    kernel: jax.Array,
    bias: jax.Array,
    inputs: jax.Array,
    product_dtype: DTypeLike | None = None,
) -> jax.Array:
    """`linear(kernel, inputs, product_dtype)` plus `bias` [features]."""
    if are_ids(inputs):
        # To each row, "no character" among them, once: not to each character of the data. Nor, by
        # the barrier, in each step of a loop.
        rows = jnp.pad(kernel, ((0, 1), (0, 0)))
        rows = jax.lax.optimization_barrier(rows + jnp.broadcast_to(bias, rows.shape))
        # What is past the end does not occur: to look for it would keep XLA from vector code.
        return jnp.take(rows, inputs, axis=0, mode="clip")
    outputs = linear(kernel, inputs, product_dtype)
    return outputs + jnp.broadcast_to(bias, outputs.shape)


def per_gate(
    product: Callable[..., jax.Array], num_gates: int, *arrays: jax.Array
) -> tuple[jax.Array, ...]:
    """`product(*arrays)` in as many equal parts [..., hidden] as gates.

    All `arrays` hold gates side by side in their last axis, as does what `product` makes of them.
    """
    num_columns = arrays[0].shape[-1]
    if num_columns // num_gates * num_columns < LARGE_GATES:
        return tuple(jnp.split(product(*arrays), num_gates, axis=-1))
    # By the barrier they are cut before a loop, not in each of its steps.
    parts = jax.lax.optimization_barrier([jnp.split(x, num_gates, axis=-1) for x in arrays])
    return tuple(map(product, *parts))


def _dot(
    left: jax.Array, right: jax.Array, axes: Any, product_dtype: DTypeLike | None
) -> jax.Array:
    dtype = left.dtype
    if product_dtype is not None:
        left, right = left.astype(product_dtype), right.astype(product_dtype)
    return jax.lax.dot_general(left, right, (axes, ((), ())), preferred_element_type=dtype)


def _multiply(inputs: jax.Array, kernel: jax.Array, product_dtype: DTypeLike | None) -> jax.Array:
    flat = inputs.reshape(-1, inputs.shape[-1])
    return _dot(flat, kernel, ((1,), (0,)), product_dtype).reshape(
        *inputs.shape[:-1], kernel.shape[1]
    )


def _multiply_padded(
    inputs: jax.Array, kernel: jax.Array, product_dtype: DTypeLike | None
) -> jax.Array:
    num = kernel.shape[1]
    if inputs.size == inputs.shape[-1] and kernel.size < LARGE_KERNEL:
        # No column left over: 1.05 times the steps a second in the exercise's recipe. The barrier
        # keeps the padding out of the loop over time.
        padded = jnp.pad(kernel, ((0, 0), (0, -num % COLUMNS_AT_ONCE)))
        kernel = jax.lax.optimization_barrier(padded)
    return _multiply(inputs, kernel, product_dtype)[..., :num]


_product = jax.custom_vjp(_multiply_padded, nondiff_argnums=(2,))


def _product_forward(
    inputs: jax.Array, kernel: jax.Array, product_dtype: DTypeLike | None
) -> tuple[jax.Array, Any]:
    return _multiply_padded(inputs, kernel, product_dtype), (inputs, kernel)


# For the gradient of the kernel, JAX's own rule makes a product that XLA on the CPU runs without
# its fast routines: this one gives 1.1 times the steps a second in the exercise's recipe.
def _product_backward(
    product_dtype: DTypeLike | None, residuals: Any, d_outputs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = residuals
    leading = tuple(range(inputs.ndim - 1))
    d_kernel = _dot(inputs, d_outputs, (leading, leading), product_dtype)
    transposed = kernel.T
    if kernel.size >= LARGE_KERNEL:
        transposed = jax.lax.optimization_barrier(transposed)
    return _multiply(d_outputs, transposed, product_dtype), d_kernel


_product.defvjp(_product_forward, _product_backward)
