"""Products of characters or vectors with a kernel, written so that XLA takes its fast paths."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

ProductDType = DTypeLike | None
"""Type of the factors of products; None for the type that they have."""

LARGE_KERNEL = 2**14
"""Kernels of this many entries are transposed once, before a loop, for the gradient. XLA would
transpose them in every step. Smaller kernels are used in loops that XLA compiles whole, which a
separate transpose would break up."""

LARGE_GATES = 2**16
"""Recurrent kernels of this many entries are multiplied gate by gate. XLA on the CPU multiplies
kernels below this size faster, and no gate has to be cut out of a larger array. Smaller kernels are
faster in one product."""

COLUMNS_AT_ONCE = 16
"""XLA on the CPU multiplies a single row by this many columns at once, and by the rest one by one.
"""


def are_ids(inputs: jax.Array) -> bool:
    """Whether these are ids of characters [...], not vectors [..., features]."""
    return jnp.issubdtype(inputs.dtype, jnp.integer)


def linear(kernel: jax.Array, inputs: jax.Array, product_dtype: ProductDType = None) -> jax.Array:
    """Multiply vectors [..., input] by `kernel` [input, features]; ids [...] are one-hot vectors.

    An id selects its row of the kernel, and the id `input`, "no character", gives zeros. With a
    `product_dtype`, the factors of this product and of those in its gradient are rounded to that
    type; sums and results keep the precision of the kernel.
    """
    if are_ids(inputs):
        return jnp.take(kernel, inputs, axis=0, mode="fill", fill_value=0)
    return _product(inputs, kernel, product_dtype)


def affine(
    kernel: jax.Array, bias: jax.Array, inputs: jax.Array, product_dtype: ProductDType = None
) -> jax.Array:
    """`linear(kernel, inputs, product_dtype)` plus `bias` [features]."""
    if are_ids(inputs):
        # Add the bias once to each row, not to each character. The barrier keeps this out of loops.
        rows = jnp.pad(kernel, ((0, 1), (0, 0)))
        rows = jax.lax.optimization_barrier(rows + jnp.broadcast_to(bias, rows.shape))
        # No id is out of range. A check for it would keep XLA from emitting vector code.
        return jnp.take(rows, inputs, axis=0, mode="clip")
    outputs = linear(kernel, inputs, product_dtype)
    return outputs + jnp.broadcast_to(bias, outputs.shape)


def per_gate(
    product: Callable[..., jax.Array], num_gates: int, *arrays: jax.Array
) -> tuple[jax.Array, ...]:
    """`product(*arrays)`, split into one part [..., hidden] for each gate.

    The gates are side by side in the last axis of all `arrays` and of their product.
    """
    num_columns = arrays[0].shape[-1]
    if num_columns // num_gates * num_columns < LARGE_GATES:
        return tuple(jnp.split(product(*arrays), num_gates, axis=-1))
    # The barrier keeps the splits out of loops.
    parts = jax.lax.optimization_barrier([jnp.split(x, num_gates, axis=-1) for x in arrays])
    return tuple(map(product, *parts))


def _dot(left: jax.Array, right: jax.Array, axes: Any, product_dtype: ProductDType) -> jax.Array:
    dtype = left.dtype
    if product_dtype is not None:
        left, right = left.astype(product_dtype), right.astype(product_dtype)
    return jax.lax.dot_general(left, right, (axes, ((), ())), preferred_element_type=dtype)


def _multiply(inputs: jax.Array, kernel: jax.Array, product_dtype: ProductDType) -> jax.Array:
    flat = inputs.reshape(-1, inputs.shape[-1])
    outputs = _dot(flat, kernel, ((1,), (0,)), product_dtype)
    return outputs.reshape(*inputs.shape[:-1], kernel.shape[1])


def _multiply_padded(
    inputs: jax.Array, kernel: jax.Array, product_dtype: ProductDType
) -> jax.Array:
    num = kernel.shape[1]
    if inputs.size == inputs.shape[-1] and kernel.size < LARGE_KERNEL:
        # No column is left over. The barrier keeps the padding out of the loop over time.
        padded = jnp.pad(kernel, ((0, 0), (0, -num % COLUMNS_AT_ONCE)))
        kernel = jax.lax.optimization_barrier(padded)
    return _multiply(inputs, kernel, product_dtype)[..., :num]


_product = jax.custom_vjp(_multiply_padded, nondiff_argnums=(2,))


def _product_forward(
    inputs: jax.Array, kernel: jax.Array, product_dtype: ProductDType
) -> tuple[jax.Array, Any]:
    return _multiply_padded(inputs, kernel, product_dtype), (inputs, kernel)


# JAX's own rule for the gradient of the kernel makes a product that XLA on the CPU computes without
# its fast routines.
def _product_backward(
    product_dtype: ProductDType, residuals: Any, d_outputs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, kernel = residuals
    leading = tuple(range(inputs.ndim - 1))
    d_kernel = _dot(inputs, d_outputs, (leading, leading), product_dtype)
    transposed = kernel.T
    if kernel.size >= LARGE_KERNEL:
        transposed = jax.lax.optimization_barrier(transposed)
    return _multiply(d_outputs, transposed, product_dtype), d_kernel


_product.defvjp(_product_forward, _product_backward)
