"""One replica of a sweep: started or resumed in its folder, and trained to its end."""

import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from dinojax.config import TrainConfig, config_from
from dinojax.data.corpus import bundled_names, read_names, read_running_text
from dinojax.runs import folder as runs
from dinojax.runs import session
from dinojax.runs.description import Part, describe
from dinojax.runs.experiment import make_experiment
from dinojax.runs.sweep import DIVERGED, FAILED, FINISHED, Outcome

LOCK_SECONDS = 60.0
"""How long to wait for a process that still saves a replica after its sweep was killed."""


class Task(NamedTuple):
    """What it takes to train a replica; all of it is JSON."""

    folder: str
    settings: dict[str, Any]
    keep_window: bool
    """Whether the window is as given; see `describe`."""
    data: str
    """Path of the data file; empty for the bundled names."""
    source: str
    """That path as the run records it."""
    data_sha256: str


class Step(NamedTuple):
    """How far a replica has come."""

    step: int
    steps: int


def read_part(data: str, config: TrainConfig, data_sha256: str = "") -> tuple[Part, str]:
    """The names or the text in a file, and its checksum.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not suitable, or its checksum is another than `data_sha256`.
    """
    file = Path(data) if data else bundled_names()
    read = read_running_text if config.is_text else read_names
    corpus = read(file, config.lowercase)
    if data_sha256 not in ("", corpus.sha256):
        raise ValueError(
            f"{file} has changed since the sweep began: its checksum is {corpus.sha256[:12]}.., "
            f"not {data_sha256[:12]}.."
        )
    return corpus.data, corpus.sha256


def train(task: Task) -> Generator[Step | Outcome]:
    """Train a replica from where it stands to its end; yields steps, and at last its outcome.

    It is an ordinary run: it equals, bit for bit, a run trained alone with its configuration on the
    same machine and one device. When the caller closes the generator, it is saved as it is.
    Whatever goes wrong is its outcome.
    """
    config, folder = config_from(task.settings), Path(task.folder)
    try:
        with ExitStack() as stack:
            part, _ = read_part(task.data, config, task.data_sha256)
            described = describe(
                config,
                part,
                keep_window=task.keep_window,
                source=task.source,
                sha256=task.data_sha256,
            )
            experiment = make_experiment(*described)
            if not (folder.is_dir() and runs.find_checkpoints(folder)):
                runs.take_folder(folder)
            _lock(folder, stack)
            if runs.find_checkpoints(folder):
                run, arrays = runs.load_checkpoint(folder, "last")
                if run.description != experiment.description:
                    raise ValueError(f"{folder} holds another run than the sweep's; move it away")
                if _has_ended(run):
                    yield _outcome(run)
                    return
                state, tally = session.resume(experiment, run, arrays)
            else:
                state, tally = session.start(experiment, folder)
            coming = session.work(experiment, state, tally, folder)
            with closing(coming):
                for report in coming:
                    yield Step(report.step, experiment.config.steps)
                    if not report.is_patient:
                        break
            yield _outcome(runs.load_run(folder, "last"))
    except FloatingPointError as error:
        yield Outcome(DIVERGED, message=str(error))
    # Of any type, such as an error of XLA where memory is short: the other replicas go on.
    except Exception as error:
        yield Outcome(FAILED, message=" ".join(str(error).split()) or type(error).__name__)


def _has_ended(run: runs.Run) -> bool:
    is_patient = not 0 < run.config.patience <= run.tally.validations_since
    return run.step >= run.config.steps or not is_patient


def _outcome(run: runs.Run) -> Outcome:
    return Outcome(FINISHED, run.tally.best_loss, run.tally.best_step, run.step)


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
