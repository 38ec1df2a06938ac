import math
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_controls import slow as slow_law

from dinojax.config import CellName
from dinojax.data.batches import pad_names
from dinojax.data.vocab import Vocab
from dinojax.evaluation.losses import nats_per_column
from dinojax.models.cells import vanilla
from dinojax.models.layers import from_cell, make_layer
from dinojax.models.model import char_model
from dinojax.sampling import draw as sample
from dinojax.sampling.controls import NO_LIMIT, Controls
from dinojax.sampling.stream import stream_names

import numpy_reference

VOCAB = Vocab("\nab")
LETTERS = Vocab("\nabcdefghijklmnopqrstuvwxyz")
MAX_LENGTH = 4
NEWLINE = 0
SAMPLERS = {
    "plain": sample.sample_names,
    "stream": partial(stream_names, rows=512),
}


CONTROLS = [
    {},
    {"temperature": 0.6},
    {"top_k": 2},
    {"top_p": 0.7},
    {"min_p": 0.2},
    {"temperature": 1.5, "top_k": 2, "top_p": 0.9, "min_p": 0.2},
]


@pytest.fixture(scope="module")
def model():
    return char_model([from_cell(vanilla(VOCAB.size, 6))], VOCAB)


@pytest.fixture(scope="module")
def params(model):
    # Random biases too: with zeros, the first character of a name would be uniform.
    params = model.init(jax.random.key(5))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(6), len(leaves))
    noise = [jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)]
    return jax.tree.map(lambda x, y: x + 0.5 * y, params, jax.tree.unflatten(structure, noise))


def chi_squared_limit(degrees):
    """Five standard deviations above the mean of the distribution."""
    return degrees + 5 * np.sqrt(2 * degrees)


def write(sampler, key, params, model, num, max_length=MAX_LENGTH, **controls):
    sampler = jax.jit(partial(sampler, model=model, num=num, max_length=max_length))
    return jax.device_get(sampler(key, params, controls=Controls(**controls)))


def texts(samples):
    rows = zip(samples.ids, samples.lengths, strict=True)
    return [VOCAB.decode(ids[:length]) for ids, length in rows]


def enumerate_names(params, model, **controls):
    """Probability of every name up to `MAX_LENGTH`, and of every cut one, by walking the tree."""
    step = jax.jit(model.step)
    ended, cut = {}, {}

    def walk(prefix, state, previous, probability):
        state, logits = step(params, state, previous)
        newline, *others = slow_law(np.asarray(logits, np.float64), **controls) * probability
        ended[prefix] = newline
        if len(prefix) == MAX_LENGTH:
            cut[prefix] = sum(others)
            return
        for character, p in zip("ab", others, strict=True):
            walk(prefix + character, state, VOCAB.characters.index(character), p)

    walk("", model.initial_state(()), VOCAB.no_character, 1.0)
    return ended, cut


@pytest.mark.parametrize("controls", CONTROLS, ids=str)
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_names_come_as_often_as_the_model_says(sampler, controls, params, model):
    num = 20_000
    samples = write(sampler, jax.random.key(0), params, model, num, **controls)
    ended, cut = enumerate_names(params, model, **controls)
    assert sum(ended.values()) + sum(cut.values()) == pytest.approx(1)
    expected = {(name, True): p for name, p in ended.items()}
    expected |= {(name, False): p for name, p in cut.items()}
    observed = dict.fromkeys(expected, 0)
    for outcome in zip(texts(samples), samples.ended.tolist(), strict=True):
        observed[outcome] += 1
    # Excluded names never occur.
    assert all(observed[x] == 0 for x, p in expected.items() if p == 0)
    expected = {x: p for x, p in expected.items() if p > 0}
    statistic = sum((observed[x] - num * p) ** 2 / (num * p) for x, p in expected.items())
    assert len(expected) > 1
    assert statistic < chi_squared_limit(len(expected) - 1)
    # The reported probabilities are those of this distribution.
    outcomes = zip(texts(samples), samples.ended.tolist(), strict=True)
    laws = [(ended if whole else cut_characters(cut, ended))[x] for x, whole in outcomes]
    np.testing.assert_allclose(np.exp(samples.drawn_log_probabilities), laws, rtol=1e-4)


def cut_characters(cut, ended):
    """Probability of the characters of a name that was cut, whatever would have come next."""
    return {name: p + ended[name] for name, p in cut.items()}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_log_probabilities_are_those_of_the_model(sampler, params, model):
    samples = write(sampler, jax.random.key(1), params, model, 600, temperature=0.7)
    ended, _ = enumerate_names(params, model)
    names = texts(samples)
    scored = dict(
        zip(
            ended,
            np.asarray(nats_per_column(params, model, pad_names(list(ended), VOCAB))),
            strict=True,
        )
    )
    finished = [i for i, has_ended in enumerate(samples.ended) if has_ended]
    log_p = samples.log_probabilities
    np.testing.assert_allclose(log_p[finished], [-scored[names[i]] for i in finished], atol=1e-5)
    np.testing.assert_allclose(
        np.exp(log_p[finished]), [ended[names[i]] for i in finished], rtol=1e-5
    )


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_cut_name_has_the_probability_of_its_characters(sampler, params, model):
    samples = write(sampler, jax.random.key(2), params, model, 3000)
    ended, cut = enumerate_names(params, model)
    for name, length, log_p, has_ended in zip(
        texts(samples), samples.lengths, samples.log_probabilities, samples.ended, strict=True
    ):
        if not has_ended:
            assert length == MAX_LENGTH
            assert np.exp(log_p) == pytest.approx(cut[name] + ended[name], rel=1e-4)
    assert 0 < samples.ended.mean() < 1


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_newline_never_appears_inside_a_name_and_always_after_it(sampler, params, model):
    samples = write(sampler, jax.random.key(3), params, model, 1000)
    for ids, length in zip(samples.ids, samples.lengths, strict=True):
        assert np.all(ids[:length] != NEWLINE)
        assert np.all(ids[length:] == NEWLINE)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_equal_keys_give_equal_names(sampler, params, model):
    first = write(sampler, jax.random.key(4), params, model, 600)
    again = write(sampler, jax.random.key(4), params, model, 600)
    other = write(sampler, jax.random.key(5), params, model, 600)
    np.testing.assert_array_equal(first.ids, again.ids)
    assert np.any(first.ids != other.ids)


def test_a_name_does_not_depend_on_how_many_are_drawn(params, model):
    many = write(sample.sample_names, jax.random.key(6), params, model, 300)
    few = write(sample.sample_names, jax.random.key(6), params, model, 7)
    np.testing.assert_array_equal(many.ids[:7], few.ids)
    np.testing.assert_allclose(many.log_probabilities[:7], few.log_probabilities, rtol=1e-5)


def test_rows_that_have_finished_change_no_name(params, model):
    """Names drawn in one block with long ones equal the same names drawn one at a time."""
    key = jax.random.key(7)
    long = write(sample.sample_names, key, params, model, 20, max_length=60)
    short = write(sample.sample_names, key, params, model, 20, max_length=10)
    np.testing.assert_array_equal(long.ids[:, :10], short.ids)


@pytest.mark.parametrize("temperature", [0.0, 1e-4])
def test_a_low_temperature_always_takes_the_most_probable(temperature, params, model):
    state, previous, greedy = model.initial_state(()), VOCAB.no_character, []
    step = jax.jit(model.step)
    for _ in range(9):
        state, logits = step(params, state, jnp.array(previous))
        previous = int(logits.argmax())
        greedy.append(previous)
    name = VOCAB.decode(greedy).split("\n")[0][:MAX_LENGTH]
    for sampler in SAMPLERS.values():
        samples = write(sampler, jax.random.key(10), params, model, 50, temperature=temperature)
        assert set(texts(samples)) == {name}
        np.testing.assert_allclose(samples.drawn_log_probabilities, 0, atol=1e-6)
    start = sample.read_prompt(params, model, jnp.zeros(0, int))
    _, ids = sample.sample_text(
        jax.random.key(10), params, model, start, 9, controls=Controls(temperature)
    )
    assert ids.tolist() == greedy


def sample_text(key, params, model, controls):
    start = sample.read_prompt(params, model, jnp.zeros(0, int))
    return sample.sample_text(key, params, model, start, 5, controls=controls)


@pytest.mark.parametrize(
    ("sampler", "rows"),
    [("plain", ()), ("plain", (6,)), ("stream", ()), ("stream", (6,)), ("text", ())],
)
def test_one_compilation_for_all_keys_and_controls(sampler, rows, params, model):
    if sampler == "text":
        write = jax.jit(partial(sample_text, params=params, model=model))
    else:
        sizes = {"num": 6, "max_length": MAX_LENGTH}
        write = jax.jit(partial(SAMPLERS[sampler], params=params, model=model, **sizes))
    cases = product((0.0, 1.0, 2.0), (1, NO_LIMIT), (0.5, 1.0), (0.0, 0.3))
    for seed, case in enumerate(cases):
        controls = Controls(*(jnp.broadcast_to(jnp.asarray(x), rows) for x in case))
        write(jax.random.key(seed), controls=controls)
    assert write._cache_size() == 1


@pytest.mark.parametrize("sampler", [sample.sample_names, partial(stream_names, rows=6)])
def test_rows_with_different_controls_do_not_affect_each_other(sampler, params, model):
    key, num = jax.random.key(20), 6
    rows = [Controls(0.0), Controls(0.5), Controls(), Controls(top_k=1), Controls(top_p=0.5)]
    rows.append(Controls(2.0, 2, 0.9, 0.1))
    together = Controls(*(jnp.asarray(values) for values in zip(*rows, strict=True)))
    write = jax.jit(
        lambda controls: sampler(key, params, model, num, MAX_LENGTH, controls=controls)
    )
    mixed = write(together)
    for i, controls in enumerate(rows):
        alone = write(controls)
        for x, y in zip(mixed, alone, strict=True):
            np.testing.assert_allclose(x[i], y[i], rtol=1e-5, atol=1e-6)


def test_works_under_vmap(params, model):
    @jax.jit
    def one(key):
        return sample.sample_names(key, params, model, 3, MAX_LENGTH)

    keys = jax.random.split(jax.random.key(11), 4)
    batched = jax.jit(jax.vmap(one))(keys)
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(batched.ids[i], one(key).ids)


def test_no_key_is_used_twice(params, model):
    with jax.debug_key_reuse(True):
        for sampler in (sample.sample_names, partial(stream_names, rows=2)):
            sampler(jax.random.key(12), params, model, 3, MAX_LENGTH)
        sample_text(jax.random.key(12), params, model, Controls())
        # The checker does detect reuse.
        key = jax.random.key(12)
        sample_text(key, params, model, Controls())
        with pytest.raises(jax.errors.KeyReuseError):
            sample_text(key, params, model, Controls())


@pytest.mark.parametrize("sampler", ["plain", "stream", "text"])
def test_no_two_draws_share_a_key(sampler, params, model, monkeypatch):
    """The checker does not see a key that is drawn from and then handed to the next step."""
    used = []

    def recorded(function):
        def record(key, *arguments, **options):
            # As a callback it sees each key of a vmap.
            jax.debug.callback(lambda x: used.append(tuple(x.tolist())), jax.random.key_data(key))
            return function(key, *arguments, **options)

        return record

    for name in ("uniform", "split"):
        monkeypatch.setattr(jax.random, name, recorded(getattr(jax.random, name)))
    key, start = jax.random.key(12), sample.read_prompt(params, model, jnp.zeros(0, int))
    write = {
        "plain": partial(sample.sample_names, max_length=3, beginning=start),
        "stream": partial(stream_names, max_length=3, rows=2, beginning=start),
        "text": partial(sample.sample_text, beginning=start),
    }
    with jax.disable_jit():
        write[sampler](key, params, model, num=4)
    jax.effects_barrier()
    assert len(used) >= 6
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("vocab_size", [27, 300])
def test_draw_follows_the_softmax(vocab_size):
    key_logits, key_draw = jax.random.split(jax.random.key(13))
    weights = jnp.exp(jax.random.normal(key_logits, (1, vocab_size)))
    num = 40_000
    uniforms = jax.random.uniform(key_draw, (num,))
    ids, _ = sample.draw(jnp.broadcast_to(weights, (num, vocab_size)), uniforms)
    expected = num * np.asarray(weights[0] / weights.sum())
    observed = np.bincount(ids, minlength=vocab_size)
    assert np.sum((observed - expected) ** 2 / expected) < chi_squared_limit(vocab_size - 1)


@given(
    weights=st.lists(st.floats(1e-9, 1e6) | st.just(0.0), min_size=2, max_size=30).filter(any),
    uniform=st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=300, deadline=None)
def test_draw_is_numpys_choice(weights, uniform):
    with jax.enable_x64(True):
        actual = int(sample.draw(jnp.array(weights), jnp.array(uniform))[0])
    cumulative = np.cumsum(weights) / np.sum(weights)
    # On the border between two symbols, rounding may decide.
    if np.abs(cumulative - uniform).min() > 1e-12:
        assert actual == numpy_reference.draw(np.array(weights), uniform)
    assert weights[actual] > 0


def test_draw_at_the_ends_of_its_range():
    weights = jnp.array([0.0, 3.0, 0.0, 0.1, 0.0])
    assert sample.draw(weights, jnp.array(0.0))[0] == 1
    almost_one = np.nextafter(np.float32(1), np.float32(0))
    for total in (4.0, 3.1):
        assert sample.draw(weights.at[3].set(total - 3), jnp.array(almost_one))[0] == 3


@pytest.mark.parametrize("vocab_size", [27, 300])
def test_draw_returns_the_log_probability_of_the_least_probable(vocab_size):
    """The uniform 0 draws the first id with any weight."""
    weights = jnp.ones(vocab_size).at[0].set(1.2e-38)
    ids, log_probability = sample.draw(weights, jnp.array(0.0))
    assert ids == 0
    expected = math.log(1.2e-38) - math.log(vocab_size - 1)
    assert log_probability == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("controls", [{"temperature": 50.0}, {"temperature": 50.0, "top_k": 2}])
def test_a_nearly_impossible_character_has_a_finite_log_probability(controls):
    def step(params, state, previous):
        return state, jnp.broadcast_to(jnp.array([0.0, -200.0, -300.0]), (*previous.shape, 3))

    model = SimpleNamespace(vocab_size=3, step=step)
    uniforms = jnp.linspace(0, 0.999, 500)
    _, ids, new, drawn = sample.sample_step(
        {}, model, (), jnp.zeros(500, int), uniforms, controls=Controls(**controls)
    )
    assert {0, 1} <= set(ids.tolist())
    np.testing.assert_allclose(new, np.array([0.0, -200.0, -300.0])[ids], rtol=1e-6)
    assert np.all(np.isfinite(drawn))


def test_figures_of_the_exercise_for_sampling(x64):
    generator = np.random.RandomState(2)
    draw = generator.randn
    wax, waa, wya, b, by = draw(100, 27), draw(100, 100), draw(27, 100), draw(100, 1), draw(27, 1)
    layer = {"input_kernel": wax.T, "recurrent_kernel": waa.T, "bias": b[:, 0]}
    params = jax.tree.map(
        jnp.asarray, {"layers": [layer], "readout": {"kernel": wya.T, "bias": by[:, 0]}}
    )
    model = char_model([from_cell(vanilla(27, 100, jnp.float64))], LETTERS, dtype=jnp.float64)
    step = jax.jit(lambda *args: sample.sample_step(params, model, *args))
    state, previous, written = model.initial_state(()), jnp.array(27), []
    for t in range(35):
        uniform = jnp.array(np.random.RandomState(2 * t).random_sample())
        state, previous, *_ = step(state, previous, uniform)
        written.append(int(previous))
    assert written == [
        12, 17, 24, 14, 13, 9, 10, 22, 24, 6, 13, 11, 12, 6, 21, 15, 21, 14,
        3, 2, 1, 21, 18, 24, 7, 25, 6, 25, 18, 10, 16, 2, 3, 8, 15,
    ]  # fmt: skip


def test_names_equal_those_of_the_numpy_reference(model, x64):
    model = char_model([from_cell(vanilla(VOCAB.size, 6, jnp.float64))], VOCAB, dtype=jnp.float64)
    params = model.init(jax.random.key(14))
    uniforms = np.random.default_rng(0).random((50, 12))
    step = jax.jit(lambda *args: sample.sample_step(params, model, *args))
    state, previous, columns = model.initial_state((12,)), jnp.full(12, VOCAB.no_character), []
    for row in uniforms:
        state, previous, *_ = step(state, previous, jnp.array(row))
        columns.append(previous)
    reference = jax.tree.map(np.asarray, params)
    for name in range(12):
        expected = numpy_reference.sample_name(reference, uniforms[:, name], 50)
        assert [int(ids[name]) for ids in columns][: len(expected)] == expected


@pytest.mark.parametrize("prompt", ["", "a", "ab\nb"])
def test_a_prompt_is_read_as_steps_would_read_it(prompt, params, model):
    ids = VOCAB.encode(prompt).astype(int)
    beginning = sample.read_prompt(params, model, jnp.asarray(ids))
    state, previous, expected = model.initial_state(()), model.vocab_size, 0.0
    for i in ids:
        state, logits = model.step(params, state, jnp.array(previous))
        expected += jax.nn.log_softmax(logits)[i]
        previous = int(i)
    assert beginning.previous == previous
    np.testing.assert_allclose(beginning.log_probability, expected, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), beginning.state, state)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_names_after_a_prompt_follow_the_conditional_distribution(sampler, params, model):
    """Against the exact distribution of whole names, conditioned on the prompt."""
    ended, cut = enumerate_names(params, model)
    exact = {(name, True): p for name, p in ended.items() if name[:1] == "a"}
    exact |= {(name, False): p for name, p in cut.items() if name[:1] == "a"}
    beginning = sample.read_prompt(params, model, jnp.array([VOCAB.characters.index("a")]))
    num = 20_000
    write = jax.jit(partial(sampler, model=model, num=num, max_length=MAX_LENGTH - 1))
    samples = jax.device_get(write(jax.random.key(2), params, beginning=beginning))
    observed = dict.fromkeys(exact, 0)
    for text, is_whole in zip(texts(samples), samples.ended.tolist(), strict=True):
        observed["a" + text, is_whole] += 1
    total = sum(exact.values())
    expected = {outcome: num * p / total for outcome, p in exact.items()}
    statistic = sum((observed[x] - expected[x]) ** 2 / expected[x] for x in exact)
    assert statistic < chi_squared_limit(len(exact) - 1)
    # Log-probabilities under the model are of whole names; those drawn are of what follows.
    outcomes = zip(texts(samples), samples.ended.tolist(), strict=True)
    laws = [(ended if whole else cut_characters(cut, ended))["a" + x] for x, whole in outcomes]
    np.testing.assert_allclose(np.exp(samples.log_probabilities), laws, rtol=1e-4)
    following = samples.log_probabilities - beginning.log_probability
    np.testing.assert_allclose(samples.drawn_log_probabilities, following, rtol=1e-4)


@pytest.mark.parametrize("cell", get_args(CellName))
def test_continuing_a_prompt_equals_sampling_with_forced_first_characters(cell):
    model = char_model([make_layer(cell, VOCAB.size, 6), make_layer(cell, 6, 5)], VOCAB)
    params = model.init(jax.random.key(5))
    forced, num = VOCAB.encode("abba").tolist(), 20
    key = jax.random.key(15)
    uniforms = []
    for _ in range(num):
        key, key_draw = jax.random.split(key)
        uniforms.append(jax.random.uniform(key_draw))
    # Sampling from the start of a text, with the first characters forced.
    step = jax.jit(lambda *args: sample.sample_step(params, model, *args))
    state, previous, written = model.initial_state(()), jnp.array(VOCAB.no_character), []
    for t in range(len(forced) + num):
        is_forced = t < len(forced)
        uniform = jnp.zeros(()) if is_forced else uniforms[t - len(forced)]
        state, drawn, *_ = step(state, previous, uniform)
        previous = jnp.array(forced[t]) if is_forced else drawn
        written.append(int(previous))
    beginning = sample.read_prompt(params, model, jnp.array(forced))
    _, ids = sample.sample_text(jax.random.key(15), params, model, beginning, num)
    assert ids.tolist() == written[len(forced) :]
    assert len(set(ids.tolist())) == VOCAB.size


def test_each_piece_of_a_text_continues_the_one_before(params, model):
    start = sample.read_prompt(params, model, jnp.array([1, 2]))
    key = jax.random.key(3)
    after, ids = sample.sample_text(key, params, model, start, 30)
    read_again = sample.read_prompt(params, model, jnp.concatenate([jnp.array([1, 2]), ids]))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4), after, read_again)


@pytest.mark.parametrize("controls", CONTROLS, ids=str)
def test_characters_of_a_text_come_as_often_as_the_model_says(controls, params, model):
    start = sample.read_prompt(params, model, jnp.array([1, 0]))
    keys = jax.random.split(jax.random.key(4), 20_000)

    @jax.jit
    @jax.vmap
    def draw_two(key):
        return sample.sample_text(key, params, model, start, 2, controls=Controls(**controls))[1]

    drawn = np.asarray(draw_two(keys))

    def law(logits):
        return slow_law(np.asarray(logits, np.float64), **controls)

    state, logits = model.step(params, start.state, start.previous)
    statistic = cells = 0
    for first, p in enumerate(law(logits)):
        _, next_logits = model.step(params, state, jnp.array(first))
        for second, q in enumerate(law(next_logits)):
            expected = len(keys) * p * q
            count = np.sum((drawn == (first, second)).all(axis=1))
            if expected == 0:
                assert count == 0
            else:
                statistic += (count - expected) ** 2 / expected
                cells += 1
    assert cells > 1
    assert statistic < chi_squared_limit(cells - 1)
