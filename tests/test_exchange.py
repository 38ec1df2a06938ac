"""A process is killed before each of its file operations in turn: what it leaves can be used."""

import os
import re
import shutil
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dinojax.files import digest, write_atomically
from dinojax.presets import PRESETS, resolve
from dinojax.runs import checkpoint, exchange, recorder, session
from dinojax.runs import folder as runs
from dinojax.runs.description import describe, part_content
from dinojax.runs.experiment import make_experiment
from dinojax.runs.metadata import from_metadata
from dinojax.runs.metrics import read_metrics
from dinojax.runs.ngrams import make_ngram_run, save_untrained
from dinojax.runs.selection import SELECTION, Selection
from dinojax.training.loop import Progress

OPERATIONS = "open", "replace", "unlink", "mkdir", "rmdir", "fsync", "chmod"
DESCRIPTION, PARTS, _ = describe(resolve(given={"hidden_size": 2}), ["rex", "mei"])
REFITTED = replace(DESCRIPTION.config, validation_fraction=0.3, refit=True)
NAMES = ["rex", "yi", "mei", "iguanodon", "triceratops", "zoë"]
OLD = {
    "checkpoint-000000007.npz": b"7",
    "train.txt": b"old",
    "test.txt": b"t",
    "notes.txt": b"mine",
}
FIGURES = "loss", "surprisal", "activations"
NEW = {"train.txt": b"new", "validation.txt": b"v", "checkpoint-000000000.npz": b"0"}


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    """Waiting for the disk, and looking up versions, takes most of the time and changes nothing."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(runs, "version", str)


def contents(folder):
    """The files below a folder by their relative paths; a folder without files has None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }


def put(folder, files):
    """Make a folder with these contents alone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


@contextmanager
def recorded(folder):
    """The distinct contents that `folder` has at the file operations in the `with` block."""
    states = [contents(folder)]

    def watch(operation):
        def watched(*args, **kwargs):
            look()
            result = operation(*args, **kwargs)
            look()
            return result

        return watched

    def look():
        if (state := contents(folder)) != states[-1]:
            states.append(state)

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, watch(getattr(os, name)))
        yield states


def seen(folder):
    """Whether the run in a folder is the new one, and its files, as readers find them."""
    is_new = exchange.is_decided(folder) or (folder / [*NEW][-1]).exists()
    names = NEW if is_new else OLD
    return is_new, {name: exchange.current(folder, name).read_bytes() for name in names}


def exchange_all(folder):
    place = exchange.begin(folder, list(NEW))
    for name, content in NEW.items():
        write_atomically(place / name, content)
    exchange.finish(folder)


def test_at_any_moment_a_folder_holds_all_of_one_run(tmp_path):
    folder = put(tmp_path / "run", OLD)
    with recorded(folder) as states:
        exchange_all(folder)
    whole = NEW | {"notes.txt": b"mine"}
    assert contents(folder) == whole
    assert len(states) > 10
    for state in states:
        is_new, files = seen(put(folder, state))
        assert files == (NEW if is_new else OLD)
        # The next process is killed too, at any moment, and the one after that is not.
        with recorded(folder) as later:
            exchange.finish(folder)
        for again in later:
            assert seen(put(folder, again)) == (is_new, files)
            exchange.finish(folder)
            assert contents(folder) == (whole if is_new else OLD)


def test_what_shows_the_earlier_run_goes_with_it(tmp_path):
    pictures = [f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")]
    ours = dict.fromkeys([*pictures, "events.out.tfevents.1700000000.my.host.12"], b"old")
    others = ["my-loss.png", "loss.pdf", "loss.png.bak", "events.out.tfevents", "surprisal.png/x"]
    users = OLD | dict.fromkeys(others, b"mine")
    del ours["surprisal.png"]
    folder = put(tmp_path / "run", users | ours)
    exchange.begin(folder, list(NEW))
    exchange.finish(folder)
    assert contents(folder) == users | ours
    exchange_all(folder)
    assert contents(folder) == {"notes.txt": b"mine"} | NEW | dict.fromkeys(others, b"mine")


def refit_is(value):
    return {"config.json": b'{"refit": %s}' % str(value).lower().encode()}


@pytest.mark.parametrize(("earlier", "later"), [(1, 1), (1, 0), (0, 0)])
def test_a_selection_goes_with_its_run(tmp_path, earlier, later):
    """And a user's folder of this name stays."""
    *names, last = NEW
    old = OLD | refit_is(bool(earlier))
    files = "checkpoint-000000003.npz", "config.json", "loss.png", ".lock", ".new/files.txt"
    selection = dict.fromkeys((f"selection/{name}" for name in files), b"")
    inner = {f"selection/{name}": b"new" for name in ("config.json", "checkpoint-000000000.npz")}
    new = {name: NEW[name] for name in names} | refit_is(bool(later)) | (inner if later else {})
    new |= {last: NEW[last]}
    before, kept = old | selection, {} if earlier else selection
    after = new | kept | {"notes.txt": b"mine"}
    folder = put(tmp_path / "run", before)
    with recorded(folder) as states:
        place = exchange.begin(folder, list(new))
        for name, content in new.items():
            write_atomically(place / name, content)
        exchange.finish(folder)
    assert contents(folder) == after
    for state in states:
        put(folder, state)
        is_new = exchange.is_decided(folder) or (folder / [*NEW][-1]).exists()
        exchange.finish(folder)
        assert contents(folder) == (after if is_new else before)


def trained(folder, size, is_refitted=True):
    """Start a run whose layers have a size, and its selection."""
    config = resolve(given={"hidden_size": size, "steps": 3, "validation_fraction": 0.3})
    whole = make_experiment(*describe(replace(config, refit=is_refitted), NAMES))
    selection = make_experiment(*describe(config, NAMES)) if is_refitted else None
    runs.take_folder(folder, overwrite=True)
    with runs.locked(folder):
        session.start(whole, folder, None, selection)


def untrained(folder, size, is_refitted=True):
    """Write an n-gram model of an order, and another as its selection."""
    made = make_ngram_run(DESCRIPTION._replace(config=REFITTED), PARTS, size)
    run = made.trained.params, made.description, made.parts
    if is_refitted:
        found = run[1]._replace(selection=Selection(0, 1.0, 0, 0.0))
        save_untrained(run[0], folder, found, PARTS, overwrite=True, selection=run)
    else:
        save_untrained(run[0], folder, *run[1:], overwrite=True)


def size_of(folder):
    """The size of the run in a folder; None if there is none."""
    if not (folder.is_dir() and runs.find_checkpoints(folder)):
        return None
    description, _ = from_metadata(checkpoint.load(runs.find_checkpoints(folder)[-1])[0])
    assert runs.read_part(folder, description, "train")
    return description.model.order if description.model else description.config.hidden_size


@pytest.mark.parametrize(
    ("start", "earlier"),
    [(untrained, "none"), (untrained, "plain"), (untrained, "refitted"), (trained, "refitted")],
)
def test_at_any_moment_a_run_has_its_own_selection(tmp_path, start, earlier):
    folder = put(tmp_path / "run", {})
    if earlier != "none":
        start(folder, 3, earlier == "refitted")
    old, inner = size_of(folder), folder / SELECTION
    with recorded(folder) as states:
        start(folder, 2)
    assert (size_of(folder), size_of(inner)) == (2, 2)
    assert len(states) > 30
    sizes = set()
    for state in states:
        put(folder, state)
        sizes.add(size := size_of(folder))
        assert earlier != "refitted" or not inner.is_dir() or size_of(inner) == size
        # The next process may start again, or go on with the run.
        runs.take_folder(folder, overwrite=size is not None)
        with runs.locked(inner if inner.is_dir() else folder):
            assert size_of(folder) == size
            assert size_of(inner) == (size if size == 2 or earlier == "refitted" else None)
    assert sizes == {old, 2}


def test_a_selection_that_another_process_trains_stays(tmp_path):
    folder = put(tmp_path / "run", {})
    trained(folder, 3)
    with runs.locked(folder / SELECTION):
        before = contents(folder)
        for start in trained, untrained:
            with pytest.raises(
                ValueError, match=r"another process trains in .*run/selection; wait"
            ):
                start(folder, 2)
            assert contents(folder) == before
    trained(folder, 2, is_refitted=False)
    assert not (folder / SELECTION).exists()


def test_what_is_in_the_place_of_a_selection_stays(tmp_path):
    folder = put(tmp_path / "run", {})
    trained(folder, 3, is_refitted=False)
    trained(folder / SELECTION, 3, is_refitted=False)
    before = contents(folder)
    with pytest.raises(ValueError, match="run/selection holds a run; choose another folder"):
        trained(folder, 2)
    assert contents(folder) == before


def test_a_list_that_is_torn_is_ours_and_a_users_folder_is_not(tmp_path):
    list_file, first = f"{exchange.NEW}/{exchange.LIST}", exchange.FIRST_LINE
    for end in range(len(first) + 9):
        folder = put(tmp_path / "run", OLD | {list_file: (first + b"train.txt")[:end]})
        assert exchange.is_ours(folder)
        exchange.finish(folder)
        assert contents(folder) == OLD
    users = [
        {exchange.NEW: b"mine"},
        {f"{exchange.NEW}/checkpoint-000000000.npz": b"mine"},
        {list_file: b"mine"},
        {list_file: first[:-1], f"{exchange.NEW}/train.txt": b"mine"},
    ]
    for files in users:
        folder = put(tmp_path / "run", OLD | files)
        assert not exchange.is_ours(folder)
        exchange.finish(folder)
        assert contents(folder) == OLD | files
        with pytest.raises(FileExistsError):
            exchange.begin(folder, list(NEW))
        put(folder, files)
        with pytest.raises(ValueError, match="holds other files"):
            runs.take_folder(folder)
    # A list never leads out of the folder.
    folder = put(tmp_path / "run", {list_file: first + b"../out.txt\n", "out.txt": b"mine"})
    exchange.finish(folder)
    assert contents(folder) == {"out.txt": b"mine"}


def step(train_step, state, dataset, *, steps, **_):
    """Stands for `loop.run`, which takes long to compile: the state depends on that before."""
    while state.step < steps:
        params = jax.tree.map(lambda x: np.asarray(x) * np.float32(0.9), state.params)
        state = state._replace(params=params, step=np.asarray(state.step + 1, np.int32))
        summary = {"gradient_norm": np.float32(1), "clipped_share": np.float32(0)}
        losses = np.ones(1, np.float32) / state.step
        yield Progress(state, losses, np.array([5]), summary, 1.0, None)


@pytest.fixture(params=PRESETS)
def trial(request, monkeypatch):
    """A tiny run of each preset: its experiment, and a function that trains it in a folder."""
    tiny = {"hidden_size": 2, "steps": 3, "evaluate_every": 1, "batch_size": 2}
    config = resolve(request.param, given=tiny | {"validation_fraction": 0.3, "refit": False})
    if config.is_text:
        config = replace(config, window=4)
    names = NAMES * 3
    data = "\n".join(names) if config.is_text else names
    experiment = make_experiment(*describe(config, data))
    # The second of three validations is the best.
    losses = {1: 2.0, 2: 1.0, 3: 3.0}
    experiment = experiment._replace(evaluate=lambda params: None)
    monkeypatch.setattr(session.loop, "run", step)
    told = iter(())
    monkeypatch.setattr(recorder, "summarize", lambda _: {"nats_per_character": next(told)})

    def train(folder, overwrite=False):
        """What `dinojax train` does, which resumes a run if there is one."""
        nonlocal told
        found = folder.is_dir() and runs.find_checkpoints(folder)
        if found and not overwrite:
            with runs.locked(folder):
                run, arrays = runs.load_checkpoint(folder, "last")
                for name in run.description.parts:
                    assert runs.read_part(folder, run.description, name) == experiment.parts[name]
                assert run.description == experiment.description
                go_on(folder, *session.resume(experiment, run, arrays, keep=1))
        else:
            runs.take_folder(folder, overwrite)
            with runs.locked(folder):
                go_on(folder, *session.start(experiment, folder))

    def go_on(folder, state, tally):
        nonlocal told
        told = (losses[i] for i in range(int(state.step) + 1, 4))
        clock = count().__next__
        work = session.work(experiment, state, tally, folder, keep=1, clock=clock)
        with closing(work) as reports:
            for _ in reports:
                pass

    return SimpleNamespace(train=train, experiment=experiment)


def without_clock(folder):
    clock = "seconds", "training_seconds", "characters_per_second"
    lines = [line for line in read_metrics(folder) if "event" not in line]
    return [{name: x for name, x in line.items() if name not in clock} for line in lines]


def result(folder):
    files = {name: x for name, x in contents(folder).items() if name != "metrics.jsonl"}
    return files, without_clock(folder)


def test_a_run_that_is_killed_at_any_moment_ends_like_an_undisturbed_one(trial, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with recorded(folder) as states:
        trial.train(folder)
    whole = result(folder)
    names = [name for name in whole[0] if name.startswith("checkpoint")]
    assert names == ["checkpoint-000000002.npz", "checkpoint-000000003.npz"]
    assert len(states) > 30
    for state in states:
        put(folder, state)
        trial.train(folder)
        assert result(folder) == whole


def test_an_overwriting_that_is_killed_at_any_moment_leaves_one_run(trial, tmp_path):
    folder, experiment = put(tmp_path / "run", {}), trial.experiment
    trial.train(folder)
    whole = result(folder)
    # The earlier run has another part, and neither the same checkpoints nor all of the same parts.
    parts = {"train": experiment.parts["train"][:1], "test": experiment.parts["train"][1:2]}
    checksums = {name: digest(part_content(part)) for name, part in parts.items()}
    description = experiment.description._replace(parts=checksums)
    put(folder, {})
    runs.take_folder(folder)
    with runs.locked(folder):
        state = experiment.initial_state(None)
        runs.start_run(folder, state, description, parts)
        runs.save_checkpoint(folder, state._replace(step=np.int32(9)), description, runs.Tally())
    put(folder, contents(folder) | {"notes.txt": b"mine"})
    old = contents(folder)
    with recorded(folder) as states:
        trial.train(folder, overwrite=True)
    assert result(folder) == (whole[0] | {"notes.txt": b"mine"}, whole[1])
    assert len(states) > 30
    kinds = set()
    for state in states:
        put(folder, state)
        run = runs.load_run(folder, "last")
        is_new = run.description == experiment.description
        kinds.add(is_new)
        if is_new:
            assert [runs.read_part(folder, run.description, name) for name in experiment.parts]
            read_metrics(folder)
        else:
            left = {name: x for name, x in state.items() if not name.startswith(exchange.NEW)}
            assert left == old
        trial.train(folder, overwrite=not is_new)
        assert result(folder) == (whole[0] | {"notes.txt": b"mine"}, whole[1])
    assert kinds == {True, False}


def test_a_new_run_that_cannot_be_written_leaves_the_one_before_it(tmp_path, monkeypatch):
    folder = put(tmp_path / "run", OLD)
    for num in range(4):
        done = iter(range(num))

        def fail(descriptor, done=done):
            if next(done, None) is None:
                raise OSError("no space")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=re.escape("no space")):
            runs.start_run(folder, SimpleNamespace(step=0), DESCRIPTION, PARTS)
        assert contents(folder) == OLD
