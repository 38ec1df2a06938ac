"""Replicas of a sweep: started or resumed in their folders, and trained to their ends."""

import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dinojax.config import TrainConfig, config_from
from dinojax.data.batches import Dataset
from dinojax.data.corpus import bundled_names, shown_all
from dinojax.data.prepared import finished
from dinojax.data.reading import read
from dinojax.data.tables import columns_of
from dinojax.messages import count, quoted, why
from dinojax.models.code import blamed
from dinojax.runs import folder as runs
from dinojax.runs import session, stacked
from dinojax.runs.description import Description, Part, Parts, Tally, describe
from dinojax.runs.experiment import Experiment, make_experiment
from dinojax.runs.refit import has_ended
from dinojax.runs.sweep import DIVERGED, FAILED, FINISHED, Outcome
from dinojax.training.step import TrainState

LOCK_SECONDS = 60.0
"""How long to wait for a process that still saves a replica after its sweep was killed."""


class Task(NamedTuple):
    """What it takes to train a replica; all of it is JSON."""

    folder: str
    settings: dict[str, Any]
    keep_window: bool
    """Whether the window is as given; see `describe`."""
    data: str
    """Paths of the data, one a line; empty for the bundled names."""
    source: str
    """The same as the run records it."""
    data_sha256: str


class Step(NamedTuple):
    """How far a replica has come."""

    step: int
    steps: int
    validations: int = 0
    """Number of validations so far."""
    validation_loss: float | None = None
    """Nats per character, if it was just validated."""


def paths_in_lines(data: Path | str | Sequence[Path | str]) -> str:
    """One path or several, one a line; a ValueError if none of several is there."""
    if isinstance(data, Path | str):
        return str(data)
    if len(data) > 1 and not any(map(os.path.exists, data)):
        raise ValueError(
            f"expected files of data, got {count(len(data), 'path')} where there is nothing, such "
            f"as {quoted(str(data[0]))}; write names into a file, one a line"
        )
    return "\n".join(map(str, data))


def read_data(data: str, config: TrainConfig, data_sha256: str = "") -> tuple[Part, str]:
    """The names or the text at some paths, one a line (see `reading.read`), and their checksum.

    Raises:
        OSError: a file cannot be read.
        ValueError: it is not suitable, or the checksum is another than `data_sha256`.
    """
    files = list(map(Path, data.split("\n"))) if data else [bundled_names()]
    ways: dict[str, Any] = {"is_text": config.is_text, "lowercase": config.lowercase}
    corpus = finished(read(files, **ways, columns=columns_of(config)))
    if data_sha256 not in ("", corpus.sha256):
        raise ValueError(
            f"{shown_all(files)} has changed since the sweep began: its checksum is "
            f"{corpus.sha256[:12]}.., not {data_sha256[:12]}.."
        )
    return corpus.data, corpus.sha256


def train(task: Task) -> Generator[Step | Outcome]:
    """Train a replica from where it stands to its end; yields steps, and at last its outcome.

    It is an ordinary run: it equals, bit for bit, a run trained alone with its configuration on the
    same machine and as many devices, one. When the caller closes the generator, it is saved as it
    is. Whatever goes wrong is its outcome.
    """
    try:
        with ExitStack() as stack:
            experiment = make_experiment(*_describe(task))
            begun = _begin(task, experiment, stack)
            if isinstance(begun, Outcome):
                yield begun
                return
            coming = session.work(experiment, *begun, Path(task.folder))
            with closing(coming):
                steps, every = experiment.config.steps, experiment.config.evaluate_every
                for report in coming:
                    num, loss = -(-report.step // every), report.validation_loss
                    yield Step(report.step, steps, num, loss)
                    if not report.is_patient:
                        break
            yield _outcome(runs.load_run(Path(task.folder), "last"))
    # Of any type, such as an error of XLA where memory is short: the other replicas go on.
    except Exception as error:
        yield _outcome_of(error)


def train_stacked(tasks: Sequence[Task]) -> Generator[tuple[int, Step | Outcome]]:
    """Train replicas that differ in their seeds alone, as many at once as suit the device.

    It yields the number of a task, and what `train` would. A replica equals the same run trained
    alone up to rounding; see `training.stack`.
    """
    try:
        experiment = make_experiment(*_describe(tasks[0]), stacked=True)
        size = stacked.stack_size(experiment, len(tasks))
    except Exception as error:
        yield from ((i, _outcome_of(error)) for i in range(len(tasks)))
        return
    for first in range(0, len(tasks), size):
        chosen = range(first, min(first + size, len(tasks)))
        if size == 1:
            with closing(train(tasks[first])) as coming:
                for what in coming:
                    yield first, what
        else:
            yield from _train_stack(experiment, {i: tasks[i] for i in chosen})


def _train_stack(
    experiment: Experiment, tasks: Mapping[int, Task]
) -> Generator[tuple[int, Step | Outcome]]:
    steps, numbers, replicas = experiment.config.steps, [], []
    missing = set(tasks)
    try:
        with ExitStack() as stack:
            for i, task in tasks.items():
                seed = task.settings["seed"]
                begun = _begin(task, experiment.with_seed(seed), stack)
                if isinstance(begun, Outcome):
                    missing.discard(i)
                    yield i, begun
                else:
                    numbers.append(i)
                    replicas.append(stacked.Replica(seed, *begun, Path(task.folder)))
            with closing(stacked.work(experiment, replicas)) as coming:
                for number, what in coming:
                    i = numbers[number]
                    if isinstance(what, stacked.Ended):
                        missing.discard(i)
                        yield i, _outcome_of(what.error)
                    elif what.step < steps and what.is_patient:
                        yield i, Step(what.step, steps)
                    else:
                        # The last validation has saved it.
                        missing.discard(i)
                        yield i, _outcome(runs.load_run(Path(tasks[i].folder), "last"))
    except Exception as error:
        yield from ((i, _outcome_of(error)) for i in sorted(missing))


def _describe(task: Task) -> tuple[Description, Parts, Dataset]:
    config = config_from(task.settings)
    part, _ = read_data(task.data, config, task.data_sha256)
    options: dict[str, Any] = {"source": task.source, "sha256": task.data_sha256}
    return describe(config, part, keep_window=task.keep_window, **options)


def _begin(
    task: Task, experiment: Experiment, stack: ExitStack
) -> tuple[TrainState, Tally] | Outcome:
    """Start or resume a replica, or say how it ended. `stack` holds the lock of its folder."""
    folder = Path(task.folder)
    if not (folder.is_dir() and runs.find_checkpoints(folder)):
        runs.take_folder(folder)
    _lock(folder, stack)
    if not runs.find_checkpoints(folder):
        return session.start(experiment, folder)
    run, arrays = runs.load_checkpoint(folder, "last")
    if run.description != experiment.description:
        raise ValueError(f"{folder} holds another run than the sweep's; move it away")
    if has_ended(run):
        return _outcome(run)
    return session.resume(experiment, run, arrays)


def _outcome(run: runs.Run) -> Outcome:
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    return Outcome(FINISHED, run.tally.best_loss, run.tally.best_step, run.step, num_parameters)


def _outcome_of(error: Exception) -> Outcome:
    status = DIVERGED if isinstance(error, FloatingPointError) else FAILED
    return Outcome(status, message=blamed(error) or why(error))


def _lock(folder: Path, stack: ExitStack) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            stack.enter_context(runs.locked(folder))
            return
        except ValueError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)
