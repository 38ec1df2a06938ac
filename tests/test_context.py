"""A model that reads no more than the last characters."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.data.vocab import Vocab
from dinojax.models.cells import gru, lstm
from dinojax.models.context import in_context
from dinojax.models.layers import from_cell
from dinojax.models.model import char_model
from dinojax.models.trained import Trained
from dinojax.sampling.accept import continue_text

ABC = Vocab("\nabc")
SIZE, SEED = 3, 8


@pytest.fixture(scope="module")
def model():
    sizes = pairwise([ABC.size, 5, 5])
    layers = [from_cell(cell(*each)) for cell, each in zip((gru, lstm), sizes, strict=True)]
    return char_model(layers, ABC)


@pytest.fixture(scope="module")
def params(model):
    """Large enough that every character matters, also those that are not there."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    generator = np.random.default_rng(SEED)
    return jax.tree.map(lambda x: generator.normal(0, 2, x.shape).astype(x.dtype), shapes)


@pytest.fixture(scope="module")
def logits_after(model, params):
    """A function to the logits after the last of `ids` [SIZE, ...], read from a fresh state."""

    @jax.jit
    def read(ids):
        return model.unroll(params, model.initial_state(ids.shape[1:]), ids)[1][-1]

    return read


def test_each_step_reads_the_last_characters_from_a_fresh_state(model, params, logits_after):
    inputs = np.random.default_rng(1).integers(0, ABC.size, (6, 2))
    context = in_context(model, SIZE)
    state = context.initial_state((2,))
    last, logits = jax.jit(context.unroll)(params, state, inputs)
    padded = np.concatenate([np.full((SIZE, 2), ABC.no_character), inputs])
    expected = logits_after(np.stack([padded[i : i + 6] for i in range(1, SIZE + 1)]))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(last, inputs[-SIZE:].T)
    # Zero vectors before the start change the state by the biases.
    assert np.abs(logits[0] - logits_after(inputs[:1])).max() > 0.01
    step, layer_outputs = jax.jit(context.step), jax.jit(context.layer_outputs)
    kernel, bias = params["readout"]["kernel"], params["readout"]["bias"]
    for ids, expected in zip(inputs, logits, strict=True):
        _, outputs = layer_outputs(params, state, ids)
        state, actual = step(params, state, ids)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            outputs[-1] @ kernel + bias[None], expected, rtol=1e-5, atol=1e-5
        )


def test_a_text_is_continued_from_its_last_characters(model, params, logits_after):
    trained = Trained(model, params, ABC)
    text = "ab"
    for _ in range(20):
        ids = [ABC.no_character] * (SIZE - len(text)) + ABC.encode(text[-SIZE:]).tolist()
        text += ABC.decode([int(logits_after(np.array(ids)).argmax())])
    assert continue_text(trained, "ab", 20, temperature=0, context=SIZE) == text
    assert continue_text(trained, "ab", 20, temperature=0) != text


def test_what_is_for_training_is_refused(model, params):
    context = in_context(model, SIZE)
    inputs, state = jnp.zeros(4, int), context.initial_state(())
    for given in {"length": 2}, {"resets": True}, {"dropout_keys": jax.random.key(0)}:
        with pytest.raises(ValueError, match="no length, resets or dropout; train the model itse"):
            context.unroll(params, state, inputs, **given)
    with pytest.raises(ValueError, match="context of at least 1 character, got 0"):
        in_context(model, 0)
