"""Replicas trained as a stack, against the same runs trained alone."""

from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count

import jax
import numpy as np
import pytest

from dinojax import platforms
from dinojax.presets import PRESETS
from dinojax.runs import folder as runs
from dinojax.runs import memory, session, stacked
from dinojax.runs.description import Tally, describe
from dinojax.runs.experiment import make_experiment
from dinojax.runs.metrics import read_metrics
from dinojax.runs.stacked import Ended, Replica
from dinojax.training import loop, stack

NAMES = ["rex", "yi", "mei", "iguanodon", "triceratops", "zoë", "ada", "bob", "eve", "xi"]
TEXT = "the rex met a mei.\ntwo yi saw it,\nand an iguanodon too.\nnone of them minded.\n" * 2
STEPS, EVERY = 24, 8
ROUNDING = 3e-6
"""Of the largest entry of an array, after 24 steps in float32."""


@pytest.fixture(autouse=True)
def standard_types():
    """Optax's schedules need these types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def configure(preset, **settings):
    sizes = {"hidden_size": 6, "evaluate_every": EVERY, "validation_fraction": 0.2}
    if preset != "dinos":
        sizes |= {"batch_size": 4, "window": 13}
    config = replace(PRESETS[preset], steps=STEPS, epochs=0.0, devices=1, refit=False, **sizes)
    return replace(config, **settings)


def experiments(config):
    """A run alone and a stack of it."""
    described = describe(config, TEXT if config.is_text else NAMES)
    return make_experiment(*described), make_experiment(*described, stacked=True)


def begin(experiment, seed, folder, **changes):
    folder.mkdir(exist_ok=True)
    state, tally = session.start(experiment.with_seed(seed), folder)
    return Replica(seed, state, tally, folder)._replace(**changes)


def options():
    return {"clock": partial(next, count(0.0, 0.001)), "lines_per_validation": 2}


def finish(experiment, replicas, num=-1):
    """Train a stack, or up to `num` reports of the first, and return the last report of each."""
    last = {}
    with closing(stacked.work(experiment, replicas, **options())) as coming:
        for i, report in coming:
            last[i] = report
            num -= i == 0
            if not num:
                break
    return last


def assert_close(found, expected):
    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDING * np.abs(b).max() + 1e-12)

    jax.tree.map(check, found, expected)


def assert_same_run(folder, other):
    paths = [runs.find_checkpoints(each) for each in (folder, other)]
    assert [path.name for path in paths[0]] == [path.name for path in paths[1]]
    for path, expected in zip(*paths, strict=True):
        assert path.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("preset", ["dinos", "names", "text", "text-best"])
def test_a_replica_is_the_run_trained_alone_up_to_rounding(preset, tmp_path):
    alone, together = experiments(configure(preset))
    replicas = [begin(together, seed, tmp_path / f"{seed}") for seed in (0, 7, 3)]
    assert {report.step for report in finish(together, replicas).values()} == {STEPS}
    for seed in (7, 3):
        experiment, folder = alone.with_seed(seed), tmp_path / f"alone {seed}"
        folder.mkdir()
        with closing(session.work(experiment, *session.start(experiment, folder), folder,
                                  **options())) as coming:  # fmt: skip
            *_, last = coming
        run, arrays = runs.load_checkpoint(tmp_path / f"{seed}", "last")
        state = runs.restore_state(run, arrays, last.state)
        assert run.description == experiment.description
        assert int(state.step) == STEPS
        assert (jax.random.key_data(state.key) == jax.random.key_data(last.state.key)).all()
        assert_close(state.params, last.state.params)
        assert_close(state.optimizer_state, last.state.optimizer_state)
        lines, expected = read_metrics(tmp_path / f"{seed}"), read_metrics(folder)
        assert [line["step"] for line in lines] == [line["step"] for line in expected]
        for name in ("training_loss", "validation_loss", "learning_rate", "gradient_norm"):
            values, theirs = ([x[name] or 0 for x in each] for each in (lines, expected))
            np.testing.assert_allclose(values, theirs, rtol=1e-5)
    # Each seed has its own draws and its own order.
    params = [runs.load_run(tmp_path / name, "last").params for name in ("7", "3")]
    assert not np.allclose(*(each["readout"]["kernel"] for each in params), rtol=0.01)


def test_dropout_and_resets_of_a_replica_are_its_own(tmp_path):
    # Parameters are equal and texts are read in order: only these draws differ.
    _, together = experiments(configure("text", dropout=0.5, reset_rate=0.5))
    params = together.initial_state(None).params
    states = [together.with_seed(seed).initial_state(params) for seed in (1, 2, 1)]
    each = stack.run(together.train_step, states, together.dataset, steps=1)
    losses = [float(next(progress).losses[0]) for progress in each]
    assert losses[0] == losses[2]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_one_that_diverges_or_stops_ends_alone(tmp_path):
    _, together = experiments(configure("names", patience=2, learning_rate=2e-3))
    num = together.description.vocab.size
    names = "diverging", "good", "impatient", "unwritable"
    planted = [begin(together, i, tmp_path / name) for i, name in enumerate(names)]
    # Finite, but the loss is not.
    planted[0].state.params["readout"]["bias"] = np.array([3e38, -3e38] * 50, np.float32)[:num]
    planted[2] = planted[2]._replace(tally=Tally(best_step=0, best_loss=0.1))
    (tmp_path / names[3] / "metrics.jsonl").unlink()
    (tmp_path / names[3] / "metrics.jsonl").mkdir()
    last = finish(together, planted)
    assert isinstance(last[0], Ended)
    assert "the loss is inf in step 1" in str(last[0].error)
    assert (last[1].step, last[1].is_patient) == (STEPS, True)
    assert (last[2].step, last[2].is_patient) == (2 * EVERY, False)
    assert isinstance(last[3].error, IsADirectoryError)
    assert runs.load_run(tmp_path / "impatient", "last").step == 2 * EVERY
    assert runs.load_run(tmp_path / "diverging", "last").step == 0
    # The same bits as beside others that fare well.
    healthy = [begin(together, i, tmp_path / f"healthy {i}") for i in (4, 1, 5, 6)]
    finish(together, healthy)
    assert_same_run(tmp_path / "good", tmp_path / "healthy 1")


@pytest.mark.parametrize("preset", ["names", "text"])
def test_a_stack_that_was_stopped_goes_on_as_if_it_had_not_been(preset, tmp_path):
    # The steps of a text read 11 or 12 characters.
    _, together = experiments(configure(preset, num_layers=1, dropout=0.3))
    whole = [begin(together, seed, tmp_path / f"whole {seed}") for seed in (0, 1)]
    finish(together, whole)
    stopped = [begin(together, seed, tmp_path / f"{seed}") for seed in (0, 1)]
    finish(together, stopped, num=3)
    # One of them goes on beside another replica, so that their steps differ.
    for folders in (["0", "whole 1"], ["0", "1"]):
        resumed = []
        for seed, name in enumerate(folders):
            folder = tmp_path / name
            run, arrays = runs.load_checkpoint(folder, "last")
            state, tally = run.step, run.tally
            if run.step < STEPS:
                state, tally = session.resume(together.with_seed(seed), run, arrays)
            else:
                like = jax.eval_shape(together.initial_state, None)
                state = runs.restore_state(run, arrays, like)
            resumed.append(Replica(seed, state, tally, folder))
        finish(together, resumed, num=2 if "whole 1" in folders else -1)
        if "whole 1" in folders:
            assert [runs.load_run(tmp_path / x, "last").step for x in "01"] == [7, 3]

    for seed in (0, 1):
        assert_same_run(tmp_path / f"{seed}", tmp_path / f"whole {seed}")


def test_iterators_may_be_read_in_any_order():
    alone, together = experiments(configure("dinos"))
    states = [together.with_seed(seed).initial_state(None) for seed in (0, 1, 2)]
    tick = partial(next, count(0.0, 0.001))
    first, second, third = stack.run(
        together.train_step, states, together.dataset, steps=STEPS, stops=[5], clock=tick
    )
    third.close()
    expected = loop.run(
        alone.train_step, states[0], alone.dataset, steps=STEPS, stops=[5], clock=tick
    )
    ours, theirs = list(first), list(expected)
    assert [len(each.losses) for each in ours] == [len(each.losses) for each in theirs]
    np.testing.assert_array_equal(
        np.concatenate([each.num_characters for each in ours]),
        np.concatenate([each.num_characters for each in theirs]),
    )
    losses = (np.concatenate([each.losses for each in run]) for run in (ours, theirs))
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert sum(len(each.losses) for each in second) == STEPS
    assert list(third) == []


def test_nobody_waits_for_one_that_was_closed():
    _, together = experiments(configure("dinos"))
    fresh = [together.with_seed(seed).initial_state(None) for seed in (0, 1)]
    options = {"steps": STEPS, "stops": [12], "clock": partial(next, count(0.0, 0.001))}
    later = [
        progress.state
        for progress in stack.run(together.train_step, fresh, together.dataset, **options)[0]
        if progress.state.step == 12
    ]
    for is_closed in (False, True):
        one, other = stack.run(together.train_step, [*later, fresh[1]], together.dataset, **options)
        if is_closed:
            other.close()
        # Calls grow from a single step, also while it waits.
        num = len(next(one).losses)
        assert (num == 1) == is_closed
        assert num + sum(len(progress.losses) for progress in one) == STEPS - 12
        assert sum(len(progress.losses) for progress in other) == (0 if is_closed else STEPS)


@pytest.mark.parametrize(
    ("platform", "num", "most", "size"),
    [
        ("cpu", 64, 64, 1),
        ("gpu", 64, 64, 64),
        ("gpu", 10, 8, 5),
        ("tpu", 3, 1, 1),
        ("gpu", 5, 0, 1),
    ],
)
def test_accelerators_stack_as_many_as_fit_and_evenly(platform, num, most, size):
    assert platforms.stack_size(platform, num, most) == size


def test_a_stack_is_no_larger_than_memory_allows(monkeypatch):
    _, together = experiments(configure("dinos", hidden_size=64))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    state = jax.eval_shape(together.initial_state, None)
    needed = memory.training_bytes(state, together.step_size)
    assert stacked.stack_size(together, 40) == 40
    monkeypatch.setattr(stacked, "available_bytes", lambda: 1.5 * 10.5 * needed)
    assert stacked.stack_size(together, 40) == 10
