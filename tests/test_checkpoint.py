import errno
import io
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax import files
from dinojax.runs import checkpoint

# Saves different content to the same path, forever.
WRITER = """
import sys
from pathlib import Path
import numpy as np
from dinojax.runs import checkpoint

turn = 0
while True:
    checkpoint.save(Path(sys.argv[1]), {"turns": np.full(100_000, turn)}, {"turn": turn})
    turn += 1
    if turn == 1:
        print("saved", flush=True)
"""


def make_state():
    floats = jnp.array([[1 / 3, -0.0, jnp.inf], [jnp.nan, 1e-45, -3.4e38]], jnp.float32)
    return {
        "params": {
            "layers": [{"kernel": floats}, {"kernel": floats.T}],
            "readout": (jnp.array([True, False]), jnp.arange(4, dtype=jnp.uint8)),
        },
        "empty": jnp.zeros((0, 3)),
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(8, impl="rbg"), 3),
        "step": jnp.asarray(-41, jnp.int32),
    }


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def same_content(one, other):
    (metadata, arrays), (other_metadata, other_arrays) = one, other
    return (
        metadata == other_metadata
        and arrays.keys() == other_arrays.keys()
        and all(
            (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
            for a, b in ((array, other_arrays[name]) for name, array in arrays.items())
        )
    )


def read_raw(path):
    with np.load(path) as archive:
        arrays = dict(archive)
    return json.loads(str(arrays.pop("metadata"))), arrays


def write_raw(path, metadata, arrays):
    with open(path, "wb") as file:
        np.savez(file, metadata=np.array(json.dumps(metadata)), **arrays)


@pytest.fixture
def saved(tmp_path):
    """A small checkpoint."""
    path = tmp_path / "small.npz"
    state = {"flags": np.array([True, False]), "step": np.arange(3, dtype=np.int32)}
    checkpoint.save(path, state, {"name": "rex"})
    return path


def test_a_restored_state_is_the_saved_one(tmp_path):
    path = tmp_path / "state.npz"
    state, metadata = make_state(), {"text": "\ud800é\U0001f995\n", "list": [1, None, 0.1]}
    checkpoint.save(path, state, metadata)
    loaded, arrays = checkpoint.load(path)
    assert loaded == {**metadata, "format": checkpoint.FORMAT}
    assert_same(checkpoint.restore(arrays, state), state)
    assert_same(checkpoint.restore(arrays, jax.eval_shape(make_state)), state)


def test_restored_keys_draw_the_same_numbers(tmp_path):
    path, state = tmp_path / "state.npz", make_state()
    checkpoint.save(path, state, {})
    restored = checkpoint.restore(checkpoint.load(path)[1], state)
    for name, draw in (("key", jax.random.normal), ("keys", jax.vmap(jax.random.normal))):
        assert draw(restored[name]).tolist() == draw(state[name]).tolist()


def test_a_part_can_be_restored(tmp_path):
    path, state = tmp_path / "state.npz", make_state()
    checkpoint.save(path, state, {})
    _, arrays = checkpoint.load(path)
    part = {"params": state["params"]}
    assert_same(checkpoint.restore(arrays, part), part)
    part = {"params": {"layers": {1: {"kernel": jnp.zeros((3, 2))}}}}
    layer = checkpoint.restore(arrays, part)["params"]["layers"][1]
    assert_same(layer, state["params"]["layers"][1])


def test_the_archive_holds_the_leaves_by_path_and_metadata(tmp_path):
    path = tmp_path / "state.npz"
    checkpoint.save(path, make_state(), {})
    with np.load(path) as archive:
        assert sorted(archive.files) == [
            "empty",
            "key",
            "keys",
            "metadata",
            "params/layers/0/kernel",
            "params/layers/1/kernel",
            "params/readout/0",
            "params/readout/1",
            "step",
        ]


def test_the_same_state_gives_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "a", make_state(), {"name": "rex"})
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    backwards = dict(reversed(make_state().items()))
    checkpoint.save(tmp_path / "b", backwards, {"name": "rex"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_last_save_is_what_is_there(saved):
    checkpoint.save(saved, {"step": np.int32(9)}, {"name": "mei"})
    metadata, arrays = checkpoint.load(saved)
    assert metadata["name"] == "mei"
    assert list(arrays) == ["step"]
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": np.zeros((3, 2), np.float32)}, "a as float32[3, 2], got float32[2, 3]"),
        ({"a": np.zeros(6, np.float32)}, "a as float32[6], got float32[2, 3]"),
        ({"a": np.zeros((2, 3), np.int32)}, "a as int32[2, 3], got float32[2, 3]"),
        ({"a": {"b": np.zeros(1)}}, "a/b as float64[1], got nothing"),
        ({"b": np.zeros((), bool)}, "b as bool[], got nothing"),
    ],
)
def test_an_array_that_does_not_fit_is_named_with_both_shapes(like, message):
    with pytest.raises(ValueError, match=re.escape(f"expected {message};")):
        checkpoint.restore({"a": np.zeros((2, 3), np.float32)}, like)
    with pytest.raises(ValueError, match=re.escape(f"expected part/{message};")):
        checkpoint.restore({"part/a": np.zeros((2, 3), np.float32)}, {"part": like})


def test_a_key_of_another_implementation_does_not_fit(tmp_path):
    path = tmp_path / "state.npz"
    checkpoint.save(path, {"key": jax.random.key(0)}, {})
    _, arrays = checkpoint.load(path)
    message = re.escape("expected key as uint32[4], got uint32[2];")
    with pytest.raises(ValueError, match=message):
        checkpoint.restore(arrays, {"key": jax.random.key(0, impl="rbg")})


def test_a_checkpoint_cut_at_any_length_is_refused(saved):
    content = saved.read_bytes()
    for length in range(len(content)):
        saved.write_bytes(content[:length])
        with pytest.raises(ValueError, match=re.escape(str(saved))):
            checkpoint.load(saved)


def test_a_changed_byte_is_refused_or_changes_nothing(saved):
    content, expected = saved.read_bytes(), checkpoint.load(saved)
    wrong = []
    with open(saved, "r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            for change in (1, 2, 4, 8, 16, 32, 64, 128, 255, 0):
                file.seek(position)
                file.write(bytes([byte ^ change]))
                try:
                    if not same_content(checkpoint.load(saved), expected):
                        wrong.append((position, change, "loaded other content"))
                except Exception as error:
                    if not isinstance(error, ValueError):
                        wrong.append((position, change, repr(error)))
    assert wrong == []
    assert saved.read_bytes() == content


@pytest.mark.parametrize("method", [8, 9, 12, 14, 93, 255])
def test_an_entry_said_to_be_compressed_is_refused(method, tmp_path):
    path = tmp_path / "state.npz"
    checkpoint.save(path, {"weights": np.zeros(30_000, np.float32)}, {})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 10] = method
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        checkpoint.load(path)


def edit_metadata(metadata, arrays):
    metadata["name"] = "mei"


def add_metadata(metadata, arrays):
    metadata["more"] = 1


def edit_value(metadata, arrays):
    arrays["step"][1] += 1


def edit_type(metadata, arrays):
    arrays["step"] = arrays["step"].view(np.uint32)


def edit_shape(metadata, arrays):
    arrays["step"] = arrays["step"].reshape(1, 3)


def rename(metadata, arrays):
    arrays["steq"] = arrays.pop("step")


def swap(metadata, arrays):
    arrays["step"], arrays["flags"] = arrays["flags"], arrays["step"]


def remove(metadata, arrays):
    del arrays["flags"]


def add(metadata, arrays):
    arrays["more"] = np.zeros(0)


@pytest.mark.parametrize(
    "edit",
    [edit_metadata, add_metadata, edit_value, edit_type, edit_shape, rename, swap, remove, add],
)
def test_an_edited_checkpoint_is_refused(edit, saved):
    metadata, arrays = read_raw(saved)
    write_raw(saved, metadata, arrays)
    checkpoint.load(saved)
    edit(metadata, arrays)
    write_raw(saved, metadata, arrays)
    with pytest.raises(ValueError, match=r"was changed after it was written"):
        checkpoint.load(saved)


def test_a_newer_format_asks_for_a_newer_dinojax(saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    checkpoint.save(saved, {"step": np.int32(1)}, {})
    monkeypatch.undo()
    message = re.escape(f"{saved} has checkpoint format 3, this dinojax reads 2;")
    with pytest.raises(ValueError, match=message + ".*dinojax that wrote it, or a newer one"):
        checkpoint.load(saved)


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


OBJECTS = np.array([{"a": 1}], dtype=object)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"Aachenosaurus\nAardonyx\n", id="text"),
        pytest.param(bytes(1000), id="zeros"),
        pytest.param(pickle.dumps({"metadata": "{}"}), id="pickle"),
        pytest.param(npy(np.zeros(3)), id="npy"),
        pytest.param(zipped(), id="zip of nothing"),
        pytest.param(zipped(metadata="{}"), id="zip of text"),
        pytest.param(npz(a=np.zeros(3)), id="npz"),
        pytest.param(npz(metadata=np.zeros(3)), id="metadata are numbers"),
        pytest.param(npz(metadata=np.array("hello")), id="metadata are no JSON"),
        pytest.param(npz(metadata=np.array("[]")), id="metadata are a list"),
        pytest.param(npz(metadata=np.array("1")), id="metadata are a number"),
        pytest.param(npz(metadata=np.array("{}")), id="metadata are empty"),
        pytest.param(npz(metadata=np.array('{"format": 1}')), id="no checksum"),
        pytest.param(npz(metadata=np.array("[" * 100_000)), id="metadata are deep"),
        pytest.param(npz(metadata=OBJECTS), id="metadata are objects"),
        pytest.param(
            npz(metadata=np.array('{"format": 1, "sha256": ""}'), a=OBJECTS), id="objects"
        ),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        checkpoint.load(path)


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_loading_a_checkpoint_executes_nothing(tmp_path):
    path, folder = tmp_path / "file.npz", tmp_path / "trap"
    trap = np.array([Trap(str(folder))], dtype=object)
    for content in (npz(metadata=trap), npz(metadata=np.array("{}"), a=trap), npy(trap)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            checkpoint.load(path)
    assert not folder.exists()


def test_a_missing_checkpoint_or_a_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "missing.npz")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failed_write_changes_nothing(function, old, tmp_path, monkeypatch):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="No space left") as error:
        files.write_atomically(path, b"new")
    # The error that the system raises for a full disk names no file.
    assert error.value.filename == str(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if old is None else [old])


def test_a_save_past_the_largest_file_size_changes_nothing(saved):
    import resource

    content = saved.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save(saved, {"weights": np.zeros(50_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved.read_bytes() == content
    assert os.listdir(saved.parent) == [saved.name]


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="folder") as error:
        files.write_atomically(folder, b"new")
    assert (error.value.filename, error.value.filename2) == (str(folder), None)
    assert os.listdir(tmp_path) == ["folder"]


def test_there_must_be_a_folder_to_write_to(tmp_path):
    path = tmp_path / "missing" / "file"
    with pytest.raises(FileNotFoundError) as error:
        files.write_atomically(path, b"new")
    assert error.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as error, files.atomic_file(tmp_path / "file"):
        path.read_bytes()
    # An error about another file names that file.
    assert error.value.filename == str(path)
    assert os.listdir(tmp_path) == []


def test_all_content_is_on_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    path, events = tmp_path / "file", []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        events.append(("fsync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def record_replace(source, target):
        events.append(("replace", target))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    files.write_atomically(path, b"new" * 5)
    assert events[:2] == [("fsync", 15), ("replace", path)]
    assert path.read_bytes() == b"new" * 5


def test_killed_writers_leave_a_whole_checkpoint(tmp_path):
    path = tmp_path / "state.npz"
    moments = random.Random(0)
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        assert [writer.stdout.readline() for writer in writers] == ["saved\n"] * 4
        for writer in writers:
            # Reads between the kills see many more states of the file.
            kill_at = time.monotonic() + moments.uniform(0.05, 0.5)
            while time.monotonic() < kill_at:
                checkpoint.load(path)
            writer.kill()
            assert writer.wait() == -signal.SIGKILL
            metadata, arrays = checkpoint.load(path)
            assert (arrays["turns"] == metadata["turn"]).all()
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def test_a_type_that_numpy_cannot_store_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"weights: expected bool, int or float, got bfloat16"):
        checkpoint.save(tmp_path / "c.npz", {"weights": jnp.ones(3, jnp.bfloat16)}, {})


def member(shape, dtype="<f4", body=b""):
    """An .npy file with this header, whatever follows."""
    buffer = io.BytesIO()
    header = {"shape": shape, "fortran_order": False, "descr": dtype}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + body


NO_METADATA = {"metadata.npy": npy(np.array("{}"))}


def overlapping():
    """An archive whose directory names the same megabyte a thousand times."""
    content = bytearray(zipped(**NO_METADATA, **{"a.npy": bytes(2**20)}))
    start = content.rindex(b"PK\x01\x02")
    entry, end = content[start:-22], content[-22:]
    entries = [entry.replace(b"a.npy", b"%05d" % i) for i in range(1000)]
    end[8:10] = end[10:12] = (1002).to_bytes(2, "little")
    size = int.from_bytes(end[12:16], "little") + sum(map(len, entries))
    end[12:16] = size.to_bytes(4, "little")
    return bytes(content[:-22] + b"".join(entries) + end)


def compressed():
    """Two megabytes that unpack to two gigabytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.npy", NO_METADATA["metadata.npy"])
        with archive.open("a.npy", "w") as file:
            for _ in range(64):
                file.write(bytes(2**20))
    content = bytearray(buffer.getvalue())
    # The sizes in the directory say that there are 32 times as many.
    start = content.rindex(b"PK\x01\x02")
    content[start + 24 : start + 28] = (2**31).to_bytes(4, "little")
    return bytes(content)


def duplicated():
    content = zipped(**NO_METADATA, **{"metadatb.npy": NO_METADATA["metadata.npy"]})
    return content.replace(b"metadatb", b"metadata")


@pytest.mark.parametrize(
    "make",
    [
        compressed,
        overlapping,
        duplicated,
        lambda: zipped(**NO_METADATA, **{"a.npy": member((10**12,))}),
        lambda: zipped(**NO_METADATA, **{"a.npy": member((-2, -3), body=bytes(24))}),
        lambda: zipped(**NO_METADATA, **{"a.npy": pickle.dumps([1])}),
        lambda: zipped(**{"metadata.npy": member((), "<U900000000")}),
        lambda: zipped(**{f"{i}.npy": b"" for i in range(20_000)}),
        lambda: npz(metadata=np.array(" " * 2**25)),
        lambda: npz(metadata=np.array('{"format": 2, "a":' + "[" * 900 + "]" * 900 + "}")),
        lambda: npz(metadata=np.array('{"format": [2]}')),
    ],
)  # fmt: skip
def test_a_checkpoint_that_says_it_is_larger_than_its_file_is_not_unpacked(make, tmp_path):
    import tracemalloc

    path = tmp_path / "c.npz"
    path.write_bytes(make())
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"c\.npz"):
            checkpoint.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20 + 8 * path.stat().st_size + 600 * 20_000
