"""Runs that are stopped and resumed end like uninterrupted ones; each in its own process."""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from test_scripts import (
    ENVIRONMENT,
    SCRIPTS,
    assert_one_line,
    checkpoints,
    here,
    lines,
    refuse,
    run,
    snapshot,
    start,
    starting_with,
    succeed,
    succeed_here,
    trap,
)

from dinojax.runs import folder as runs
from dinojax.runs.metrics import read_metrics

from conftest import USERS_ENVIRONMENT

WORDS = ["rex", "yi", "mei", "iguanodon", "triceratops", "diplodocus", "zoë"]
FLAGS = {
    "dinos": ["--steps=400", "--validation-fraction=0.2"],
    "names": ["--epochs=10", "--batch-size=4", "--warmup=0.2"],
    "text": ["--steps=60", "--batch-size=4"],
    "text-best": ["--steps=40", "--batch-size=8", "--window=16", "--no-refit"],
}
OF_THE_CLOCK = "seconds", "training_seconds", "characters_per_second"


@pytest.fixture(scope="module", autouse=True)
def compile_as_users_do():
    """Bits depend on XLA's optimizations, which other tests switch off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "XLA_FLAGS", USERS_ENVIRONMENT.get("XLA_FLAGS", ""))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, for the runs that tests share and for their own."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "data.txt").write_text("\n".join(WORDS * 20) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def plain(place):
    """An environment as if matplotlib were not installed.

    To draw the losses takes a quarter of the time of a process here.
    """
    return starting_with("import sys; sys.modules['matplotlib'] = None", place / "plain")


def arguments(preset):
    return [preset, "--data=data.txt", "--hidden-size=8", *FLAGS[preset]]


@pytest.fixture(scope="module")
def train_whole(place, plain):
    """A function that returns a run of a preset that was never interrupted."""

    def train(preset):
        folder = place / f"whole {preset}"
        if not folder.exists():
            flags = *arguments(preset), f"--out={folder.name}"
            succeed("train.py", *flags, cwd=place, **plain)
        return folder

    return train


def without_clock(folder):
    return [
        {name: value for name, value in line.items() if name not in OF_THE_CLOCK}
        for line in read_metrics(folder)
        if "event" not in line
    ]


@pytest.mark.parametrize("preset", FLAGS)
def test_a_killed_terminated_and_interrupted_run_ends_like_an_undisturbed_one(
    preset, place, train_whole, plain
):
    whole = train_whole(preset)
    folder = place / f"pieces {preset}"
    first = [*arguments(preset), f"--out={folder.name}"]
    again = ["--resume", folder.name, "--save-every=7"]
    generator = np.random.default_rng(list(FLAGS).index(preset))
    pieces = [
        (first, signal.SIGKILL),
        (again, signal.SIGKILL),
        (again, signal.SIGTERM),
        (again, signal.SIGINT),
    ]
    for number, (flags, what) in enumerate(pieces):
        # Each signal comes at a different line of metrics.
        count = int(generator.integers(4, 25))
        environment = trap(
            place / f"trap {preset} {number}", "open", "metrics.jsonl", [count], what
        )
        result = run("train.py", *flags, cwd=place, **environment)
        if what == signal.SIGKILL:
            assert result.code == -signal.SIGKILL
        else:
            assert_one_line(result, "train.py", code=128 + what)
            assert "--resume" in result.err
        assert runs.load_run(folder, "last").step < runs.load_run(whole, "last").step
    # Names and a text have their losses drawn, too, from the metrics of all pieces.
    draws = preset in ("dinos", "text")
    out = succeed("train.py", *again, cwd=place, **({} if draws else plain))
    assert ("Losses drawn in " in out) == draws
    assert "new:" in out or "New text:" in out
    last = checkpoints(whole)[-1].name
    assert (folder / last).read_bytes() == (whole / last).read_bytes()
    assert without_clock(folder) == without_clock(whole)
    events = [line["event"] for line in read_metrics(folder) if "event" in line]
    assert events
    assert set(events) == {"resumed"}
    seconds = [line["seconds"] for line in read_metrics(folder) if "event" not in line]
    assert seconds == sorted(seconds)
    best = [runs.load_run(x) for x in (folder, whole)]
    assert best[0].checkpoint.read_bytes() == best[1].checkpoint.read_bytes()


def test_how_often_a_run_saves_and_reports_changes_nothing(place, train_whole, plain):
    whole = train_whole("names")
    flags = "--save-every=1", "--keep=1000", "--evaluate-every=7", "--out=often"
    succeed("train.py", *arguments("names"), *flags, cwd=place, **plain)
    last = runs.load_run(whole, "last"), runs.load_run(place / "often", "last")
    assert last[0].step == last[1].step == len(checkpoints(place / "often")[1:])
    jax.tree.map(np.testing.assert_array_equal, last[0].params, last[1].params)
    rows = [x for x in read_metrics(place / "often") if x["validation_loss"] is not None]
    assert [x["step"] for x in rows[:-1]] == list(range(7, last[0].step, 7))


def test_config_json_makes_the_run_again(place, train_whole, plain):
    whole = train_whole("text")
    config = whole / "config.json"
    succeed("train.py", f"--config={config}", "--out=again", cwd=place, **plain)
    last = checkpoints(whole)[-1].name
    assert (place / "again" / last).read_bytes() == (whole / last).read_bytes()
    assert (place / "again" / "config.json").read_bytes() == config.read_bytes()
    changed = "--seed=1", "--steps=3", "--out=other"
    succeed_here("train.py", f"--config={config}", *changed, cwd=place)
    assert runs.load_run(place / "other", "last").config.seed == 1


def test_a_finished_run_continues_with_more_steps(place, plain, tmp_path):
    (tmp_path / "data.txt").write_bytes((place / "data.txt").read_bytes())
    short, long = "--steps=200", "--steps=400"
    flags = "--data=data.txt", "--hidden-size=8", "--evaluate-every=50"
    succeed("train.py", *flags, short, "--out=run", cwd=tmp_path, **plain)
    succeed("train.py", *flags, long, "--out=long", cwd=tmp_path, **plain)
    result = here("train.py", "--resume=run", cwd=tmp_path)
    assert_one_line(result, "train.py", code=2)
    assert "all its 200 steps" in result.err
    out = succeed("train.py", "--resume=run", long, cwd=tmp_path, **plain)
    assert "400 steps" in out
    ends = [checkpoints(tmp_path / name)[-1].read_bytes() for name in ("run", "long")]
    assert ends[0] == ends[1]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == 400
    (event,) = [line for line in read_metrics(tmp_path / "run") if "event" in line]
    assert event == {"event": "resumed", "step": 200, "steps": 400}


def test_a_run_that_stops_early_keeps_the_best(place):
    flags = "--learning-rate=3e-2", "--validation-fraction=0.3", "--evaluate-every=20"
    out = succeed_here(
        "train.py", "--data=data.txt", "--steps=100000", *flags, "--patience=3", "--out=early",
        cwd=place,
    )  # fmt: skip
    assert re.search(r"^Stopped after [\d,]+ steps: 3 validations in a row", out, re.M)
    folder = place / "early"
    best, last = runs.load_run(folder), runs.load_run(folder, "last")
    losses = [x["validation_loss"] for x in read_metrics(folder)]
    losses = {
        x["step"]: x["validation_loss"]
        for x in read_metrics(folder)
        if x["validation_loss"] is not None
    }
    assert best.step == min(losses, key=losses.get)
    assert last.step == best.step + 3 * 20
    assert best.tally.best_loss == losses[best.step]
    assert f"after {best.step:,} steps" in out
    samples = [
        succeed_here("sample.py", "early", f"--which={which}", cwd=place)
        for which in ("best", best.step, "last", last.step)
    ]
    assert samples[0] == samples[1] == succeed_here("sample.py", "early", cwd=place)
    assert samples[2] == samples[3] != samples[0]
    result = here("train.py", "--resume=early", cwd=place)
    assert_one_line(result, "train.py", code=2)
    assert "larger --patience" in result.err
    best.checkpoint.write_bytes(b"")
    result = here("train.py", "--resume=early", "--patience=4", cwd=place)
    assert_one_line(result, "train.py", code=0)
    assert f"note: early/{best.checkpoint.name} could not be read; using" in result.err


READS = """
import os, runpy, sys
def hook(name, arguments):
    path = str(arguments[0 if name == "open" else 1]) if name in ("open", "os.rename") else ""
    # An opener opens the file by a call without a mode.
    if "checkpoint-" in path and (name == "os.rename" or arguments[1]):
        print("read" if name == "open" else "write", file=sys.stderr)
    if name == "open" and path.endswith(".lock"):
        print("lock", file=sys.stderr)
sys.addaudithook(hook)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_resume_reads_its_checkpoint_once_before_the_lock_and_once_under_it(
    train_whole, plain, tmp_path
):
    shutil.copytree(train_whole("dinos"), tmp_path / "run")
    command = [sys.executable, "-c", READS, SCRIPTS / "train.py", "--resume=run", "--steps=410"]
    done = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT | plain, capture_output=True, text=True, check=True
    )
    said = [line for line in done.stderr.split("\n") if line in ("read", "write", "lock")]
    before, after = said[: said.index("lock")], said[said.index("lock") :]
    assert before == ["read"]
    assert after[: after.index("write")].count("read") == 1


def test_a_run_stops_when_its_time_is_up(place):
    flags = "--data=data.txt", "--steps=100000000", "--max-minutes=0.001", "--out=late"
    out = succeed_here("train.py", *flags, cwd=place)
    assert re.search(
        r"^Stopped after [\d,]+ steps?: time is up; resume with: .*--resume late$", out, re.M
    )
    assert runs.load_run(place / "late").step < 100_000_000


def test_a_second_process_may_not_write_to_the_run_and_a_dead_one_does_not_count(place):
    flags = "--data=data.txt", "--steps=100000000", "--out=busy"
    process = start("train.py", *flags, cwd=place)
    assert process.stdout.readline()
    while not checkpoints(place / "busy"):
        assert process.poll() is None
        time.sleep(0.02)
    for more in ("--resume=busy",), (*flags, "--overwrite"):
        result = here("train.py", *more, cwd=place)
        assert_one_line(result, "train.py", code=2)
        assert "another process trains in busy" in result.err
    assert process.poll() is None
    process.kill()
    process.communicate()
    succeed_here("train.py", "--resume=busy", "--max-minutes=0.001", cwd=place)


@pytest.fixture(scope="module")
def stopped(place):
    """A run that was terminated on its way."""
    flags = *arguments("dinos"), "--save-every=10", "--out=stopped"
    environment = trap(place / "trap stopped", "open", "metrics.jsonl", [20], signal.SIGTERM)
    assert run("train.py", *flags, cwd=place, **environment).code == 128 + signal.SIGTERM
    return place / "stopped"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted"])
def test_a_damaged_newest_checkpoint_is_passed_over(damage, stopped, train_whole, plain, tmp_path):
    whole = train_whole("dinos")
    shutil.copytree(stopped, tmp_path / "run")
    newest = checkpoints(tmp_path / "run")[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "deleted":
        newest.unlink()
    else:
        newest.write_bytes(content if damage == "flipped" else content[:1000])
    result = run("train.py", "--resume=run", cwd=tmp_path, **plain)
    assert result.code == 0
    assert (newest.name in result.err) == (damage != "deleted")
    last = checkpoints(whole)[-1].name
    assert (tmp_path / "run" / last).read_bytes() == (whole / last).read_bytes()


def test_a_full_disk_is_one_line_and_keeps_the_checkpoint_before(place, tmp_path):
    """A limit on the size of files stands for a full disk."""
    (tmp_path / "data.txt").write_bytes((place / "data.txt").read_bytes())
    command = [sys.executable, SCRIPTS / "train.py", *arguments("dinos"), "--steps=4000"]
    # A limit would cut what is compiled, too; what other tests have compiled may be read.
    compiles = {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": str(10**9)}
    cases = (16, "metrics.jsonl", []), (16, "events", ["--tensorboard"]), (2, "checkpoint", [])
    for limit, name, flags in cases:
        result = subprocess.run(
            ["bash", "-c", f'ulimit -f {limit}; trap "" XFSZ; exec "$@"', "bash", *command,
             "--out=run", "--overwrite", *flags],
            cwd=tmp_path, env=ENVIRONMENT | compiles,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert_one_line(
            SimpleNamespace(code=result.returncode, err=result.stderr), "train.py", code=2
        )
        said = rf" run/(\.new/)?{name}\S*: (written in part|File too large)"
        assert re.search(said, result.stderr)
        last = runs.load_run(tmp_path / "run", "last").checkpoint
        if name != "checkpoint":
            assert f"the last good checkpoint is {last.relative_to(tmp_path)};" in result.stderr
            assert "--resume run" in result.stderr
        if name == "metrics.jsonl":
            assert runs.load_run(tmp_path / "run", "last").step > 0
            for line in lines((tmp_path / "run" / name).read_bytes().decode() + "\n")[:-2]:
                json.loads(line)
    succeed_here("train.py", "--resume=run", cwd=tmp_path)


def test_a_read_only_folder_is_one_line_and_stays_unchanged(train_whole, tmp_path):
    shutil.copytree(train_whole("dinos"), tmp_path / "run")
    # Root may write anywhere unless it gives up that right.
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [sys.executable, SCRIPTS / "train.py", "--resume=run", "--steps=410"]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("runs as root, and there is no setpriv")
        command = without + command
    before = snapshot(tmp_path)
    os.chmod(tmp_path / "run" / ".lock", 0o444)
    os.chmod(tmp_path / "run", 0o555)
    result = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    os.chmod(tmp_path / "run", 0o755)
    os.chmod(tmp_path / "run" / ".lock", 0o644)
    result = SimpleNamespace(code=result.returncode, err=result.stderr)
    assert_one_line(result, "train.py", code=2)
    assert re.search(r"error: \S*run/\S+: Permission denied", result.err)
    assert snapshot(tmp_path) == before
    succeed_here("train.py", "--resume=run", "--steps=410", cwd=tmp_path)


def test_event_files(place, plain):
    flags = *arguments("dinos"), "--tensorboard", "--out=board"
    succeed_here("train.py", *flags, cwd=place)
    metrics = read_metrics(place / "board")
    expected = [
        (line["step"], name, np.float32(value))
        for line in metrics
        for name, value in line.items()
        if name not in ("step", "seconds", "training_seconds") and value is not None
    ]
    (file,) = (place / "board").glob("events.out.tfevents*")
    assert scalars(file) == expected
    # Readers hide earlier records of steps after the start of a session.
    resumed = "train.py", "--resume=board", "--steps=410", "--tensorboard"
    succeed(*resumed, cwd=place, **plain)
    (later,) = set((place / "board").glob("events.out.tfevents*")) - {file}
    starts = [event.step for event in events(later) if event.HasField("session_log")]
    assert starts == [401]
    assert {step for step, _, _ in scalars(later)} == {
        line["step"] for line in read_metrics(place / "board")[len(metrics) + 1 :]
    }


def events(file):
    """The records of an event file: a length, its checksum, an event and its checksum."""
    content, found = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def scalars(file):
    return [
        (event.step, value.tag, np.float32(value.simple_value))
        for event in events(file)
        for value in event.summary.value
    ]


def test_metrics_that_were_edited_are_one_line(train_whole, tmp_path):
    folder = shutil.copytree(train_whole("dinos"), tmp_path / "run")
    file = folder / "metrics.jsonl"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\n}\n", 1))
    before = snapshot(folder)
    result = here("train.py", "--resume=run", "--steps=500", cwd=tmp_path)
    assert_one_line(result, "train.py", code=2)
    assert "run/metrics.jsonl, line 2: expected a JSON object" in result.err
    assert snapshot(folder) == before


def test_a_picture_that_cannot_be_drawn_is_a_note(place):
    flags = *arguments("dinos"), "--steps=10", "--out=unseen"
    result = run("train.py", *flags, cwd=place, MPLBACKEND="nonsense")
    assert_one_line(result, "train.py", code=0)
    assert "note: no picture: " in result.err
    assert "More names: " in result.out
    assert not list((place / "unseen").glob("loss*"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--resume=none"], ["none is not a folder"]),
        (["--resume=whole dinos", "--hidden-size=9"], ["--hidden-size", "has 8, got 9"]),
        (["--resume=whole dinos", "--cell=gru"], ["--cell", "has vanilla, got gru"]),
        (
            ["--resume=whole dinos", "--cell=gru", "--seed=1", "--hidden-size=8"],
            ["--cell: the run has vanilla, got gru; --seed: the run has 0, got 1;"],
        ),
        (["--resume=whole dinos", "--learning-rate=1"], ["--learning-rate", "0.01", "1.0"]),
        (["--resume=whole dinos", "--seed=1"], ["--seed", "has 0, got 1"]),
        (["--resume=whole dinos", "--data=other.txt"], ["--data", "checksum", "other.txt"]),
        (["--resume=whole dinos", "--steps=399"], ["--steps", "at least 400", "399"]),
        (["--resume=whole dinos", "--data=data.txt"], ["all its 400 steps"]),
        (["--resume=whole dinos", "names"], ["--resume", "preset"]),
        (["--resume=whole dinos", "--out=x"], ["--resume", "--out"]),
        (["--resume=whole dinos", "--config=x"], ["--resume", "--config"]),
        (["--config=none.json"], ["none.json", "No such file"]),
        (["--config=data.txt"], ["data.txt", "config.json of a run"]),
        (["--config=list.json"], ["list.json", "config.json of a run"]),
        (["--config=part.json"], ["part.json", "'data' is missing"]),
        (["--config=odd.json"], ["odd.json", "hidden_size: expected int, got '8'"]),
        (["--config=moved.json"], ["data.txt has changed since", "moved.json", "--data"]),
        (["--config=gone.json"], ["gone.txt is not there", "gone.json", "--data"]),
        (["--config=lost.json"], ["lost is not there", "lost.json", "--init-from"]),
        (["--config=whole dinos"], ["a folder; give whole dinos/config.json"]),
        (["--config=odd.json", "names"], ["--config", "preset"]),
        (["--keep=0"], ["--keep"]),
        (["--max-minutes=0"], ["--max-minutes"]),
        (["--patience=2"], ["patience", "validation fraction"]),
        (["--validation-fraction=0.6", "--test-fraction=0.5"], ["fraction", "0.99", "1.1"]),
        (["--data=one.txt", "--validation-fraction=0.1"], ["no data would be left"]),
        (["--devices=3", "--batch-size=4"], ["devices", "divides", "4", "3"]),
    ],
)
def test_impossible_requests_are_refused_in_one_line(flags, says, place, train_whole):
    whole = train_whole("dinos")
    config = json.loads((whole / "config.json").read_text())
    (place / "other.txt").write_text("rex\n")
    (place / "one.txt").write_text("rex\nrex\n")
    (place / "list.json").write_text("[1]")
    (place / "part.json").write_text("{}")
    (place / "lost.json").write_text(json.dumps(config | {"init_from": "lost"}))
    (place / "odd.json").write_text(json.dumps(config | {"hidden_size": "8"}))
    (place / "moved.json").write_text(json.dumps(config | {"data_sha256": "0" * 64}))
    (place / "gone.json").write_text(json.dumps(config | {"data": "gone.txt"}))
    refuse(place, "train.py", *flags, says=says)
