"""Dynamic evaluation against a loop of gradients, and how its settings are chosen."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dinojax
from dinojax.cli.terminal import Program
from dinojax.data.stored import joined_documents
from dinojax.data.vocab import Vocab
from dinojax.evaluation import dynamic as dynamic_file
from dinojax.evaluation.dynamic import (
    Reader,
    Settings,
    dynamic,
    follow,
    gradient_scales,
    networks,
    windows_of,
)
from dinojax.evaluation.losses import nats_carried
from dinojax.models.mixture import combined
from dinojax.models.trained import Trained

from in_process import call_here
from model_kinds import network, ngram

VOCAB = Vocab("\nabc")
WEIGHTS = 0.5, 0.3, 0.2
TEXT = "abcab\ncabcabccba\nab"


def read(trained, text, scales, window, resets=False, **rates):
    """The nats of a text that is followed, [num], compiled."""
    windows = windows_of(trained, text, window)
    reader = Reader(networks(trained.params)[0], trained.model.initial_state(()))
    compiled = jax.jit(partial(follow, model=trained.model, resets=resets))
    _, nats = compiled(trained.params, reader=reader, windows=windows, scales=scales, **rates)
    return np.asarray(nats).reshape(-1)[: len(text)]


def test_a_mixture_of_documents_equals_a_loop_of_gradients():
    """Its networks follow, its n-gram model stays; the last window is padded."""
    documents = joined_documents([TEXT[:7], TEXT[7:]], VOCAB)
    members = [network(VOCAB), ngram(VOCAB, TEXT, 3), network(VOCAB, "lstm", 1)]
    mixed = combined([Trained(*member, VOCAB) for member in members], WEIGHTS)
    models, params = zip(*members, strict=True)
    fresh = tuple(model.initial_state(()) for model in models)
    rate, decay, window = 0.02, 0.1, 4

    @jax.jit
    def gradient(followed, states, inputs, targets):
        def cost(followed):
            own, after, nats = (followed[0], params[1], followed[1]), states, []
            for read_now, target in zip(inputs, targets, strict=True):
                is_start = read_now == VOCAB.no_character
                found = []
                for i, model in enumerate(models):
                    before = jax.tree.map(partial(jnp.where, is_start), fresh[i], after[i])
                    state, logits = model.step(own[i], before, read_now)
                    after = (*after[:i], state, *after[i + 1 :])
                    found.append(WEIGHTS[i] * jax.nn.softmax(logits)[target])
                nats.append(-jnp.log(sum(found)))
            return sum(nats), (after, jnp.stack(nats))

        return jax.grad(cost, has_aux=True)(followed)

    origin = jax.tree.map(np.asarray, (params[0], params[2]))
    ids = VOCAB.encode(TEXT).astype(int)
    inputs = np.concatenate([[VOCAB.no_character], ids[:-1]])
    inputs[7] = VOCAB.no_character

    def loop(scales, rate, decay):
        """The nats of the characters, and the mean squares of the gradients of whole windows."""
        followed, states, nats, squares = origin, fresh, [], []
        for start in range(0, len(ids), window):
            place = slice(start, start + window)
            gradients, (states, each) = gradient(
                followed, states, jnp.asarray(inputs[place]), jnp.asarray(ids[place])
            )
            squares.append([np.asarray(g) ** 2 for g in jax.tree.leaves(gradients)])
            rows = zip(*map(jax.tree.leaves, (followed, gradients, origin)), scales, strict=True)
            moved = [x - rate * np.asarray(g) / s + decay * (o - x) for x, g, o, s in rows]
            followed = jax.tree.unflatten(jax.tree.structure(origin), moved)
            nats.extend(np.asarray(each).tolist())
        return np.array(nats), [np.mean(x, axis=0) for x in zip(*squares, strict=True)]

    ones = [np.ones_like(x) for x in jax.tree.leaves(origin)]
    static, squares = loop(ones, 0.0, 0.0)
    roots = [np.sqrt(x) for x in squares]
    mean = np.concatenate([x.ravel() for x in roots]).mean()
    measure = jax.jit(partial(gradient_scales, model=mixed.model, resets=True))
    scales = measure(mixed.params, windows=windows_of(mixed, documents, window))
    for found, root in zip(scales, roots, strict=True):
        np.testing.assert_allclose(found, root + 0.01 * mean, rtol=1e-4, atol=1e-6)
    expected, _ = loop([np.asarray(x) for x in scales], rate, decay)
    found = read(mixed, documents, scales, window, True, learning_rate=rate, decay=decay)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    # It learns after the first window, and enough to be seen.
    np.testing.assert_allclose(found[:window], static[:window], rtol=1e-5)
    assert np.mean(np.abs(found[window:] - static[window:])) > 0.01


@pytest.fixture(scope="module")
def trained():
    return Trained(*network(VOCAB), VOCAB)


def ones(trained):
    return [jnp.ones_like(x) for x in networks(trained.params)[0]]


def test_without_a_learning_rate_it_is_the_static_evaluation(trained):
    model, ids = trained.model, jnp.asarray(VOCAB.encode(TEXT))
    static = jax.jit(partial(nats_carried, model=model, block_size=4))(trained.params, ids=ids)
    found = read(trained, TEXT, ones(trained), 4, learning_rate=0.0, decay=0.5)
    np.testing.assert_array_equal(found, static)


def test_a_window_is_scored_before_anything_is_learned_from_it(trained):
    """One that learned first would find the first window of a single character cheaper."""
    text = "a" * 12
    static, found = (
        read(trained, text, ones(trained), 4, learning_rate=rate, decay=0.0) for rate in (0.0, 0.3)
    )
    np.testing.assert_array_equal(found[:4], static[:4])
    assert np.all(found[4:] < static[4:] / 2)


def test_the_best_setting_of_the_validation_text_reads_the_text(trained, monkeypatch):
    """Following pays for the one and not for the other; reading in pieces changes nothing."""
    monkeypatch.setattr(dynamic_file, "AT_ONCE", 8)
    monkeypatch.setattr(dynamic_file, "MOST_TRIED", 30)
    grid = [Settings(0.0, 0.0, 4), Settings(0.03, 0.0, 4), Settings(0.0, 1.0, 4)]
    texts = {"train": TEXT, "validation": "a" * 30 + "cb" * 100}
    found = dynamic(trained, "bc\n" * 7, **texts, grid=grid)
    assert found.settings == grid[1]
    assert np.argmin(found.tried) == 1
    for setting, expected in zip(grid, found.tried, strict=True):
        alone = dynamic(trained, "a" * 30, **texts, grid=[setting])
        assert np.mean(alone.dynamic) == pytest.approx(expected, rel=1e-6)
    scales = gradient_scales(trained.params, trained.model, windows_of(trained, TEXT, 4))
    whole = read(trained, "bc\n" * 7, scales, 4, learning_rate=0.03, decay=0.0)
    np.testing.assert_allclose(found.dynamic, whole, rtol=1e-4)
    still = read(trained, "bc\n" * 7, scales, 4, learning_rate=0.0, decay=0.0)
    np.testing.assert_allclose(found.static, still, rtol=1e-5)


def test_what_cannot_follow_a_text_is_refused(trained):
    counted = Trained(*ngram(VOCAB, TEXT, 2), VOCAB)
    texts = {"train": TEXT, "validation": TEXT}
    with pytest.raises(ValueError, match="n-gram model has none"):
        dynamic(counted, TEXT, **texts)
    with pytest.raises(ValueError, match="empty"):
        dynamic(trained, "", **texts)
    for grid, said in (
        ([], "at least one setting"),
        ([Settings(-1.0, 0.0)], "learning rate of at least 0"),
        ([Settings(0.1, 2.0)], "decay from 0 to 1"),
        ([Settings(float("nan"), 0.0)], "got nan"),
        ([Settings(0.1, 0.0, 0)], "and 0"),
    ):
        with pytest.raises(ValueError, match=said):
            dynamic(trained, TEXT, **texts, grid=grid)


# The command.


def evaluated(folder, *arguments):
    return call_here(Program("evaluate", "dinojax"), *arguments, "--dynamic", cwd=folder)


def test_the_command_gives_the_figures_of_the_library_and_their_difference(tmp_path):
    text = "".join(np.random.default_rng(0).choice(list(" abcd"), 4_000))
    sizes = {"hidden_size": 4, "batch_size": 4, "window": 8, "steps": 2}
    # Optax's schedules need these types.
    with jax.numpy_dtype_promotion("standard"):
        ours = dinojax.train(text, **sizes, folder=tmp_path / "run", validation_fraction=0.6)
    result = evaluated(tmp_path, "run", "--json", "--context=carry")
    assert (result.code, result.err) == (0, "")
    answer = json.loads(result.out)
    # It has no test part, so one half of the validation part is read, and settings are chosen on
    # the other.
    assert answer["split"] == "the second half of validation"
    train, both = text[:1_600], text[1_600:]
    found = dynamic(ours, both[1_200:], train=train, validation=both[:1_200])
    following, carried, *_ = answer["models"]
    assert (following["context"], carried["context"]) == ("dynamic", "carry")
    assert following["num_characters"] == carried["num_characters"] == 1_200
    assert following["nats_per_character"] == pytest.approx(found.dynamic.mean(), rel=1e-5)
    assert carried["nats_per_character"] == pytest.approx(found.static.mean(), rel=1e-5)
    said = answer["dynamic"]
    assert Settings(said["learning_rate"], said["decay"], said["window"]) == found.settings
    costs = [row["nats_per_character"] for row in said["tried"]]
    np.testing.assert_allclose(costs, found.tried, rtol=1e-5)
    # Two blocks: the standard error of their ratio, with its two residuals.
    blocks = [(found.dynamic - found.static)[:1_024], (found.dynamic - found.static)[1_024:]]
    mean = (found.dynamic - found.static).mean()
    assert said["difference"] == pytest.approx(mean, rel=1e-3)
    residuals = [x.sum() - mean * len(x) for x in blocks]
    error = np.sqrt(2 * np.sum(np.square(residuals))) / 1_200
    assert said["standard_error"] == pytest.approx(error, rel=1e-2)
    result = evaluated(tmp_path, "run", "--split=train")
    assert (result.code, result.err) == (0, "")
    assert ", on train\n" in result.out
    assert "\nnetwork, weights follow" in result.out
    assert "\nweights that follow the text: " in result.out


def test_a_file_named_like_the_validation_part_is_read_whole(tmp_path):
    text = "".join(np.random.default_rng(0).choice(list(" abcd"), 600))
    sizes = {"hidden_size": 4, "batch_size": 4, "window": 8, "steps": 2}
    with jax.numpy_dtype_promotion("standard"):
        dinojax.train(text, **sizes, folder=tmp_path / "run", validation_fraction=0.2)
    (tmp_path / "validation").write_text(text[:100])
    result = evaluated(tmp_path, "run", "--json", "--context=carry", "--data=validation")
    assert (result.code, result.err) == (0, "")
    answer = json.loads(result.out)
    assert answer["split"] == "validation"
    assert answer["models"][0]["num_characters"] == 100
    assert answer["dynamic"]["num_validation_characters"] == 120


def test_a_refitted_run_follows_with_the_settings_of_its_selection(tmp_path):
    """And one whose selection is gone has none."""
    text = "".join(np.random.default_rng(0).choice(list(" abcd"), 900))
    sizes = {"hidden_size": 4, "batch_size": 4, "window": 8, "steps": 4, "learning_rate": 0.1}
    split = {"validation_fraction": 0.2, "test_fraction": 0.2}
    # Optax's schedules need these types.
    with jax.numpy_dtype_promotion("standard"):
        ours = dinojax.train(text, **sizes, **split, refit=True, folder=tmp_path / "run")
    result = evaluated(tmp_path, "run", "--json", "--context=carry")
    assert (result.code, result.err) == (0, "")
    answer = json.loads(result.out)
    train, validation, test = text[:540], text[540:720], text[720:]
    selection = dinojax.load(tmp_path / "run/selection")
    chosen = dynamic(selection, test, train=train, validation=validation)
    said = answer["dynamic"]
    assert said["selection"] == "run/selection"
    assert said["num_validation_characters"] == 180
    assert Settings(said["learning_rate"], said["decay"], said["window"]) == chosen.settings
    costs = [row["nats_per_character"] for row in said["tried"]]
    np.testing.assert_allclose(costs, chosen.tried, rtol=1e-6)
    # The final model follows, by gradients along all that it learned.
    known = train + validation
    found = dynamic(ours, test, train=known, validation=known, grid=[chosen.settings])
    assert answer["models"][0]["nats_per_character"] == pytest.approx(found.dynamic.mean(), 1e-6)
    (tmp_path / "run/selection").rename(tmp_path / "elsewhere")
    result = evaluated(tmp_path, "run")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "run/selection is not there; --dynamic chooses its settings by it" in result.err


def test_a_refitted_run_without_test_part_needs_other_data(tmp_path):
    """By default, it would measure what it learned."""
    text = "".join(np.random.default_rng(0).choice(list(" abcd"), 300))
    sizes = {"hidden_size": 4, "batch_size": 4, "window": 8, "steps": 2}
    with jax.numpy_dtype_promotion("standard"):
        dinojax.train(text, **sizes, validation_fraction=0.2, refit=True, folder=tmp_path / "run")
    result = evaluated(tmp_path, "run")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    said = "run learned all but its test part, and has none; give --data, or measure run/selection"
    assert said in result.err
    (tmp_path / "other.txt").write_text(text[:50])
    result = evaluated(tmp_path, "run", "--data=other.txt")
    assert (result.code, result.err) == (0, "")
    assert ", on other.txt" in result.out


def test_runs_that_cannot_follow_are_refused_in_one_line(tmp_path):
    counted = {"order": 2, "test_fraction": 0.2}
    dinojax.fit_ngram("abcab" * 50, **counted, folder=tmp_path / "ngram")
    dinojax.fit_ngram("abcab" * 50, **counted, validation_fraction=0.0, folder=tmp_path / "blind")
    dinojax.fit_ngram(["ab", "c"] * 20, folder=tmp_path / "names")
    for run, said in (
        ("ngram", "an n-gram model has none"),
        ("blind", "which blind lacks; train it with --validation-fraction"),
        ("names", "--dynamic is for runs of a text; names learned names"),
    ):
        result = evaluated(tmp_path, run)
        assert (result.code, result.out) == (2, "")
        assert said in result.err
        assert result.err.count("\n") == 1
