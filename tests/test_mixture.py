"""Mixtures against direct computations, learned weights against a grid, and runs of both."""

import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dinojax
from dinojax.cli.terminal import Program
from dinojax.data.vocab import Vocab
from dinojax.evaluation.compare import compare, joined
from dinojax.evaluation.ngram import fit_ngrams, nats
from dinojax.evaluation.strings import names_nats, text_nats
from dinojax.models.mixture import combined, learn_weights, mixture
from dinojax.models.trained import Trained
from dinojax.runs import checkpoint
from dinojax.runs.folder import load_run
from dinojax.runs.kinds import Mixture, Ngram, kind_from_json, kind_to_json
from dinojax.runs.mixtures import ensemble, mix
from dinojax.runs.results import write_results
from dinojax.runs.sweep import FINISHED, Outcome, make_sweep, plan, write_sweep

from in_process import call_here, seeded
from model_kinds import network, ngram, random_names

VOCAB = Vocab("\nabc")
NO = VOCAB.no_character
WEIGHTS = 0.5, 0.3, 0.2


@pytest.fixture(scope="module")
def members():
    return [network(VOCAB), ngram(VOCAB, random_names(VOCAB), 3), network(VOCAB, "lstm", 1)]


def in_turn(members, inputs, weights):
    """The mean of the members' probabilities [time, vocab] after each of `inputs`, in float64."""
    each = []
    for model, params in members:
        state, rows, step = model.initial_state(()), [], jax.jit(model.step)
        for character in inputs:
            state, logits = step(params, state, jnp.array(character))
            logits = np.asarray(logits, float)
            rows.append(np.exp(logits) / np.exp(logits).sum())
        each.append(rows)
    return np.tensordot(np.array(weights) / sum(weights), np.array(each), 1)


@pytest.mark.parametrize("weights", [WEIGHTS, (3, 0, 1), (0, 1, 0), (1e-30, 1, 1)])
def test_probabilities_are_the_weighted_mean_and_sum_to_one(weights, members):
    models, params = zip(*members, strict=True)
    model, inputs = mixture(models, weights), [NO, 1, 3, 0, NO, 2, 2]
    unroll = jax.jit(model.unroll)
    _, logits = unroll(params, model.initial_state(()), jnp.array(inputs))
    np.testing.assert_allclose(np.exp(logits), in_turn(members, inputs, weights), rtol=1e-5)
    np.testing.assert_allclose(np.exp(logits.astype(float)).sum(axis=-1), 1, rtol=1e-6)


@pytest.mark.parametrize("length", [None, 4])
def test_unroll_equals_a_python_loop_of_steps(length, members):
    models, params = zip(*members, strict=True)
    model = mixture(models, WEIGHTS)
    inputs = jnp.array([[NO, 1], [1, 3], [NO, 2], [2, NO], [0, 1]])
    state = model.initial_state((2,))
    unroll = jax.jit(partial(model.unroll, resets=True))
    last, logits = unroll(params, state, inputs, length)
    step, fresh = jax.jit(model.step), model.initial_state((2,))
    for t in range(5 if length is None else length):
        is_start = inputs[t] == NO
        state = jax.tree.map(lambda x, y, at=is_start: jnp.where(at[:, None], x, y), fresh, state)
        state, expected = step(params, state, inputs[t])
        np.testing.assert_allclose(logits[t], expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), last, state)


def test_a_mixture_may_be_a_member_and_its_layers_follow_each_other(members):
    models, params = zip(*members, strict=True)
    inner = mixture(models[:2], (5, 3))
    outer, flat = mixture([inner, models[2]], (0.8, 0.2)), mixture(models, WEIGHTS)
    inputs = jnp.array([NO, 1, 2])
    nested = (params[:2], params[2])
    _, expected = jax.jit(flat.unroll)(params, flat.initial_state(()), inputs)
    _, logits = jax.jit(outer.unroll)(nested, outer.initial_state(()), inputs)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    _, outputs = jax.jit(flat.layer_outputs)(params, flat.initial_state(()), jnp.array(1))
    assert [x.shape for x in outputs] == [(5,), (5,)]
    shapes = jax.tree.map(jnp.shape, flat.init(jax.random.key(0)))
    assert shapes[0] == jax.tree.map(jnp.shape, params[0])


def test_each_member_has_dropout_of_its_own():
    model, params = network(VOCAB)
    keys_seen = []

    def unroll(params, state, inputs, length=None, resets=False, dropout_keys=None):
        keys_seen.append(jax.random.key_data(dropout_keys))
        return state, jnp.zeros((*inputs.shape, VOCAB.size))

    spy = model._replace(unroll=unroll)
    both = mixture([spy, spy], (1, 1))
    keys = jax.random.split(jax.random.key(0), 2)
    both.unroll(
        (params, params), both.initial_state((2,)), jnp.ones((3, 2), int), dropout_keys=keys
    )
    first, second = map(np.asarray, keys_seen)
    assert first.shape == second.shape == (2, 2)
    assert np.all(np.any(first != second, axis=-1))


def test_scores_of_a_mixture_are_those_of_its_parts(members):
    names = ["", "a", "cab", "abcabc"]
    parts = [Trained(*member, VOCAB) for member in members]
    each = [np.concatenate(names_nats(part, names)) for part in parts]
    expected = -np.log(np.array(WEIGHTS) @ np.exp(-np.array(each)))
    found = np.concatenate(names_nats(combined(parts, WEIGHTS), names))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    text = "abc\ncab\n\nbbc" * 100
    each = [text_nats(part, text) for part in parts]
    expected = -np.log(np.array(WEIGHTS) @ np.exp(-np.array(each)))
    np.testing.assert_allclose(text_nats(combined(parts, WEIGHTS), text), expected, rtol=1e-5)


def test_what_cannot_be_mixed_is_refused(members):
    models, params = zip(*members, strict=True)
    for weights in (1, 1), (1, -1, 1), (0, 0, 0), (1, float("nan"), 1), (1, float("inf"), 1):
        with pytest.raises(
            ValueError, match=r"expected (a weight for each of 3 models|weights of)"
        ):
            mixture(models, weights)
    with pytest.raises(ValueError, match="a weight for each of 1 model, got 2"):
        mixture(models[:1], (1, 1))
    with pytest.raises(ValueError, match="at least one model"):
        mixture([], [])
    other, other_params = network(Vocab("\nabcd"))
    with pytest.raises(ValueError, match="one vocabulary, got sizes 4 and 5"):
        mixture([models[0], other], (1, 1))
    others = Trained(models[0], params[0], VOCAB), Trained(other, other_params, Vocab("\nabd"))
    with pytest.raises(ValueError, match="the same characters"):
        combined(others, (1, 1))


def test_learned_weights_are_the_best_of_a_grid_and_the_cost_never_rises():
    generator = np.random.default_rng(0)
    costs = -np.log(generator.dirichlet(np.ones(5), (3, 400))[:, :, 0])
    found = learn_weights(costs)
    assert found.weights.sum() == pytest.approx(1)
    assert np.all(np.diff(found.nats) <= 1e-12)

    def cost(weights):
        return -np.mean(np.log(weights @ np.exp(-costs)))

    assert found.nats[-1] == pytest.approx(cost(found.weights), abs=1e-6)
    steps = np.linspace(0, 1, 51)
    grid = [(x, y, 1 - x - y) for x in steps for y in steps if x + y <= 1]
    best = min(grid, key=cost)
    assert cost(found.weights) <= cost(best) + 1e-7
    np.testing.assert_allclose(found.weights, best, atol=0.03)


def test_learned_weights_in_extreme_cases():
    # The better model of two takes all; of two that are equal, each takes half.
    np.testing.assert_allclose(learn_weights([[1.0] * 9, [2.0] * 9]).weights, [1, 0], atol=1e-6)
    np.testing.assert_allclose(learn_weights([[3.0, 4], [3.0, 4]]).weights, [0.5, 0.5])
    # Costs whose probabilities underflow, and a character that one model holds impossible.
    found = learn_weights([[1e5, 1.0], [1e5 + 1, np.inf]])
    assert found.weights[0] > 0.99
    assert len(learn_weights(np.random.rand(3, 9), max_iterations=4).nats) == 5
    for bad in [], [[]], [1.0, 2.0], [[np.inf], [np.inf]], [[np.nan], [1.0]]:
        with pytest.raises(ValueError, match="expected"):
            learn_weights(bad)


def test_kinds_in_json():
    config = load_config()
    kind = Mixture((config, Mixture((Ngram(3), config), (0.1, 0.9)), Ngram(1)), (0.5, 0.25, 0.25))
    assert kind_from_json(json.loads(json.dumps(kind_to_json(kind)))) == kind
    deep = {"ngram": 2}
    for _ in range(10):
        deep = {"mixture": [deep | {"weight": 1.0}]}
    bad = [
        None, [], {}, {"ngram": "3"}, {"ngram": True}, {"ngram": 0}, {"ngram": 10**9},
        {"mixture": []}, {"mixture": [{"ngram": 2}]}, {"mixture": [{"ngram": 2, "weight": 0.5}]},
        {"mixture": [{"ngram": 2, "weight": float("nan")}]}, {"mixture": {"ngram": 2}},
        {"network": {"cell": "none"}}, {"network": 3}, {"mixture": [3]}, deep,
    ]  # fmt: skip
    for each in bad:
        with pytest.raises(ValueError, match="expected"):
            kind_from_json(each)


def load_config():
    return dinojax.config.TrainConfig(cell="lstm", hidden_size=7)


NAMES = "".join(f"{name}\n" for name in random_names(VOCAB, 300, 6) if name)
TEXT = "".join(f"{name} " for name in random_names(VOCAB, 300, 6))
SMALL = "--hidden-size", "8", "--steps", "20", "--batch-size", "4", "--devices", "1"


def call(command, *arguments, cwd, code=0):
    program = Program(command, "dinojax")
    result = call_here(program, *seeded(program, arguments), cwd=cwd)
    assert result.code == code, (result.out, result.err)
    assert "Traceback" not in result.err
    return result.out if code == 0 else result.err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs of names: two networks, an n-gram model and a mixture; and of a text, likewise."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "names.txt").write_text(NAMES)
    (folder / "poem.txt").write_text(TEXT)
    data = "--data", "names.txt"
    fraction = "--validation-fraction", "0.2", "--test-fraction", "0.1"
    run = partial(call, cwd=folder)
    run("train", "dinos", *data, *fraction, *SMALL, "--out", "one")
    run("train", "names", *data, *fraction, *SMALL, "--out", "two")
    said = run("train", "ngram", *data, *fraction, "--order", "3", "--out", "counted")
    assert "n-grams of up to 3 characters" in said
    assert "dinojax sample counted" in said
    run("mix", "one", "two", "--ngram", "3", "--out", "mixed")
    text = "--data", "poem.txt"
    run("train", "text", *text, *SMALL, "--window", "8", "--out", "poet")
    run("train", "ngram", *text, "--batches", "windows", "--out", "counted-text")
    run("mix", "poet", "counted-text", "--out", "mixed-text")
    return folder


def validation_of(folder, is_text=False):
    text = (folder / "validation.txt").read_text()
    return text if is_text else text.splitlines()


def test_an_ngram_run_is_the_ngram_model_of_its_training_part(place):
    trained = dinojax.load(place / "counted")
    train = (place / "counted" / "train.txt").read_text().splitlines()
    held_out = validation_of(place / "counted")
    fitted = fit_ngrams(*joined(VOCAB, train), VOCAB.size, 3)
    expected = nats(fitted, *joined(VOCAB, held_out))
    found = np.concatenate(names_nats(trained, held_out))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    answer = json.loads(call("evaluate", "counted", "--json", cwd=place))
    own, *others = answer["models"]
    assert (own["model"], own["order"], answer["kind"]) == ("ngram", 3, "3-gram model")
    same = next(row for row in others if row["order"] == 3)
    assert own["nats_per_character"] == pytest.approx(same["nats_per_character"], abs=1e-6)
    alone = dinojax.fit_ngram(
        NAMES.splitlines(), 3, validation_fraction=0.2, test_fraction=0.1, folder=place / "library"
    )
    jax.tree.map(np.testing.assert_array_equal, alone.params, trained.params)
    again = dinojax.load(place / "library")
    jax.tree.map(np.testing.assert_array_equal, again.params, trained.params)


def test_a_mixed_run_stands_alone_and_pays_what_its_members_say(place, tmp_path):
    runs = [dinojax.load(place / name) for name in ("one", "two", "counted")]
    held_out = validation_of(place / "one")
    costs = np.array([np.concatenate(names_nats(run, held_out)) for run in runs])
    weights = learn_weights(costs).weights
    expected = -np.log(weights @ np.exp(-costs)).mean()
    shutil.copytree(place / "mixed", tmp_path / "copy")
    run = load_run(tmp_path / "copy")
    np.testing.assert_allclose(run.description.model.weights, weights, atol=1e-6)
    figures = compare(run.trained, None, held_out)[0].figures
    assert figures["nats_per_character"] == pytest.approx(expected, rel=1e-5)
    answer = json.loads(call("evaluate", "copy", "--json", "--samples", "5", cwd=tmp_path))
    assert answer["models"][0]["model"] == answer["samples"]["models"][0]["model"] == "mixture"
    assert answer["models"][0]["nats_per_character"] == pytest.approx(expected, rel=1e-5)
    assert "mixture of 3 models, on validation" in call("evaluate", "copy", cwd=tmp_path)


def test_given_weights_and_what_is_printed(place, tmp_path):
    out = tmp_path / "mixed"
    said = call("mix", "one", "counted", "--weights", "3", "1", "--out", out, cwd=place)
    lines = said.splitlines()
    assert lines[1].split()[:2] == ["one", "0.7500"]
    assert lines[2].split()[:2] == ["counted", "0.2500"]
    costs = [
        np.concatenate(names_nats(dinojax.load(place / name), validation_of(place / "one")))
        for name in ("one", "counted")
    ]
    expected = -np.log(np.array([0.75, 0.25]) @ np.exp(-np.array(costs))).mean()
    assert float(lines[3].split()[1]) == pytest.approx(expected, abs=1e-4)
    mixed = mix([place / "one", place / "counted"], out, weights=[3, 1], overwrite=True)
    assert mixed.weights == pytest.approx([0.75, 0.25])
    assert mixed.figures[-1]["nats_per_character"] == pytest.approx(expected, rel=1e-6)
    flags = "--weights", "3", "1", "--out", out, "--overwrite", "--json"
    found = json.loads(call("mix", "one", "counted", *flags, cwd=place))
    assert found["run"] == str(out)
    assert [(row["model"], row["weight"]) for row in found["models"]] == [
        ("one", 0.75), ("counted", 0.25), ("mixture", 1.0)
    ]  # fmt: skip
    for row, figures in zip(found["models"], mixed.figures, strict=True):
        assert {name: row[name] for name in figures} == pytest.approx(figures, rel=1e-6)
    assert type(found["models"][0]["num_characters"]) is int


@pytest.mark.parametrize("run", ["counted", "mixed"])
def test_commands_on_runs_of_names(run, place, tmp_path):
    names = call("sample", run, "--num", "30", "--seed", "3", cwd=place).splitlines()
    drawn = dinojax.sample(dinojax.load(place / run), 30, seed=3).names
    assert names == list(drawn)
    long = call("sample", run, "--num", "300", "--match", "^a", "--prompt", "ab", cwd=place)
    assert all(name.startswith("ab") for name in long.splitlines())
    novel = call("sample", run, "--num", "3", "--novel", "--unique", cwd=place).splitlines()
    assert not set(novel) & set((place / run / "train.txt").read_text().splitlines())
    best = call("sample", run, "--prompt", "b", "--best", "3", cwd=place).splitlines()
    rows = call("score", run, "--json", "--names", *best, cwd=place).splitlines()
    scores = [json.loads(row)["log_probability"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert "-gram model" in call("score", run, "--names", "ab", cwd=place) or run == "mixed"
    shown = call("plot", run, "--strings", "abc", cwd=place)
    assert "surprisal.png" in shown


@pytest.mark.parametrize("run", ["counted-text", "mixed-text"])
def test_commands_on_runs_of_a_text(run, place):
    text = call("sample", run, "--prompt", "ab", "--length", "40", cwd=place)
    assert len(text) == 43
    assert text.startswith("ab")
    assert len(call("sample", run, "--length", "5", "--context", "3", cwd=place)) == 6
    rows = json.loads(call("evaluate", run, "--json", cwd=place))["models"]
    assert [row["context"] for row in rows[:2]] == ["carry", 256]
    assert "windows of 256" in call("evaluate", run, cwd=place)
    score = json.loads(call("score", run, "--json", "--file", "poem.txt", cwd=place))
    expected = text_nats(dinojax.load(place / run), TEXT).sum()
    assert score["nats"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("page mixed", "got a mixture of 3 models; a page holds a network"),
        ("page counted", "got a 3-gram model; a page holds a network"),
        ("export mixed --format numpy --out new", "got a mixture of 3 models"),
        ("plot mixed", "hold no loss"),
        ("plot counted --text ab", "3-gram model; --text draws the units of a network"),
        ("train --resume counted", "got a 3-gram model; only a network is trained"),
        ("train names --init-from mixed --data names.txt", "a new run begins with a network"),
        ("train --config mixed/config.json", "expected the configuration of a network"),
        ("train names --order 3 --data names.txt", "--order is for ngram"),
        ("train ngram --hidden-size 9", "--hidden-size: an n-gram model has no such setting"),
        ("train ngram --order 0", "--order: expected a number from 1"),
        ("train ngram --keep 3", "--keep is for networks"),
        ("train ngram --resume one", "--resume is for networks"),
        ("train ngram --batches windows --data none.txt", "none.txt: No such file or directory"),
        ("train ngram --data names.txt --out one", "one holds a run; choose another --out"),
        ("mix one counted --out mixed", "mixed holds a run; choose another --out"),
        ("mix one poet --out new", "poet learned a text, and one names; mix runs of the same data"),
        ("mix cased one --out new", "cased and one: only one reads lower case; mix runs that all"),
        ("mix one other --out new", "one and other differ in their train part"),
        ("mix whole --ngram 2 --out new", "to learn weights from; give --weights"),
        ("mix one two --weights 1 --out new", "expected a weight for each of 2 models, got 1"),
        ("mix one two --weights 1 -1 --out new", "expected weights of 0 or more"),
        ("mix one none --out new", "none is not a folder"),
        ("mix one --ngram 99 --out new", "--ngram: expected a number from 1 to 50"),
    ],
)
def test_what_does_not_go_is_one_line(command, says, place):
    if not (place / "other").exists():
        arguments = "--data", "names.txt", *SMALL
        call("train", "dinos", *arguments, "--out", "whole", cwd=place)
        call("train", "names", *arguments, "--split-seed", "1", "--out", "other", cwd=place)
        call("train", "ngram", *arguments[:2], "--no-lowercase", "--out", "cased", cwd=place)
    name, *arguments = command.split()
    said = call(name, *arguments, cwd=place, code=2)
    assert says in said
    assert len(said.splitlines()) == 1
    assert not (place / "new").exists()


def test_a_damaged_checkpoint_is_passed_over_with_a_note(place, tmp_path):
    shutil.copytree(place / "two", tmp_path / "two")
    best = load_run(tmp_path / "two").checkpoint
    best.write_bytes(best.read_bytes()[:-100])
    program = Program("mix", "dinojax")
    result = call_here(program, "two", "--ngram", "2", "--out", "mixed", cwd=tmp_path)
    assert result.code == 0
    said = f"two/{best.name} could not be read; an earlier checkpoint takes its place"
    assert result.err == f"dinojax mix: note: {said}\n"


def test_an_ensemble_is_the_mean_of_its_runs(place):
    one, two = load_run(place / "one"), load_run(place / "two")
    assert ensemble([one]) is one
    both = ensemble([one, two])
    names = validation_of(place / "one")
    costs = [np.concatenate(names_nats(run.trained, names)) for run in (one, two)]
    expected = -np.log(np.mean(np.exp(-np.array(costs)), axis=0))
    np.testing.assert_allclose(np.concatenate(names_nats(both.trained, names)), expected, rtol=1e-5)
    assert both.folder == one.folder


def test_the_folder_of_a_sweep_is_the_mean_of_its_best_replicas(place):
    settings = {"learning_rate": [0.1, 0.01], "hidden_size": 8, "steps": 20, "batch_size": 4}
    asked = make_sweep("dinos", "names.txt", "", seeds=3, settings=settings)
    folder, outcomes = place / "swept", {}
    folder.mkdir()
    write_sweep(folder, asked)
    # One replica of each of the two settings has not finished.
    for number, replica in enumerate(plan(asked)[1:-1]):
        given = {name: getattr(replica.config, name) for name in [*settings, "validation_fraction"]}
        out = folder / replica.folder
        dinojax.train(NAMES.splitlines(), "dinos", seed=replica.seed, folder=out, **given)
        outcomes[replica.folder] = Outcome(FINISHED, 3.0 - number, 20, 20)
    write_results(folder, asked, outcomes)
    best = [place / "swept" / replica.folder for replica in plan(asked)[3:5]]
    names = validation_of(best[0])
    costs = [np.concatenate(names_nats(dinojax.load(run), names)) for run in best]
    expected = -np.log(np.mean(np.exp(-np.array(costs)), axis=0))
    for each in folder, best[0].parent:
        found = np.concatenate(names_nats(dinojax.load(each), names))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    said = call("evaluate", "swept", cwd=place)
    assert f"swept, mean of 2 replicas of {best[0].parent.name}, on validation" in said
    assert f"mixture                    {expected.mean():.4f}" in said
    name = call("sample", "swept", "--min-length", "3", "--num", "1", cwd=place).strip()
    assert f"{name} " in call("score", "swept", "--names", name, cwd=place)
    said = call("mix", "swept", best[0], "--weights", "1", "0", "--out", "of-sweep", cwd=place)
    assert f"{expected.mean():.4f}" in said
    np.testing.assert_allclose(
        np.concatenate(names_nats(dinojax.load(place / "of-sweep"), names)), expected, rtol=1e-5
    )
    said = call("page", "swept", cwd=place, code=2)
    assert "got a mixture of 2 models; a page holds a network" in said


def test_a_run_that_learned_more_before_makes_a_mixture_that_did(place, tmp_path):
    data = "--data", "names.txt", "--validation-fraction", "0.2", "--test-fraction", "0.1"
    (tmp_path / "before.txt").write_text("abcabcab\ncccba\naab\n")
    small = "--hidden-size", "8", "--steps", "4", "--batch-size", "2", "--devices", "1"
    shutil.copy(place / "names.txt", tmp_path / "names.txt")
    call("train", "dinos", "--data", "before.txt", *small, "--out", "before", cwd=tmp_path)
    call("train", "dinos", *data, *SMALL, "--out", "first", cwd=tmp_path)
    call("train", "dinos", *data, *small, "--init-from", "before", "--out", "tuned", cwd=tmp_path)
    tuned, first = load_run(tmp_path / "tuned"), load_run(tmp_path / "first")
    call("mix", "first", "tuned", "--out", "new", cwd=tmp_path)
    mixed = load_run(tmp_path / "new").description
    assert first.description.learned_before == ()
    assert mixed.learned_before == tuned.description.learned_before
    assert mixed.parts == tuned.description.parts
    assert "earlier" in mixed.parts
    known = call("sample", "new", "--json", "--num", "400", cwd=tmp_path).splitlines()
    rows = [json.loads(row) for row in known]
    learned = {"abcabcab", "cccba", "aab"}
    assert all(row["in_training_data"] for row in rows if row["name"] in learned)


def test_a_checkpoint_with_other_tables_is_refused(place, tmp_path):
    shutil.copytree(place / "mixed", tmp_path / "bad")
    (file,) = (tmp_path / "bad").glob("checkpoint-*.npz")
    metadata, arrays = checkpoint.load(file)
    for name in "params/2/first", "params/2/kept", "params/0/readout/bias":
        changed = {**arrays, name: arrays[name][:-1]}
        checkpoint.save(file, changed, metadata)
        with pytest.raises(ValueError, match="could not be read"):
            load_run(tmp_path / "bad")
