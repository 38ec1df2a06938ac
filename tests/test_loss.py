import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.data.batches import pad_names
from dinojax.data.vocab import build_vocab
from dinojax.models.cells import vanilla
from dinojax.models.layers import from_cell
from dinojax.models.model import char_model
from dinojax.training.loss import cross_entropy, mean_cross_entropy, summed_cross_entropy


@pytest.fixture
def example():
    logits = jax.random.normal(jax.random.key(0), (4, 2, 5)) * 3
    targets = jnp.array([[0, 1], [2, 3], [4, 0], [1, 1]], jnp.uint8)
    weights = jnp.array([[1, 1], [1, 1], [1, 0], [0, 0]], jnp.float32)
    return logits, targets, weights


def test_cross_entropy_equals_a_python_loop(example):
    logits, targets, weights = map(np.asarray, example)
    nats = cross_entropy(*example)
    for t, b in np.ndindex(4, 2):
        probabilities = np.exp(logits[t, b]) / np.exp(logits[t, b]).sum()
        expected = -weights[t, b] * np.log(probabilities[targets[t, b]])
        np.testing.assert_allclose(nats[t, b], expected, rtol=1e-5)


def test_summed_over_time_and_averaged_over_the_batch(example):
    expected = np.asarray(cross_entropy(*example)).sum()
    np.testing.assert_allclose(summed_cross_entropy(*example), (expected, 2), rtol=1e-6)


def test_averaged_over_all_characters_that_count(example):
    expected = np.asarray(cross_entropy(*example)).sum()
    np.testing.assert_allclose(mean_cross_entropy(*example), (expected, 5), rtol=1e-6)


def test_weights_may_have_another_float_type(example, x64):
    logits, targets, weights = example
    nats = cross_entropy(logits.astype(jnp.float64), targets, weights)
    assert nats.dtype == jnp.float64


def test_huge_logits_stay_finite():
    logits = jnp.array([[[1e4, -1e4, 0.0]]])
    gradient = jax.grad(lambda x: summed_cross_entropy(x, jnp.array([[1]]), jnp.ones((1, 1)))[0])(
        logits
    )
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[0, 0], [1, -1, 0], atol=1e-6)


def test_an_untrained_model_costs_about_log_vocab_a_character():
    names = ["abcdefghijklm", "nopqrstuvwxyz"]
    vocab = build_vocab(names)
    model = char_model([from_cell(vanilla(vocab.size, 50))], vocab)
    batch = pad_names(names, vocab)
    _, logits = model.unroll(
        model.init(jax.random.key(0)), model.initial_state((2,)), jnp.asarray(batch.inputs)
    )
    nats = cross_entropy(logits, batch.targets, jnp.asarray(batch.weights)).sum() / 28
    assert abs(nats - np.log(27)) < 0.3
