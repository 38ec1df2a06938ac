import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dinojax
from dinojax.cli import train
from dinojax.cli.arguments import Parser
from dinojax.cli.jobs import next_free_folder
from dinojax.cli.terminal import BAD_INPUT, Program
from dinojax.config import TrainConfig, config_from
from dinojax.data.vocab import build_vocab
from dinojax.files import digest
from dinojax.models.trained import Trained
from dinojax.runs import checkpoint, session
from dinojax.runs import folder as runs
from dinojax.runs.description import (
    PARTS,
    Description,
    Tally,
    build_model,
    part_content,
)
from dinojax.runs.description import describe as new_run
from dinojax.runs.experiment import make_experiment
from dinojax.runs.metadata import from_metadata, read_config, to_metadata, write_config
from dinojax.training.optimizers import clipped_sgd
from dinojax.training.step import init_train_state

CONFIG = TrainConfig(steps=20, hidden_size=4, learning_rate=0.1, clip_value=0.5, seed=3)
NAMES = ["ab\u2028", "\U0001f995\tb"]
VOCAB = build_vocab(NAMES)
FOREIGN = [
    "notes.txt",
    "checkpoint-1.npz",
    "checkpoint-000000001.npz.bak",
    "my-checkpoint-000000001.npz",
    "checkpoint-00000000x.npz",
    ".hidden",
    ".notes.txt.1.tmp",
    f".dinojax-0123456789abcdef.{os.getppid()}.tmp",
    ".dinojax-1.1.tmp",
    ".train.txt.x.tmp",
    ".train.txt.1.tmp.bak",
    ".checkpoint-1.npz.123.tmp",
    "train.txt.1.tmp",
    "test.txt.bak",
    "names.txt",
]
# No process has this number.
DEAD = 999_999_999
LEFTOVERS = [
    f".dinojax-0123456789abcdef.{DEAD}.tmp",
    f".checkpoint-000000003.npz.{DEAD}.tmp",
    f".checkpoint-1000000000.npz.{DEAD}.tmp",
    f".train.txt.{DEAD}.tmp",
    f".validation.txt.{DEAD}.tmp",
    f".test.txt.{DEAD}.tmp",
    f".config.json.{DEAD}.tmp",
    f".metrics.jsonl.{DEAD}.tmp",
    f".loss.png.{DEAD}.tmp",
    f".loss.svg.{os.getpid()}.tmp",
]


def describe(parts, config=CONFIG):
    digests = {name: digest(part_content(part)) for name, part in parts.items()}
    sources = "d\u00e4ta/\u2028.txt", "f" * 64, "runs/earlier"
    later = "e" * 64, "10 steps, from step 10 on 20", ("", "d" * 64)
    return Description(config, VOCAB, *sources, digests, *later)


DESCRIPTION = describe({"train": NAMES, "validation": ["a"]})


@cache
def make_state(step, seed=0):
    model = build_model(CONFIG, VOCAB)
    optimizer = clipped_sgd(CONFIG.learning_rate, CONFIG.clip_value)
    key_params, key = jax.random.split(jax.random.key(seed))
    state = init_train_state(key, model.init(key_params), model, optimizer, smoothed_loss=3.5)
    return state._replace(step=jnp.asarray(step, jnp.int32))


def save(folder, step, seed=0, best=-1, keep=runs.NUM_KEPT):
    tally = Tally(best_step=best, best_loss=0.1 if best >= 0 else float("inf"))
    return runs.save_checkpoint(folder, make_state(step, seed), DESCRIPTION, tally, keep=keep)


def load_state(folder, like):
    return runs.restore_state(*runs.load_checkpoint(folder, "last"), like)


def write_parts(folder, parts):
    for name, part in parts.items():
        (folder / f"{name}.txt").write_bytes(part_content(part))


def steps_in(folder):
    return [int(path.stem.split("-")[1]) for path in runs.find_checkpoints(folder)]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def with_key_data(state):
    return state._replace(key=jax.random.key_data(state.key))


def test_names_are_cut_where_the_names_learned_say_which_a_checkpoint_tells():
    for longest, expected in (1, 50), (33, 50), (40, 60), (75, 112):
        names = ["a" * longest, "ab"] * 3
        described = new_run(CONFIG, names)[0]
        written = to_metadata(described, Tally())
        assert described.max_length == expected
        assert from_metadata(json.loads(json.dumps(written)))[0] == described
        # As earlier versions wrote it.
        del written["max_length"]
        assert from_metadata(written)[0].max_length == 50


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def add_foreign(folder):
    for name in FOREIGN:
        (folder / name).write_text(f"mine: {name}")


def assert_foreign_untouched(folder):
    for name in FOREIGN:
        assert (folder / name).read_text() == f"mine: {name}"


def assert_same_arrays(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_free_folders_are_numbered_from_two(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [next_free_folder("dinos") for _ in range(3)]
    assert folders == [Path("runs/dinos"), Path("runs/dinos-2"), Path("runs/dinos-3")]
    assert listing(tmp_path / "runs") == ["dinos", "dinos-2", "dinos-3"]
    assert next_free_folder("birds") == Path("runs/birds")


def test_the_first_free_number_is_taken_and_files_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "dinos-3").mkdir(parents=True)
    (tmp_path / "runs" / "dinos").write_text("a file")
    assert next_free_folder("dinos") == Path("runs/dinos-2")
    assert next_free_folder("dinos") == Path("runs/dinos-4")


def test_a_folder_made_in_the_last_moment_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mkdir = Path.mkdir

    def mkdir_after_a_rival(self, *args, **kwargs):
        if self.name == "dinos" and not self.exists():
            mkdir(self)
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir_after_a_rival)
    assert next_free_folder("dinos") == Path("runs/dinos-2")


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    barrier = Barrier(8)

    def take(_):
        barrier.wait()
        return next_free_folder("dinos")

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(take, range(8)))
    assert len(set(folders)) == 8


def test_a_file_instead_of_the_folder_of_runs_is_an_os_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(OSError, match="runs"):
        next_free_folder("dinos")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_new_folder_is_made_with_its_parents(overwrite, tmp_path):
    folder = tmp_path / "a" / "b" / "c"
    runs.take_folder(folder, overwrite)
    assert folder.is_dir()
    assert listing(folder) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_folder_is_taken(overwrite, tmp_path):
    runs.take_folder(tmp_path, overwrite)
    assert listing(tmp_path) == []


def test_a_folder_with_a_run_is_refused(tmp_path):
    save(tmp_path, 1)
    write_parts(tmp_path, {"train": ["rex"]})
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} holds a run;") + ".*overwrite"):
        runs.take_folder(tmp_path, overwrite=False)
    assert listing(tmp_path) == before


def test_overwrite_removes_the_run_and_no_other_file(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 10**9, best=1)
    write_parts(tmp_path, {"train": ["x"], "validation": ["y"], "test": ["z"]})
    add_foreign(tmp_path)
    before = listing(tmp_path)
    runs.take_folder(tmp_path, overwrite=True)
    assert listing(tmp_path) == before
    parts = {"train": NAMES, "test": ["b"]}
    runs.start_run(tmp_path, make_state(0), describe(parts), parts)
    own = ["checkpoint-000000000.npz", "config.json", "metrics.jsonl", "test.txt", "train.txt"]
    assert listing(tmp_path) == sorted([*own, *FOREIGN])
    assert_foreign_untouched(tmp_path)
    for name, part in parts.items():
        assert runs.read_part(tmp_path, describe(parts), name) == part
    assert runs.load_run(tmp_path).step == 0
    assert runs.load_run(tmp_path).tally == Tally()


@pytest.mark.parametrize("earlier", [(10, 20), (0, 20)])
def test_a_run_that_cannot_start_leaves_the_one_before_it(earlier, tmp_path, monkeypatch):
    for step in earlier:
        save(tmp_path, step, seed=1)
    write_parts(tmp_path, {"train": NAMES, "validation": ["a"]})
    write_config(tmp_path / "config.json", DESCRIPTION)
    before = contents(tmp_path)

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("os.replace", fail)
    parts = {"train": ["x"]}
    with pytest.raises(OSError, match="no space"):
        runs.start_run(tmp_path, make_state(0), describe(parts), parts)
    assert contents(tmp_path) == before


USERS = [
    *(["train.txt"], ["config.json"], [".lock"], [".new"], [*LEFTOVERS, ".lock"]),
    ["train.txt", "validation.txt", "test.txt", "metrics.jsonl", ".lock"],
    ["checkpoint-000000001.npz"],
]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("names", USERS, ids=len)
def test_a_users_files_with_the_names_of_a_runs_are_not_replaced(names, overwrite, tmp_path):
    for name in names:
        (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} holds ") + ".*choose a"):
        runs.take_folder(tmp_path, overwrite)
    assert contents(tmp_path) == before


def test_a_run_whose_checkpoints_are_damaged_is_overwritten(tmp_path):
    for kind in "truncated", "half", "flipped", "empty":
        damage(save(tmp_path, 7), kind)
        with pytest.raises(ValueError, match=r"is damaged or not a checkpoint .*; use another"):
            runs.load_run(tmp_path, "7")
        (tmp_path / "checkpoint-000000000.npz").unlink(missing_ok=True)
        runs.take_folder(tmp_path, overwrite=True)
        runs.start_run(tmp_path, make_state(0), DESCRIPTION, {"train": NAMES, "validation": ["a"]})
        assert runs.load_run(tmp_path).step == 0


def test_a_save_keeps_what_it_wrote_and_the_later_ones(tmp_path):
    save(tmp_path, 10)
    save(tmp_path, 20)
    path = save(tmp_path, 5)
    assert path.exists()
    names = [f"checkpoint-{step:09d}.npz" for step in (5, 10, 20)]
    assert listing(tmp_path) == names


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_with_other_files_is_refused(name, overwrite, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} holds other files;")):
        runs.take_folder(tmp_path, overwrite)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_not_a_folder_to_take(overwrite, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match=re.escape(f"{file} is a file;")):
        runs.take_folder(file, overwrite)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    "names",
    [
        ["rex"],
        ["rex", "mei", "rex"],
        ["a\u2028b\x85c\x0bd\x0c", "\u00e9\U0001f995", "t. rex", "\ufeffx", "a\rb", " ", "\r"],
    ],
)
def test_names_come_back_exactly(names, tmp_path):
    parts = {"train": names, "validation": names[:1], "test": names[-1:]}
    runs.start_run(tmp_path, make_state(0), describe(parts), parts)
    for name, part in parts.items():
        assert runs.read_part(tmp_path, describe(parts), name) == part
        content = "".join(f"{name}\n" for name in part)
        assert (tmp_path / f"{name}.txt").read_bytes() == content.encode()


@pytest.mark.parametrize(
    "text",
    ["a", "a\n", "\n", "\n\n a\r\nb\r", "\ufeffa\u2028\x85\x0b\x0c\U0001f995\n\n", "e\u0301"],
)
def test_a_text_comes_back_exactly(text, tmp_path):
    parts = {"train": text, "test": text + "x"}
    description = describe(parts, replace(CONFIG, batches="windows"))
    runs.start_run(tmp_path, make_state(0), description, parts)
    assert runs.read_part(tmp_path, description, "train") == text
    assert runs.read_part(tmp_path, description, "test") == text + "x"
    assert (tmp_path / "train.txt").read_bytes() == text.encode()


@pytest.mark.parametrize(
    "content",
    [b"rex\nmeI\n", b"rex\nmei", b"rex\r\nmei\r\n", b"mei\nrex\n", b"rexmei\n", b"", b"\xff"],
)
@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_changed_part_is_refused(name, content, tmp_path):
    parts = {part: ["rex", "mei"] for part in PARTS}
    write_parts(tmp_path, parts)
    (tmp_path / f"{name}.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}\.txt was changed after training"):
        runs.read_part(tmp_path, describe(parts), name)


def test_a_part_that_the_run_does_not_have_is_refused(tmp_path):
    parts = {"train": ["rex"], "validation": ["mei"]}
    # Another program may have put a file there.
    write_parts(tmp_path, parts | {"test": ["x"]})
    message = re.escape(f"{tmp_path} has no test part; it has train, validation ")
    with pytest.raises(ValueError, match=message):
        runs.read_part(tmp_path, describe(parts), "test")


def test_a_missing_part_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.txt"):
        runs.read_part(tmp_path, DESCRIPTION, "train")


def test_the_configuration_comes_back_as_it_was_written(tmp_path):
    config = replace(
        CONFIG,
        batches="windows",
        learning_rate=1,
        clip_norm=1e-12,
        reset_rate=0.1 + 0.2,
        patience=0,
    )
    write_config(tmp_path / "config.json", DESCRIPTION._replace(config=config))
    content = (tmp_path / "config.json").read_bytes()
    settings, others = read_config(tmp_path / "config.json")
    assert config_from(settings) == config
    assert others == {
        "data": DESCRIPTION.data,
        "data_sha256": "f" * 64,
        "init_from": "runs/earlier",
        "init_sha256": "e" * 64,
        "extensions": "10 steps, from step 10 on 20",
    }
    assert content.endswith(b"}\n")
    assert "d\u00e4ta" in content.decode()
    assert listing(tmp_path) == ["config.json"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_checkpoints_are_kept_and_no_other_file_touched(keep, tmp_path):
    add_foreign(tmp_path)
    write_parts(tmp_path, {"train": ["rex"], "test": ["mei"]})
    others = [*FOREIGN, "train.txt", "test.txt"]
    steps = 0, 5, 20, 999_999_999, 1_000_000_000
    for i, step in enumerate(steps):
        path = save(tmp_path, step, keep=keep)
        assert path == tmp_path / f"checkpoint-{step:09d}.npz"
        kept = [f"checkpoint-{kept:09d}.npz" for kept in steps[max(0, i + 1 - keep) : i + 1]]
        assert listing(tmp_path) == sorted([*others, *kept])
    assert_foreign_untouched(tmp_path)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (1, [[10], [20], [20, 30], [20, 40], [50], [50, 60]]),
        (2, [[10], [10, 20], [20, 30], [20, 30, 40], [40, 50], [50, 60]]),
        (3, [[10], [10, 20], [10, 20, 30], [20, 30, 40], [30, 40, 50], [40, 50, 60]]),
        (9, [[10, 20, 30, 40, 50, 60][:i] for i in range(1, 7)]),
    ],
)
def test_the_best_checkpoint_is_kept_besides_the_newest(keep, expected, tmp_path):
    best = {10: 10, 20: 20, 30: 20, 40: 20, 50: 50, 60: 50}
    for step, steps in zip(best, expected, strict=True):
        save(tmp_path, step, best=best[step], keep=keep)
        assert steps_in(tmp_path) == steps
        assert runs.load_run(tmp_path).step == best[step]


def test_saving_removes_what_killed_writes_left(tmp_path):
    add_foreign(tmp_path)
    for name in LEFTOVERS:
        (tmp_path / name).write_bytes(b"half")
    save(tmp_path, 4)
    assert listing(tmp_path) == sorted(["checkpoint-000000004.npz", *FOREIGN])
    assert_foreign_untouched(tmp_path)


def test_a_failed_save_keeps_the_checkpoints(tmp_path, monkeypatch):
    save(tmp_path, 1)
    save(tmp_path, 2)
    before = contents(tmp_path)

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, 3, keep=1)
    assert contents(tmp_path) == before


def test_a_checkpoint_holds_all_of_the_state(tmp_path):
    metadata, arrays = checkpoint.load(save(tmp_path, 7))
    restored = checkpoint.restore(arrays, make_state(0))
    assert jax.random.key_impl(restored.key) == metadata["key_implementation"]
    assert_same_arrays(with_key_data(restored), with_key_data(make_state(7)))


def test_a_checkpoint_says_how_it_was_made(tmp_path):
    metadata, _ = checkpoint.load(save(tmp_path, 7))
    assert metadata["config"] == asdict(CONFIG)
    assert metadata["characters"] == VOCAB.characters
    for name in "data", "data_sha256", "init_from", "init_sha256", "extensions", "parts":
        assert metadata[name] == getattr(DESCRIPTION, name)
    assert metadata["step"] == 7
    assert metadata["key_implementation"] == "threefry2x32"
    assert metadata["versions"]["dinojax"] == dinojax.__version__
    assert metadata["versions"]["jax"] == jax.__version__
    assert metadata["versions"].keys() == {"dinojax", "jax", "jaxlib", "numpy", "optax"}


def test_the_same_run_gives_the_same_bytes(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    assert save(one, 7).read_bytes() == save(other, 7).read_bytes()


def test_load_run_gives_the_newest_run_bit_for_bit(tmp_path):
    add_foreign(tmp_path)
    save(tmp_path, 999_999_999, seed=1)
    save(tmp_path, 1_000_000_000, seed=2)
    run = runs.load_run(tmp_path)
    assert_same_arrays(run.params, make_state(0, seed=2).params)
    assert (run.config, run.vocab, run.step) == (CONFIG, VOCAB, 1_000_000_000)
    assert run.description == DESCRIPTION
    assert (run.tally, run.damaged) == (Tally(), ())
    assert run.trained == Trained(run.model, run.params, run.vocab)


@pytest.mark.parametrize(
    "tally",
    [
        Tally(),
        Tally(7, 0.1 + 0.2, 3, 1e300 / 3, 2.0**53),
        Tally(0, 5e-324, 10**9, 0.1, 1.0),
    ],
)
def test_a_tally_comes_back_exactly(tally, tmp_path):
    runs.save_checkpoint(tmp_path, make_state(7), DESCRIPTION, tally)
    assert runs.load_run(tmp_path).tally == tally


def test_a_restored_state_is_all_of_the_last_state(tmp_path):
    save(tmp_path, 6, seed=1, best=6)
    save(tmp_path, 7, seed=2, best=6)
    state = load_state(tmp_path, make_state(0))
    assert_same_arrays(with_key_data(state), with_key_data(make_state(7, 2)))


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    path = save(tmp_path, 7)
    like = make_state(0)._replace(optimizer_state={"trace": jnp.zeros(3)})
    message = re.escape(f"{path} could not be read: expected optimizer_state/trace as float32[3]")
    with pytest.raises(ValueError, match=message):
        load_state(tmp_path, like)


def test_best_last_and_a_step_choose_a_checkpoint(tmp_path):
    for step, best in [(10, 10), (20, 20), (30, 20), (40, 20)]:
        save(tmp_path, step, seed=step, best=best)
    chosen = {"best": 20, "last": 40, "20": 20, "30": 30, "40": 40, "0030": 30}
    for which, step in chosen.items():
        run = runs.load_run(tmp_path, which)
        assert run.step == step
        assert run.checkpoint == tmp_path / f"checkpoint-{step:09d}.npz"
        assert run.damaged == ()
        assert_same_arrays(run.params, make_state(0, seed=step).params)
    assert runs.load_run(tmp_path).step == 20
    message = re.escape(f"{tmp_path} has no checkpoint of step newest; it has 20, 30, 40")
    with pytest.raises(ValueError, match=message):
        runs.load_run(tmp_path, "newest")
    message = re.escape(f"{tmp_path} has no checkpoint of step 10; it has 20, 30, 40")
    with pytest.raises(ValueError, match=message):
        runs.load_run(tmp_path, "10")


def test_without_validation_the_last_is_the_best(tmp_path):
    save(tmp_path, 10)
    save(tmp_path, 20)
    assert runs.load_run(tmp_path, "best").step == 20


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {
    "truncated": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "flipped": flip,
    "empty": lambda content: b"",
    "other": lambda content: b"rex\n",
}


def damage(path, kind="half"):
    path.write_bytes(DAMAGES[kind](path.read_bytes()))


@pytest.mark.parametrize("kind", DAMAGES)
def test_where_the_newest_is_damaged_the_one_before_it_is_used(kind, tmp_path):
    older, newer = save(tmp_path, 10, seed=1), save(tmp_path, 20, seed=2)
    damage(newer, kind)
    for which in "best", "last":
        run = runs.load_run(tmp_path, which)
        assert (run.step, run.checkpoint, run.damaged) == (10, older, (newer,))
        assert_same_arrays(run.params, make_state(0, seed=1).params)
    state = load_state(tmp_path, make_state(0))
    assert_same_arrays(with_key_data(state), with_key_data(make_state(10, 1)))
    # No other checkpoint replaces one that was asked for by its step.
    with pytest.raises(ValueError, match=re.escape(str(newer))):
        runs.load_run(tmp_path, "20")
    assert runs.load_run(tmp_path, "10").damaged == ()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_refused_by_name(value, tmp_path):
    state = make_state(10)
    spoiled = jax.tree.map(lambda x: x, state.params)
    spoiled["readout"]["bias"] = spoiled["readout"]["bias"].at[1].set(value)
    path = runs.save_checkpoint(tmp_path, state._replace(params=spoiled), DESCRIPTION, Tally())
    said = re.escape(f"{path} could not be read: params/readout/bias is not finite")
    with pytest.raises(ValueError, match=said):
        runs.load_run(tmp_path)


def test_several_damaged_checkpoints_are_passed_over_newest_first(tmp_path):
    paths = [save(tmp_path, step, best=10, keep=9) for step in (10, 20, 30, 40)]
    damage(paths[3])
    damage(paths[2])
    assert runs.load_run(tmp_path, "last").damaged == (paths[3], paths[2])
    assert runs.load_run(tmp_path, "last").step == 20
    assert runs.load_run(tmp_path, "best").damaged == (paths[3], paths[2])
    assert runs.load_run(tmp_path, "best").step == 10


def make_directory(path):
    path.mkdir()


def make_dangling_link(path):
    path.symlink_to("nowhere")


SPECIAL = [os.mkfifo, make_directory, make_dangling_link]


@pytest.mark.parametrize("make", SPECIAL)
def test_a_newest_checkpoint_that_is_no_file_is_passed_over(make, tmp_path):
    older, special = save(tmp_path, 10, best=10), tmp_path / "checkpoint-000000020.npz"
    make(special)
    for which in "best", "last":
        run = runs.load_run(tmp_path, which)
        assert (run.step, run.damaged) == (10, (special,))
    with pytest.raises(OSError, match="checkpoint-000000020"):
        runs.load_run(tmp_path, "20")
    # Nor does it stop training from going on, once it is no longer among the newest.
    for step in 21, 22:
        save(tmp_path, step, keep=1)
    assert not older.exists()
    runs.take_folder(tmp_path, overwrite=True)
    runs.start_run(tmp_path, make_state(0), DESCRIPTION, {"train": NAMES, "validation": ["a"]})
    assert runs.load_run(tmp_path).step == 0


@pytest.mark.parametrize("make", SPECIAL)
def test_data_and_settings_that_are_no_files_are_refused_at_once(make, tmp_path):
    for name in "train.txt", "config.json":
        make(tmp_path / name)
    with pytest.raises(OSError, match=r"train\.txt"):
        runs.read_part(tmp_path, DESCRIPTION, "train")
    with pytest.raises(OSError, match=r"config\.json"):
        read_config(tmp_path / "config.json")


def test_where_all_are_damaged_the_newest_is_named(tmp_path):
    paths = save(tmp_path, 10), save(tmp_path, 20)
    for path in paths:
        damage(path)
    for which in "best", "last":
        with pytest.raises(ValueError, match=re.escape(f"{paths[1]} is damaged or not a")):
            runs.load_run(tmp_path, which)
    with pytest.raises(ValueError, match=re.escape(f"{paths[1]} is damaged or not a")):
        load_state(tmp_path, make_state(0))


@pytest.mark.parametrize("kind", [*DAMAGES, "missing"])
def test_the_last_checkpoint_replaces_an_unreadable_best_one(kind, tmp_path):
    best, last = save(tmp_path, 10, best=10), save(tmp_path, 20, seed=2, best=10)
    if kind == "missing":
        best.unlink()
    else:
        damage(best, kind)
    run = runs.load_run(tmp_path, "best")
    assert (run.step, run.checkpoint, run.damaged) == (20, last, (best,))
    assert_same_arrays(run.params, make_state(0, seed=2).params)
    run = runs.load_run(tmp_path, "last")
    assert (run.step, run.damaged) == (20, ())


def test_a_checkpoint_of_an_older_format_is_passed_over_or_named(tmp_path, monkeypatch):
    new = save(tmp_path, 10)
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    old = save(tmp_path, 20)
    monkeypatch.undo()
    assert runs.load_run(tmp_path).damaged == (old,)
    assert runs.load_run(tmp_path).step == 10
    new.unlink()
    message = re.escape(f"{old} has checkpoint format 1, this dinojax reads 2;")
    with pytest.raises(ValueError, match=message):
        runs.load_run(tmp_path)


CHILD = """
import sys
from pathlib import Path
from dinojax.runs import folder as runs
for command in sys.stdin:
    try:
        with runs.locked(Path(sys.argv[1])):
            if command == "hold\\n":
                print("locked", flush=True)
                sys.stdin.readline()
        # Printed after the lock is released.
        if command != "hold\\n":
            print("locked", flush=True)
    except ValueError as error:
        print(error, flush=True)
"""


def test_a_run_is_locked_to_one_process_while_that_lives(tmp_path):
    def ask(child, command):
        child.stdin.write(command + "\n")
        child.stdin.flush()
        return child.stdout.readline().rstrip("\n")

    refused = f"another process trains in {tmp_path};"
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as child, subprocess.Popen(command, **pipes) as other:
        try:
            assert ask(other, "try") == "locked"
            assert ask(child, "hold") == "locked"
            assert ask(other, "try").startswith(refused)
            with pytest.raises(ValueError, match=re.escape(refused)), runs.locked(tmp_path):
                raise AssertionError
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            with runs.locked(tmp_path):
                assert ask(other, "try").startswith(refused)
            assert ask(other, "try") == "locked"
            with pytest.raises(KeyError), runs.locked(tmp_path):
                raise KeyError
            assert ask(other, "hold") == "locked"
        finally:
            child.kill()
            other.kill()
    assert listing(tmp_path) == [".lock"]
    runs.take_folder(tmp_path, overwrite=False)


def test_a_loaded_model_computes_what_the_saved_one_did(tmp_path):
    save(tmp_path, 7)
    run, model = runs.load_run(tmp_path), build_model(CONFIG, VOCAB)
    ids = jnp.asarray(VOCAB.encode("ab\n\ta"), jnp.int32)
    _, actual = run.model.unroll(run.params, run.model.initial_state(()), ids)
    _, expected = model.unroll(make_state(7).params, model.initial_state(()), ids)
    assert run.model.vocab_size == VOCAB.size
    np.testing.assert_array_equal(actual, expected)


def test_only_a_folder_with_a_checkpoint_is_a_run(tmp_path):
    missing, file, empty = tmp_path / "missing", tmp_path / "file", tmp_path / "empty"
    file.write_text("rex\n")
    empty.mkdir()
    add_foreign(empty)
    for path, message in [
        (missing, "is not a folder;"),
        (file, "is not a folder;"),
        (empty, "is not a run: it has no checkpoint;"),
    ]:
        with pytest.raises(ValueError, match=re.escape(f"{path} {message}")):
            runs.load_run(path)


def edited(part, **changes):
    def edit(metadata):
        (metadata[part] if part else metadata).update(changes)

    return edit


def without(key, part=None):
    def edit(metadata):
        del (metadata[part] if part else metadata)[key]

    return edit


# Values of types that nothing in the metadata has, and the fields that all have one.
FIELDS = "config", "characters", "parts", "tally", "step", "data", "data_sha256", "init_from"
WRONG = None, [], [None], {"a": {}}, 0.5, True, -(10**30)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited("config", cell="other"), "cell"),
        (edited("config", steps=0), "steps: expected a number"),
        (edited("config", steps=10**400), "steps"),
        (
            edited("config", hidden_size=5),
            r"expected params/\S+ as float32\[.*5.*\], got float32\[",
        ),
        (edited("config", hidden_size=4.5), ""),
        (edited("config", hidden_size="4"), ""),
        (edited(None, config=[1]), ""),
        (edited(None, characters="\nba"), "order of code point"),
        (edited(None, characters="\nab"), r"expected params/\S+ as"),
        (edited(None, characters=5), ""),
        (without("config"), "config"),
        (without("characters"), "characters"),
        (without("step"), "step"),
        (without("parts"), "parts"),
        (without("data_sha256"), "data_sha256"),
        (without("init_from"), "init_from"),
        (without("tally"), "tally"),
        (without("best_loss", "tally"), "best_loss"),
        (edited("tally", best_loss="low"), "low"),
        (edited("tally", other=1), "other"),
        (edited(None, tally=[1]), ""),
        *((edited(None, **{name: value}), "") for name in FIELDS for value in WRONG),
        *(
            (edited("tally", **{name: value}), name)
            for name in Tally._fields
            for value in WRONG
            if (name, value) not in (("nats", 0.5), ("characters", 0.5), ("recent_losses", []))
        ),
        (edited("tally", best_step=-2), "best_step"),
        (edited("tally", validations_since=-1), "validations_since"),
        (edited("tally", characters=10**400), "characters"),
        (edited("tally", nats=float("nan")), "nats"),
        *((edited("tally", **{name: float("inf")}), name) for name in ("nats", "characters")),
        *((edited(None, max_length=num), "max_length: expected") for num in (0, 10_001)),
        (edited("tally", best_loss="nan"), "best_loss"),
        (edited("parts", train=5), "parts"),
        (edited("parts", **{"../train": "f" * 64}), "parts"),
        (edited(None, parts={}), "parts"),
        (edited(None, parts={"test": "f" * 64}), "parts"),
        (edited(None, characters=["\n", "a", "b"]), "characters: expected"),
        (edited(None, characters="\n\udfff"), "characters: .* surrogate"),
        (edited(None, step=8), "expected 7"),
        (edited(None, learned_before=[5]), "learned_before"),
        (edited(None, learned_before="ab"), "learned_before"),
    ],
)
def test_metadata_that_do_not_describe_a_run_are_refused(edit, message, tmp_path):
    path = save(tmp_path, 7)
    metadata, arrays = checkpoint.load(path)
    metadata = json.loads(json.dumps(metadata))
    edit(metadata)
    checkpoint.save(path, arrays, metadata)
    with pytest.raises(ValueError, match=re.escape(f"{path} could not be read: ") + f".*{message}"):
        runs.load_run(tmp_path)


def test_metadata_of_a_later_version_are_read_as_far_as_they_are_known(tmp_path):
    path = save(tmp_path, 7)
    metadata, arrays = checkpoint.load(path)
    checkpoint.save(path, arrays, metadata | {"later": [[]]})
    assert runs.load_run(tmp_path).description == DESCRIPTION


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("params/readout/bias", np.inf),
        ("optimizer_state/0/trace", np.nan),
        ("optimizer_state/0/mu/readout/bias", -np.inf),
        ("optimizer_state/0/nu/readout/bias", np.nan),
        ("recurrent_state/0", np.inf),
        ("smoothed_loss", np.nan),
    ],
)
def test_a_state_that_is_not_finite_is_not_resumed_from(name, value, tmp_path):
    run, arrays = runs.load_checkpoint(save(tmp_path, 10).parent, "last")
    like = make_state(0)
    runs.restore_state(run, arrays, like)
    bad = dict(arrays) | {name: np.array([1, value], np.float32)}
    with pytest.raises(ValueError, match=re.escape(f"{name} is not finite")):
        runs.restore_state(run, bad, like)
    # The square of a gradient may overflow, and training goes on.
    runs.restore_state(run, dict(arrays) | {"optimizer_state/0/nu/x": np.array(np.inf)}, like)


def test_a_checkpoint_without_a_parameter_is_refused(tmp_path):
    path = save(tmp_path, 7)
    metadata, arrays = checkpoint.load(path)
    del arrays["params/readout/bias"]
    checkpoint.save(path, arrays, metadata)
    with pytest.raises(ValueError, match=r"expected params/readout/bias as \S+, got nothing"):
        runs.load_run(tmp_path)


def test_a_run_that_is_moved_or_removed_while_it_trains_ends_in_one_line(
    tmp_path, monkeypatch, capsys
):
    experiment = make_experiment(*new_run(CONFIG, ["ada"]))
    parser, folder = Parser(Program("train", "dinojax"), ""), tmp_path / "run"
    folder.mkdir()
    started = folder, experiment, *session.start(experiment, folder)

    def move(*_):
        folder.rename(tmp_path / "moved")
        (folder / "metrics.jsonl").read_bytes()

    monkeypatch.setattr(train, "train", move)
    arguments = SimpleNamespace(preset="names", resume=None, config=None, init_from=None, data=None)
    assert train.learn(parser, arguments, started) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{folder} is not a folder; " in said
    assert "if it was moved, resume it in its new place" in said
    # After the last step too.
    (tmp_path / "moved").rename(folder)
    monkeypatch.setattr(train, "train", lambda *_: (move_only(folder), 0.0, []))

    def move_only(folder):
        folder.rename(tmp_path / "moved")
        return SimpleNamespace(step=experiment.config.steps, is_patient=True)

    with pytest.raises(SystemExit) as ended:
        train.learn(parser, arguments, started)
    assert ended.value.code == BAD_INPUT
    assert capsys.readouterr().err.count("\n") == 1
