"""The record of a run: lines of metrics, validations and checkpoints, as training proceeds.

Nothing here changes the run: its parameters depend on its description alone, not on how often it is
validated, recorded or saved, nor on where it was interrupted. There is one exception: a validation
decides when an average with a trigger begins.
"""

import time
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dinojax import parallel, processes
from dinojax.evaluation.losses import summarize
from dinojax.runs.description import Tally
from dinojax.runs.experiment import Experiment
from dinojax.runs.folder import NUM_KEPT, save_checkpoint
from dinojax.runs.metrics import append_metrics, read_metrics
from dinojax.training.averaging import is_begun
from dinojax.training.loop import Progress
from dinojax.training.step import TrainState

SECONDS_PER_SAVE = 30.0


class Report(NamedTuple):
    """How far a run has come."""

    state: TrainState
    step: int
    """Number of steps done."""
    num_steps: int
    """Number of steps since the previous report."""
    loss: float
    """The minimised loss, averaged over some steps, in nats."""
    validation_loss: float | None
    """Nats per character, if the model was just validated."""
    is_best: bool
    """Whether these are the best parameters so far, by validation loss; without, the last."""
    is_patient: bool
    """Whether the recent validations justify training longer."""
    line: Mapping[str, Any] | None
    """The line of metrics, if one was just written."""


def record(
    progress: Iterable[Progress],
    experiment: Experiment,
    state: TrainState,
    tally: Tally,
    *,
    folder: Path | None,
    log_every: int,
    keep: int = NUM_KEPT,
    save_every: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Report]:
    """Record the `progress` of a run that starts from `state` and `tally`, and report it.

    A line of metrics is written every `log_every` steps. A checkpoint is saved at each validation,
    before the cooldown, every `save_every` steps (if 0, every half minute), and when the caller
    closes the generator or training fails: then it holds the last good state. The newest `keep` and
    the best stay, and those from before the cooldown. Without a folder, nothing is written. Where
    one of several processes fails alone, it saves nothing.

    Raises:
        FloatingPointError: a validation loss is not finite, or `progress` raises it.
        OSError: a file cannot be written; the last good checkpoint is still there.
    """
    config, saved_step, is_alone = experiment.config, -1, False
    started = saved = since_line = clock()
    lines = [line for line in read_metrics(folder) if "event" not in line] if folder else []
    last = lines[-1] if lines else {}
    # A user may have edited the lines.
    characters, seconds = last.get("characters", 0), last.get("seconds", 0)
    # Earlier versions of dinojax did not record it.
    training_seconds, is_first = last.get("training_seconds", seconds), True
    # Characters read before a resume took none of the time that is measured here.
    untimed = tally.characters

    def save() -> None:
        nonlocal saved, saved_step
        complete = parallel.whole(state)
        if folder:
            save_checkpoint(folder, complete, experiment.description, tally, keep=keep)
        saved, saved_step = clock(), int(state.step)

    try:
        for done in progress:
            state, step = done.state, int(done.state.step)
            tally, is_last = _count(tally, done, experiment), step == config.steps
            line = validation_loss = None
            # The first call also compiles, and takes few steps.
            training_seconds += 0 if is_first else done.seconds
            is_first = False
            if experiment.evaluate and (is_last or step % config.evaluate_every == 0):
                costs = experiment.evaluate(state.model_params)
                validation_loss = summarize(costs)["nats_per_character"]
                tally, is_worse = compared(tally, step, validation_loss, config.average_trigger)
                if is_worse and not is_begun(state):
                    state = done.begin_average()
            if is_last or step % log_every == 0 or validation_loss is not None:
                characters += round(tally.characters)
                now = clock()
                # The norm may overflow although the clipped gradients and the state are finite.
                summary = {k: float(x) if np.isfinite(x) else None for k, x in done.summary.items()}
                line = {
                    "step": step,
                    "epoch": step / experiment.dataset.steps_per_epoch,
                    "characters": characters,
                    "seconds": seconds + now - started,
                    "training_seconds": training_seconds,
                    "training_loss": tally.nats / max(tally.characters, 1),
                    "validation_loss": validation_loss,
                    "learning_rate": float(experiment.schedule(step - 1)),
                    **summary,
                    "characters_per_second": (tally.characters - untimed) / (now - since_line),
                }
                if folder:
                    append_metrics(folder, line)
                tally, since_line, untimed = tally._replace(nats=0.0, characters=0.0), now, 0.0
            is_due = step % save_every == 0 if save_every else clock() - saved > SECONDS_PER_SAVE
            is_due |= step == config.cooldown_start
            if is_due or validation_loss is not None:
                save()
            # The exercise's average covers about the last thousand steps: too many for other runs.
            loss = float(state.smoothed_loss if config.loss == "summed" else done.losses.mean())
            is_best = tally.best_step in (-1, step)
            is_patient = not 0 < config.patience <= tally.validations_since
            num = len(done.losses)
            yield Report(state, step, num, loss, validation_loss, is_best, is_patient, line)
    except (OSError, RuntimeError, ValueError):
        # Other processes know nothing of it, and would not gather the state with this one.
        is_alone = processes.num_processes() > 1
        raise
    finally:
        # Also where the caller leaves, for example as its output is no longer read.
        if int(state.step) != saved_step and not is_alone:
            save()


def _count(tally: Tally, done: Progress, experiment: Experiment) -> Tally:
    config, counts = experiment.config, done.num_characters.astype(float)
    nats = done.losses.astype(float) * (config.batch_size if config.loss == "summed" else counts)
    # One after the other, so that the sum does not depend on how the steps were grouped.
    total = float(np.add.accumulate([tally.nats, *nats])[-1])
    return tally._replace(nats=total, characters=tally.characters + float(counts.sum()))


def compared(
    tally: Tally, step: int, validation_loss: float, average_trigger: int
) -> tuple[Tally, bool]:
    """The tally after a validation, and whether it triggers an average."""
    if not np.isfinite(validation_loss):
        raise FloatingPointError(f"the validation loss is {validation_loss} after step {step}")
    is_worse = False
    if average_trigger:
        recent = tally.recent_losses
        is_worse = len(recent) > average_trigger and validation_loss > recent[0]
        if len(recent) > average_trigger:
            recent = min(recent[:2]), *recent[2:]
        tally = tally._replace(recent_losses=(*recent, validation_loss))
    if validation_loss < tally.best_loss:
        return tally._replace(
            best_step=step, best_loss=validation_loss, validations_since=0
        ), is_worse
    return tally._replace(validations_since=tally.validations_since + 1), is_worse
