"""A run from its description: trained, validated, recorded and saved, and resumed where it stopped.

What is here decides nothing: a run's parameters depend on its description alone, not on how often
it is validated, recorded or saved, nor on where it was cut.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from dinojax import parallel
from dinojax.data.batches import Dataset, cut_text, packed, pad_names, padded, windows
from dinojax.evaluation.losses import Costs, column_evaluation, summarize
from dinojax.models.cells import Params
from dinojax.models.model import CharModel
from dinojax.runs import folder as runs
from dinojax.runs.metrics import append_metrics, read_metrics, rewind_metrics
from dinojax.training.loop import Progress, run
from dinojax.training.loss import mean_cross_entropy, summed_cross_entropy
from dinojax.training.optimizers import describe_gradients, make_optimizer, make_schedule
from dinojax.training.step import TrainState, TrainStep, init_train_state, make_train_step

LINES_PER_VALIDATION = 20
"""Lines of metrics from one validation to the next."""
SECONDS_BETWEEN_SAVES = 30
WINDOW = 256
"""Characters of a text that a validation reads from a fresh state."""


class Setup(NamedTuple):
    """What a description makes of its data."""

    model: CharModel
    dataset: Dataset
    train_step: TrainStep
    schedule: optax.Schedule
    mesh: Mesh | None
    initial_state: Callable[[Params | None], TrainState]
    """The state before the first step, from parameters to begin with, or from drawn ones."""
    key_sample: jax.Array
    """For names or texts in reports."""
    evaluate: Callable[[Params], Costs] | None
    """The costs of the validation part, where there is one."""


class Report(NamedTuple):
    """Where a training stands."""

    state: TrainState
    step: int
    """Steps done."""
    num_steps: int
    """Steps since the report before."""
    loss: float
    """As the training minimises it, averaged over some steps."""
    validation_loss: float | None
    """Nats a character, where it was just measured."""
    is_patient: bool
    """Whether validation leaves hope that it is worth going on."""
    line: Mapping[str, Any] | None
    """Of metrics, where one was just written."""


def make_dataset(description: runs.Description, part: Sequence[str] | str) -> Dataset:
    """What a run learns from, in batches."""
    config, vocab = description.config, description.vocab
    if config.batches == "windows":
        return windows(str(part), vocab, config.batch_size, config.window)
    if config.batches == "packed":
        return packed(part, vocab, config.batch_size, config.window)
    return padded(part, vocab, config.batch_size)


def make_evaluation(
    description: runs.Description, part: Sequence[str] | str, mesh: Mesh | None = None
) -> Callable[[Params], Costs]:
    """The costs of a part: of each name, or of each window of a text read from a fresh state."""
    vocab = description.vocab
    columns = cut_text(part, vocab, WINDOW) if isinstance(part, str) else pad_names(part, vocab)
    return column_evaluation(runs.build_model(description.config, vocab), columns, mesh)


def set_up(
    description: runs.Description, parts: Mapping[str, Sequence[str] | str], dataset: Dataset
) -> Setup:
    """Make what a run needs; `parts` as in {"train": ..}, `dataset` of the first of them."""
    config, vocab = description.config, description.vocab
    model, optimizer = runs.build_model(config, vocab), make_optimizer(config)
    mesh = parallel.make_mesh(config.devices)
    train_step = make_train_step(
        model,
        optimizer,
        summed_cross_entropy if config.loss == "summed" else mean_cross_entropy,
        carry_state=config.is_text,
        resets=config.batches != "padded",
        reset_rate=config.reset_rate,
        axis=parallel.axis_of(mesh),
    )
    key_params, key_train, key_sample = jax.random.split(jax.random.key(config.seed), 3)
    # A model that has learned nothing costs log(vocab) nats a character.
    untrained_loss = np.log(vocab.size)
    if config.loss == "summed":
        is_padded = config.batches == "padded"
        rows = len(parts["train"]) if is_padded else dataset.steps_per_epoch * config.batch_size
        untrained_loss *= dataset.examples.weights.sum(dtype=float) / rows

    def initial_state(params: Params | None) -> TrainState:
        params = model.init(key_params) if params is None else params
        return init_train_state(
            key_train,
            params,
            model,
            optimizer,
            batch_size=config.batch_size,
            smoothed_loss=untrained_loss,
        )

    return Setup(
        model,
        dataset,
        train_step,
        make_schedule(config),
        mesh,
        jax.jit(initial_state),
        key_sample,
        make_evaluation(description, parts["validation"], mesh) if "validation" in parts else None,
    )


def start(
    folder: Path,
    description: runs.Description,
    parts: Mapping[str, Sequence[str] | str],
    setup: Setup,
    params: Params | None = None,
) -> tuple[TrainState, runs.Tally]:
    """Begin a new run in a folder, in the place of an earlier one.

    Raises:
        OSError: a file cannot be written.
    """
    state = setup.initial_state(params)
    runs.start_run(folder, state, description, parts)
    rewind_metrics(folder, -1)
    return state, runs.Tally()


def resume(
    folder: Path, description: runs.Description, setup: Setup, keep: int = runs.KEPT_CHECKPOINTS
) -> tuple[TrainState, runs.Tally]:
    """Take up a run from its last checkpoint; from now on it is as `description` has it.

    The newest `keep` checkpoints stay, and the best.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: no checkpoint can be used.
    """
    state = runs.load_state(folder, jax.eval_shape(setup.initial_state, None))
    loaded = runs.load_run(folder, "last")
    tally = loaded.tally
    rewind_metrics(folder, int(state.step))
    if loaded.description != description:
        # Killed before the next checkpoint, a run that is to go further would have forgotten it.
        runs.save_checkpoint(folder, state, description, tally, keep)
    steps = {"step": int(state.step), "steps": description.config.steps}
    append_metrics(folder, {"event": "resumed", **steps})
    runs.write_config(folder, description)
    return state, tally


def work(
    folder: Path,
    description: runs.Description,
    setup: Setup,
    state: TrainState,
    tally: runs.Tally,
    keep: int = runs.KEPT_CHECKPOINTS,
    save_every: int = 0,
) -> Generator[Report]:
    """Train on, record in the folder what happens, and report several times a second.

    A checkpoint is saved at each validation, every `save_every` steps (if that is 0, every half a
    minute), and when the caller leaves or training fails: the last good state. The newest `keep`
    stay, and the best.

    Raises:
        FloatingPointError: a validation loss is not finite; or see `train.run`.
        OSError: a file cannot be written; the last good checkpoint is still there.
    """
    config = description.config
    log_every = max(1, config.evaluate_every // LINES_PER_VALIDATION)
    stops = [log_every, config.evaluate_every, *([save_every] if save_every else [])]
    lines = [line for line in read_metrics(folder) if "event" not in line]
    latest = lines[-1] if lines else {}
    # Somebody may have edited them.
    characters, seconds = (latest.get(name, 0) for name in ("characters", "seconds"))
    started = saved = since_line = time.monotonic()
    saved_step = -1
    # Those before a resume took none of this time.
    untimed = tally.characters

    def summarize_gradients(gradients: Params) -> Mapping[str, Any]:
        return describe_gradients(gradients, config.clip_value, config.clip_norm)

    try:
        for progress in run(
            setup.train_step,
            state,
            setup.dataset,
            steps=config.steps,
            mesh=setup.mesh,
            stops=stops,
            summarize=summarize_gradients,
        ):
            state, step = progress.state, int(progress.state.step)
            tally, is_last = _count(tally, progress, config), step == config.steps
            validation_loss = None
            if setup.evaluate and (is_last or step % config.evaluate_every == 0):
                validation_loss = summarize(setup.evaluate(state.params))["nats_per_character"]
                if not np.isfinite(validation_loss):
                    raise FloatingPointError(
                        f"the validation loss is {validation_loss} after step {step}"
                    )
                tally = _compare(tally, step, validation_loss)
            line: dict[str, Any] | None = None
            if is_last or step % log_every == 0 or validation_loss is not None:
                characters += round(tally.characters)
                now = time.monotonic()
                line = {
                    "step": step,
                    "epoch": step / setup.dataset.steps_per_epoch,
                    "characters": characters,
                    "seconds": seconds + now - started,
                    "training_loss": tally.nats / max(tally.characters, 1),
                    "validation_loss": validation_loss,
                    "learning_rate": float(setup.schedule(step - 1)),
                    # The norm may overflow where the clipped gradients, and so the state, are good.
                    **{
                        name: float(value) if np.isfinite(value) else None
                        for name, value in progress.summary.items()
                    },
                    "characters_per_second": (tally.characters - untimed) / (now - since_line),
                }
                append_metrics(folder, line)
                tally, since_line, untimed = tally._replace(nats=0.0, characters=0.0), now, 0.0
            is_due = time.monotonic() - saved > SECONDS_BETWEEN_SAVES
            if save_every:
                is_due = step % save_every == 0
            if is_due or validation_loss is not None:
                runs.save_checkpoint(folder, state, description, tally, keep)
                saved, saved_step = time.monotonic(), step
            # The exercise's average is of the last thousand steps or so, too many for others.
            loss = state.smoothed_loss if config.loss == "summed" else progress.losses.mean()
            yield Report(
                state,
                step,
                len(progress.losses),
                float(loss),
                validation_loss,
                not 0 < config.patience <= tally.validations_since,
                line,
            )
    finally:
        # Whatever ended the loop, if only that nobody reads what the caller prints any more.
        if int(state.step) != saved_step:
            runs.save_checkpoint(folder, state, description, tally, keep)


def _count(tally: runs.Tally, progress: Progress, config: Any) -> runs.Tally:
    num_characters = progress.num_characters.astype(float)
    nats = progress.losses.astype(float)
    nats *= config.batch_size if config.loss == "summed" else num_characters
    # One after the other, so that it does not matter how the steps were cut.
    total = np.add.accumulate([tally.nats, *nats])[-1]
    return tally._replace(
        nats=float(total), characters=tally.characters + float(num_characters.sum())
    )


def _compare(tally: runs.Tally, step: int, validation_loss: float) -> runs.Tally:
    if validation_loss < tally.best_loss:
        return tally._replace(best_step=step, best_loss=validation_loss, validations_since=0)
    return tally._replace(validations_since=tally.validations_since + 1)
