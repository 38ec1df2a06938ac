import itertools
import json
import re
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental.compilation_cache import compilation_cache

from dinojax.config import TrainConfig
from dinojax.data.batches import pad_names
from dinojax.data.vocab import build_vocab
from dinojax.files import digest
from dinojax.runs import folder as runs
from dinojax.runs import session
from dinojax.runs.description import Description, Tally, make_dataset, part_content
from dinojax.runs.experiment import Experiment, make_experiment
from dinojax.runs.metrics import read_metrics
from dinojax.runs.recorder import Report, record
from dinojax.training import loop
from dinojax.training import step as train
from dinojax.training.loss import mean_cross_entropy, summed_cross_entropy

NAMES = ["rex", "triceratops", "yi", "mei", "iguanodon"]
UNSEEN = ["tarbo", "xi", "regina"]
TEXT = "the rex met a mei.\ntwo yi saw it,\nand an iguanodon too.\nnone of them minded.\n"
UNSEEN_TEXT = "a yi met a rex.\nit ran to the sea.\n"
WINDOW = 16
STEPS, EVERY, LOG_EVERY = 38, 12, 4
BASE = TrainConfig(
    hidden_size=8,
    batch_size=2,
    steps=STEPS,
    evaluate_every=EVERY,
    validation_fraction=0.1,
    devices=1,
    learning_rate=0.05,
    clip_value=0.5,
    seed=4,
)
CONFIGS = {
    "padded": BASE,
    "packed": replace(
        BASE,
        batches="packed",
        cell="gru",
        window=13,
        dropout=0.3,
        loss="mean",
        optimizer="adamw",
        weight_decay=0.1,
        schedule="cosine",
        warmup=0.1,
        clip_value=0.0,
        clip_norm=0.5,
    ),
    "windows": replace(
        BASE,
        batches="windows",
        cell="lstm",
        window=5,
        batch_size=4,
        reset_rate=0.3,
        loss="mean",
        optimizer="momentum",
        clip_value=0.01,
        clip_norm=0.1,
        devices=2,
    ),
}


class Job(NamedTuple):
    description: Description
    parts: dict[str, Any]

    @property
    def config(self):
        return self.description.config


def make_job(config, parts=None):
    if parts is None:
        train_part, validation = (TEXT, UNSEEN_TEXT) if config.is_text else (NAMES, UNSEEN)
        parts = {"train": train_part, "validation": validation}
    digests = {name: digest(part_content(part)) for name, part in parts.items()}
    vocab = build_vocab(part for both in parts.values() for part in both)
    return Job(Description(config, vocab, "", "", "", digests), parts)


def clock(*, is_slow=False):
    """A clock that advances when read; a fast one makes the driver take more steps per call."""
    return partial(next, itertools.count(0.0, 1.0 if is_slow else 0.001))


@pytest.fixture(autouse=True, scope="module")
def compile_once(tmp_path_factory):
    """Let the tests of this file share what XLA compiled."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def numbers(config):
    """The promotion of types that the optimizer needs: Optax's Adam needs the standard one."""
    return jax.numpy_dtype_promotion("standard" if "adam" in config.optimizer else "strict")


def set_up(job):
    dataset = make_dataset(job.config, job.description.vocab, job.parts["train"])
    return make_experiment(job.description, job.parts, dataset, window=WINDOW)


def work(experiment, state, tally, folder, **options):
    """`session.work` with reports and saves at steps that do not depend on the machine's speed."""
    options = {"clock": clock(), "lines_per_validation": EVERY // LOG_EVERY} | options
    return session.work(experiment, state, tally, folder, **options)


def begin(folder, job, **kwargs):
    """A new run: its experiment, and an iterator over its reports."""
    folder.mkdir(exist_ok=True)
    experiment = set_up(job)
    with numbers(job.config):
        state, tally = session.start(experiment, folder)
    return experiment, work(experiment, state, tally, folder, **kwargs)


def go_on(folder, job, **kwargs):
    """A resumed run, with everything rebuilt as in another process."""
    run, arrays = runs.load_checkpoint(folder, "last")
    parts = {name: runs.read_part(folder, run.description, name) for name in run.description.parts}
    assert parts == job.parts
    experiment = set_up(job)
    with numbers(job.config):
        state, tally = session.resume(experiment, run, arrays)
    return experiment, work(experiment, state, tally, folder, **kwargs)


def read_on(reports, config, num=None):
    """The next `num` reports, or all of them; then the generator is closed."""
    with closing(reports), numbers(config):
        return list(itertools.islice(reports, num))


def last_checkpoint(folder):
    return runs.find_checkpoints(folder)[-1]


def lines_of(folder):
    """The metrics without events and times, which depend on interruptions."""
    lines = [line for line in read_metrics(folder) if "event" not in line]
    timed = "seconds", "training_seconds", "characters_per_second"
    return [{name: line[name] for name in line if name not in timed} for line in lines]


def assert_same_run(folder, expected):
    assert lines_of(folder) == lines_of(expected)
    assert last_checkpoint(folder).name == last_checkpoint(expected).name
    assert last_checkpoint(folder).read_bytes() == last_checkpoint(expected).read_bytes()
    for name in "config.json", "train.txt", "validation.txt":
        assert (folder / name).read_bytes() == (expected / name).read_bytes()


def assert_trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def without_key(state):
    return jax.device_get(state._replace(key=jax.random.key_data(state.key)))


def last_state(folder, job):
    experiment = set_up(job)
    with numbers(job.config):
        like = jax.eval_shape(experiment.initial_state, None)
        return runs.restore_state(*runs.load_checkpoint(folder, "last"), like)


class Finished(NamedTuple):
    folder: Path
    job: Job
    reports: list[Report]
    killed: Path
    """The folder as a process that was killed at step 20 would have left it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A function from a kind to a run that was not interrupted; each is made once."""
    made = {}

    def make(kind):
        if kind not in made:
            folder, job = tmp_path_factory.mktemp(kind), make_job(CONFIGS[kind])
            killed, reports = folder.with_name(f"{folder.name}-killed"), []
            _, coming = begin(folder, job)
            with numbers(job.config):
                for report in coming:
                    reports.append(report)
                    if report.step == 20:
                        shutil.copytree(folder, killed)
            made[kind] = Finished(folder, job, reports, killed)
        return made[kind]

    return make


class Replay(NamedTuple):
    """The same run on one device, in one call of `train.train_steps`."""

    setup: Experiment
    order: np.ndarray
    losses: np.ndarray
    state_after: Any
    """The state after so many steps."""

    def batch(self, step):
        """The batch that the step after `step` steps reads."""
        return jax.tree.map(lambda x: x[..., self.order[step]], self.setup.dataset.examples)


@pytest.fixture(scope="module")
def replay():
    made = {}

    def make(kind):
        if kind not in made:
            job = make_job(replace(CONFIGS[kind], devices=1))
            setup = set_up(job)
            dataset = setup.dataset
            with numbers(job.config):
                start = setup.initial_state(None)
                epochs = [
                    train.epoch_order(start.key, epoch, dataset.num_shuffled)
                    for epoch in range(-(-STEPS // dataset.steps_per_epoch))
                ]
                order = np.concatenate([dataset.arrange(np.asarray(x)) for x in epochs])[:STEPS]
                compiled = jax.jit(partial(train.train_steps, setup.train_step))
                losses = np.asarray(compiled(start, dataset.examples, order, STEPS)[1], float)

            def state_after(step):
                with numbers(job.config):
                    return compiled(start, dataset.examples, order, step)[0]

            made[kind] = Replay(setup, order, losses, state_after)
        return made[kind]

    return make


KINDS = pytest.mark.parametrize("kind", CONFIGS)


def test_reports_and_lines_fall_where_they_should(finished):
    run = finished("padded")
    steps = [report.step for report in run.reports]
    assert steps == [1, 3, *range(4, 37, 4), 38]
    assert [report.num_steps for report in run.reports] == np.diff([0, *steps]).tolist()
    assert all(report.state.step == report.step for report in run.reports)
    assert all(report.is_patient for report in run.reports)
    logged = [report.step for report in run.reports if report.line is not None]
    assert logged == [*range(4, 37, 4), 38]
    validated = [report.step for report in run.reports if report.validation_loss is not None]
    assert validated == [12, 24, 36, 38]
    assert [report.line for report in run.reports if report.line] == read_metrics(run.folder)
    assert runs.load_run(run.folder, "last").step == 38


@KINDS
@pytest.mark.parametrize(
    ("cuts", "steps"),
    [
        # Between two lines of metrics, at a line, and at a validation.
        ((2, 1, 4), [3, 4, 12]),
        ((7, 1), [20, 21]),
    ],
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(kind, cuts, steps, finished, tmp_path):
    run = finished(kind)
    folder = tmp_path / "run"
    for i, (num, step) in enumerate(zip(cuts, steps, strict=True)):
        _, coming = go_on(folder, run.job) if i else begin(folder, run.job)
        assert read_on(coming, run.job.config, num)[-1].step == step
        assert last_checkpoint(folder).name == f"checkpoint-{step:09d}.npz"
    _, coming = go_on(folder, run.job)
    read_on(coming, run.job.config)
    assert_same_run(folder, run.folder)
    events = [line for line in read_metrics(folder) if "event" in line]
    assert events == [{"event": "resumed", "step": step, "steps": STEPS} for step in steps]


@KINDS
def test_a_killed_run_resumes_from_its_last_checkpoint(kind, finished, tmp_path):
    run = finished(kind)
    folder = shutil.copytree(run.killed, tmp_path / "run")
    assert runs.load_run(folder, "last").step == 12
    assert lines_of(folder)[-1]["step"] == 20
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 24, "ep')
    _, coming = go_on(folder, run.job)
    assert lines_of(folder)[-1]["step"] == 12
    read_on(coming, run.job.config)
    assert_same_run(folder, run.folder)


def test_a_run_resumes_after_a_truncated_line_of_metrics(finished, tmp_path):
    run = finished("padded")
    folder = shutil.copytree(run.killed, tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"step": 12}\n')
    _, coming = go_on(folder, run.job)
    read_on(coming, run.job.config)
    assert last_checkpoint(folder).read_bytes() == last_checkpoint(run.folder).read_bytes()


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(finished, tmp_path):
    run = finished("padded")
    folder = shutil.copytree(run.folder, tmp_path / "run")
    last_checkpoint(folder).write_bytes(b"")
    _, coming = go_on(folder, run.job)
    assert lines_of(folder)[-1]["step"] == 36
    assert [report.step for report in read_on(coming, run.job.config)] == [37, 38]
    assert_same_run(folder, run.folder)
    assert runs.load_run(folder, "last").damaged == ()


def test_a_run_interrupted_before_its_first_step_can_be_resumed(finished, tmp_path):
    run = finished("padded")
    folder = tmp_path / "run"
    setup, coming = begin(folder, run.job)
    coming.close()
    assert runs.load_run(folder).step == 0
    assert runs.load_run(folder).tally == Tally()
    assert read_metrics(folder) == []
    assert_trees_equal(
        without_key(last_state(folder, run.job)), without_key(setup.initial_state(None))
    )


def test_a_run_starts_from_given_parameters(finished, tmp_path):
    run = finished("padded")
    setup = set_up(run.job)
    params = run.reports[-1].state.params
    # It replaces another run, whose metrics are removed.
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    state, tally = session.start(setup, tmp_path, params)
    assert_trees_equal(state.params, params)
    drawn = setup.initial_state(None)
    assert_trees_equal(without_key(state._replace(params=drawn.params)), without_key(drawn))
    assert tally == Tally()
    assert_trees_equal(runs.load_run(tmp_path).params, params)
    assert read_metrics(tmp_path) == []


@KINDS
@pytest.mark.parametrize("change", ["evaluate, save, keep, slow", "chunk size"])
def test_reports_and_saves_change_no_bit_of_a_run(kind, change, finished, tmp_path):
    run = finished(kind)
    config, options = run.job.config, {"chunk_size": 7}
    if change != "chunk size":
        config = replace(config, evaluate_every=7)
        options = {"save_every": 5, "keep": 1, "clock": clock(is_slow=True)}
    _, coming = begin(tmp_path, make_job(config), **options)
    reports = read_on(coming, config)
    state = without_key(run.reports[-1].state)
    assert_trees_equal(without_key(reports[-1].state), state)
    assert_trees_equal(without_key(last_state(tmp_path, run.job)), state)
    if change != "chunk size":
        assert [report.step for report in reports] == list(range(1, STEPS + 1))


def test_the_characters_of_a_chunk_change_no_bit(finished, tmp_path):
    run = finished("packed")
    # Two steps at once.
    _, coming = begin(tmp_path, run.job, chunk_characters=2 * 2 * 13)
    reports = read_on(coming, run.job.config)
    assert max(report.num_steps for report in reports) == 2
    assert_same_run(tmp_path, run.folder)


def test_checkpoints_are_saved_as_asked(finished, tmp_path):
    job = finished("padded").job
    _, coming = begin(tmp_path, job, save_every=5, keep=100)
    read_on(coming, job.config)
    steps = [int(path.stem.split("-")[1]) for path in runs.find_checkpoints(tmp_path)]
    assert steps == sorted({*range(0, STEPS, 5), *range(EVERY, STEPS, EVERY), STEPS})


@KINDS
def test_lines_count_steps_epochs_and_characters(kind, finished, replay):
    run, again = finished(kind), replay(kind)
    part, config = run.job.parts["train"], run.job.config
    if config.is_text:
        length = -(-len(part) // config.batch_size)
        rows = [part[i : i + length] for i in range(0, len(part), length)]
        places = range(0, length, config.window)
        per_step = [sum(len(row[i : i + config.window]) for row in rows) for i in places]
        steps_per_epoch = len(per_step)
        assert sum(per_step) == len(part)
    else:
        steps_per_epoch = again.setup.dataset.steps_per_epoch
        counts = [again.batch(step).weights.sum() for step in range(STEPS)]
        per_step = [int(count) for count in counts]
        per_epoch = sum(len(name) + 1 for name in part)
        for epoch in range(STEPS // steps_per_epoch):
            assert sum(per_step[epoch * steps_per_epoch :][:steps_per_epoch]) == per_epoch
    if kind == "padded":
        assert steps_per_epoch == 3
        lengths = [len(name) + 1 for name in part] + [0]
        assert per_step == [sum(lengths[i] for i in indices) for indices in again.order.tolist()]
    done = np.cumsum([per_step[i % len(per_step)] for i in range(STEPS)])
    lines = lines_of(run.folder)
    assert [line["step"] for line in lines] == [*range(LOG_EVERY, STEPS, LOG_EVERY), STEPS]
    for line in lines:
        assert line["epoch"] == pytest.approx(line["step"] / steps_per_epoch, rel=1e-12)
        assert line["characters"] == done[line["step"] - 1]


@KINDS
def test_training_losses_are_means_since_the_line_before(kind, finished, replay):
    run, again = finished(kind), replay(kind)
    counts = np.array([again.batch(step).weights.sum() for step in range(STEPS)], float)
    # The exercise's loss is summed over the characters of a row, and averaged over the rows.
    factors = run.job.config.batch_size if kind == "padded" else counts
    nats, first = again.losses * factors, 0
    for line in lines_of(run.folder):
        steps = slice(first, line["step"])
        expected = nats[steps].sum() / counts[steps].sum()
        assert line["training_loss"] == pytest.approx(expected, rel=1e-4)
        first = line["step"]


def test_the_last_state_is_that_of_the_replay(finished, replay):
    for kind in CONFIGS:
        actual = without_key(finished(kind).reports[-1].state)
        expected = without_key(replay(kind).state_after(STEPS))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-5), actual, expected)


@KINDS
def test_validation_losses_are_of_the_whole_part(kind, finished, replay):
    run, again = finished(kind), replay(kind)
    model, vocab = again.setup.model, run.job.description.vocab
    part = run.job.parts["validation"]
    if run.job.config.is_text:
        # Each window starts from a fresh state and reads the character before its first target.
        windows = [part[i : i + WINDOW] for i in range(0, len(part), WINDOW)]
        inputs, targets = np.full((2, WINDOW, len(windows)), vocab.newline)
        weights = np.zeros((WINDOW, len(windows)))
        for i, text in enumerate(windows):
            before = vocab.encode(part[i * WINDOW - 1])[0] if i else vocab.no_character
            ids = vocab.encode(text)
            inputs[: len(ids), i] = [before, *ids[:-1]]
            targets[: len(ids), i] = ids
            weights[: len(ids), i] = 1
        assert len(windows) > 1
        assert weights.sum() == len(part) < weights.size
    else:
        inputs, targets, weights = pad_names(part, vocab)
        assert weights.sum() == sum(len(name) + 1 for name in part)
    initial = model.initial_state(inputs.shape[1:])
    logits_of = jax.jit(lambda params: model.unroll(params, initial, jnp.asarray(inputs))[1])
    validated = {line["step"]: line["validation_loss"] for line in lines_of(run.folder)}
    for step, actual in validated.items():
        if step % EVERY and step != STEPS:
            assert actual is None
            continue
        logits = np.asarray(logits_of(again.state_after(step).params), float)
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        chosen = np.take_along_axis(logits, targets.astype(int)[..., None], axis=-1)[..., 0]
        assert actual == pytest.approx(-(chosen * weights).sum() / weights.sum(), rel=1e-4)
    reported = {report.step: report.validation_loss for report in run.reports if report.line}
    assert reported == validated


def test_learning_rates_are_those_of_the_last_step(finished):
    for kind in "padded", "windows":
        rates = {line["learning_rate"] for line in lines_of(finished(kind).folder)}
        np.testing.assert_allclose(list(rates), 0.05, rtol=1e-6)
    rises = round(0.1 * STEPS)
    assert rises == LOG_EVERY
    for line in lines_of(finished("packed").folder):
        # Counted from zero.
        step = line["step"] - 1
        share = (step - rises) / (STEPS - rises)
        factor = step / rises if step < rises else (1 + np.cos(np.pi * share)) / 2
        assert line["learning_rate"] == pytest.approx(0.05 * factor, rel=1e-5)


@KINDS
def test_norms_and_clipped_shares_are_those_of_the_last_gradient(kind, finished, replay):
    run, again = finished(kind), replay(kind)
    config, model = run.job.config, again.setup.model
    loss = summed_cross_entropy if kind == "padded" else mean_cross_entropy
    rows = jnp.arange(config.batch_size)

    @jax.jit
    def gradient(state, batch):
        def keys(purpose):
            return jax.vmap(jax.random.fold_in, (None, 0))(
                train.key_for(state.key, purpose, state.step), rows
            )

        first = state.recurrent_state if config.is_text else model.initial_state(rows.shape)
        if config.reset_rate:
            draw = partial(jax.random.bernoulli, p=1 - config.reset_rate, shape=(1,))
            is_kept = jax.vmap(draw)(keys(train.RESETS))
            first = jax.tree.map(lambda x: jnp.where(is_kept, x, 0), first)

        def batch_loss(params):
            _, logits = model.unroll(
                params, first, batch.inputs, None, kind != "padded", keys(train.DROPOUT)
            )
            total, num = loss(logits, batch.targets, batch.weights)
            return total / num

        return jax.grad(batch_loss)(state.params)

    shares = []
    for line in lines_of(run.folder):
        step = line["step"] - 1
        gradients = gradient(again.state_after(step), jax.tree.map(jnp.asarray, again.batch(step)))
        entries = np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradients)]).astype(float)
        assert line["gradient_norm"] == pytest.approx(np.linalg.norm(entries), rel=1e-3)
        share = 0.0
        if config.clip_value:
            share = (np.abs(entries) > config.clip_value).mean()
            entries = np.clip(entries, -config.clip_value, config.clip_value)
        if config.clip_norm and np.linalg.norm(entries) > config.clip_norm:
            share = 1.0
        assert line["clipped_share"] == pytest.approx(share, abs=1.5 / entries.size)
        shares.append(share)
    # Every case has occurred.
    if config.clip_value:
        assert any(0 < share < 1 for share in shares)
    if config.clip_norm:
        assert 1 in shares
        assert min(shares) < 1


OVERFITTING = replace(
    BASE,
    loss="mean",
    learning_rate=2.0,
    clip_value=0.0,
    steps=60,
    evaluate_every=6,
    patience=3,
)


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overfitted")
    job = make_job(OVERFITTING, {"train": ["tere", "mono"], "validation": ["nemo", "troe"]})
    _, coming = begin(folder, job, keep=1)
    return folder, job, read_on(coming, job.config)


def test_the_best_is_kept_where_validation_gets_worse(overfitted):
    folder, job, reports = overfitted
    losses = {r.step: r.validation_loss for r in reports if r.validation_loss is not None}
    assert list(losses) == list(range(6, 61, 6))
    best, last = runs.load_run(folder), runs.load_run(folder, "last")
    assert best.step == min(losses, key=losses.get) < 60 - 6 * OVERFITTING.patience
    assert last.step == 60
    states = {report.step: report.state for report in reports}
    assert_trees_equal(best.params, states[best.step].params)
    assert_trees_equal(last.params, states[60].params)
    for run in best, last:
        assert run.tally.best_step == best.step
        assert run.tally.best_loss == losses[best.step]
        assert run.tally.validations_since == (run.step - best.step) // 6
        assert (run.tally.nats, run.tally.characters) == (0, 0)
        assert run.description == job.description
    assert [path.name for path in runs.find_checkpoints(folder)] == [
        f"checkpoint-{best.step:09d}.npz",
        "checkpoint-000000060.npz",
    ]


def test_patience_ends_after_so_many_validations_without_an_improvement(overfitted):
    _, _, reports = overfitted
    best, since, impatient = float("inf"), 0, []
    for report in reports:
        if report.validation_loss is not None:
            is_better = report.validation_loss < best
            best, since = min(best, report.validation_loss), 0 if is_better else since + 1
        assert report.is_patient == (since < 3)
        impatient.append(not report.is_patient)
    assert any(impatient)
    assert not all(impatient)


def breaking(setup, at, change):
    """The experiment with `change` applied to what step `at` returns."""

    def train_step(state, batch):
        result = setup.train_step(state, batch)
        # The new state counts this step as done.
        return lax.cond(result[0].step == at, lambda: change(*result), lambda: result)

    return setup._replace(train_step=train_step)


def scaled(tree, factor):
    return jax.tree.map(lambda x: x * jnp.asarray(factor, x.dtype), tree)


def broken_run(folder, job, at, change):
    setup = breaking(set_up(job), at, change)
    state, tally = session.start(setup, folder)
    return setup, work(setup, state, tally, folder)


def test_a_run_that_diverges_leaves_its_last_good_state(finished, tmp_path):
    run, seen = finished("padded"), []
    _, coming = broken_run(
        tmp_path,
        run.job,
        15,
        lambda new, info: (new._replace(params=scaled(new.params, np.nan)), info),
    )
    with pytest.raises(FloatingPointError, match="the loss is nan in step 16"):
        seen.extend(coming)
    assert seen[-1].step == runs.load_run(tmp_path, "last").step == 12
    good = next(report for report in run.reports if report.step == 12)
    assert_trees_equal(without_key(last_state(tmp_path, run.job)), without_key(good.state))
    # Without the fault it resumes exactly.
    _, coming = go_on(tmp_path, run.job)
    read_on(coming, run.job.config)
    assert_same_run(tmp_path, run.folder)


def test_a_validation_loss_that_is_not_finite_counts_as_divergence(finished, tmp_path):
    job = finished("padded").job
    setup = set_up(job)
    evaluate = setup.evaluate
    setup = setup._replace(evaluate=lambda params: evaluate(scaled(params, np.inf)))
    state, tally = session.start(setup, tmp_path)
    coming = work(setup, state, tally, tmp_path)
    with pytest.raises(FloatingPointError, match="validation loss is nan after step 12"):
        list(coming)
    assert runs.load_run(tmp_path, "last").tally.best_step == -1
    assert lines_of(tmp_path)[-1]["step"] == 8


def test_a_gradient_whose_norm_overflows_does_not_end_a_run(finished, tmp_path):
    run = finished("padded")
    _, coming = broken_run(
        tmp_path,
        run.job,
        8,
        lambda new, info: (new, info._replace(gradients=scaled(info.gradients, 1e30))),
    )
    read_on(coming, run.job.config)
    lines, expected = lines_of(tmp_path), lines_of(run.folder)
    assert [line["step"] for line in lines if line["gradient_norm"] is None] == [8]
    at = lines.index(next(line for line in lines if line["step"] == 8))
    assert lines[:at] + lines[at + 1 :] == expected[:at] + expected[at + 1 :]
    assert lines[at] | {"gradient_norm": 0, "clipped_share": 0} == expected[at] | {
        "gradient_norm": 0,
        "clipped_share": 0,
    }


def test_a_longer_run_continues_where_a_shorter_one_ended(finished, tmp_path):
    run = finished("padded")
    # A validation is due at this step anyway.
    short = make_job(replace(run.job.config, steps=24))
    _, coming = begin(tmp_path, short)
    assert read_on(coming, short.config)[-1].step == 24
    _, coming = go_on(tmp_path, run.job)
    assert json.loads((tmp_path / "config.json").read_bytes())["steps"] == STEPS
    read_on(coming, run.job.config)
    assert_same_run(tmp_path, run.folder)


def test_a_longer_run_keeps_the_state_and_follows_its_own_cosine(finished, tmp_path):
    run = finished("packed")
    folder = shutil.copytree(run.folder, tmp_path / "run")
    longer = make_job(replace(run.job.config, steps=STEPS + 6))
    state = last_state(folder, longer)
    assert_trees_equal(without_key(state), without_key(run.reports[-1].state))
    _, coming = go_on(folder, longer)
    assert read_on(coming, longer.config)[-1].step == STEPS + 6
    lines = lines_of(folder)
    num = len(lines_of(run.folder))
    assert lines[:num] == lines_of(run.folder)
    rises = round(0.1 * (STEPS + 6))
    assert [line["step"] for line in lines[num:]] == [40, 44]
    for line in lines[num:]:
        share = (line["step"] - 1 - rises) / (STEPS + 6 - rises)
        expected = 0.05 * (1 + np.cos(np.pi * share)) / 2
        assert line["learning_rate"] == pytest.approx(expected, rel=1e-4)


def test_a_longer_run_that_is_killed_at_once_is_still_longer(finished, tmp_path):
    run = finished("padded")
    folder = shutil.copytree(run.folder, tmp_path / "run")
    longer = make_job(replace(run.job.config, steps=STEPS + 6))
    before = [path.name for path in runs.find_checkpoints(folder)]
    # The result is not used: the process is killed before its first step.
    session.resume(set_up(longer), *runs.load_checkpoint(folder, "last"), keep=9)
    loaded = runs.load_run(folder, "last")
    assert (loaded.step, loaded.config.steps) == (STEPS, STEPS + 6)
    assert loaded.tally == runs.load_run(run.folder, "last").tally
    assert [path.name for path in runs.find_checkpoints(folder)] == before
    assert_trees_equal(without_key(last_state(folder, longer)), without_key(run.reports[-1].state))


def test_the_time_of_a_line_is_that_of_its_steps(finished, replay, tmp_path):
    job, now = finished("padded").job, [0.0]

    def a_second_a_step(experiment, state, tally):
        def progress():
            stops = [LOG_EVERY, EVERY]
            options = {"steps": STEPS, "stops": stops, "summarize": lambda _: {}, "clock": clock()}
            for done in loop.run(experiment.train_step, state, experiment.dataset, **options):
                now[0] += len(done.losses)
                yield done

        options = {"folder": tmp_path, "log_every": LOG_EVERY, "clock": lambda: now[0]}
        return record(progress(), experiment, state, tally, **options)

    experiment = set_up(job)
    state, tally = session.start(experiment, tmp_path)
    coming = a_second_a_step(experiment, state, tally)
    assert read_on(coming, job.config, 2)[-1].step == 3
    now[0] = 1000.0
    state, tally = session.resume(experiment, *runs.load_checkpoint(tmp_path, "last"))
    read_on(a_second_a_step(experiment, state, tally), job.config)
    lines = [line for line in read_metrics(tmp_path) if "event" not in line]
    # The time between the last line and the interruption is not recorded.
    assert [line["seconds"] for line in lines] == [line["step"] - 3 for line in lines]
    counts = [replay("padded").batch(step).weights.sum() for step in range(STEPS)]
    first = 3
    for line in lines:
        speed = np.mean(counts[first : line["step"]])
        assert line["characters_per_second"] == pytest.approx(speed, rel=1e-6)
        first = line["step"]


def test_training_seconds_leave_out_first_calls_validations_and_pauses(finished, tmp_path):
    """The calls take 1, 2, 4, .. seconds; the first of each process compiles."""
    job, now, taken = finished("padded").job, [0.0], []

    def timed(experiment, state):
        options = {"steps": STEPS, "stops": [LOG_EVERY, EVERY], "summarize": lambda _: {}}
        for done in loop.run(experiment.train_step, state, experiment.dataset, **options):
            taken.append((int(done.state.step), 2.0 ** len(taken)))
            now[0] += taken[-1][1]
            yield done._replace(seconds=taken[-1][1])
            # What is done between calls, such as a validation or a pause.
            now[0] += 1e6

    def reports(experiment, state, tally):
        options = {"folder": tmp_path, "log_every": LOG_EVERY, "clock": lambda: now[0]}
        return record(timed(experiment, state), experiment, state, tally, **options)

    experiment = set_up(job)
    state, tally = session.start(experiment, tmp_path)
    read_on(reports(experiment, state, tally), job.config, 3)
    num_before = len(taken)
    state, tally = session.resume(experiment, *runs.load_checkpoint(tmp_path, "last"))
    read_on(reports(experiment, state, tally), job.config)
    lines = [line for line in read_metrics(tmp_path) if "event" not in line]
    last_line = max(line["step"] for line in lines if line["step"] <= taken[num_before - 1][0])
    counted = [taken[1:num_before], taken[num_before + 1 :]]
    for line in lines:
        expected = sum(s for step, s in counted[0] if step <= min(line["step"], last_line))
        expected += sum(s for step, s in counted[1] if step <= line["step"] > last_line)
        assert line["training_seconds"] == expected
    assert lines[-1]["seconds"] > 1e6


# Training by one call.

OVERFIT = {
    "loss": "mean",
    "learning_rate": 2.0,
    "clip_value": 0.0,
    "steps": 90,
    "validation_fraction": 0.4,
    "patience": 2,
}
LITTLE = {"steps": 30, "hidden_size": 8, "evaluate_every": 6, "devices": 1}


@pytest.mark.parametrize(
    ("data", "preset", "more"),
    [
        (["Rex ", "", "yi", "mei", " \n", "tarbo", "xi"], None, {}),
        (NAMES + UNSEEN, "names", {"batch_size": 2, "optimizer": "sgd", "window": 14}),
        (TEXT, None, {"batch_size": 2, "window": 8, "optimizer": "sgd"}),
        (NAMES + UNSEEN, None, OVERFIT),
    ],
)
@jax.numpy_dtype_promotion("standard")
def test_one_call_trains_with_or_without_a_folder(data, preset, more, tmp_path):
    settings = LITTLE | more
    made = session.train(data, preset, seed=3, **settings)
    again = session.train(data, preset, seed=3, folder=str(tmp_path / "run"), **settings)
    assert_trees_equal(made.params, again.params)
    assert made.vocab == again.vocab
    loaded, run = session.load(tmp_path / "run"), runs.load_run(tmp_path / "run")
    assert_trees_equal(loaded.params, again.params)
    assert loaded.vocab == again.vocab
    assert run.config.seed == 3
    assert run.config.is_text == isinstance(data, str)
    last = session.load(str(tmp_path / "run"), "last")
    assert_trees_equal(last.params, runs.load_run(tmp_path / "run", "last").params)
    if "patience" in more:
        assert run.step < runs.load_run(tmp_path / "run", "last").step < 90
    assert not jax.tree.all(
        jax.tree.map(np.array_equal, made.params, session.train(data, preset, **settings).params)
    )
    with pytest.raises(ValueError, match="holds a run; choose another folder"):
        session.train(data, preset, folder=tmp_path / "run", **settings)
    # The lock is free again.
    with runs.locked(tmp_path / "run"):
        pass


def test_one_call_reads_names_like_a_file_of_names():
    names = ["Rex ", "", "MEI\u0301"]
    made = session.train(names, **LITTLE)
    assert made.vocab == build_vocab(["rex", "me\u00ed"])
    assert session.train(names, lowercase=False, **LITTLE).vocab == build_vocab(["Rex", "ME\u00cd"])


@pytest.mark.parametrize(
    ("data", "settings", "says"),
    [
        ([], {}, "no names; expected one name a line"),
        (["", " "], {}, "no names; expected one name a line"),
        (["rex", "x" * 1001], {}, "line 2: a name of 1,001 characters"),
        (["rex", "r\0x"], {}, "holds NUL"),
        ("", {}, "expected a text to learn from, got an empty one"),
        (NAMES, {"preset": "text"}, "expected a text for these settings, got names"),
        (TEXT, {"preset": "names"}, "expected names for these settings, got a text"),
        (NAMES, {"stepz": 3}, "unknown setting 'stepz'"),
        (NAMES, {"hidden_size": 0}, "hidden size: expected a number from"),
        (NAMES, {"preset": "names", "window": 3, "validation_fraction": 0.0}, "window of 3"),
        (NAMES, {"batch_size": 999, "devices": 999}, "expected up to 2, as many devices as"),
    ],
)
def test_one_call_refuses_bad_input_and_makes_no_folder(data, settings, says, tmp_path):
    with pytest.raises(ValueError, match=re.escape(says)):
        session.train(data, folder=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("names", "labels", "says"),
    [
        ([1, 2], None, "expected a list of names or a text, got 1 in a list"),
        (NAMES[:2], [1, 2], "expected strings as labels, got 1"),
        # Nothing is left of an iterator after it was read once.
        (iter(NAMES), None, "expected a list of names or a text, got list_iterator"),
        (Path("names.txt"), None, "expected a list of names or a text, got PosixPath"),
        (None, None, "expected a list of names or a text, got NoneType"),
    ],
)
def test_data_of_another_type_are_refused(names, labels, says):
    with pytest.raises(TypeError, match=says):
        session.train(names, labels=labels, **LITTLE)


def test_the_name_of_a_file_is_not_taken_for_a_text(tmp_path):
    (tmp_path / "names.txt").write_text("rex\n")
    with pytest.raises(ValueError, match=r"names.txt is a file; expected names or a text"):
        session.train(str(tmp_path / "names.txt"), **LITTLE)


def test_only_one_of_several_processes_writes(finished, tmp_path, monkeypatch):
    run = finished("padded")
    folder = shutil.copytree(run.killed, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    _, coming = go_on(folder, run.job)
    reports = read_on(coming, run.job.config)
    assert reports[-1].step == STEPS
    assert_trees_equal(without_key(reports[-1].state), without_key(run.reports[-1].state))
    _, coming = begin(tmp_path / "other", run.job)
    read_on(coming, run.job.config)
    assert list((tmp_path / "other").iterdir()) == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_is_described_without_jax():
    code = "import sys, dinojax.runs.description; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
