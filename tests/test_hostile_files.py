"""Whatever a file of a run holds, it is read exactly or refused with one error in words."""

import copy
import json

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_runs import CONFIG, DESCRIPTION, assert_same_arrays, make_state, write_config

from dinojax.cli.terminal import describe_error
from dinojax.config import config_from
from dinojax.runs import checkpoint
from dinojax.runs import folder as runs
from dinojax.runs.description import Tally
from dinojax.runs.metadata import read_config
from dinojax.runs.metrics import LARGEST, append_metrics, read_metrics

FEW = settings(derandomize=True, deadline=None, max_examples=80, database=None)
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=[]), max_size=6)
NUMBERS = st.one_of(st.integers(), st.sampled_from([10**400, -(2**63)]), st.floats())
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, ANY_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ANY_TEXT, inner)),
    max_leaves=5,
)
EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 40), st.binary(max_size=40)),
    min_size=1, max_size=3,
)  # fmt: skip


def spliced(content, edits):
    """`content`, with some bytes replaced by others at some places."""
    for place, num, new in edits:
        start = int(place * len(content))
        content = content[:start] + new + content[start + num :]
    return content


def paths(value, path=()):
    """The path of each value inside a JSON value."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from paths(inner, (*path, key))


def with_value(value, path, new):
    """A copy of a JSON object with another value at a path, or under another name."""
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


def read(function, *args):
    """What `function` returns, or None for an error that a command would show as one line."""
    try:
        return function(*args)
    except (OSError, ValueError) as refused:
        error = refused
    assert describe_error(error)
    return None


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a run, its only checkpoint, and what that holds."""
    folder = tmp_path_factory.mktemp("hostile")
    path = runs.save_checkpoint(folder, make_state(7), DESCRIPTION, Tally(7, 0.5, 1))
    return folder, path, path.read_bytes(), *checkpoint.load(path)


def load(folder):
    run, arrays = runs.load_checkpoint(folder, "best")
    return run, runs.restore_state(run, arrays, make_state(0))


@FEW
@given(EDITS)
def test_a_checkpoint_with_other_bytes(saved, edits):
    folder, path, content, *_ = saved
    path.write_bytes(spliced(content, edits))
    if loaded := read(load, folder):
        assert loaded[0].description == DESCRIPTION
        assert_same_arrays(loaded[0].params, make_state(7).params)


@FEW
@given(st.data(), VALUES)
def test_a_checkpoint_with_other_metadata_and_a_checksum(saved, data, value):
    folder, path, _, metadata, arrays = saved
    place = data.draw(st.sampled_from(sorted(paths(metadata))))
    checkpoint.save(path, arrays, with_value(metadata, place, value))
    if loaded := read(load, folder):
        assert_same_arrays(loaded[0].params, make_state(7).params)
        assert loaded[0].step == 7


@FEW
@given(
    st.data(),
    st.sampled_from(["<f4", ">f4", "<f8", "<i4", "<u4", "?", "<f2"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([0, 1, np.nan, -np.inf]),
)
def test_a_checkpoint_with_another_array_and_a_checksum(saved, data, dtype, shape, value):
    folder, path, _, metadata, arrays = saved
    name = data.draw(st.sampled_from(sorted(arrays)))
    with np.errstate(invalid="ignore"):
        other = np.full(shape, value).astype(dtype)
    checkpoint.save(path, arrays | {name: other}, metadata)
    if loaded := read(load, folder):
        assert (arrays[name].dtype, arrays[name].shape) == (other.dtype, other.shape)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded[1].params))


@FEW
@given(EDITS, st.data(), VALUES)
@example([(0.0, 40_000, b"[" * 200_000)], None, None)
def test_a_configuration_of_anything(saved, edits, data, value):
    file = saved[0] / "config.json"
    write_config(file, DESCRIPTION)
    content = file.read_bytes()
    contents = [spliced(content, edits)]
    if data:
        place = data.draw(st.sampled_from(sorted(paths(json.loads(content)))))
        contents.append(json.dumps(with_value(json.loads(content), place, value)).encode())
    for other in contents:
        file.write_bytes(other)
        if found := read(read_config, file):
            assert config_from(found[0])
            assert all(isinstance(text, str) for text in found[1].values())


@FEW
@given(EDITS, st.data(), VALUES)
def test_metrics_of_anything(saved, edits, data, value):
    file = saved[0] / "metrics.jsonl"
    file.unlink(missing_ok=True)
    line = {"step": 7, "characters": 9, "seconds": 0.5, "training_loss": 1.5, "epoch": None}
    append_metrics(saved[0], line)
    name = data.draw(st.sampled_from(sorted(line)))
    for content in spliced(file.read_bytes(), edits), json.dumps(line | {name: value}).encode():
        file.write_bytes(content + b"\n")
        for each in read(read_metrics, saved[0]) or []:
            numbers = [each[name] for name in line.keys() & each.keys() if each[name] is not None]
            assert all(-LARGEST <= number <= LARGEST for number in numbers)


def test_a_path_that_is_not_utf8_comes_back(tmp_path):
    description = DESCRIPTION._replace(data="d\udcff.txt")
    write_config(tmp_path / "config.json", description)
    assert read_config(tmp_path / "config.json")[1]["data"] == "d\udcff.txt"
    runs.save_checkpoint(tmp_path, make_state(7), description, Tally())
    assert runs.load_run(tmp_path).description == description
    assert runs.load_run(tmp_path).config == CONFIG
