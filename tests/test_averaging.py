"""Averages of parameters, against sums in NumPy, and through the life of a run."""

from contextlib import closing
from dataclasses import replace
from itertools import islice

import jax
import numpy as np
import pytest

from dinojax.config import TrainConfig
from dinojax.evaluation.losses import summarize
from dinojax.runs import folder as runs
from dinojax.runs import recorder, session, stacked
from dinojax.runs.description import Tally, describe
from dinojax.runs.experiment import make_evaluation, make_experiment
from dinojax.runs.metadata import from_metadata, to_metadata
from dinojax.runs.metrics import read_metrics
from dinojax.runs.stacked import Replica
from dinojax.training import loop

NAMES = ["rex", "yi", "mei", "iguanodon", "triceratops", "zoë", "ada", "bob", "eve", "xi"]
CONFIG = TrainConfig(
    batches="packed", hidden_size=3, batch_size=4, window=13, loss="mean", optimizer="momentum",
    learning_rate=1.0, steps=12, validation_fraction=0.2, evaluate_every=2, devices=1,
)  # fmt: skip
KINDS = {
    "exponential": replace(CONFIG, average_share=0.3),
    "triggered": replace(CONFIG, average_trigger=1),
    "schedule_free": replace(CONFIG, optimizer="schedule_free", learning_rate=0.01),
}


@pytest.fixture(autouse=True)
def standard_types():
    """Optax's Adam needs these types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def experiment_of(config, **options):
    return make_experiment(*describe(config, NAMES), **options)


def params_after_each_step(experiment, begin_at=None):
    """The raw and the averaged parameters after each step, those of the start first."""
    state = experiment.initial_state(None)
    raw, averages = [state.params], [state.model_params]
    progress = loop.run(
        experiment.train_step, state, experiment.dataset, steps=6, mesh=experiment.mesh,
        chunk_size=1,
    )  # fmt: skip
    for done in progress:
        raw.append(done.state.params)
        averages.append(done.state.model_params)
        if int(done.state.step) == begin_at:
            done.begin_average()
    return raw, averages


def assert_sum(average, params, weights):
    """Whether `average` is the mean of the pytrees `params` with `weights`."""

    def check(found, *leaves):
        expected = np.average(np.asarray(leaves, np.float64), axis=0, weights=weights)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)

    jax.tree.map(check, average, *params)


@pytest.mark.parametrize("devices", [1, 2])
def test_an_exponential_average_is_a_sum_without_the_start(devices):
    config = replace(KINDS["exponential"], devices=devices)
    raw, averages = params_after_each_step(experiment_of(config))
    for step in range(1, 7):
        weights = (1 - 1 / (0.3 * 12)) ** np.arange(step)[::-1]
        assert_sum(averages[step], raw[1 : step + 1], weights)


def test_a_triggered_average_is_the_mean_from_its_beginning_on():
    raw, averages = params_after_each_step(experiment_of(KINDS["triggered"]), begin_at=3)
    for step in range(4):
        jax.tree.map(np.testing.assert_array_equal, averages[step], raw[step])
    for step in range(4, 7):
        assert_sum(averages[step], raw[3 : step + 1], np.ones(step - 2))


def test_the_average_of_schedule_free_is_the_mean_of_its_iterates():
    experiment = experiment_of(KINDS["schedule_free"])
    state, options = experiment.initial_state(None), {"steps": 4, "chunk_size": 1}
    iterates = []
    for done in loop.run(experiment.train_step, state, experiment.dataset, **options):
        iterates.append(done.state.optimizer_state[-1].z)
        assert_sum(done.state.model_params, iterates, np.ones(len(iterates)))


@pytest.mark.parametrize("trigger", [1, 3])
def test_the_trigger_is_that_of_the_paper(trigger):
    losses = np.random.default_rng(1).normal(size=20) - 0.05 * np.arange(20)
    tally, found = Tally(), []
    for step, loss in enumerate(losses):
        tally, is_worse = recorder.compared(tally, step, float(loss), trigger)
        found.append(is_worse)
        assert len(tally.recent_losses) <= trigger + 1
    # Merity et al. (2018), algorithm 1.
    expected = [t > trigger and losses[t] > min(losses[: t - trigger]) for t in range(20)]
    assert found == expected
    assert 0 < sum(expected) < 20


def train(experiment, folder, num=None, begun=None, **options):
    """Train in a folder, or for `num` reports, and return the last report."""
    state, tally = begun or session.start(experiment, folder)
    with closing(session.work(experiment, state, tally, folder, **options)) as coming:
        return list(islice(coming, num))[-1]


@pytest.mark.parametrize("kind", [*KINDS, "muon"])
def test_a_resumed_run_ends_as_an_uninterrupted_one_and_its_model_is_the_average(kind, tmp_path):
    muon = {"muon": replace(CONFIG, optimizer="muon", learning_rate=0.01)}
    experiment = experiment_of((KINDS | muon)[kind])
    folders = [tmp_path / name for name in ("whole", "pieces")]
    for folder in folders:
        folder.mkdir()
    state = train(experiment, folders[0]).state
    if kind == "triggered":
        assert 1 < int(state.average.start) + 1 < CONFIG.steps
    train(experiment, folders[1], num=2, chunk_size=3)
    while (loaded := runs.load_checkpoint(folders[1], "last"))[0].step < CONFIG.steps:
        begun = session.resume(experiment, *loaded)
        train(experiment, folders[1], num=2, begun=begun, chunk_size=2)
    last = [runs.find_checkpoints(folder)[-1] for folder in folders]
    assert last[0].read_bytes() == last[1].read_bytes()
    if kind == "muon":
        return
    # What is validated, and what is loaded, is the average.
    run = runs.load_run(folders[0], "last")
    jax.tree.map(np.testing.assert_array_equal, run.params, state.average.params)
    assert not np.array_equal(run.params["readout"]["kernel"], state.params["readout"]["kernel"])
    evaluate = make_evaluation(run.model, run.vocab, experiment.parts["validation"])
    (line,) = [x for x in read_metrics(folders[0]) if x["step"] == CONFIG.steps]
    expected = summarize(evaluate(state.average.params))["nats_per_character"]
    assert line["validation_loss"] == pytest.approx(expected, rel=1e-6)


def test_replicas_of_a_stack_begin_their_averages_each_at_its_own_time(tmp_path):
    config = replace(KINDS["triggered"], evaluate_every=1)
    alone, together = experiment_of(config), experiment_of(config, stacked=True)
    replicas, starts = [], []
    for seed in range(3):
        for name in ("alone", "stacked"):
            (tmp_path / f"{name} {seed}").mkdir()
        folder = tmp_path / f"stacked {seed}"
        replicas.append(Replica(seed, *session.start(together.with_seed(seed), folder), folder))
    with closing(stacked.work(together, replicas)) as coming:
        for _ in coming:
            pass
    for seed in range(3):
        expected = train(alone.with_seed(seed), tmp_path / f"alone {seed}").state.average
        run, arrays = runs.load_checkpoint(tmp_path / f"stacked {seed}", "last")
        starts.append(int(arrays["average/start"]))
        assert starts[-1] == int(expected.start)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
            run.params,
            expected.params,
        )
    assert len(set(starts)) > 1


def test_a_checkpoint_from_before_there_were_averages_is_read(tmp_path):
    """It has neither an average nor its settings nor recent losses."""
    experiment = experiment_of(CONFIG)
    state, tally = session.start(experiment, tmp_path)
    assert state.average is None
    run, arrays = runs.load_checkpoint(tmp_path, "last")
    assert not any(name.startswith("average") for name in arrays)
    metadata = to_metadata(run.description, tally)
    for name in ("average_share", "average_trigger"):
        del metadata["config"][name]
    del metadata["tally"]["recent_losses"]
    assert from_metadata(metadata) == (run.description, tally)
