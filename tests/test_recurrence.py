from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dinojax.models import cells, recurrence
from dinojax.models.cells import Cell
from dinojax.models.mogrifier import mogrifier
from dinojax.models.products import linear

TIME, BATCH, INPUT, HIDDEN = 7, 3, 5, 4


def two_state_cell(dtype) -> Cell:
    """A cell with two states, not zero at first, and two preactivations: `vanilla` is simpler."""

    def init(key):
        keys = jax.random.split(key, 2)
        shape = (HIDDEN, HIDDEN)
        return {
            name: jax.random.normal(k, shape, dtype) for name, k in zip("uv", keys, strict=True)
        }

    def initial_state(batch_shape):
        ones = jnp.ones((*batch_shape, HIDDEN), dtype)
        return {"fast": 0.3 * ones, "slow": -0.7 * ones, "shown": 0 * ones}

    def project(params, inputs):
        return inputs[..., :HIDDEN]

    def preactivate(params, state, projected):
        return projected + linear(params["u"], state["fast"]), linear(params["v"], state["slow"])

    def update(state, preactivations):
        first, second = preactivations
        fast = jnp.tanh(first * state["slow"] + second)
        slow = 0.5 * state["slow"] + jnp.sin(first)
        return {"fast": fast, "slow": slow, "shown": fast * second}

    def output(state):
        return state["shown"]

    return Cell(HIDDEN, init, initial_state, project, preactivate, update, output)


CELLS = {
    **{name: partial(make_cell, INPUT, HIDDEN) for name, make_cell in cells.CELLS.items()},
    "two_state": two_state_cell,
    "mogrifier": lambda dtype: mogrifier(cells.lstm(INPUT, HIDDEN, dtype), INPUT, rounds=3, rank=2),
}


def random_like(tree, key):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    draws = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return structure.unflatten(draws)


def make_inputs(dtype, batch_shape=(BATCH,)):
    return jax.random.normal(jax.random.key(2), (TIME, *batch_shape, INPUT), dtype)


def make_case(name, dtype, batch_shape=(BATCH,)):
    cell = CELLS[name](dtype=dtype)
    key_params, key_state = jax.random.split(jax.random.key(1))
    params = random_like(cell.init(key_params), key_params)
    state = random_like(cell.initial_state(batch_shape), key_state)
    return cell, params, state, cell.project(params, make_inputs(dtype, batch_shape))


def at(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def assert_close(actual, expected, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), actual, expected)


def value(unroll, params, state, projected):
    """A number that depends on the last state and on every output, each in its own way."""
    last, outputs = unroll(params, state, projected)
    weights = jnp.cos(jnp.arange(outputs.size, dtype=outputs.dtype)).reshape(outputs.shape)
    return jnp.sum(weights * outputs) + sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(last))


@pytest.mark.parametrize("name", CELLS)
def test_scan_equals_a_python_loop_of_steps(name, x64):
    cell, params, state, projected = make_case(name, jnp.float64)
    last, outputs = recurrence.scan(cell, params, state, projected)
    for t in range(TIME):
        state = recurrence.step(cell, params, state, at(projected, t))
        np.testing.assert_allclose(outputs[t], cell.output(state), rtol=1e-13, atol=1e-14)
    assert_close(last, state, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", cells.CELLS)
def test_loop_equals_scan_on_ids(name, x64):
    cell, params, state, _ = make_case(name, jnp.float64)
    # "No character" among them.
    ids = jax.random.randint(jax.random.key(4), (TIME, BATCH), 0, INPUT + 1)

    def value_and_gradients(unroll):
        def of_ids(params, state):
            return value(unroll, params, state, cell.project(params, ids))

        return jax.value_and_grad(of_ids, argnums=(0, 1))(params, state)

    scan = value_and_gradients(partial(recurrence.scan, cell))
    loop = value_and_gradients(lambda *args: recurrence.loop(cell, *args, jnp.array(TIME)))
    assert_close(loop, scan, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "batch_shape"),
    [
        ("float64", 1e-12, ()),
        ("float64", 1e-12, (1,)),
        ("float64", 1e-12, (2, 2)),
        ("float32", 2e-5, (2, 2)),
    ],
)
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_loop_equals_scan_in_values_and_gradients(name, resets, batch_shape, dtype, tolerance, x64):
    cell, params, state, projected = make_case(name, jnp.dtype(dtype), batch_shape)
    close = partial(assert_close, rtol=tolerance, atol=tolerance)
    starts = None
    if resets:
        starts = jax.random.bernoulli(jax.random.key(3), 0.4, (TIME, *batch_shape))

    @jax.jit
    def loop(length, *args):
        def unroll(*args):
            return recurrence.loop(cell, *args, length, starts)

        return unroll(*args), jax.grad(partial(value, unroll), argnums=(0, 1, 2))(*args)

    @partial(jax.jit, static_argnums=0)
    def scan(length, *args):
        def unroll(*args):
            return recurrence.scan(cell, *args, at(starts, np.s_[:length]))

        return unroll(*args), jax.grad(partial(value, unroll), argnums=(0, 1, 2))(*args)

    for length in (0, 1, 4, TIME):
        (last, outputs), (d_params, d_state, d_projected) = loop(length, params, state, projected)
        cut = at(projected, np.s_[:length])
        (expected_last, expected), gradients = scan(length, params, state, cut)
        close((last, outputs[:length]), (expected_last, expected))
        close((d_params, d_state, at(d_projected, np.s_[:length])), gradients)
        assert not np.any(outputs[length:])
        assert not any(np.any(x[length:]) for x in jax.tree.leaves(d_projected))


@pytest.mark.parametrize("name", CELLS)
def test_loop_of_no_steps_leaves_the_state(name, x64):
    cell, params, state, projected = make_case(name, jnp.float64)
    last, outputs = recurrence.loop(cell, params, state, projected, 0)
    jax.tree.map(np.testing.assert_array_equal, last, state)
    assert not np.any(outputs)


@pytest.mark.parametrize("name", CELLS)
def test_loop_ignores_what_lies_past_its_length(name):
    cell, params, state, projected = make_case(name, jnp.float32)
    spoiled = jax.tree.map(lambda x: x.at[4:].set(jnp.nan), projected)
    gradient = jax.jit(
        jax.grad(lambda projected: jnp.sum(recurrence.loop(cell, params, state, projected, 4)[1]))
    )
    assert_close(gradient(spoiled), gradient(projected), rtol=0)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient(spoiled)))


@pytest.mark.parametrize("name", CELLS)
def test_loop_passes_a_numerical_check_of_its_gradients(name, x64):
    cell, params, state, _ = make_case(name, jnp.float64)

    resets = jnp.zeros((TIME, BATCH), bool).at[3, 1].set(True)

    def five_steps(params, state, inputs):
        projected = cell.project(params, inputs)

        def unroll(*args):
            return recurrence.loop(cell, *args, 5, resets)

        return value(unroll, params, state, projected)

    check_grads(five_steps, (params, state, make_inputs(jnp.float64)), order=1, modes=["rev"])


@pytest.mark.parametrize("name", CELLS)
def test_loop_compiles_once_for_all_lengths(name):
    cell, params, state, projected = make_case(name, jnp.float32)
    unroll = jax.jit(partial(recurrence.loop, cell))
    for length in (2, 5, TIME):
        unroll(params, state, projected, length)
    assert unroll._cache_size() == 1


@pytest.mark.parametrize("lengths", [(2, 7, 4), (2, 7, 0)])
@pytest.mark.parametrize("name", CELLS)
def test_loop_works_under_vmap(name, lengths, x64):
    cell, params, state, projected = make_case(name, jnp.float64)
    lengths = jnp.array(lengths)

    def loop(state, projected, length):
        def unroll(*args):
            return recurrence.loop(cell, *args, length)

        of_state = jax.grad(partial(value, unroll), argnums=1)
        return unroll(params, state, projected)[1], of_state(params, state, projected)

    outputs, d_states = jax.vmap(loop, in_axes=(0, 1, 0))(state, projected, lengths)
    for i, length in enumerate(lengths):
        args = params, at(state, i), at(projected, np.s_[:length, i])
        _, expected = recurrence.scan(cell, *args)
        np.testing.assert_allclose(outputs[i, :length], expected, rtol=1e-12, atol=1e-14)
        expected = jax.grad(partial(value, partial(recurrence.scan, cell)), argnums=1)(*args)
        assert_close(at(d_states, i), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("unroll", ["scan", "loop"])
@pytest.mark.parametrize("name", CELLS)
def test_a_reset_starts_from_the_initial_state_whatever_was_before(name, unroll):
    """Not even NaN survives it, neither in values nor in gradients."""
    cell, params, state, projected = make_case(name, jnp.float32)
    resets = jnp.zeros((TIME, BATCH), bool).at[3].set(True)
    spoiled = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state)
    run = {
        "scan": partial(recurrence.scan, cell),
        "loop": lambda *args: recurrence.loop(cell, *args[:3], TIME, *args[3:]),
    }[unroll]
    _, outputs = run(params, spoiled, projected, resets)
    fresh = cell.initial_state((BATCH,))
    _, expected = recurrence.scan(cell, params, fresh, at(projected, np.s_[3:]))
    np.testing.assert_allclose(outputs[3:], expected, rtol=1e-6, atol=1e-6)

    def after_the_reset(state):
        return jnp.sum(run(params, state, projected, resets)[1][3:])

    for x in jax.tree.leaves(jax.grad(after_the_reset)(state)):
        assert not np.any(x)


def test_rows_are_chosen_whatever_their_shape():
    condition = jnp.array([True, False])
    new = {"a": jnp.ones((2, 3)), "b": jnp.ones(2), "c": jnp.ones((2, 1, 4))}
    old = jax.tree.map(lambda x: x * jnp.nan, new)
    chosen = recurrence.choose_rows(condition, new, old)
    for x in jax.tree.leaves(chosen):
        assert np.all(x[0] == 1)
        assert np.all(np.isnan(x[1]))
