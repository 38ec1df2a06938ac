"""Sweeps: plans, replicas against separate runs, statistics, kills and resumes, bad input."""

import errno
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dinojax
from dinojax import platforms
from dinojax.cli.terminal import Program
from dinojax.data.corpus import bundled_names
from dinojax.files import named_errors
from dinojax.messages import why
from dinojax.plots.losses import plot_runs
from dinojax.presets import PRESETS, resolve
from dinojax.runs import workers
from dinojax.runs.checkpoint import load
from dinojax.runs.folder import load_run
from dinojax.runs.metrics import read_metrics
from dinojax.runs.replica import Step
from dinojax.runs.results import summarize, table
from dinojax.runs.sweep import (
    Outcome,
    best_setting,
    make_sweep,
    members,
    plan,
    read_outcomes,
    read_sweep,
    write_sweep,
)
from dinojax.runs.sweeping import new_sweep, task_of

from conftest import QUICK, ROOT, USERS_ENVIRONMENT
from in_process import call_here

ENVIRONMENT = USERS_ENVIRONMENT | QUICK | {"PYTHONPATH": str(ROOT)}
TINY = "--steps", 40, "--hidden-size", 8, "--seeds", 2
RATES = "--learning-rate", 0.01, 0.1
TIMEOUT = 120


def sweep_here(*arguments, cwd):
    return call_here(Program("sweep", "dinojax"), *arguments, cwd=cwd)


def arrays_of(run):
    """All arrays of a run's last checkpoint."""
    return load(max(run.glob("checkpoint-*.npz")))[1]


def assert_same_arrays(run, other):
    one, two = arrays_of(run), arrays_of(other)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], name)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A small sweep of two settings with two seeds, and what its command said."""
    cwd = tmp_path_factory.mktemp("sweep")
    said = sweep_here(*TINY, *RATES, "--out", "rates", "--jobs", 1, cwd=cwd)
    assert said.code == 0, said.err
    return cwd / "rates", said


# Plans.


def test_a_plan_has_every_combination_with_every_seed():
    settings = {"learning_rate": [1e-3, 2e-3], "dropout": [0.1, 0.3], "hidden_size": 9}
    baseline = {"learning_rate": 2e-3, "dropout": 0.3}
    replicas = plan(make_sweep("names", "", "", seeds=3, settings=settings, baseline=baseline))
    expected = [
        (rate, dropout, seed)
        for rate, dropout in [(2e-3, 0.3), (1e-3, 0.1), (1e-3, 0.3), (2e-3, 0.1)]
        for seed in range(3)
    ]
    configs = [each.config for each in replicas]
    assert [(x.learning_rate, x.dropout, x.seed) for x in configs] == expected
    assert len({each.folder for each in replicas}) == len(replicas)
    assert replicas[3].folder == Path("learning_rate=0.001,dropout=0.1/seed-0")
    given = {"hidden_size": 9, "devices": 1, "learning_rate": 1e-3, "dropout": 0.1, "seed": 1}
    assert configs[4] == resolve("names", given=given)


def test_values_are_a_list_or_a_tuple():
    one, other = (
        make_sweep("dinos", "", "", seeds=1, settings={"dropout": kind([0.0, 0.1])})
        for kind in (list, tuple)
    )
    assert one == other


def test_the_preset_is_the_baseline_and_is_trained_too():
    sweep = make_sweep("names", "", "", seeds=1, settings={"dropout": [0.1, 0.2]})
    assert sweep.baseline == {"dropout": PRESETS["names"].dropout}
    assert [each.config.dropout for each in plan(sweep)] == [0.5, 0.1, 0.2]
    # A single value is that of all; named as part of the baseline, it is compared with it.
    sweep = make_sweep("names", "", "", seeds=1, settings={"dropout": 0.1})
    assert [each.setting for each in plan(sweep)] == ["names"]
    named = make_sweep(
        "names", "", "", seeds=1, settings={"dropout": [0.1]}, baseline={"dropout": 0.2}
    )
    assert [each.config.dropout for each in plan(named)] == [0.2, 0.1]


def test_all_replicas_have_one_split_and_part_to_validate():
    sweep = make_sweep("dinos", "", "", seeds=4, settings={"split_seed": 7})
    configs = [each.config for each in plan(sweep)]
    assert {each.validation_fraction for each in configs} == {0.1}
    assert {each.split_seed for each in configs} == {7}
    assert [each.seed for each in configs] == [0, 1, 2, 3]


def test_a_preset_that_refits_is_swept_without_it(tmp_path):
    """With settings that a refit, or a run without validation, could not have."""
    settings = {"average_trigger": 2, "patience": 3, "dropout": [0.0, 0.1]}
    sweep = make_sweep("text-best", "", "", seeds=1, settings=settings)
    assert not any(each.config.refit for each in plan(sweep))
    write_sweep(tmp_path, sweep)
    assert read_sweep(tmp_path) == sweep


# Replicas against separate runs.

SIZES = {
    "dinos": {"steps": 30},
    "names": {"steps": 3, "hidden_size": 64},
    "text": {"steps": 2, "hidden_size": 128},
    "text-best": {"steps": 2, "hidden_size": 64},
}


def test_replicas_equal_runs_trained_alone_to_the_bit(tmp_path):
    """In processes side by side, for presets of all kinds; the alone ones are ordinary commands."""
    (tmp_path / "text.txt").write_text("Now is the winter of our discontent.\n" * 400)
    tasks = []
    for preset, given in SIZES.items():
        data = str(tmp_path / "text.txt") if PRESETS[preset].is_text else str(bundled_names())
        sweep = new_sweep(preset, data, seeds=2, settings=given)
        for replica in plan(sweep):
            tasks.append(task_of(sweep, replica, tmp_path / "sweep" / preset))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.environ", ENVIRONMENT)
        events = list(workers.train_beside(tasks, 2))
    ended = {event[0]: event[1] for event in events if event and isinstance(event[1], Outcome)}
    assert [ended[i].status for i in range(len(tasks))] == ["finished"] * len(tasks), ended
    folders = [Path(task.folder) for task in tasks]
    # Other seeds are other runs.
    assert len({arrays_of(folder)["params/readout/bias"].tobytes() for folder in folders}) == 8
    lines = [
        [sys.executable, "-m", "dinojax", "train", "--config", str(folder / "config.json")]
        for folder in folders[1::2]
    ]
    for i, line in enumerate(lines):
        alone = tmp_path / "alone" / str(i)
        subprocess.run(
            [*line, "--out", str(alone)], env=ENVIRONMENT, check=True, timeout=TIMEOUT,
            capture_output=True,
        )  # fmt: skip
        assert_same_arrays(alone, folders[2 * i + 1])
        config = "config.json"
        assert (alone / config).read_bytes() == (folders[2 * i + 1] / config).read_bytes()


def test_in_one_process_replicas_equal_ordinary_runs(done, tmp_path):
    folder, _ = done
    run = folder / "learning_rate=0.1" / "seed-1"
    line = "--config", run / "config.json", "--out", "alone"
    result = call_here(Program("train", "dinojax"), *line, cwd=tmp_path)
    assert result.code == 0, result.err
    assert_same_arrays(tmp_path / "alone", run)


def test_stacked_replicas_are_ordinary_runs_too(done, tmp_path, monkeypatch):
    """As on an accelerator; they equal the others up to rounding."""
    monkeypatch.setattr(platforms, "stack_size", lambda platform, num, most: min(num, most))
    monkeypatch.setattr(platforms, "replica_processes", lambda *_: 1)
    result = sweep_here(*TINY, *RATES, "--out", "stacked", cwd=tmp_path)
    assert result.code == 0, result.err
    ours, stacked = read_outcomes(done[0]), read_outcomes(tmp_path / "stacked")
    assert [x.status for x in stacked.values()] == ["finished"] * 4
    for where in ours:
        # At the larger rate, rounding grows to any size in 40 steps.
        if where.parent.name == "learning_rate=0.01":
            one, two = arrays_of(done[0] / where), arrays_of(tmp_path / "stacked" / where)
            for name in (name for name in one if name.startswith("params/")):
                np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=1e-5)
            loss = stacked[where].validation_loss
            assert loss == pytest.approx(ours[where].validation_loss, rel=1e-5)


# Results.


def test_results_are_those_of_the_runs(done):
    folder, said = done
    results = json.loads((folder / "results.json").read_text("utf-8"))
    losses = {}
    for rate in ("0.01", "0.1"):
        runs = [folder / f"learning_rate={rate}" / f"seed-{seed}" for seed in range(2)]
        lines = [[x["validation_loss"] for x in read_metrics(run)] for run in runs]
        losses[rate] = [min(filter(None, each)) for each in lines]
    for row in results["settings"]:
        own = losses[row["setting"].removeprefix("learning_rate=")]
        assert row["finished"] == 2
        assert row["mean"] == pytest.approx(statistics.mean(own), rel=1e-12)
        assert row["standard_deviation"] == pytest.approx(statistics.stdev(own), rel=1e-12)
    assert len(results["replicas"]) == 4
    for replica in results["replicas"]:
        arrays = arrays_of(folder / replica["folder"]).items()
        size = sum(array.size for name, array in arrays if name.startswith("params/"))
        assert replica["num_parameters"] == size
    lowest = min(losses, key=lambda rate: sum(losses[rate]))
    assert results["best"] == best_setting(folder) == f"learning_rate={lowest}"
    assert results["settings"][0]["against_baseline"] is None
    difference = results["settings"][1]["against_baseline"]["difference"]
    pairs = [b - a for a, b in zip(losses["0.01"], losses["0.1"], strict=True)]
    assert difference == pytest.approx(statistics.mean(pairs), rel=1e-9)
    text = (folder / "results.txt").read_text("utf-8")
    assert text in said.out
    assert max(map(len, text.split("\n"))) <= 80
    assert said.out.count(" nats a character in validation") == 4


def test_members_are_the_finished_replicas_of_the_best_setting(done):
    folder, _ = done
    best = folder / best_setting(folder)
    assert members(folder) == [best / "seed-0", best / "seed-1"]
    other = next(each for each in folder.glob("learning_rate=*") if each != best)
    assert members(other) == [other / "seed-0", other / "seed-1"]


def test_a_diverged_replica_counts_as_diverged_and_pairs_are_those_left():
    sweep = make_sweep("dinos", "", "", seeds=3, settings={"dropout": [0.0, 0.1, 0.2]})
    losses = {"dropout=0": [2.0, 2.1, 2.3], "dropout=0.1": [1.9, None, 2.1], "dropout=0.2": [1.0]}
    outcomes = {}
    for replica in plan(sweep):
        if replica.seed < len(losses[replica.setting]):
            loss = losses[replica.setting][replica.seed]
            outcomes[replica.folder] = Outcome("finished", loss, 10, 10)
            if loss is None:
                outcomes[replica.folder] = Outcome("diverged", message="the loss is nan in step 3")
    results = summarize(sweep, outcomes)
    first, second, third = results["settings"]
    assert (second["finished"], second["diverged"]) == (2, 1)
    assert second["mean"] == pytest.approx(2.0)
    compared = second["against_baseline"]
    assert compared["num_pairs"] == 2
    assert compared["difference"] == pytest.approx(-0.15)
    # Wins of 1.9 over all of 2.0 and 2.3, the seeds that both finished, and of 2.1 over one.
    assert compared["probability_of_improvement"] == 0.75
    # The lowest mean is of one seed alone.
    assert third["mean"] < first["mean"]
    assert results["best"] == first["setting"] == "dropout=0"
    text = table(sweep, results)
    assert "2/3" in text
    assert "dropout=0.1/seed-1: the loss is nan in step 3" in text


def test_one_seed_says_nothing_about_spread(tmp_path):
    line = "--steps", 5, "--hidden-size", 4, "--seeds", 1, "--jobs", 1
    result = sweep_here(*line, *RATES, cwd=tmp_path)
    assert result.code == 0, result.err
    assert "nothing is known about the spread" in result.out
    results = json.loads((tmp_path / "runs/dinos-sweep/results.json").read_text("utf-8"))
    assert results["settings"][0]["standard_deviation"] is None
    assert results["settings"][1]["against_baseline"]["margin"] is None
    (row,) = (each for each in result.out.splitlines() if each.split()[:1] == ["0.1"])
    assert row.endswith("  -")
    assert "--validation-fraction 0.1" in result.err


def test_a_sweep_is_drawn_as_means_with_bands(done, tmp_path):
    pytest.importorskip("matplotlib")
    from dinojax.plots.sweeps import plot_sweep

    folder, _ = done
    (axes,) = plot_sweep(folder).get_axes()
    line, band = axes.get_lines()[0], axes.collections[0]
    runs = [read_metrics(folder / "learning_rate=0.01" / f"seed-{seed}") for seed in range(2)]
    losses = [[x["validation_loss"] for x in run if x["validation_loss"]] for run in runs]
    np.testing.assert_allclose(line.get_ydata(), np.mean(losses, axis=0))
    error = abs(losses[0][0] - losses[1][0]) / 2
    low, high = (f(band.get_paths()[0].vertices[:, 1]) for f in (np.min, np.max))
    assert low <= line.get_ydata()[0] - error
    assert high >= line.get_ydata()[0] + error
    result = call_here(Program("plot", "dinojax"), folder, cwd=tmp_path)
    assert result.code == 0, result.err
    assert (folder / "loss.png").exists()


# Divergence, kills and resumes.


def test_a_diverged_replica_ends_alone_and_is_not_trained_again(tmp_path):
    line = "--optimizer", "adamw", "--weight-decay", 0, 1000, *TINY, "--jobs", 1, "--out", "new"
    result = sweep_here(*line, cwd=tmp_path)
    assert result.code == 0, result.err
    outcomes = read_outcomes(tmp_path / "new")
    assert sorted(x.status for x in outcomes.values()) == ["diverged"] * 2 + ["finished"] * 2
    assert result.out.count("weight_decay=1000 seed") == 2
    assert "0/2" in result.out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    text = (tmp_path / "new" / "results.json").read_bytes()
    result = sweep_here("--resume", "new", cwd=tmp_path)
    assert result.code == 0, result.err
    assert "4 of 4 runs have ended" in result.out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == before
    assert (tmp_path / "new" / "results.json").read_bytes() == text


def test_a_replica_that_went_wrong_is_reported_as_train_does(tmp_path):
    line = "--steps", 20, "--hidden-size", 4, "--seeds", 1, "--jobs", 1
    result = sweep_here(*line, "--learning-rate", 0.01, 100, cwd=tmp_path)
    assert result.code == 0, result.err
    good, bad = (x for x in result.out.splitlines() if " nats a character in validation" in x)
    assert "went wrong" not in good
    assert re.search("validation; training went wrong: this model costs .*; try a smaller", bad)


def test_a_process_that_is_killed_fails_its_replica_alone(tmp_path, monkeypatch):
    sweep = new_sweep("dinos", str(bundled_names()), seeds=3, settings={"steps": 4_000})
    tasks = [task_of(sweep, each, tmp_path) for each in plan(sweep)]
    started, start = [], workers._start_process
    monkeypatch.setattr(
        workers, "_start_process", lambda *given: started.append(start(*given)) or started[-1]
    )
    monkeypatch.setattr("os.environ", ENVIRONMENT)
    ended = {}
    for event in workers.train_beside(tasks, 1):
        if event and isinstance(event[1], Step) and len(started) == 1:
            started[0].kill()
        elif event and isinstance(event[1], Outcome):
            ended[event[0]] = event[1]
    assert [ended[i].status for i in range(3)] == ["failed", "finished", "finished"]
    assert "SIGKILL" in ended[0].message
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def command(*arguments, cwd):
    """A command in a process of its own: its options of XLA decide about bits."""
    line = [sys.executable, "-m", "dinojax", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, cwd=cwd, env=ENVIRONMENT, text=True, **streams)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that is not interrupted."""
    cwd = tmp_path_factory.mktemp("whole")
    with command("sweep", *LONGER, "--out", "sweep", "--jobs", 1, cwd=cwd) as process:
        _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, said
    return cwd / "sweep"


LONGER = "--steps", 6000, "--evaluate-every", 500, "--seeds", 3, "--hidden-size", 16


@pytest.mark.parametrize("what", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_killed_goes_on_to_the_same_end(what, whole, tmp_path):
    with command("sweep", *LONGER, "--out", "sweep", "--jobs", 2, cwd=tmp_path) as process:
        deadline = time.monotonic() + TIMEOUT
        while not (tmp_path / "sweep" / "results.json").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(what)
        # Its processes have these ends of the pipes, so that this waits for them too.
        _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == {signal.SIGINT: 130}.get(what, -what)
    if what == signal.SIGINT:
        assert "dinojax sweep: interrupted; " in said
        assert said.endswith("sweep --resume sweep\n")
        assert "Traceback" not in said
    assert 1 <= len(read_outcomes(tmp_path / "sweep")) < 3
    ended = {path: path.stat().st_mtime_ns for path in finished_files(tmp_path / "sweep")}
    with command("sweep", "--resume", "sweep", "--jobs", 1, cwd=tmp_path) as process:
        _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, said
    assert {path: path.stat().st_mtime_ns for path in ended} == ended
    for name in ("sweep.json", "results.json", "results.txt"):
        assert (tmp_path / "sweep" / name).read_bytes() == (whole / name).read_bytes()
    for replica in plan(read_sweep(whole)):
        assert_same_arrays(tmp_path / "sweep" / replica.folder, whole / replica.folder)


def finished_files(folder):
    return [path for run in read_outcomes(folder) for path in (folder / run).glob("*.npz")]


def test_what_ended_unrecorded_is_not_trained_again(done, tmp_path):
    """As after a kill between the end of a replica and its record."""
    folder, _ = done
    results = folder / "results.json"
    text = results.read_bytes()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    results.unlink()
    assert sweep_here("--resume", folder, "--jobs", 1, cwd=tmp_path).code == 0
    assert results.read_bytes() == text
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")} == before


def test_a_replica_that_was_removed_is_trained_again(done, tmp_path):
    folder, _ = done
    copied = shutil.copytree(folder, tmp_path / "copy")
    removed = copied / "learning_rate=0.1" / "seed-1"
    shutil.rmtree(removed)
    said = sweep_here("--resume", copied, "--jobs", 1, cwd=tmp_path)
    assert said.code == 0
    assert "3 of 4 runs have ended" in said.out
    assert_same_arrays(removed, folder / "learning_rate=0.1" / "seed-1")
    assert (copied / "results.json").read_bytes() == (folder / "results.json").read_bytes()


def test_why_a_replica_failed_is_one_plain_line(tmp_path):
    """As where a disk is full, which `named_errors` ascribes to the file that was to be written."""
    with (
        pytest.raises(OSError, match="No space") as caught,
        named_errors(tmp_path / "file", tmp_path / "temporary"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "temporary"))
    assert why(caught.value) == f"{tmp_path / 'file'}: No space left on device"
    assert why(ValueError("one\n line")) == "one line"
    assert why(MemoryError()) == "MemoryError"


def test_of_what_is_no_run_the_runs_in_it_are_named(done):
    folder, _ = done
    setting = folder / "learning_rate=0.01"
    inside = f"; a run in it is {setting / 'seed-0'}"
    with pytest.raises(ValueError, match=re.escape(inside)):
        load_run(setting, "best")
    with pytest.raises(ValueError, match=re.escape(f"has no metrics.jsonl{inside}")):
        plot_runs([folder])


# Bad input.


def test_names_in_place_of_files_are_told_so(tmp_path):
    with pytest.raises(
        ValueError, match=r"^expected files of data, got 3 paths where .* 'ada'; wri"
    ):
        dinojax.sweep(tmp_path / "x", "names", ["ada", "bob", "eve"])
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning-rate", "1e-3", "-1"], "--learning-rate: expected a number from 1e-12 to 1,0"),
        (["--learning-rate", "0.001", "1e-3"], "--learning-rate: 0.001 is given twice"),
        (["--learning-rate", "x"], "argument --learning-rate: expected a number such as 0.01"),
        (["--cell", "gru", "rnn"], "argument --cell: invalid choice: 'rnn'"),
        (["--cell", "vanilla", "lstm", "--gate", "sigmoid", "hard_sigmoid"], "--gate: a vanilla"),
        (["--epochs", "1", "--steps", "5", "6"], "--epochs: they set the steps, which are given"),
        (["--split-seed", "1", "2"], "--split-seed: expected one value, as losses over different"),
        (["--validation-fraction", "0"], "--validation-fraction: expected more than 0, as a sweep"),
        (["--baseline", "lowercase=yes"], "--baseline: 'lowercase' is not swept; expected some o"),
        (["--seeds", "0"], "--seeds: expected a number from 1 to 10,000, got 0"),
        (["--seed", "1"], "--seed needs --search"),
        (["--jobs", "0"], "--jobs: expected a number from 1 to 4,096, got 0"),
        (["--baseline", "dropout=0.1"], "--baseline: 'dropout' is not swept; expected some of non"),
        (["--baseline", "dropout"], "argument --baseline: expected a setting and its value, such"),
        (["--baseline", "dropot=1"], "--baseline: unknown setting 'dropot'; did you mean dropout?"),
        (["--dropout", "0", "0.1", "--baseline", "dropout=2"], "--dropout: expected a number fro"),
        (["--data", "none.txt"], "none.txt: No such file or directory"),
        (["--data", "-"], "--data: a sweep reads its data several times; give a file"),
        (["text", "--batch-size", "100000", "--window", "99"], "got 3"),
        (["--out", "other"], "other holds other files; choose a new or an empty folder"),
        (["--out", "file"], "file is a file; expected a folder for the sweep, or a new name"),
        (["--resume", "other"], "other holds no sweep: it has no sweep.json"),
        (["--resume", "other", "--out", "new"], "--resume and --out exclude each other"),
        (["--hidden-size", "9000", "--num-layers", "90"], "training takes at least"),
        (["--batches", "padded", "windows"], "batches: expected all for names, or all for a text"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_makes_nothing(arguments, message, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    result = sweep_here(*arguments, cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    errors = [line for line in result.err.splitlines() if ": note: " not in line]
    assert len(errors) == 1
    assert errors[0].startswith("dinojax sweep: error: ")
    assert {path.name for path in tmp_path.rglob("*")} <= {"other", "notes.txt", "file", "runs"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "S", "--learning-rate", "3"], "--learning-rate: the sweep has 0.01, 0.1, g"),
        (["--resume", "S", "--seeds", "3"], "--seeds: the sweep has 2, got 3; a resumed sweep sta"),
        (["--resume", "S", "--dropout", "0.1"], "--dropout: the sweep has none, got 0.1; a resum"),
        (["--resume", "S", "--data", "new.txt"], "new.txt has changed since the sweep began: its"),
        (["--resume", "S", "--baseline", "learning_rate=0.1"], "--baseline: the sweep has learnin"),
        (["--out", "S"], "holds a sweep; resume it"),
    ],
)  # fmt: skip
def test_another_sweep_is_not_resumed(arguments, message, done, tmp_path):
    folder, _ = done
    (tmp_path / "new.txt").write_text("ada\nbob\neve\n" * 9)
    arguments = [str(folder) if each == "S" else each for each in arguments]
    result = sweep_here(*arguments, cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "expected what was asked of a sweep, a JSON object"),
        (b"[]", "expected what was asked of a sweep, a JSON object"),
        (b'{"format": 1}', "expected what was asked of a sweep, a JSON object"),
    ],
)
def test_a_damaged_sweep_is_one_line(content, message, tmp_path):
    (tmp_path / "sweep.json").write_bytes(content)
    result = sweep_here("--resume", tmp_path, cwd=tmp_path)
    assert result.code == 2
    assert message in result.err


def test_settings_need_only_suit_those_of_the_preset(tmp_path):
    # The default cell has no choice of gates.
    sweep = make_sweep("names", "", "", seeds=1, settings={"gate": "hard_sigmoid"})
    write_sweep(tmp_path, sweep)
    assert read_sweep(tmp_path) == sweep


def test_memory_is_estimated_for_all_processes(monkeypatch):
    from dinojax.runs import sweeping

    sweep = new_sweep("dinos", str(bundled_names()), seeds=2, settings={})
    assert sweeping.check(sweep, plan(sweep), jobs=2) == 2
    monkeypatch.setattr(sweeping, "available_bytes", lambda: 100_000)
    assert sweeping.check(sweep, plan(sweep), jobs=1) == 1
    with pytest.raises(ValueError, match=r"^2 replicas at once take at least .* choose fewer jobs"):
        sweeping.check(sweep, plan(sweep), jobs=2)


def test_short_sweeps_start_no_processes():
    sizes = [platforms.replica_processes("cpu", num, 2, 1e10) for num in (1, 2, 10, 100)]
    assert sizes == [1, 1, 2, 2]
    assert platforms.replica_processes("cpu", 2, 2, 1e12) == 2
    assert platforms.replica_processes("cpu", 3, 16, 1e12) == 3
    assert platforms.replica_processes("gpu", 8, 16, 1e12) == 1


def test_a_sweep_of_an_earlier_version_may_have_both_steps_and_epochs(tmp_path):
    """Its epochs set the steps; today, both are refused."""
    asked = {"epochs": 2.0, "dropout": [0.1, 0.2]}
    sweep = make_sweep("names", "", "", seeds=1, settings=asked)
    recorded = sweep._replace(settings=sweep.settings | {"steps": 70})
    write_sweep(tmp_path, recorded)
    assert read_sweep(tmp_path) == recorded
    assert plan(recorded) == plan(sweep)
    for steps, epochs in (70, 2.0), ([70, 80], 2.0), (70, [0.0, 2.0]):
        with pytest.raises(ValueError, match="epochs: they set the steps, which are given, too"):
            make_sweep("names", "", "", seeds=1, settings={"steps": steps, "epochs": epochs})
