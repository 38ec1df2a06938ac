"""Vocabularies that grow, with all that a run has learned kept to the bit."""

import json
import re
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dinojax
from dinojax.cli.terminal import Program
from dinojax.config import CellName, TrainConfig
from dinojax.data.vocab import build_vocab
from dinojax.models.grown import grown
from dinojax.runs import checkpoint
from dinojax.runs import folder as runs
from dinojax.runs.description import build_model
from dinojax.runs.lineage import read_learned

from in_process import call_here

OLD, NEW = build_vocab(["bdfh"]), build_vocab(["abcdefghé"])
OLD_NAMES = [a + b + "d" for a in "bdfh" for b in "bdf"]
NEW_NAMES = [a + b + "é" for a in "abc" for b in "dfh"]
SIZES = "--hidden-size=4", "--steps=6", "--validation-fraction=0.25"


def models(cell):
    given = {"cell": "lstm", "mogrifier_rounds": 2} if cell == "mogrifier" else {"cell": cell}
    config = TrainConfig(**given, hidden_size=6, num_layers=2)
    return [build_model(config, vocab) for vocab in (OLD, NEW)]


def axes_by_hand(name):
    """The axis of the vocabulary in an array of our cells, found by its name."""
    axes = {"layers/0/input_kernel": 0, "readout/kernel": 1, "readout/bias": 0}
    # The input is gated in one round, and read in the next.
    axes |= {f"layers/0/rounds/{x}": i for x, i in (("0/up", 1), ("0/bias", 0), ("1/down", 0))}
    return axes.get(name)


@pytest.mark.parametrize("cell", [*get_args(CellName), "mogrifier"])
def test_each_number_is_kept_and_old_logits_stay_the_same(cell):
    old, new = models(cell)
    noise = jax.random.normal(jax.random.key(2), (1000,))
    params = jax.tree.map(lambda x: x + jnp.resize(noise, x.shape), old.init(jax.random.key(0)))
    fresh = new.init(jax.random.key(1))
    whole = grown(params, fresh, OLD, NEW)
    ids = np.array([NEW.characters.index(c) for c in OLD.characters])
    others = np.setdiff1d(np.arange(NEW.size), ids)
    arrays = [jax.device_get(checkpoint.named_leaves(tree)) for tree in (whole, params, fresh)]
    for name, array in arrays[0].items():
        _, before, random = (each[name] for each in arrays)
        axis = axes_by_hand(name)
        if axis is None:
            assert array.tobytes() == before.tobytes()
        else:
            assert array.shape == random.shape
            assert np.take(array, ids, axis).tobytes() == before.tobytes()
            same = np.take(array, others, axis), np.take(random, others, axis)
            assert same[0].tobytes() == same[1].tobytes()
    text = np.array([OLD.no_character, *[(3 * i) % OLD.size for i in range(20)]])
    places = np.append(ids, NEW.no_character)
    state, expected = jax.jit(old.unroll)(params, old.initial_state(()), text)
    new_state, logits = jax.jit(new.unroll)(whole, new.initial_state(()), places[text])
    for left, right in zip(*map(jax.tree.leaves, (state, new_state)), strict=True):
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()
    # A wider product may add in another order.
    np.testing.assert_allclose(logits[:, ids], expected, rtol=1e-5, atol=1e-5)


def test_an_axis_may_have_an_entry_for_no_character():
    whole = grown(jnp.arange(6.0), jnp.full(11, -1.0), OLD, NEW)
    expected = np.full(11, -1.0)
    expected[[*map(NEW.characters.index, OLD.characters), NEW.no_character]] = range(6)
    np.testing.assert_array_equal(whole, expected)
    square = grown(jnp.ones((5, 5)), jnp.zeros((10, 10)), OLD, NEW)
    assert (square.sum(), square[0].sum()) == (25, 5)
    with pytest.raises(ValueError, match="axes as long as the vocabularies of 5 and 10 characters"):
        grown(jnp.ones(7), jnp.ones(12), OLD, NEW)
    with pytest.raises(ValueError, match="'a' at position 1 is not in the vocabulary"):
        grown(jnp.ones(10), jnp.ones(5), NEW, OLD)


def succeed(command, *arguments, cwd):
    result = call_here(Program(command, "dinojax"), *arguments, cwd=cwd)
    assert result.code == 0, result.err
    return result


def test_a_grown_run_trains_resumes_and_repeats(tmp_path):
    (tmp_path / "old.txt").write_text("\n".join(OLD_NAMES))
    (tmp_path / "new.txt").write_text("\n".join([*NEW_NAMES, *OLD_NAMES[:2]]))
    (tmp_path / "last.txt").write_text("\n".join(["zoo", "zap", *OLD_NAMES]))
    succeed("train", "--data=old.txt", "--out=old", *SIZES, cwd=tmp_path)
    begin = "--data=new.txt", "--init-from=old", *SIZES[1:]
    result = succeed("train", *begin, "--out=new", "--keep=9", "--save-every=3", cwd=tmp_path)
    said = "note: 3 characters that old did not know begin with random parameters: 'acé'\n"
    assert result.err == f"dinojax train: {said}"
    old, first = runs.load_run(tmp_path / "old"), runs.load_run(tmp_path / "new", "0")
    assert first.vocab == build_vocab(OLD_NAMES + NEW_NAMES)
    key = jax.random.split(jax.random.key(0), 3)[0]
    expected = grown(old.params, first.model.init(key), old.vocab, first.vocab)
    for left, right in zip(*map(jax.tree.leaves, (first.params, expected)), strict=True):
        assert left.tobytes() == np.asarray(right).tobytes()

    succeed("train", "--config=new/config.json", "--out=again", cwd=tmp_path)
    last = runs.find_checkpoints(tmp_path / "new")[-1].name
    whole = (tmp_path / "new" / last).read_bytes()
    assert (tmp_path / "again" / last).read_bytes() == whole
    # Killed after three steps, and resumed.
    for path in runs.find_checkpoints(tmp_path / "new")[-2:]:
        path.unlink()
    succeed("train", "--resume=new", cwd=tmp_path)
    assert (tmp_path / "new" / last).read_bytes() == whole

    result = succeed(
        "train", "--data=last.txt", "--init-from=new", *SIZES[1:], "--out=last", cwd=tmp_path
    )
    assert "3 characters that new did not know begin with random parameters: 'opz'" in result.err
    run = runs.load_run(tmp_path / "last")
    assert run.vocab == build_vocab(OLD_NAMES + NEW_NAMES + ["zoo", "zap"])
    assert (tmp_path / "last" / "earlier.txt").is_file()
    learned = set(read_learned(tmp_path / "last", run.description))
    assert {"zoo", "zap"} & learned or {"zoo", "zap"} <= set(
        runs.read_part(tmp_path / "last", run.description, "validation")
    )
    rows = succeed("score", "last", "--json", "--names", "zoo", "aé", "bdf", cwd=tmp_path).out
    assert len([json.loads(row) for row in rows.splitlines()]) == 3
    for row in succeed("sample", "last", "--seed=1", cwd=tmp_path).out.split():
        assert re.fullmatch("[abcdefhéopz]*", row.lower())


def test_a_program_grows_a_run_too(tmp_path):
    sizes = {"hidden_size": 4, "steps": 2}
    first = dinojax.train(OLD_NAMES, folder=tmp_path / "old", **sizes)
    second = dinojax.train(NEW_NAMES, init_from=str(tmp_path / "old"), steps=2, seed=5)
    assert second.vocab == build_vocab(OLD_NAMES + NEW_NAMES)
    again = dinojax.train(NEW_NAMES, init_from=tmp_path / "old", steps=2, seed=5)
    for left, right in zip(*map(jax.tree.leaves, (second.params, again.params)), strict=True):
        assert left.tobytes() == right.tobytes()
    assert first.vocab != second.vocab
    assert dinojax.score(second, ["bdé"]).log_probabilities[0] < 0


def test_a_text_grows_a_run_of_a_text(tmp_path):
    sizes = {"steps": 2, "batch_size": 2, "window": 8}
    # Optax's schedules need it.
    with jax.numpy_dtype_promotion("standard"):
        dinojax.train(
            "she sells sea shells\n" * 20, "text", hidden_size=4, folder=tmp_path / "old", **sizes
        )
        more = dinojax.train("Zwölf Boxer\n" * 40, "text", init_from=tmp_path / "old", **sizes)
    assert more.vocab == build_vocab(["she sells sea shells", "Zwölf Boxer"])
