"""An n-gram model as a character model, against dictionaries and against NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_ngram import slow_model

from dinojax.data.corpus import bundled_names, read_names
from dinojax.data.vocab import Vocab, build_vocab
from dinojax.evaluation.compare import joined
from dinojax.evaluation.ngram import fit_ngrams, nats
from dinojax.evaluation.strings import names_nats, text_nats
from dinojax.models.ngram import UNSEEN, Tables, check_tables, ngram_model
from dinojax.models.trained import Trained

from model_kinds import ngram, random_names

ABC, MANY = Vocab("\nabc"), Vocab("\n" + "".join(map(chr, range(0x4E00, 0x4E00 + 69))))
NO = ABC.no_character


@pytest.mark.parametrize("order", [1, 2, 5])
def test_steps_give_the_probabilities_of_dictionaries(order):
    names = random_names(ABC, 40)
    model, params = ngram(ABC, names, order)
    sequences = [ABC.encode(f"{name}\n") for name in names]
    probability = slow_model(sequences, ABC.size, order)
    step = jax.jit(model.step)
    # Among them are contexts that were never seen, and one that reaches back over the start.
    for context in ["", "a", "cab", "cccccc", "ab\nb", "\n\n\na"]:
        state, inputs = model.initial_state(()), [NO, *ABC.encode(context).tolist()]
        for character in inputs:
            state, logits = step(params, state, jnp.array(character))
        padded = (*[NO] * (order - 1), *inputs[1:])
        expected = [float(probability(padded, character)) for character in range(ABC.size)]
        np.testing.assert_allclose(np.exp(logits), expected, rtol=2e-6)
        assert np.exp(logits.astype(float)).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("order", [1, 3, 6])
def test_names_cost_what_the_counts_say(order):
    names = read_names(bundled_names()).data
    train, held_out = names[:1000], [*names[1000:], "x", "qzqzqz"]
    vocab = build_vocab(names)
    model, params = ngram(vocab, train, order)
    fitted = fit_ngrams(*joined(vocab, train), vocab.size, order)
    expected = nats(fitted, *joined(vocab, held_out))
    found = np.concatenate(names_nats(Trained(model, params, vocab), held_out))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_text_of_many_characters_costs_what_the_counts_say():
    # More characters than bits in two words, of which some are never seen in a context.
    text = "".join(f"{name}\n" for name in random_names(MANY, 700, 12))
    model, params = ngram(MANY, text, 4)
    other = "".join(f"{name}\n" for name in random_names(MANY, 200, 12, seed=1))
    expected = nats(fit_ngrams(*joined(MANY, text), MANY.size, 4), *joined(MANY, other))
    found = text_nats(Trained(model, params, MANY), other)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_in_float64_it_is_exact(x64):
    names = random_names(ABC, 50)
    model, params = ngram(ABC, names, 4, np.float64)
    ids, starts = joined(ABC, random_names(ABC, 50, seed=1))
    expected = nats(fit_ngrams(*joined(ABC, names), ABC.size, 4), ids, starts)
    inputs = np.where(starts, NO, np.roll(ids, 1))
    _, logits = jax.jit(model.unroll)(params, model.initial_state(()), jnp.asarray(inputs))
    found = -np.take_along_axis(np.asarray(logits), ids[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("order", "length"), [(1, 3), (3, None), (3, 0), (3, 4)])
def test_unroll_equals_a_python_loop_of_steps(order, length):
    model, params = ngram(ABC, random_names(ABC), order)
    inputs = jnp.array([[1, 3], [NO, 2], [2, 0], [2, NO], [1, NO], [3, 1]], jnp.uint8)
    step = jax.jit(model.step)
    state = step(params, model.initial_state((2,)), jnp.array([1, 2], jnp.uint8))[0]
    unroll = jax.jit(partial(model.unroll, resets=True))
    last, logits = unroll(params, state, inputs, length)
    for t in range(6 if length is None else length):
        state, expected = step(params, state, inputs[t])
        np.testing.assert_allclose(logits[t], expected, rtol=1e-6)
    np.testing.assert_array_equal(last, state)
    assert last.dtype == state.dtype


def test_no_character_begins_anew_whatever_was_read():
    model, params = ngram(ABC, random_names(ABC), 3)
    step = jax.jit(model.step)
    fresh, expected = step(params, model.initial_state(()), jnp.array(NO))
    read, other = step(params, fresh, jnp.array(1))
    state, logits = step(params, read, jnp.array(NO))
    np.testing.assert_array_equal(state, fresh)
    np.testing.assert_array_equal(logits, expected)
    assert np.all(other != expected)


def test_a_model_that_has_seen_nothing_holds_all_characters_equally_probable():
    model = ngram_model(MANY, 4)
    params = model.init(jax.random.key(0))
    check_tables(jax.device_get(params), MANY.size, 4)
    start = model.initial_state((3,))
    state, logits = jax.jit(model.step)(params, start, jnp.array([0, 5, 70]))
    np.testing.assert_allclose(logits, np.full((3, 70), -np.log(70)), rtol=1e-6)
    assert np.all(state[:2, 1:] == UNSEEN)


@pytest.mark.parametrize("order", [0, -1])
def test_an_order_below_one_is_refused(order):
    with pytest.raises(ValueError, match="order of at least 1"):
        ngram_model(ABC, order)


def test_other_tables_are_refused():
    _, params = ngram(ABC, random_names(ABC), 3)
    tables = Tables(*map(np.array, params))
    check_tables(tables, ABC.size, 3)
    for name, change in {
        "seen": lambda x: x[:-1],
        "first": lambda x: x + len(tables.kept),
        "freed": lambda x: x[:3],
        "kept": lambda x: x[:5],
    }.items():
        bad = tables._replace(**{name: change(getattr(tables, name))})
        with pytest.raises(ValueError, match="expected the tables of an n-gram model of order 3"):
            check_tables(bad, ABC.size, 3)
    with pytest.raises(ValueError, match="expected the tables"):
        check_tables(tables._replace(first=-tables.first), ABC.size, 3)
    with pytest.raises(ValueError, match="expected the tables"):
        check_tables(tables, 40, 3)
