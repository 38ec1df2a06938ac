"""Searches over settings: what is drawn, pruned, taken up again, ranked and refused."""

import json
import math
import sys
from contextlib import ExitStack, closing
from functools import partial

import pytest

import dinojax
from dinojax.cli.terminal import Program
from dinojax.runs import folder as runs
from dinojax.runs import replica, searching, study
from dinojax.runs.replica import Step
from dinojax.runs.search import Range, make_search, read_search
from dinojax.runs.study import claim, open_study, read_trials
from dinojax.runs.sweep import Outcome

from in_process import call_here

NAMES = "\n".join(["rex", "yi", "mei", "iguanodon", "ada", "bob", "eve", "xi"] * 5)
BEST = 10**-2.5
TRIALS = 24


def planted(task, curve=5):
    """A run whose loss falls to a parabola over the logarithm of its learning rate."""
    rate = task.settings["learning_rate"]
    if rate > 0.5:
        yield Outcome("diverged", message="the loss is nan in step 3")
        return
    level = math.log10(rate / BEST) ** 2
    for i in range(1, curve + 1):
        loss = level + 1 / i
        yield Step(i * 7, curve * 7, i, loss)
    yield Outcome("finished", loss, curve * 7, curve * 7)


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text(NAMES)
    return file


@pytest.fixture
def search(tmp_path, data):
    """A function that starts a search over learning rates, in a folder."""

    def start(name, trials=TRIALS, **asked):
        folder = tmp_path / name
        settings = {"learning_rate": Range(1e-5, 1.0), "cell": ["gru", "vanilla"]}
        settings |= {"hidden_size": 4, "steps": 40, "evaluate_every": 10}
        settings |= asked.pop("settings", {})
        wanted = searching.new_search("dinos", str(data), trials=trials, settings=settings, **asked)
        searching.begin(folder, wanted)
        return folder

    return start


def trials_of(folder):
    with open_study(folder, read_search(folder)) as opened:
        return read_trials(opened)


def finish(folder):
    return [trial for trial in searching.work(folder, jobs=1) if trial]


def test_a_search_finds_the_better_half_and_is_the_same_again(search, monkeypatch):
    monkeypatch.setattr(replica, "train", planted)
    folder = search("one", seed=3)
    reported = finish(folder)
    trials = trials_of(folder)
    assert [each.number for each in reported] == list(range(TRIALS))
    assert trials == reported
    far = [abs(math.log10(each.values["learning_rate"] / BEST)) for each in trials]
    assert sum(far[-12:]) < 0.7 * sum(far[:12])
    assert min(far) < 0.3
    assert {each.status for each in trials} == {"finished", "pruned", "diverged"}
    for each, distance in zip(trials, far, strict=True):
        if each.status == "finished":
            assert each.validation_loss == pytest.approx(distance**2 + 0.2)
        elif each.status == "pruned":
            # Only where others were better at the same validation.
            same = [x**2 for x in far[: each.number]]
            assert distance**2 > sorted(same)[len(same) // 4]
            assert each.validation_loss == pytest.approx(distance**2 + 1 / each.validations)
        else:
            assert each.values["learning_rate"] > 0.5
    results = json.loads((folder / "results.json").read_text())
    assert results["trials"][0]["number"] == results["best"]
    losses = [each["validation_loss"] for each in results["trials"] if each["status"] == "finished"]
    assert losses == sorted(losses)
    assert (folder / "results.txt").read_text().count("pruned at validation") > 0
    again = search("two", trials=12, seed=3)
    # Interrupted in the middle of trials, too.
    for num in (5, 30):
        with closing(searching.train(searching.Task(str(again), None))) as coming:
            for _ in zip(range(num), coming, strict=False):
                pass
    finish(again)
    assert trials_of(again) == trials[:12]
    assert trials_of(search("three", seed=4, trials=1)) == []


def test_the_halving_rule_keeps_the_best_third(search, monkeypatch):
    monkeypatch.setattr(replica, "train", partial(planted, curve=9))
    folder = search("asha", pruner="halving", trials=12)
    finish(folder)
    ends = [each.validations for each in trials_of(folder) if each.status == "pruned"]
    assert set(ends) <= {1, 3, 9}
    assert 4 < len(ends) < 12
    folder = search("all", pruner="none", trials=5)
    assert {each.status for each in finish(folder)} <= {"finished", "diverged"}


def test_a_trial_is_taken_up_again_when_its_process_is_gone(search, tmp_path):
    folder = search("claims", trials=2)
    asked = read_search(folder)
    with open_study(folder, asked) as ours, open_study(folder, asked) as theirs:
        mine, yours, left = ExitStack(), ExitStack(), ExitStack()
        first, values = claim(ours, asked, folder, mine)
        second, _ = claim(theirs, asked, folder, yours)
        assert (first.number, second.number) == (0, 1)
        assert claim(theirs, asked, folder, left) is None
        mine.close()
        third, again = claim(theirs, asked, folder, left)
        assert (third.number, again) == (0, values)
        study.end(theirs, third, "failed", None, "no memory")
        yours.close()
        left.close()
        assert claim(ours, asked, folder, left)[0].number == 1
        left.close()
    assert [each.status for each in trials_of(folder)] == ["failed", "running"]


def test_a_trial_that_was_stopped_goes_on_from_its_checkpoint(search):
    rates = {"learning_rate": Range(0.01, 0.02), "cell": "vanilla"}
    whole, folder = (search(name, trials=1, settings=rates) for name in ("whole", "stopped"))
    finish(whole)
    with closing(searching.train(searching.Task(str(folder), None))) as coming:
        for step in coming:
            # Before its second validation is reported to the study.
            if step.validations == 2 and step.validation_loss is not None:
                break
    assert [each.status for each in trials_of(folder)] == ["running"]
    assert runs.load_run(folder / "trial-0000", "last").step == 20
    finish(folder)
    assert trials_of(folder) == trials_of(whole)
    (trial,) = trials_of(folder)
    assert (trial.status, trial.validations) == ("finished", 4)
    with open_study(folder, read_search(folder)) as opened:
        assert [*opened.trials[0].intermediate_values] == [1, 2, 3, 4]
    checkpoints = [runs.find_checkpoints(each / "trial-0000")[-1] for each in (whole, folder)]
    assert checkpoints[0].read_bytes() == checkpoints[1].read_bytes()
    run = runs.load_run(folder / "trial-0000")
    assert run.tally.best_loss == trial.validation_loss
    assert run.config.learning_rate == trial.values["learning_rate"]


def test_processes_share_a_search_and_do_as_many_trials_as_asked(search):
    folder = search("shared", trials=3, settings={"hidden_size": [2, 3]})
    reported = [trial for trial in searching.work(folder, jobs=2) if trial]
    trials = trials_of(folder)
    assert sorted(each.number for each in reported) == [0, 1, 2]
    assert [each.number for each in trials] == [0, 1, 2]
    assert {each.status for each in trials} <= {"finished", "pruned", "diverged"}
    for each in trials:
        run = runs.load_run(study.trial_folder(folder, each.number), "last")
        assert run.config.hidden_size == each.values["hidden_size"]


@pytest.fixture
def sweep(tmp_path, data, monkeypatch):
    monkeypatch.setattr("dinojax.cli.search.start_jax", lambda *_: None)
    return partial(call_here, Program("sweep", "dinojax"), cwd=tmp_path)


SEARCH = ("dinos", "--data=names.txt", "--steps=40", "--search=4", "--jobs=1", "--out=found")


def test_the_command_ranks_the_trials_and_can_be_resumed(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(replica, "train", planted)
    result = sweep(*SEARCH, "--learning-rate=1e-4:1e-1", "--seed=2")
    assert result.code == 0, result.err
    assert "4 trials: learning rate from 0.0001 to 0.1, logarithmic\n" in result.out
    assert result.out.count("nats a character in validation") == 4
    (line,) = [line for line in result.out.splitlines() if line.startswith("Best: ")]
    trials = json.loads((tmp_path / "found" / "results.json").read_text())["trials"]
    assert f"--learning-rate {trials[0]['values']['learning_rate']} --seed 2" in line
    assert "train dinos --data names.txt --steps 40 --validation-fraction 0.1 " in line
    again = sweep("--resume=found")
    assert again.code == 0
    assert again.out.endswith(result.out[result.out.index("\ntrial  learning rate") :])
    refused = sweep("--resume=found", "--search=5", "--hidden-size=3")
    assert (refused.code, refused.out) == (2, "")
    assert "stays what it was; give it without --hidden-size, --search" in refused.err
    other = sweep(*SEARCH, "--learning-rate=1e-4:1e-2", "--seed=2")
    assert "found holds another search: it differs in space; " in other.err
    (tmp_path / "names.txt").write_text(NAMES + "\nada")
    changed = sweep("--resume=found")
    assert changed.code == 2
    assert "names.txt has changed since the sweep began" in changed.err
    (tmp_path / "names.txt").write_text(NAMES)
    (tmp_path / "found" / "study.db").write_bytes(b"nothing of the kind" * 100)
    broken = sweep("--resume=found")
    assert broken.code == 2
    assert "study.db: expected the study of a search; SQLite: file is not a database" in broken.err
    assert len(broken.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning-rate=1e-2:1e-4"], "--learning-rate: expected a range from a smaller to a "),
        (["--learning-rate=1e-2:x"], "expected a number such as 0.01, got 'x'"),
        (["--hidden-size=8:9.5"], "expected a whole number such as 1000, got '9.5'"),
        (["--hidden-size=0:9"], "--hidden-size: expected a number from 1 to 10,000, got 0"),
        (["--learning-rate", "1e-3:1e-2", "0.1"], "--learning-rate: expected one range, or values"),
        (["--dropout", "0.1", "0.1"], "--dropout: 0.1 is given twice"),
        (["--validation-fraction=0.1:0.2"], "--validation-fraction: expected one value, as losses"),
        (["--hidden-size=8"], "there is nothing to search; give a setting a range"),
        (["--learning-rate=1e-3:1", "--seeds=2"], "--search and --seeds exclude each other"),
        (["--learning-rate=1e-3:1", "--search=0"], "--search: expected a number from 1 to 100,000"),
        (["--learning-rate=1e-3:1", "--data=none.txt"], "none.txt: No such file or directory"),
        (["--hidden-size=8:10000", "--num-layers=90"], "training takes at least"),
        (["--learning-rate=1e-3:1", "--data=-"], "a search reads its data several times"),
        (["--learning-rate=1e-3:1", "--devices=1"], "--devices"),
        (["--gate", "sigmoid", "hard_sigmoid"], "--gate: a vanilla cell has no choice of gates"),
    ],
)
def test_bad_input_of_a_search_is_one_line(flags, message, sweep, tmp_path):
    result = sweep(*SEARCH, *flags)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "found").exists()


def test_flags_of_a_search_and_ranges_need_one(sweep):
    for flag in ("--pruner=median", "--seed=1", "--learning-rate=1e-3:1e-2"):
        result = sweep("dinos", "--data=names.txt", flag)
        assert result.code == 2
        assert "--search" in result.err


def test_optuna_may_be_missing(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = sweep(*SEARCH, "--learning-rate=1e-4:1e-1")
    assert (result.code, result.out) == (2, "")
    assert "optuna is missing; install it: pip install 'dinojax[search]'" in result.err


def test_one_call_searches_and_goes_on_with_its_folder(data, tmp_path, monkeypatch):
    monkeypatch.setattr(replica, "train", planted)
    asked = {"trials": 3, "jobs": 1, "learning_rate": Range(1e-4, 1e-1), "steps": 40}
    results = dinojax.search(tmp_path / "search", "dinos", data, **asked)
    losses = [each["validation_loss"] for each in results["trials"]]
    assert len(losses) == 3
    assert losses == sorted(losses)
    assert results["trials"][0]["number"] == results["best"]
    assert json.loads((tmp_path / "search" / "results.json").read_text()) == results
    monkeypatch.setattr(replica, "train", None)
    assert dinojax.search(tmp_path / "search", "dinos", data, **asked) == results
    with pytest.raises(ValueError, match="it differs in trials"):
        dinojax.search(tmp_path / "search", "dinos", data, **asked | {"trials": 4})


def test_a_command_for_a_run_names_the_best_trial_of_a_search(search, tmp_path):
    folder = search("three", trials=1)
    said = partial(call_here, Program("evaluate", "dinojax"), folder, cwd=tmp_path)
    for content in "", "[]", '{"best": null}':
        (folder / "results.json").write_text(content)
        assert "is not a run: it has no checkpoint" in said().err
    (folder / "results.json").write_text('{"best": 7}')
    result = said()
    assert result.code == 2
    assert result.err.endswith(
        f" is a search, not a run; its best trial is {folder / 'trial-0007'}\n"
    )


def test_a_search_is_read_as_it_was_written(search):
    folder = search("read", pruner="halving", settings={"hidden_size": Range(2, 40)})
    found = read_search(folder)
    assert found.space["hidden_size"] == (2, 40)
    assert not found.space["hidden_size"].is_log or isinstance(found.space["hidden_size"].low, int)
    settings = {**found.settings, **found.space}
    asked = {name: getattr(found, name) for name in ("trials", "seed", "pruner")}
    assert make_search("dinos", found.data, found.data_sha256, settings=settings, **asked) == found
    (folder / "search.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match=r"search.json: expected what was asked of a search"):
        read_search(folder)
