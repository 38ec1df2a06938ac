"""What runs that begin with others have learned, and what the commands say about it."""

import io
import json
import re
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dinojax.cli.main import call
from dinojax.cli.terminal import Program
from dinojax.config import TrainConfig
from dinojax.evaluation.compare import compare
from dinojax.presets import resolve
from dinojax.runs import checkpoint, session
from dinojax.runs import folder as runs
from dinojax.runs.description import Origin, describe, extended
from dinojax.runs.experiment import make_experiment
from dinojax.runs.lineage import num_learned, read_learned, read_origin

from in_process import seeded

CHARACTERS = "abcdefgh"
OLD = [a + b + "a" for a in CHARACTERS[:4] for b in CHARACTERS[:3]]
NEW = [a + b + "h" for a in CHARACTERS[4:] for b in CHARACTERS[:2]]
MIXED = [*OLD[:4], *NEW]
TEXT = "she sells sea shells by the sea shore\n" * 20
CHAIN = "this run or the runs it began with"
SPLIT = {"validation_fraction": 0.25, "test_fraction": 0.25}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Commands run in this process, where JAX has started already, and draw no pictures."""
    for name in "jobs", "sample", "score", "evaluate":
        monkeypatch.setattr(f"dinojax.cli.{name}.start_jax", lambda *_: None)
    monkeypatch.setattr("dinojax.cli.reports.draw_losses", lambda *_: None)
    # Optax's schedules need it.
    with jax.numpy_dtype_promotion("standard"):
        yield


def run(name, *arguments):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            program = Program(name, f"{name}.py")
            code = call(program, [*map(str, seeded(program, arguments))])
        except SystemExit as end:
            code = end.code
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def succeed(name, *arguments, says=""):
    result = run(name, *arguments)
    assert result.code == 0, result.err
    assert says in result.err if says else result.err == ""
    return result.out


def refused(name, *arguments):
    result = run(name, *arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result.err
    return result.err


def begin(folder, data, base=None, **settings):
    """A run before its first step, which begins with the run in the folder `base`."""
    preset = "text" if isinstance(data, str) else "dinos"
    sizes = {"hidden_size": 4, "batch_size": 2} | ({"window": 8} if preset == "text" else {})
    origin = params = None
    if base:
        earlier = runs.load_run(base)
        origin, params = read_origin(base, earlier), earlier.params
    config = resolve(preset, given=sizes | {"devices": 1, "steps": 3} | settings)
    experiment = make_experiment(*describe(config, data, origin))
    folder.mkdir()
    session.start(experiment, folder, params)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs on names, on more names, and on the first names again, each from the one before it."""
    folder = tmp_path_factory.mktemp("lineage")
    first = begin(folder / "first", [*OLD, *CHARACTERS])
    second = begin(folder / "second", MIXED, first, **SPLIT)
    begin(folder / "third", OLD, second, validation_fraction=0.25, seed=1)
    return folder


def parts_of(folder):
    description = runs.load_run(folder).description
    return {name: runs.read_part(folder, description, name) for name in description.parts}


def learned_by(folder):
    return read_learned(folder, runs.load_run(folder).description)


def test_what_was_learned_is_carried_along_the_chain(place):
    second, third = parts_of(place / "second"), parts_of(place / "third")
    assert set(second["validation"] + second["test"]) < set(NEW)
    assert set(second["earlier"]) == {*OLD, *CHARACTERS} - set(second["train"])
    learned = {*OLD, *CHARACTERS, *second["train"]}
    assert set(learned_by(place / "second")) == learned
    assert set(third["earlier"]) == learned - set(third["train"])
    assert set(learned_by(place / "third")) == learned
    assert len(third["validation"]) == 3
    assert parts_of(place / "first").keys() == {"train"}
    before = runs.load_run(place / "third").description.learned_before
    folders = place / "first", place / "second"
    assert before == tuple(runs.load_run(each).description.parts["train"] for each in folders)


def test_commands_say_what_was_learned_before(place):
    learned = set(learned_by(place / "third"))
    sampled = run("sample", place / "third", "--json").out
    rows = [json.loads(x) for x in sampled.split("\n")[:-1]]
    assert [row["in_training_data"] for row in rows] == [
        row["name"].lower() in learned for row in rows
    ]
    flags = "--num=20", "--max-length=1", "--seed=1"
    assert set(run("sample", place / "third", *flags).out.lower().split()) & learned
    found = run("sample", place / "third", "--novel", *flags, "--max-draws=500").out
    assert not set(found.lower().split()) & learned
    held_out = parts_of(place / "second")["test"]
    names = [OLD[5], held_out[0], CHARACTERS[0]]
    rows = succeed("score", place / "third", "--json", "--names", *names).split("\n")[:-1]
    assert [json.loads(row)["in_training_data"] for row in rows] == [True, False, True]
    assert "or a run it began with" in succeed("score", place / "third", "--names", *names)
    assert "began" not in succeed("score", place / "first", "--names", *names)


def test_evaluation_counts_what_was_learned_before(place, tmp_path):
    third = runs.load_run(place / "third")
    answer = json.loads(succeed("evaluate", place / "third", "--json"))
    part = parts_of(place / "third")["validation"]
    assert (answer["split"], answer["num_learned"]) == ("validation", 3)
    expected = compare(third.trained, learned_by(place / "third"), part)[-1].figures
    assert answer["models"][-1]["nats_per_piece"] == pytest.approx(expected["nats_per_piece"])
    assert f"3 of them learned by {CHAIN}" in succeed("evaluate", place / "third")
    assert f"not learned by {CHAIN}" in succeed("evaluate", place / "second")
    assert "learned" not in succeed("evaluate", place / "first")
    (tmp_path / "names.txt").write_text("\n".join(MIXED))
    assert f"\n{len(OLD[:4])} of them learned by this run;" in succeed(
        "evaluate", place / "first", "--data", tmp_path / "names.txt"
    )
    samples = json.loads(succeed("evaluate", place / "third", "--samples=9", "--json"))["samples"]
    assert samples["models"][-1]["novelty"] == 0


def as_written_before(folder):
    """Rewrite the checkpoint of a run as versions wrote it that knew of no run before."""
    (path,) = runs.find_checkpoints(folder)
    metadata, arrays = checkpoint.load(path)
    for name in "init_sha256", "extensions", "learned_before":
        del metadata[name]
    checkpoint.save(path, arrays, metadata)
    return folder


def test_a_chain_that_was_not_recorded_is_said_to_be_unknown(place, tmp_path):
    first = as_written_before(shutil.copytree(place / "first", tmp_path / "first"))
    assert read_origin(first, runs.load_run(first)) == read_origin(
        first, runs.load_run(place / "first")
    )
    old = as_written_before(shutil.copytree(place / "second", tmp_path / "old"))
    (tmp_path / "names.txt").write_text("\n".join(MIXED))
    note = "not all that was learned until then is known"
    on = tmp_path / "on"
    begin(on, OLD, old, validation_fraction=0.25)
    for folder in old, on:
        assert "" in (*runs.load_run(folder).description.learned_before, "x")
        answer = json.loads(succeed("evaluate", folder, "--json", says=note))
        assert answer["num_learned"] is None
        assert "may have learned" in succeed("evaluate", folder, says=note)
        succeed("score", folder, "--names", OLD[0], says=note)
    # A base whose names are missing, or were changed, counts as one that is not known.
    for damage in lambda x: x.write_text("x\n"), lambda x: x.unlink():
        damage(first / "train.txt")
        origin = read_origin(first, runs.load_run(first))
        assert (origin.learned_before, origin.names) == (("",), [])


def test_a_text_is_not_learned_where_all_runs_before_learned_the_same(tmp_path):
    first = begin(tmp_path / "first", TEXT)
    second = begin(tmp_path / "second", TEXT, first)
    third = begin(tmp_path / "third", TEXT[100:], second)
    for folder, num in (first, 0), (second, 0), (third, None):
        description = runs.load_run(folder).description
        part = runs.read_part(folder, description, "validation")
        assert num_learned(description, part, None) == num
    flags = "--context=8", "--which=last"
    assert f"not learned by {CHAIN};" in succeed("evaluate", second, *flags)
    said = succeed("evaluate", third, *flags)
    assert "which the runs that this one began with may have learned;" in said
    assert "n-gram models learned the text of this run alone" in said
    assert json.loads(succeed("evaluate", third, *flags, "--json"))["num_learned"] is None


def test_a_run_without_its_names_answers_what_needs_none(place, tmp_path):
    folder = shutil.copytree(place / "second", tmp_path / "run")
    whole = json.loads(succeed("score", folder, "--json", "--names", OLD[0]))
    sampled = succeed("sample", folder, "--json", "--seed=1").split("\n")[:-1]
    (folder / "train.txt").unlink()
    says = f"note: what the run learned is not known, as {folder / 'train.txt'} is missing\n"
    row = json.loads(succeed("score", folder, "--json", "--names", OLD[0], says=says))
    assert row == whole | dict.fromkeys(["in_training_data", "nearest", "distance"])
    line = succeed("score", folder, "--names", OLD[0], says=says).split("\n")[3]
    assert line.split()[-2:] == ["-", "-"]
    rows = succeed("sample", folder, "--json", "--seed=1", says=says).split("\n")[:-1]
    expected = [json.loads(x) | {"in_training_data": None} for x in sampled]
    assert [json.loads(x) for x in rows] == expected
    answer = json.loads(succeed("evaluate", folder, "--json", says=says))
    assert [row["model"] for row in answer["models"]] == ["network"]
    assert answer["num_learned"] is None
    for name, flag in (
        ("sample", "--novel"),
        ("sample", "--distance=1"),
        ("evaluate", "--samples=2"),
    ):
        message = refused(name, folder, flag)
        assert f"error: {flag.split('=')[0]}: what the run learned is not known" in message


def test_training_says_how_many_names_are_new_and_makes_the_same_run_again(
    place, tmp_path, monkeypatch
):
    (tmp_path / "mixed.txt").write_text("\n".join(OLD))
    base, folder, here = tmp_path / "base", tmp_path / "run", tmp_path / "here"
    shutil.copytree(place / "second", base)
    here.mkdir()
    monkeypatch.chdir(here)
    # When training ends, the folder that it was started in is gone.
    monkeypatch.setattr("dinojax.cli.reports.draw_losses", lambda *_: here.rmdir())
    data, start = f"--data={tmp_path / 'mixed.txt'}", f"--init-from={base}"
    flags = "--validation-fraction=0.25", "--schedule=cosine", "--learning-rate=0.2"
    out = succeed("train", data, start, *flags, "--steps=20", "--out", folder)
    assert re.search(r"^More names: .*run --num 20\n\Z", out, re.M)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dinojax.cli.reports.draw_losses", lambda *_: None)
    assert out.startswith("9 names, 3 for validation (3 learned before), ")
    assert f"3 names held out for validation, 3 of them learned by {CHAIN}" in out
    learned = set(learned_by(folder))
    written = re.findall(r"^step .*validation  (.*) \((\d) of 4 new\)$", out, re.M)
    assert len(written) == 9
    num, names = re.search(r"^Names, (\d+) of 10 new:\n  (.*?)\n\n", out, re.M | re.S).groups()
    written.append((names.replace("\n  ", " "), num))
    for names, num in written:
        assert int(num) == sum(name.lower() not in learned for name in names.split(" "))
    assert {num for _, num in written} != {"0"}

    config = folder / "config.json"
    succeed("train", f"--config={config}", "--out=again")
    last = runs.find_checkpoints(folder)[-1].name
    assert (tmp_path / "again" / last).read_bytes() == (folder / last).read_bytes()
    assert (tmp_path / "again" / "earlier.txt").read_bytes() == (
        folder / "earlier.txt"
    ).read_bytes()

    before, after = (0.1 * (1 + np.cos(np.pi * share)) for share in (19 / 20, 20 / 26))
    says = f"the learning rate rises again, from {before:.3g} at step 20 to {after:.3g} at the next"
    succeed("train", f"--resume={folder}", "--steps=26", says=says)
    assert set(learned_by(folder)) == learned
    message = refused("train", f"--config={config}", "--out=other")
    assert "was extended (20 steps, from step 20 on 26); give the first number as" in message
    succeed("train", f"--config={config}", "--steps=20", "--out=first")
    assert (tmp_path / "first" / last).read_bytes() == (tmp_path / "again" / last).read_bytes()

    # The base goes on, or what it learned is lost.
    again = f"--config={tmp_path / 'again' / 'config.json'}"
    for change in (
        lambda: (base / "earlier.txt").unlink(),
        lambda: (shutil.rmtree(base), begin(base, MIXED, place / "third", **SPLIT)),
    ):
        change()
        message = refused("train", again, "--out=other")
        assert f"error: {base} has changed since the run of --config began with it" in message
    assert not (tmp_path / "other").exists()
    content = json.loads((tmp_path / "again" / "config.json").read_text())
    del content["init_sha256"], content["extensions"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    says = f"the run of --config did not record what {base} was"
    succeed("train", "--config=old.json", "--out=other", says=says)


@pytest.mark.parametrize(
    ("settings", "step", "steps", "expected"),
    [
        ({"schedule": "cosine"}, 10, 20, "10 steps, from step 10 on 20"),
        ({"schedule": "cosine"}, 4, 20, "10 steps, from step 4 on 20"),
        ({"warmup": 0.1}, 10, 20, "10 steps, from step 10 on 20"),
        ({"schedule": "cosine"}, 0, 20, ""),
        ({"schedule": "cosine"}, 10, 10, ""),
        ({}, 10, 20, ""),
        ({"cooldown": 0.5}, 5, 20, ""),
        ({"cooldown": 0.5}, 6, 20, "10 steps, from step 6 on 20"),
        ({"cooldown": 0.5, "warmup": 0.1}, 5, 20, "10 steps, from step 5 on 20"),
        # A validation after the last step that would not have been due.
        ({"validation_fraction": 0.5, "evaluate_every": 4}, 10, 20, "10 steps, from step 10 on 20"),
        ({"validation_fraction": 0.5, "evaluate_every": 4}, 8, 20, ""),
        ({"validation_fraction": 0.5, "evaluate_every": 5}, 10, 20, ""),
    ],
)
def test_an_extension_is_recorded_where_it_changes_the_run(settings, step, steps, expected):
    config = TrainConfig(steps=10, **settings)
    description, _, _ = describe(config, OLD)
    longer = extended(description, replace(description.config, steps=steps), step)
    assert (longer.extensions, longer.config.steps) == (expected, steps)
    if expected:
        longest = extended(longer, replace(longer.config, steps=30), 20)
        assert longest.extensions == f"{expected}, from step 20 on 30"


@pytest.mark.parametrize("at", ["end", "cooldown"])
def test_a_run_with_a_cooldown_is_extended_from_before_it(at, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.txt").write_text("\n".join(OLD))
    flags = "--data=data.txt", "--hidden-size=4", "--validation-fraction=0.25", "--cooldown=0.25"
    flags = *flags, "--evaluate-every=4"
    succeed("train", *flags, "--steps=28", "--out=long")
    succeed("train", *flags, "--steps=20", "--out=run")
    if at == "cooldown":
        (tmp_path / "run" / "checkpoint-000000020.npz").unlink()
    num = {"end": 5, "cooldown": 1}[at]
    says = f"run goes on from step 15, before its cooldown; {num} of its steps are taken again"
    succeed("train", "--resume=run", "--steps=28", says=says)
    # It ends like a run that planned so many steps from its start.
    folders = [
        {path.name: path.read_bytes() for path in runs.find_checkpoints(tmp_path / name)}
        for name in ("run", "long")
    ]
    assert folders[0].keys() >= {"checkpoint-000000021.npz", "checkpoint-000000028.npz"}
    assert "checkpoint-000000020.npz" in folders[0]
    for name, content in folders[1].items():
        assert folders[0][name] == content
    assert runs.load_run(tmp_path / "run").damaged == ()


def test_without_an_earlier_run_nothing_is_recorded_of_one():
    description, parts, _ = describe(TrainConfig(validation_fraction=0.5), OLD)
    assert description.learned_before == ()
    assert parts.keys() == {"train", "validation"}
    origin = Origin("base", description.vocab, "0" * 64, ("1" * 64,), OLD)
    _, parts, _ = describe(TrainConfig(validation_fraction=0.5), OLD, origin)
    assert np.union1d(parts["train"], parts["earlier"]).tolist() == sorted(OLD)
