import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Barrier

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dinojax
from dinojax import checkpoint, runs
from dinojax.config import TrainConfig
from dinojax.train import clipped_sgd, init_train_state
from dinojax.vocab import build_vocab

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
    ".names.txt.1.tmp",
]


def make_state(step, seed=0):
    model = runs.build_model(CONFIG, VOCAB)
    optimizer = clipped_sgd(CONFIG.learning_rate, CONFIG.clip_value)
    key_params, key = jax.random.split(jax.random.key(seed))
    state = init_train_state(key, model.init(key_params), model, optimizer, 1, 3.5)
    return state._replace(step=jnp.asarray(step, jnp.int32))


def save(folder, step, seed=0, names=NAMES):
    return runs.save_checkpoint(folder, make_state(step, seed), CONFIG, VOCAB, names)


def sha256_of(names):
    return hashlib.sha256("".join(name + "\n" for name in names).encode()).hexdigest()


def with_key_data(state):
    return state._replace(key=jax.random.key_data(state.key))


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
    folders = [runs.next_free_folder("dinos") for _ in range(3)]
    assert folders == [Path("runs/dinos"), Path("runs/dinos-2"), Path("runs/dinos-3")]
    assert listing(tmp_path / "runs") == ["dinos", "dinos-2", "dinos-3"]
    assert runs.next_free_folder("birds") == Path("runs/birds")


def test_the_first_free_number_is_taken_and_files_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "dinos-3").mkdir(parents=True)
    (tmp_path / "runs" / "dinos").write_text("a file")
    assert runs.next_free_folder("dinos") == Path("runs/dinos-2")
    assert runs.next_free_folder("dinos") == Path("runs/dinos-4")


def test_a_folder_made_in_the_last_moment_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mkdir = Path.mkdir

    def mkdir_after_a_rival(self, *args, **kwargs):
        if self.name == "dinos" and not self.exists():
            mkdir(self)
        mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir_after_a_rival)
    assert runs.next_free_folder("dinos") == Path("runs/dinos-2")


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    barrier = Barrier(8)

    def take(_):
        barrier.wait()
        return runs.next_free_folder("dinos")

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(take, range(8)))
    assert len(set(folders)) == 8


def test_a_file_in_the_place_of_runs_is_an_os_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(OSError, match="runs"):
        runs.next_free_folder("dinos")


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
    runs.write_names(tmp_path, ["rex"])
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} holds a run;") + ".*--overwrite"):
        runs.take_folder(tmp_path, overwrite=False)
    assert listing(tmp_path) == before


def test_overwrite_removes_the_checkpoints_and_no_other_file(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 10**9)
    add_foreign(tmp_path)
    before = listing(tmp_path)
    runs.take_folder(tmp_path, overwrite=True)
    assert listing(tmp_path) == before
    runs.start_run(tmp_path, make_state(0), CONFIG, VOCAB, NAMES)
    own = {"checkpoint-000000000.npz", runs.NAMES_FILE}
    assert set(listing(tmp_path)) - own == set(FOREIGN)
    assert own <= set(listing(tmp_path))
    assert_foreign_untouched(tmp_path)


def test_a_run_that_cannot_start_leaves_the_one_before_it(tmp_path, monkeypatch):
    save(tmp_path, 10, seed=1)
    save(tmp_path, 20, seed=2)
    runs.write_names(tmp_path, NAMES)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        runs.start_run(tmp_path, make_state(0), CONFIG, VOCAB, ["x"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


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
        ["a\u2028b\x85c\x0bd\x0c", "é\U0001f995", "t. rex", "\ufeffx"],
    ],
)
def test_names_come_back_as_written(names, tmp_path):
    runs.write_names(tmp_path, names)
    assert runs.read_names(tmp_path, sha256_of(names)) == names
    assert (tmp_path / "names.txt").read_bytes() == ("\n".join(names) + "\n").encode()
    assert listing(tmp_path) == ["names.txt"]


@pytest.mark.parametrize("content", [b"rex\nmeI\n", b"rex\nmei", b"rex\r\nmei\r\n", b"", b"\xff"])
def test_changed_names_are_refused(content, tmp_path):
    names = ["rex", "mei"]
    runs.write_names(tmp_path, names)
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"names\.txt was changed after training"):
        runs.read_names(tmp_path, sha256_of(names))


def test_a_run_knows_its_own_names_from_others(tmp_path):
    save(tmp_path, 1, names=["ab", "c"])
    sha256 = runs.load_run(tmp_path).names_sha256
    runs.write_names(tmp_path, ["ab", "c"])
    assert runs.read_names(tmp_path, sha256) == ["ab", "c"]
    for others in (["a", "bc"], ["abc"], ["c", "ab"], ["ab", "c", "c"]):
        runs.write_names(tmp_path, others)
        with pytest.raises(ValueError, match="was changed"):
            runs.read_names(tmp_path, sha256)


def test_missing_names_are_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"names\.txt"):
        runs.read_names(tmp_path, sha256_of(NAMES))


def test_the_newest_two_checkpoints_are_kept_and_no_other_file_touched(tmp_path):
    add_foreign(tmp_path)
    runs.write_names(tmp_path, ["rex"])
    steps = 0, 5, 20, 999_999_999, 1_000_000_000
    for i, step in enumerate(steps):
        path = save(tmp_path, step)
        assert path == tmp_path / f"checkpoint-{step:09d}.npz"
        kept = [f"checkpoint-{kept:09d}.npz" for kept in steps[max(0, i - 1) : i + 1]]
        assert listing(tmp_path) == sorted([*FOREIGN, "names.txt", *kept])
    assert_foreign_untouched(tmp_path)


def test_saving_removes_what_a_killed_save_left(tmp_path):
    (tmp_path / ".checkpoint-000000003.npz.123.tmp").write_bytes(b"half")
    save(tmp_path, 4)
    assert listing(tmp_path) == ["checkpoint-000000004.npz"]


def test_a_failed_save_keeps_the_checkpoints(tmp_path, monkeypatch):
    save(tmp_path, 1)
    save(tmp_path, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, 3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_holds_all_of_the_state(tmp_path):
    metadata, arrays = checkpoint.load(save(tmp_path, 7))
    restored = checkpoint.restore(arrays, jax.eval_shape(make_state, 0))
    assert jax.random.key_impl(restored.key) == metadata["key_implementation"]
    assert_same_arrays(with_key_data(restored), with_key_data(make_state(7)))


def test_a_checkpoint_says_how_it_was_made(tmp_path):
    metadata, _ = checkpoint.load(save(tmp_path, 7))
    assert metadata["config"] == asdict(CONFIG)
    assert metadata["characters"] == VOCAB.characters
    assert metadata["names_sha256"] == sha256_of(NAMES)
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
    assert run.names_sha256 == sha256_of(NAMES)


def test_a_loaded_model_computes_what_the_saved_one_did(tmp_path):
    save(tmp_path, 7)
    run, model = runs.load_run(tmp_path), runs.build_model(CONFIG, VOCAB)
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


@pytest.mark.parametrize("content", [b"", b"rex\n", "half"])
def test_a_damaged_checkpoint_is_named(content, tmp_path):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged or not a checkpoint")):
        runs.load_run(tmp_path)


def edited(part, **changes):
    def edit(metadata):
        (metadata[part] if part else metadata).update(changes)

    return edit


def without(key, part=None):
    def edit(metadata):
        del (metadata[part] if part else metadata)[key]

    return edit


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
        (without("names_sha256"), "names_sha256"),
    ],
)
def test_metadata_that_do_not_describe_a_run_are_refused(edit, message, tmp_path):
    path = save(tmp_path, 7)
    metadata, arrays = checkpoint.load(path)
    metadata = json.loads(json.dumps(metadata))
    edit(metadata)
    checkpoint.save(path, arrays, metadata)
    with pytest.raises(ValueError, match=re.escape(f"{path} cannot be used: ") + f".*{message}"):
        runs.load_run(tmp_path)


def test_a_checkpoint_without_a_parameter_is_refused(tmp_path):
    path = save(tmp_path, 7)
    metadata, arrays = checkpoint.load(path)
    del arrays["params/readout/bias"]
    checkpoint.save(path, arrays, metadata)
    with pytest.raises(ValueError, match=r"expected params/readout/bias as \S+, got nothing"):
        runs.load_run(tmp_path)
