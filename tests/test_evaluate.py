import jax
import numpy as np

from dinojax.batches import pad_names
from dinojax.cells import vanilla
from dinojax.evaluate import nats_per_name
from dinojax.model import char_model
from dinojax.vocab import build_vocab

NAMES = ["rex", "triceratops", "yi", "mei", "iguanodon"]


def test_nats_per_name_equal_a_slow_loop():
    vocab = build_vocab(NAMES)
    model = char_model([vanilla(vocab.size, 8)], vocab.size)
    params = model.init(jax.random.key(0))
    nats = jax.jit(lambda params, examples: nats_per_name(params, model, examples))(
        params, pad_names(NAMES, vocab)
    )
    step = jax.jit(model.step)
    for name, actual in zip(NAMES, nats, strict=True):
        state, expected, previous = model.initial_state(()), 0.0, vocab.no_character
        for character in [*vocab.encode(name), vocab.newline]:
            state, logits = step(params, state, previous)
            logits = np.asarray(logits, np.float64)
            expected -= logits[character] - np.log(np.exp(logits).sum())
            previous = int(character)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_nats_per_name_do_not_depend_on_the_names_beside_it():
    vocab = build_vocab(NAMES)
    model = char_model([vanilla(vocab.size, 8)], vocab.size)
    params = model.init(jax.random.key(0))
    many = nats_per_name(params, model, pad_names(NAMES * 300, vocab))
    one = nats_per_name(params, model, pad_names(NAMES[:1], vocab))
    assert many.shape == (1500,)
    np.testing.assert_allclose(many[::5], np.full(300, one[0]), rtol=1e-5)
