"""The most probable names, against an enumeration of all names."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.data.vocab import Vocab
from dinojax.models.cells import CELLS
from dinojax.models.layers import from_cell
from dinojax.models.model import char_model
from dinojax.models.trained import Trained
from dinojax.sampling.search import most_probable_names

from model_kinds import KINDS, build

VOCAB = Vocab("\nabc")
VOCAB_SIZE, NEWLINE, MAX_LENGTH = 4, 0, 5


@pytest.fixture(scope="module", params=["vanilla", "lstm", *KINDS])
def built(request):
    if request.param in KINDS:
        return build(request.param, VOCAB)
    model = char_model([from_cell(CELLS[request.param](VOCAB_SIZE, 5))], VOCAB)
    params = model.init(jax.random.key(0))
    key = jax.random.key(1)
    return model, jax.tree.map(lambda x: x + 0.7 * jax.random.normal(key, x.shape), params)


@pytest.fixture(scope="module")
def model(built):
    return built[0]


@pytest.fixture(scope="module")
def params(built):
    return built[1]


def all_names(params, model, beginning=(), max_length=MAX_LENGTH):
    """Every name up to the length but "", with its log-probability, the most probable first."""
    found, unroll = [], jax.jit(model.unroll)
    for length in range(not beginning, max_length + 1):
        names = np.array(list(product(range(1, VOCAB_SIZE), repeat=length)), int)
        names = names.reshape(3**length, length)
        start = np.broadcast_to(np.array(beginning, int), (len(names), len(beginning)))
        whole = np.concatenate([start, names, np.full((len(names), 1), NEWLINE)], axis=1).T
        inputs = np.concatenate([np.full_like(whole[:1], VOCAB_SIZE), whole[:-1]])
        _, logits = unroll(params, model.initial_state((len(names),)), jnp.asarray(inputs))
        chosen = np.take_along_axis(
            np.asarray(jax.nn.log_softmax(logits)), whole[..., None], axis=-1
        )
        totals = chosen.astype(float).sum(axis=(0, 2))
        found += zip(totals.tolist(), map(VOCAB.decode, whole[:-1].T), strict=True)
    return sorted(found, reverse=True)


def search(params, model, num, max_length, **options):
    trained = Trained(model, params, VOCAB)
    return most_probable_names(trained, num, max_length=max_length, **options)


@pytest.mark.parametrize("num", [1, 7, 60])
def test_it_finds_what_brute_force_finds(num, params, model):
    expected = all_names(params, model)[:num]
    found = search(params, model, num, MAX_LENGTH)
    assert found.names.names == [name for _, name in expected]
    np.testing.assert_allclose(found.names.log_probabilities, [p for p, _ in expected], rtol=1e-5)


def test_asking_for_more_names_than_exist_returns_all(params, model):
    found = search(params, model, 1000, 3)
    expected = all_names(params, model, max_length=3)
    assert found.names.names == [name for _, name in expected]
    assert len(expected) == 3 + 9 + 27
    assert found.num_prefixes == 1 + len(expected)


def test_names_with_a_beginning(params, model):
    found = search(params, model, 9, 3, prompt="ba")
    expected = all_names(params, model, (2, 1), 3)[:9]
    assert found.names.names == [name for _, name in expected]
    np.testing.assert_allclose(found.names.log_probabilities, [p for p, _ in expected], rtol=1e-5)


def test_giving_up_returns_what_is_certain(params, model):
    expected = [name for _, name in all_names(params, model)]
    found = search(params, model, 60, MAX_LENGTH, max_prefixes=20, batch_size=2)
    assert found.num_prefixes == 20
    assert 0 < len(found.names.names) < 60
    assert found.names.names == expected[: len(found.names.names)]


def test_it_reads_few_of_all_beginnings(params, model):
    found = search(params, model, 1, 12, batch_size=1)
    assert found.num_prefixes < 3**12 / 100


def test_names_of_blanks_alone_are_empty(params, model):
    trained = Trained(model, params, Vocab("\n bc"))
    found = most_probable_names(trained, 60, max_length=3).names
    expected = [(p, x.replace("a", " ")) for p, x in all_names(params, model, max_length=3)]
    expected = [(p, name) for p, name in expected if name.strip()]
    assert len(expected) == 39 - 3
    assert found.drawn_as == [name for _, name in expected]
    assert found.names == [name.strip() for _, name in expected]
    after_prompt = most_probable_names(trained, 60, prompt="b", max_length=1).names
    assert sorted(after_prompt.drawn_as) == ["b", "b ", "bb", "bc"]
