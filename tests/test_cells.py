"""The contract of a cell, for every cell there is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dinojax import recurrence
from dinojax.cells import linear, vanilla

CELLS = {"vanilla": vanilla}
INPUT, HIDDEN = 6, 4


@pytest.fixture(params=CELLS)
def cell(request):
    return CELLS[request.param](INPUT, HIDDEN)


@pytest.fixture
def params(cell):
    return cell.init(jax.random.key(0))


def test_state_keeps_structure_shapes_and_dtypes(cell, params):
    state = cell.initial_state((3,))
    projected = cell.project(params, jnp.array([0, 5, INPUT]))
    shapes = jax.eval_shape(lambda: (state, recurrence.step(cell, params, state, projected)))
    before, (after, output) = shapes
    assert after == before
    assert output.shape == (3, cell.hidden_size)


def test_batch_equals_a_loop_over_examples(cell, params):
    ids = jnp.array([[0, 3, 2], [INPUT, 1, 5]])
    state = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(1), x.shape), cell.initial_state((2, 3))
    )
    new, output = recurrence.step(cell, params, state, cell.project(params, ids))
    for i in np.ndindex(2, 3):
        one = jax.tree.map(lambda x, i=i: x[i], state)
        projected = cell.project(params, ids[i])
        expected = recurrence.step(cell, params, one, projected)
        actual = jax.tree.map(lambda x, i=i: x[i], (new, output))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), actual, expected)


def test_ids_count_as_one_hot_vectors_and_no_character_as_zeros(cell, params):
    ids = jnp.arange(INPUT + 1)
    vectors = jax.nn.one_hot(ids, INPUT)
    np.testing.assert_allclose(cell.project(params, ids), cell.project(params, vectors), rtol=1e-6)


def test_the_state_matters(cell, params):
    projected = cell.project(params, jnp.array(0))
    zero = cell.initial_state(())
    _, one = recurrence.step(cell, params, zero, projected)
    _, other = recurrence.step(cell, params, jax.tree.map(lambda x: x + 1, zero), projected)
    assert np.all(one != other)


def test_vanilla_computes_its_equation(x64):
    cell = vanilla(INPUT, HIDDEN, jnp.float64)
    params = cell.init(jax.random.key(0)) | {"bias": jnp.arange(4.0)}
    state = jnp.linspace(-1.0, 1.0, HIDDEN)
    _, output = recurrence.step(cell, params, state, cell.project(params, jnp.array(2)))
    kernels = np.asarray(params["input_kernel"]), np.asarray(params["recurrent_kernel"])
    expected = np.tanh(kernels[0][2] + np.arange(4) + np.asarray(state) @ kernels[1])
    np.testing.assert_allclose(output, expected, rtol=1e-13)


def test_vanilla_starts_from_an_orthogonal_kernel_and_is_drawn_from_its_key():
    cell = vanilla(INPUT, HIDDEN)
    first, again, other = (cell.init(jax.random.key(seed)) for seed in (0, 0, 1))
    kernel = first["recurrent_kernel"]
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(HIDDEN), atol=1e-6)
    np.testing.assert_array_equal(first["input_kernel"], again["input_kernel"])
    assert np.all(first["input_kernel"] != other["input_kernel"])


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_linear_takes_ids_of_any_integer_type(dtype):
    kernel = jnp.arange(12.0).reshape(3, 4)
    rows = linear(kernel, jnp.array([2, 0, 3], dtype))
    np.testing.assert_array_equal(rows, np.stack([kernel[2], kernel[0], np.zeros(4)]))


@pytest.mark.parametrize("leading", [(), (3,), (3, 2)])
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
