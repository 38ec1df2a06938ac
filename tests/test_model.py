from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.cells import vanilla
from dinojax.model import char_model

VOCAB, HIDDEN = 7, 5


@pytest.fixture(params=[1, 2], ids=["one layer", "two layers"])
def model(request):
    sizes = [VOCAB, HIDDEN, HIDDEN + 1][: request.param + 1]
    cells = [vanilla(*pair) for pair in pairwise(sizes)]
    return char_model(cells, VOCAB)


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


def test_a_later_character_changes_no_earlier_logit(model, params, inputs):
    state = model.initial_state((2,))
    changed = inputs.at[3].set(jnp.array([1, 1], jnp.uint8))
    _, logits = model.unroll(params, state, inputs)
    _, others = model.unroll(params, state, changed)
    np.testing.assert_array_equal(logits[:3], others[:3])
    assert np.all(logits[3:] != others[3:])


def test_jit_equals_eager(model, params, inputs):
    state = model.initial_state((2,))
    _, logits = jax.jit(model.unroll)(params, state, inputs)
    _, expected = model.unroll(params, state, inputs)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_names_shapes_and_types_of_the_parameters():
    model = char_model([vanilla(VOCAB, 4), vanilla(4, 3)], VOCAB)
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
    model = char_model([vanilla(4, 4), vanilla(4, 4)], 4)
    first, second = model.init(jax.random.key(0))["layers"]
    assert np.all(first["input_kernel"] != second["input_kernel"])


def test_a_model_without_cells_is_refused():
    with pytest.raises(ValueError, match="expected at least one cell"):
        char_model([], VOCAB)
