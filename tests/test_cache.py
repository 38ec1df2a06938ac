"""Models with a cache against counts in dictionaries, and runs of them."""

import json
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_mixture import call

import dinojax
from dinojax.data.vocab import Vocab
from dinojax.evaluation.strings import text_nats
from dinojax.models.cache import cached
from dinojax.runs.folder import load_run
from dinojax.runs.kinds import Mixture, Ngram, kind_from_json, kind_to_json

from model_kinds import build, network, random_names

VOCAB = Vocab("\nabcd")
NO = VOCAB.no_character


def slow(base, ids, size):
    """What comes after `ids`, of which the cache holds the last `size`: a loop over contexts."""
    probabilities = np.array(base)
    for n in range(3, 9):
        if len(ids) < n:
            break
        known = [i for i in range(n, len(ids)) if i >= len(ids) - size]
        counts = Counter(ids[i] for i in known if ids[i - n : i] == ids[-n:])
        if counts:
            weight = 20 * len(counts)
            own = np.array([counts[character] for character in range(VOCAB.size)])
            probabilities = (own + weight * probabilities) / (own.sum() + weight)
    return probabilities


def random_text(num, seed=0):
    """Characters in phrases that return."""
    generator = np.random.default_rng(seed)
    phrases = [generator.integers(0, VOCAB.size, 12).tolist() for _ in range(4)]
    return [x for i in generator.integers(0, 4, num // 12 + 1) for x in phrases[i]][:num]


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_steps_give_what_a_loop_over_contexts_gives(size):
    base, params = network(VOCAB)
    model, ids = cached(base, size), random_text(150)
    step, plain = jax.jit(model.step), jax.jit(base.step)
    state, own = model.initial_state(()), base.initial_state(())
    differs = False
    for t, character in enumerate([NO, *ids]):
        own, logits = plain(params, own, jnp.array(character))
        state, found = step(params, state, jnp.array(character))
        expected = slow(np.asarray(jax.nn.softmax(logits), float), ids[:t], size)
        np.testing.assert_allclose(np.exp(found), expected, rtol=1e-5, atol=1e-7)
        differs |= not np.allclose(np.exp(found), jax.nn.softmax(logits), rtol=1e-3)
    assert expected.sum() == pytest.approx(1)
    assert differs


@pytest.mark.parametrize("length", [None, 0, 30])
@pytest.mark.parametrize("kind", ["cached", "network"])
def test_unroll_equals_a_python_loop_of_steps(kind, length):
    model, params = build(kind, VOCAB) if kind == "cached" else network(VOCAB, "lstm")
    model = cached(model, 30)
    inputs = np.array([[NO, *random_text(59, seed)] for seed in (1, 2)], np.uint8).T
    inputs[20, 1] = NO
    step = jax.jit(model.step)
    begun = step(params, model.initial_state((2,)), jnp.array([1, 2], jnp.uint8))[0]
    fresh = model.initial_state((2,))
    unroll = jax.jit(partial(model.unroll, resets=True))
    last, logits = unroll(params, begun, jnp.asarray(inputs), length)
    state = begun
    for t in range(60 if length is None else length):
        is_start = jnp.asarray(inputs[t] == NO)
        state = jax.tree.map(lambda x, y, at=is_start: jnp.where(at[:, None], x, y), fresh, state)
        state, expected = step(params, state, jnp.asarray(inputs[t]))
        np.testing.assert_allclose(logits[t], expected, rtol=2e-5, atol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), last, state)
    assert [x.dtype for x in jax.tree.leaves(last)] == [x.dtype for x in jax.tree.leaves(state)]


def test_no_character_empties_the_cache():
    base, params = network(VOCAB)
    model, step = cached(base, 100), jax.jit(cached(base, 100).step)
    state = model.initial_state(())
    for character in random_text(60):
        state, _ = step(params, state, jnp.array(character))
    assert np.any(state.recent.matches > 0)
    state, logits = step(params, state, jnp.array(NO))
    jax.tree.map(np.testing.assert_array_equal, state.recent, model.initial_state(()).recent)
    np.testing.assert_allclose(np.exp(logits.astype(float)).sum(), 1, rtol=1e-6)


def test_gradients_are_those_of_the_probabilities():
    """The counts are constants: d log p / d logit of the model, by finite differences."""
    base, params = network(VOCAB)
    model, ids = cached(base, 100), jnp.array([NO, *random_text(80)])

    def cost(params):
        logits = model.unroll(params, model.initial_state(()), ids[:-1])[1]
        return -jnp.take_along_axis(logits, ids[1:, None], axis=1).sum()

    grads = jax.jit(jax.grad(cost))(params)
    direction = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), params)
    moved = [jax.tree.map(lambda x, d, h=h: x + h * d, params, direction) for h in (1e-2, -1e-2)]
    slope = (cost(moved[0]) - cost(moved[1])) / 2e-2
    along = sum(
        jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (grads, direction)), strict=True)
    )
    assert float(slope) == pytest.approx(float(along), rel=0.02)


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused(size):
    with pytest.raises(ValueError, match="cache of at least 1 character"):
        cached(network(VOCAB)[0], size)


def test_a_kind_with_a_cache_in_json():
    kind = Mixture((Ngram(2), Mixture((Ngram(3),), (1.0,), 9)), (0.25, 0.75), 1_000)
    assert kind_from_json(json.loads(json.dumps(kind_to_json(kind)))) == kind
    for bad in -1, 2.0, True, "9", 10**9, None:
        with pytest.raises(ValueError, match="expected a network"):
            kind_from_json({"mixture": [{"ngram": 2, "weight": 1.0}], "cache": bad})


TEXT = "".join(f"{name} " for name in random_names(VOCAB, 300, 6))
SMALL = "--hidden-size=8", "--steps=20", "--batch-size=4", "--devices=1", "--window=8"


def call_line(line, *arguments, cwd, code=0):
    return call(*line.split(), *arguments, cwd=cwd, code=code)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "poem.txt").write_text(TEXT)
    call_line("train text --data poem.txt --out poet", *SMALL, cwd=folder)
    return folder


def test_a_mixture_with_a_cache_is_a_run_like_others(place):
    said = call_line("mix poet --ngram 3 --cache 50 --out mixed", cwd=place)
    run = load_run(place / "mixed")
    validation = (place / "mixed" / "validation.txt").read_text()
    plain = dinojax.mix([place / "poet"], place / "plain", ngram=3)
    for name, trained in {
        "mixture with cache": plain.trained._replace(model=cached(plain.trained.model, 50)),
        "mixture": plain.trained,
    }.items():
        (line,) = (line for line in said.splitlines() if line.startswith(f"{name}  "))
        cost = text_nats(trained, validation).mean()
        assert float(line.removeprefix(name).split()[0]) == pytest.approx(cost, abs=1e-4)
        if name != "mixture":
            assert text_nats(run.trained, validation).mean() == pytest.approx(cost, rel=1e-6)
    assert "a cache of 50 characters, on validation" in call_line("evaluate mixed", cwd=place)
    assert "weights that follow" in call_line("evaluate mixed --dynamic", cwd=place)
    text = call_line("sample mixed --prompt ab --length 40", cwd=place)
    assert len(text) == 43
    assert len(call_line("sample mixed --length 5 --context 4", cwd=place)) == 6
    again = dinojax.mix([place / "mixed"], place / "again", cache=9, weights=[1])
    assert again.description.kind.members == (run.description.kind,)
    found = json.loads(call_line("mix poet --cache 9 --out alone --json", cwd=place))["models"]
    assert [row["model"] for row in found] == ["poet", "mixture", "mixture with cache"]
    assert found[0]["nats_per_character"] == pytest.approx(found[1]["nats_per_character"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("mix poet --cache 0 --out new", "--cache: expected a number from 1 to 65,536"),
        ("mix poet --cache 10**9 --out new", "--cache: expected a whole number"),
        (
            "mix listed --cache 9 --out new",
            " cache: only for texts; names stand in no order, so leave it out",
        ),
    ],
)
def test_what_does_not_go_is_one_line(line, says, place):
    if not (place / "listed").exists():
        dinojax.fit_ngram(["abc", "abd", "bcd"] * 9, 2, folder=place / "listed")
    said = call_line(line, cwd=place, code=2)
    assert says in said
    assert len(said.splitlines()) == 1
    assert not (place / "new").exists()
