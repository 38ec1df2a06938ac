"""Runs that validation gives their steps, and that then learn all but the test part."""

import math
import re
import shutil
import signal
from dataclasses import asdict

import jax
import numpy as np
import pytest

import dinojax
from dinojax.cli import train as main
from dinojax.cli.terminal import INTERRUPTED, Program
from dinojax.evaluation.strings import names_nats
from dinojax.models.mixture import learn_weights
from dinojax.models.trained import Trained
from dinojax.presets import resolve, resolve_resumed
from dinojax.runs import folder as runs
from dinojax.runs.metadata import read_config
from dinojax.runs.metrics import read_metrics
from dinojax.runs.recorder import record
from dinojax.runs.selection import SELECTION

from in_process import call_here
from model_kinds import ngram

NAMES = ["".join(x) for x in np.random.default_rng(0).choice(list("abcdefgh"), (60, 4)).tolist()]
SETTINGS = {"hidden_size": 4, "batch_size": 2, "steps": 35, "evaluate_every": 5}
SETTINGS |= {"learning_rate": 0.1, "validation_fraction": 0.3, "test_fraction": 0.2}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]


def call(command, *arguments, cwd):
    return call_here(Program(command, "dinojax"), *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with names and a run that was refitted in one go."""
    folder = tmp_path_factory.mktemp("refit")
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in NAMES), "utf-8")
    result = call("train", "--data", "names.txt", "--refit", "--out=run", *FLAGS, cwd=folder)
    assert result.code == 0, result.err
    return folder


def stop_soon(patch):
    """Let the time of a training be up after its first report."""
    train = main.train
    patch.setattr(main, "train", lambda *arguments: train(*arguments[:-1], -math.inf))


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_it_is_a_direct_training_on_all_but_the_test_part(place):
    run, selection = runs.load_run(place / "run"), runs.load_run(place / "run" / SELECTION)
    parts = {x: runs.read_part(place / "run", run.description, x) for x in run.description.parts}
    halves = [
        runs.read_part(selection.folder, selection.description, x) for x in ("train", "validation")
    ]
    assert set(parts) == {"train", "test"}
    assert sorted(parts["train"]) == sorted([*halves[0], *halves[1]])
    assert not set(parts["test"]) & set(parts["train"])
    # As many passes as were best, in batches of two.
    best = selection.tally.best_step
    assert 0 < best < 35, "expected a run whose last validation is not the best"
    steps = round(best / -(-len(halves[0]) // 2) * -(-len(parts["train"]) // 2))
    assert run.step == run.config.steps == steps != best
    assert run.description.selection[:3] == (best, selection.tally.best_loss, 35)
    alone = SETTINGS | {"validation_fraction": 0, "test_fraction": 0, "steps": steps}
    assert_same(dinojax.train(parts["train"], **alone).params, run.params)
    library = dinojax.train(NAMES, refit=True, **SETTINGS, folder=place / "library")
    assert_same(library.params, run.params)
    assert_same(dinojax.train(NAMES, refit=True, **SETTINGS).params, run.params)
    # The settings are those that it was started with, for another run.
    settings, _ = read_config(place / "run/config.json")
    assert (settings["steps"], settings["epochs"], settings["refit"]) == (35, 0, True)


@pytest.mark.parametrize("where", ["selection", "between", "refit"])
def test_a_run_that_is_killed_goes_on_alike(place, monkeypatch, where):
    def record_until(progress, experiment, state, *others, **options):
        for report in record(progress, experiment, state, *others, **options):
            yield report
            if experiment.config.refit == (where == "refit") and report.step >= 10:
                raise OSError("the disk is full")

    name = f"killed-{where}"
    with monkeypatch.context() as patch:
        if where == "between":
            patch.setattr("dinojax.cli.refit.begin", lambda *_: None)
        else:
            patch.setattr("dinojax.runs.session.record", record_until)
        arguments = "--data", "names.txt", "--refit", f"--out={name}", *FLAGS
        result = call("train", *arguments, "--save-every=5", cwd=place)
    assert result.code == (0 if where == "between" else 2), result.err
    assert where == "between" or f"--resume {name}" in result.err
    before = runs.load_run(place / name, "last")
    assert before.step == 0 if where != "refit" else 10 <= before.step < before.config.steps
    result = call("train", "--resume", name, cwd=place)
    assert result.code == 0, result.err
    run = runs.load_run(place / name)
    assert_same(run.params, runs.load_run(place / "run").params)
    for each in ("", SELECTION):
        losses = [
            [x["training_loss"] for x in read_metrics(place / folder / each) if "event" not in x]
            for folder in (name, "run")
        ]
        assert losses[0] == losses[1]


def test_time_and_a_signal_are_for_the_selection_and_the_refit(place, monkeypatch):
    train, deadlines, sent = main.train, list[float](), [signal.SIGINT]

    def noted(*arguments):
        deadlines.append(arguments[-1])
        report, seconds, signals = train(*arguments)
        return report, seconds, signals + sent

    monkeypatch.setattr(main, "train", noted)
    arguments = "--data=names.txt", "--refit", "--out=timed", *FLAGS, "--steps=2"
    # Ctrl-C in the last steps of the selection.
    result = call("train", *arguments, cwd=place)
    assert (result.code, result.err.count("--resume timed")) == (INTERRUPTED, 1)
    assert runs.load_run(place / "timed", "last").step == 0
    sent.clear()
    result = call("train", *arguments, "--overwrite", "--max-minutes=1000", cwd=place)
    assert result.code == 0
    assert deadlines[0] == math.inf
    assert math.inf > deadlines[1] == deadlines[2]


def test_a_selection_that_is_resumed_alone_is_to_be_resumed_alone(place, monkeypatch):
    shutil.copytree(place / "run", place / "longer")
    with monkeypatch.context() as patch:
        stop_soon(patch)
        result = call("train", f"--resume=longer/{SELECTION}", "--steps=90", cwd=place)
    assert result.code == 0, result.err
    assert f"train --resume longer/{SELECTION}\n" in result.out


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_run_whose_selection_was_extended_says_how_to_make_it(place, monkeypatch, schedule):
    name = f"extended-{schedule}"
    arguments = "--data=names.txt", "--refit", f"--out={name}", *FLAGS, "--steps=4"
    with monkeypatch.context() as patch:
        stop_soon(patch)
        call("train", *arguments, "--evaluate-every=2", f"--schedule={schedule}", cwd=place)
    done = runs.load_run(place / name / SELECTION, "last").step
    assert 0 < done < 4
    call("train", f"--resume={name}/{SELECTION}", "--steps=12", "--patience=9", cwd=place)
    result = call("train", f"--resume={name}", cwd=place)
    assert result.code == 0, result.err
    settings, sources = read_config(place / name / "config.json")
    assert (settings["steps"], settings["patience"]) == (12, 9)
    result = call("train", f"--config={name}/config.json", f"--out={name}-again", cwd=place)
    if schedule == "constant":
        assert (result.code, sources["extensions"]) == (0, ""), result.err
        found = [runs.load_run(place / each).params for each in (name, f"{name}-again")]
        assert_same(*found)
    else:
        said = f"was extended (4 steps, from step {done} on 12); give the first number as --steps"
        assert f"{said} and extend its selection likewise" in result.err


def test_a_refit_runs_on_the_devices_that_are_given_or_there(place, monkeypatch):
    arguments = "--data=names.txt", "--refit", *FLAGS, "--steps=4", "--evaluate-every=2"
    for name, others, is_one in (
        ("unfinished", ["--devices=1"], False),
        ("ended", ["--devices=1"], False),
        ("moved", [], True),
    ):
        with monkeypatch.context() as patch:
            if name == "unfinished":
                stop_soon(patch)
            patch.setattr("dinojax.cli.refit.begin", lambda *_: None)
            result = call("train", *arguments, "--devices=2", f"--out={name}", cwd=place)
            assert result.code == 0, result.err
        with monkeypatch.context() as patch:
            if is_one:
                patch.setattr("dinojax.parallel.num_available", lambda: 1)
            result = call("train", f"--resume={name}", *others, cwd=place)
        assert result.code == 0, result.err
        run = runs.load_run(place / name)
        assert (run.step, run.config.devices) == (run.config.steps, 1)
        assert ("the run had 2 devices and goes on with 1" in result.err) == is_one
        best = run.description.selection.best_step
        taken = f"as many as the selection had taken after {best} steps, where its loss was lowest"
        assert re.search(rf"\nRefit for 0\.\d+ passes over the data: {taken}\n", result.out)


def test_data_that_cannot_be_split_leave_no_run(tmp_path):
    settings = {"validation_fraction": 0.9, "steps": 3, "refit": True}
    with pytest.raises(ValueError, match="no data would be left to learn from, of 2 distinct"):
        dinojax.train(NAMES[:2], "names", **settings, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_whole_epochs_are_kept_as_they_were_given(tmp_path):
    settings = {**SETTINGS, "epochs": 1, "refit": True}
    del settings["steps"]
    dinojax.train(NAMES, **settings, folder=tmp_path / "run")
    assert runs.load_run(tmp_path / "run").description.selection.epochs == 1


def test_no_loss_over_what_it_learned_passes_for_validation(place):
    result = call("evaluate", "run", "--split=validation", cwd=place)
    assert result.code == 2
    assert "learned its validation part, too" in result.err
    result = call("evaluate", "run", cwd=place)
    loss = runs.load_run(place / "run").description.selection.best_loss
    assert "on test" in result.out
    assert f"the validation loss of this run, {loss:.4f} after" in " ".join(result.out.split())
    assert call("evaluate", f"run/{SELECTION}", cwd=place).code == 0


def test_a_mixture_of_refitted_runs_has_the_weights_of_their_selections(place):
    result = call("mix", "run", "--ngram=2", "--out=mixed", cwd=place)
    assert result.code == 0, result.err
    mixed = runs.load_run(place / "mixed")
    expected = {}
    for folder in "run", f"run/{SELECTION}":
        run = runs.load_run(place / folder)
        parts = {x: runs.read_part(run.folder, run.description, x) for x in run.description.parts}
        counted = Trained(*ngram(run.vocab, parts["train"], 2), run.vocab)
        expected[folder] = parts, [run.trained, counted]

    def costs(folder, part):
        parts, members = expected[folder]
        return np.array([np.concatenate(names_nats(each, parts[part])) for each in members])

    honest = costs(f"run/{SELECTION}", "validation")
    weights = learn_weights(honest).weights
    np.testing.assert_allclose(mixed.description.model.weights, weights, atol=1e-6)
    # The models are the final ones.
    found = np.concatenate(names_nats(mixed.trained, expected["run"][0]["test"]))
    probabilities = weights @ np.exp(-costs("run", "test"))
    np.testing.assert_allclose(found, -np.log(probabilities), rtol=1e-4)
    # All figures are of models that did not learn the validation part, and all that follows.
    loss = -np.log(weights @ np.exp(-honest)).mean()
    figures = [line.split()[-3] for line in result.out.splitlines()[1:4]]
    np.testing.assert_allclose(np.array(figures, float), [*honest.mean(axis=1), loss], atol=1e-4)
    assert f"selections, mixed in mixed/{SELECTION}" in result.out
    assert mixed.description.selection.best_loss == pytest.approx(loss, rel=1e-5)
    said = " ".join(call("evaluate", "mixed", cwd=place).out.split())
    assert "mixture of 2 models, on test" in said
    assert (
        f"the validation loss of this run, {loss:.4f}, is that of its selection, whose members"
        in said
    )
    assert "did not learn the validation part; its weights did, unless they were given" in said
    result = call("evaluate", "mixed", "--split=validation", cwd=place)
    assert f"its selection in mixed/{SELECTION} did not" in result.err
    # It is mixed again like any other, and goes like any other.
    again = dinojax.mix([place / "mixed", place / "run"], place / "again", weights=[1, 0])
    assert again.figures[-1]["nats_per_character"] == pytest.approx(loss, rel=1e-5)
    assert (place / f"again/{SELECTION}").exists()
    inner = place / f"run/{SELECTION}"
    assert not dinojax.mix([inner], place / "again", overwrite=True).description.config.refit
    assert not (place / f"again/{SELECTION}").exists()


def test_refitted_runs_that_have_no_weights_in_common_are_refused(place, monkeypatch):
    monkeypatch.setattr("dinojax.cli.refit.begin", lambda *_: None)
    call("train", "--data=names.txt", "--refit", "--out=killed", *FLAGS, "--steps=2", cwd=place)
    dinojax.train(NAMES, refit=True, **SETTINGS | {"split_seed": 1}, folder=place / "other")
    resume = f"resume its training, or take its selection in killed/{SELECTION}"
    shutil.copytree(place / "run", place / "bare")
    shutil.rmtree(place / "bare" / SELECTION)
    for name, earlier in ("swapped", "run"), ("begun", "killed"):
        shutil.copytree(place / earlier, place / name)
        shutil.rmtree(place / name / SELECTION)
        shutil.copytree(place / "other" / SELECTION, place / name / SELECTION)
    alien = f"/{SELECTION} is not the selection of"
    for others, said in (
        (["other"], f"run/{SELECTION} and other/{SELECTION} differ in their train part"),
        ([f"other/{SELECTION}"], f"run was refitted, and other/{SELECTION} was not; mix runs"),
        (["bare"], f"its selection in bare/{SELECTION} is not there; give --weights"),
        (["killed"], f"killed has yet to be refitted; {resume}"),
        (["swapped"], f"swapped{alien} swapped: split seed differs; train the run anew"),
    ):
        result = call("mix", "run", *others, "--out=new", cwd=place)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert said in result.err
    for arguments in (["sample", "killed"], ["train", "names", "--init-from=killed"]):
        result = call(*arguments, cwd=place)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert f"killed has yet to be refitted; {resume}" in result.err
    others = [f"other/{SELECTION}", "--weights", "1", "1"]
    result = call("mix", "run", *others, "--out=new", cwd=place)
    assert f"run was refitted, and other/{SELECTION} was not; mix runs" in result.err
    shutil.copytree(place / "killed", place / "alone")
    shutil.rmtree(place / "alone" / SELECTION)
    said = call("sample", "alone", cwd=place).err
    assert said.endswith("alone has yet to be refitted; resume its training\n")
    result = call("train", "--resume=begun", cwd=place)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"begun{alien} begun: split seed differs" in result.err
    mixed = dinojax.mix([place / "run", place / "bare"], place / "given", weights=[1, 2])
    assert (mixed.figures, mixed.description.selection) == ([], None)
    assert not (place / f"given/{SELECTION}").exists()
    # Nor does that of an earlier run stay.
    shutil.copytree(place / "run", place / "replaced")
    dinojax.mix([place / "run", place / "bare"], place / "replaced", weights=[1, 2], overwrite=True)
    assert not (place / f"replaced/{SELECTION}").exists()


def test_what_cannot_be_is_refused(place):
    config = resolve(given={"validation_fraction": 0.1, "refit": True})
    with pytest.raises(ValueError, match="refit: expected a validation fraction above 0"):
        resolve(given={"refit": True})
    assert not resolve(recorded=asdict(config), given={"validation_fraction": 0}).refit
    with pytest.raises(ValueError, match="steps: a run that is refitted keeps its own"):
        resolve_resumed(config, {"steps": 50_000})
    with pytest.raises(ValueError, match="refit: sweeps and searches compare runs by validation"):
        dinojax.sweep(place / "sweep", refit=True)
    result = call("train", "--resume", "run", cwd=place)
    assert "has done all its" in result.err
    assert "train another run" in result.err
