from itertools import pairwise
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.config import CellName
from dinojax.data.vocab import Vocab
from dinojax.models import recurrence
from dinojax.models.cells import CELLS, vanilla
from dinojax.models.layers import Layer, from_cell, make_layer
from dinojax.models.model import char_model, drop
from dinojax.models.recurrence import reset

ALPHABET, HIDDEN = Vocab("\nabcdef"), 5
VOCAB = ALPHABET.size


@pytest.fixture(params=[*get_args(CellName), "vanilla vanilla", "gru lstm", "lru vanilla mingru"])
def model(request):
    names = request.param.split()
    sizes = [VOCAB, HIDDEN, HIDDEN + 1, HIDDEN + 2][: len(names) + 1]
    layers = [make_layer(name, *pair) for name, pair in zip(names, pairwise(sizes), strict=True)]
    return char_model(layers, ALPHABET)


@pytest.fixture
def params(model):
    return model.init(jax.random.key(0))


@pytest.fixture
def inputs():
    return jnp.array([[VOCAB, VOCAB], [3, 1], [0, 2], [6, 6], [2, 5]], jnp.uint8)


def test_unroll_equals_a_python_loop_of_steps(model, params, inputs):
    state = model.initial_state((2,))
    last, logits = model.unroll(params, state, inputs)
    for t, ids in enumerate(inputs):
        state, expected = model.step(params, state, ids)
        np.testing.assert_allclose(logits[t], expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), last, state)


def test_unroll_to_a_length_equals_unroll_of_that_many(model, params, inputs):
    state = model.initial_state((2,))
    last, logits = jax.jit(model.unroll)(params, state, inputs, 3)
    expected_last, expected = jax.jit(model.unroll)(params, state, inputs[:3])
    np.testing.assert_allclose(logits[:3], expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), last, expected_last
    )


@pytest.mark.parametrize("length", [None, 5])
def test_a_later_character_changes_no_earlier_logit(length, model, params, inputs):
    state = model.initial_state((2,))
    changed = inputs.at[3].set(jnp.array([1, 1], jnp.uint8))
    _, logits = model.unroll(params, state, inputs, length)
    _, others = model.unroll(params, state, changed, length)
    np.testing.assert_array_equal(logits[:3], others[:3])
    assert np.all(logits[3:] != others[3:])


def test_jit_equals_eager(model, params, inputs):
    state = model.initial_state((2,))
    _, logits = jax.jit(model.unroll)(params, state, inputs)
    _, expected = model.unroll(params, state, inputs)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_names_shapes_and_types_of_the_parameters():
    model = char_model([from_cell(vanilla(VOCAB, 4)), from_cell(vanilla(4, 3))], ALPHABET)
    shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), model.init(jax.random.key(0)))
    assert shapes == {
        "layers": [
            {
                "input_kernel": ((VOCAB, 4), "float32"),
                "recurrent_kernel": ((4, 4), "float32"),
                "bias": ((4,), "float32"),
            },
            {
                "input_kernel": ((4, 3), "float32"),
                "recurrent_kernel": ((3, 3), "float32"),
                "bias": ((3,), "float32"),
            },
        ],
        "readout": {"kernel": ((3, VOCAB), "float32"), "bias": ((VOCAB,), "float32")},
    }


def test_layers_are_drawn_from_keys_of_their_own():
    model = char_model([from_cell(vanilla(4, 4)), from_cell(vanilla(4, 4))], Vocab("\nabc"))
    first, second = model.init(jax.random.key(0))["layers"]
    assert np.all(first["input_kernel"] != second["input_kernel"])


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="expected at least one layer"):
        char_model([], ALPHABET)


@pytest.mark.parametrize("length", [None, 5])
def test_resets_read_each_name_as_if_it_stood_alone(length, model, params):
    # Row 0 reads two names, row 1 goes on from a state, then reads two more, the first empty.
    inputs = jnp.array([[VOCAB, 1], [3, 4], [0, VOCAB], [VOCAB, 5], [2, 6]], jnp.uint8)
    state = jax.tree.map(lambda x: jnp.full_like(x, 0.3), model.initial_state((2,)))
    _, logits = model.unroll(params, state, inputs, length, resets=True)
    carried = jax.tree.map(lambda x: x[1], state)
    fresh = model.initial_state(())
    for row, start, end, first in (
        (0, 0, 3, fresh),
        (0, 3, 5, fresh),
        (1, 0, 2, carried),
        (1, 2, 5, fresh),
    ):
        _, expected = model.unroll(params, first, inputs[start:end, row])
        np.testing.assert_allclose(logits[start:end, row], expected, rtol=1e-5, atol=1e-6)


def running_mean(features):
    """A layer that unrolls by a parallel scan: s_t = 0.5 s_{t-1} + x_t W, from s_0 = 1, not 0."""

    def init(key):
        return jax.random.normal(key, (VOCAB + 1, features))

    def initial_state(batch_shape):
        return jnp.ones((*batch_shape, features))

    def step(params, state, inputs):
        state = 0.5 * state + params[inputs]
        return state, state

    def unroll(params, state, inputs, length=None, resets=None):
        factors = jnp.full((*inputs.shape, features), 0.5)
        terms = params[inputs]
        if resets is not None:
            # A reset forgets what was before, and starts from the initial state instead.
            rows = jnp.broadcast_to(resets[..., None], factors.shape)
            terms = jnp.where(rows, terms + factors * jnp.ones_like(terms), terms)
            factors = jnp.where(rows, 0, factors)

        def joined(first, second):
            return first[0] * second[0], second[0] * first[1] + second[1]

        scale, sums = jax.lax.associative_scan(joined, (factors, terms))
        states = jnp.where(scale == 0, sums, scale * state[None] + sums)
        last = len(inputs) if length is None else length
        return states[last - 1], states

    return Layer(features, init, initial_state, step, unroll)


@pytest.mark.parametrize("length", [None, 4])
@pytest.mark.parametrize("resets", [False, True])
def test_a_layer_may_unroll_by_a_parallel_scan(resets, length):
    model = char_model([running_mean(6), from_cell(vanilla(6, 5))], ALPHABET)
    params = model.init(jax.random.key(0))
    inputs = jnp.array([[VOCAB, 1], [3, VOCAB], [VOCAB, 2], [2, 6], [1, 5]])
    state = jax.tree.map(lambda x: jnp.full_like(x, 0.3), model.initial_state((2,)))
    last, logits = model.unroll(params, state, inputs, length, resets)
    for t in range(length or 5):
        if resets:
            state = reset(model.initial_state, state, inputs[t] == VOCAB)
        state, expected = model.step(params, state, inputs[t])
        np.testing.assert_allclose(logits[t], expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), last, state)
    (first, second), outputs = model.layer_outputs(params, state, inputs[0])
    np.testing.assert_array_equal(outputs[0], first)
    np.testing.assert_array_equal(outputs[1], second)


def test_dropout_drops_at_its_rate_and_keeps_the_mean():
    rate, shape = 0.3, (400, 500)
    values = drop(jax.random.key(0), 0, jnp.ones(shape), rate)
    share = np.mean(values == 0)
    # Five standard deviations of a binomial share.
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / values.size)
    np.testing.assert_allclose(values[values != 0], 1 / (1 - rate), rtol=1e-4)
    assert abs(np.mean(values) - 1) < 5 * np.sqrt(rate / (1 - rate) / values.size)


def test_dropout_of_almost_all_is_finite():
    values = drop(jax.random.key(0), 0, jnp.ones((1000, 256)), 0.9999999)
    np.testing.assert_array_equal(np.unique(values), [0, 2**16])


def test_dropout_is_at_work_with_a_key_alone_and_between_all_layers(inputs):
    cells = [CELLS["gru"](VOCAB, 64), CELLS["gru"](64, 64)]
    layers = [*map(from_cell, cells)]
    plain, dropping = (char_model(layers, ALPHABET, dropout=rate) for rate in (0.0, 0.5))
    params, state = plain.init(jax.random.key(0)), plain.initial_state((2,))
    _, expected = plain.unroll(params, state, inputs)
    np.testing.assert_array_equal(dropping.unroll(params, state, inputs)[1], expected)
    keys = jax.random.split(jax.random.key(1), 2)
    (first, second), logits = dropping.unroll(params, state, inputs, dropout_keys=keys)
    _, again = dropping.unroll(params, state, inputs, dropout_keys=keys)
    np.testing.assert_array_equal(logits, again)
    # At the start, where a GRU's state of zero gives an output of zero, there is nothing to drop.
    assert np.all(logits[1:] != expected[1:])
    (plain_first, plain_second), _ = plain.unroll(params, state, inputs)
    # The state of the first layer never meets dropout, that of the second does through its input.
    np.testing.assert_array_equal(first, plain_first)
    assert np.all(second != plain_second)


@pytest.mark.parametrize("length", [None, 5])
def test_dropout_stands_between_layers_and_before_the_readout(length, inputs):
    cells = [CELLS["gru"](VOCAB, 6), CELLS["lstm"](6, 5)]
    model = char_model([*map(from_cell, cells)], ALPHABET, dropout=0.5)
    params, keys = model.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 2)
    outputs = inputs
    for i, (cell, layer) in enumerate(zip(cells, params["layers"], strict=True)):
        projected = cell.project(layer, outputs)
        _, outputs = recurrence.scan(cell, layer, cell.initial_state((2,)), projected)
        outputs = drop(keys, i, outputs, 0.5)
    kernel, bias = (np.asarray(params["readout"][name]) for name in ("kernel", "bias"))
    expected = np.asarray(outputs) @ kernel + bias
    start = model.initial_state((2,))
    _, logits = model.unroll(params, start, inputs, length, dropout_keys=keys)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_each_row_and_layer_draws_its_own_dropout():
    keys = jax.random.split(jax.random.key(0), 6).reshape(2, 3)
    values = jnp.ones((40, 2, 3, 8))
    dropped = drop(keys, 0, values, 0.5)
    for row in np.ndindex(2, 3):
        alone = drop(keys[row], 0, values[:, 0, 0], 0.5)
        np.testing.assert_array_equal(dropped[:, *row], alone)
    rows = dropped.reshape(40, 6, 8)
    agree = [np.mean(rows[:, 0] == rows[:, i]) for i in range(1, 6)]
    agree.append(np.mean(dropped == drop(keys, 1, values, 0.5)))
    # Five standard deviations of a share of a half.
    assert all(abs(share - 0.5) < 5 * 0.5 / np.sqrt(40 * 8) for share in agree)


@pytest.mark.parametrize("rate", [-0.1, 1, 2])
def test_a_dropout_that_leaves_nothing_is_refused(rate):
    with pytest.raises(ValueError, match="dropout from 0 to less than 1"):
        char_model([from_cell(vanilla(VOCAB, 4))], ALPHABET, dropout=rate)
