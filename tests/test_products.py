"""Products with a kernel against plain ones, and their gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dinojax.models.products import LARGE_GATES, affine, linear, per_gate

INPUT, HIDDEN = 6, 4


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_linear_takes_ids_of_any_integer_type(dtype):
    kernel = jnp.arange(12.0).reshape(3, 4)
    rows = linear(kernel, jnp.array([2, 0, 3], dtype))
    np.testing.assert_array_equal(rows, np.stack([kernel[2], kernel[0], np.zeros(4)]))


@pytest.mark.parametrize("leading", [(), (1,), (1, 1), (3,), (3, 2)])
def test_derivatives_of_linear(leading, x64):
    key_kernel, key_inputs = jax.random.split(jax.random.key(0))
    kernel = jax.random.normal(key_kernel, (INPUT, HIDDEN), jnp.float64)
    inputs = jax.random.normal(key_inputs, (*leading, INPUT), jnp.float64)

    def curved(kernel, inputs):
        return jnp.sin(linear(jnp.tanh(kernel), jnp.tanh(inputs)))

    check_grads(curved, (kernel, inputs), order=2, modes=["rev"])
    gradient = jax.grad(lambda *args: curved(*args).sum(), argnums=(0, 1))
    plain = jax.grad(
        lambda k, x: jnp.sin(jnp.matmul(jnp.tanh(x), jnp.tanh(k))).sum(), argnums=(0, 1)
    )
    # Forward over reverse, as for products of a Hessian and a vector.
    for ours, expected in zip(
        jax.tree.leaves(jax.jvp(gradient, (kernel, inputs), (kernel, inputs))),
        jax.tree.leaves(jax.jvp(plain, (kernel, inputs), (kernel, inputs))),
        strict=True,
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("product_dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize(("num_gates", "hidden_size"), [(4, 5), (3, 150), (4, 128)])
def test_products_by_gate_equal_parts_of_one(num_gates, hidden_size, product_dtype, dtype, x64):
    num = num_gates * hidden_size
    assert (hidden_size * num >= LARGE_GATES) == (hidden_size > 100)
    draw = np.random.default_rng(0).normal
    kernel, bias = (jnp.asarray(draw(size=shape), dtype) for shape in ((INPUT, num), num))
    vectors, weights = (jnp.asarray(draw(size=(3, 2, k)), dtype) for k in (INPUT, num))
    ids = jnp.array([[2, 0], [INPUT, 1], [2, INPUT]])

    def by_gate(kernel, bias, vectors):
        parts = (
            per_gate(lambda k: linear(k, vectors, product_dtype), num_gates, kernel),
            per_gate(lambda k, b: affine(k, b, vectors, product_dtype), num_gates, kernel, bias),
            per_gate(lambda k, b: affine(k, b, ids), num_gates, kernel, bias),
        )
        assert all(x.shape == (3, 2, hidden_size) for x in jax.tree.leaves(parts))
        return [jnp.concatenate(each, axis=-1) for each in parts]

    def at_once(kernel, bias, vectors):
        one_hot = jax.nn.one_hot(ids, INPUT, dtype=dtype)
        product = linear(kernel, vectors, product_dtype)
        biases = jnp.broadcast_to(bias, product.shape)
        return [product, affine(kernel, bias, vectors, product_dtype), one_hot @ kernel + biases]

    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    close = partial(np.testing.assert_allclose, rtol=tolerance, atol=10 * tolerance)
    outputs, pull = jax.vjp(by_gate, kernel, bias, vectors)
    expected, pull_expected = jax.vjp(at_once, kernel, bias, vectors)
    jax.tree.map(close, outputs, expected)
    jax.tree.map(close, pull([weights] * 3), pull_expected([weights] * 3))


def rounded(x):
    """The numbers rounded to bfloat16, in their original type."""
    return np.asarray(jnp.asarray(x, jnp.bfloat16), x.dtype)


def test_a_product_in_bfloat16_rounds_only_its_factors(x64):
    draw = np.random.default_rng(0).normal
    kernel, inputs, weights = draw(size=(5, 3)), draw(size=(4, 2, 5)), draw(size=(4, 2, 3))
    product = partial(linear, product_dtype=jnp.bfloat16)
    outputs, pull = jax.vjp(product, jnp.asarray(kernel), jnp.asarray(inputs))
    d_kernel, d_inputs = pull(jnp.asarray(weights))
    close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    close(outputs, rounded(inputs) @ rounded(kernel))
    close(d_inputs, rounded(weights) @ rounded(kernel).T)
    close(d_kernel, np.einsum("tbi,tbo->io", rounded(inputs), rounded(weights)))
    assert np.abs(np.asarray(outputs) - inputs @ kernel).max() > 1e-4
