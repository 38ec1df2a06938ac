"""Runs that validation gives their steps, and that then learn all but the test part."""

from dataclasses import asdict

import jax
import numpy as np
import pytest

import dinojax
from dinojax.cli.terminal import Program
from dinojax.presets import resolve, resolve_resumed
from dinojax.runs import folder as runs
from dinojax.runs.metadata import read_config
from dinojax.runs.metrics import read_metrics
from dinojax.runs.recorder import record
from dinojax.runs.selection import SELECTION

from in_process import call_here

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
    assert f"its validation loss, {loss:.4f} after" in " ".join(result.out.split())
    assert call("evaluate", f"run/{SELECTION}", cwd=place).code == 0


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
