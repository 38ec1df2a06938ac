"""The study of a search: its trials, as Optuna draws, prunes and keeps them, and their table."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dinojax import files
from dinojax.messages import visible
from dinojax.runs.asked import Values, shown
from dinojax.runs.results import UNIT
from dinojax.runs.search import Range, Search, is_search
from dinojax.runs.sweep import DIVERGED, FAILED, FINISHED, RESULTS_FILE, TABLE_FILE

if TYPE_CHECKING:
    import optuna

STUDY_FILE = "study.db"
RUNNING, PRUNED = "running", "pruned"
RANKING = FINISHED, PRUNED, RUNNING, DIVERGED, FAILED


class Trial(NamedTuple):
    """A trial as the study has it."""

    number: int
    values: Values
    """The values drawn."""
    status: str
    """One of `RANKING`."""
    validation_loss: float | None
    """Exact loss over the validation part in nats per character: of the best checkpoint or, where
    it was pruned or still runs, of the last validation."""
    validations: int
    """Number of the last validation."""
    message: str
    """Why it did not finish."""


@contextmanager
def open_study(folder: Path, search: Search) -> "Iterator[optuna.Study]":
    """Optuna's study of a search, made if there is none; Optuna logs nothing while it is open.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: its file cannot be used.
    """
    import optuna
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import SQLAlchemyError

    pruners = {
        # The first validation says little.
        "median": lambda: optuna.pruners.MedianPruner(n_warmup_steps=2),
        "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(1, reduction_factor=3),
        "none": optuna.pruners.NopPruner,
    }
    file, verbosity = folder / STUDY_FILE, optuna.logging.get_verbosity()
    url = URL.create("sqlite", database=str(file.resolve())).render_as_string(False)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with _locked(folder):
            # Others may write at the same time.
            options = {"connect_args": {"timeout": 60}}
            storage = optuna.storages.RDBStorage(url, engine_kwargs=options)
            study = optuna.create_study(
                storage=storage,
                study_name="search",
                pruner=pruners[search.pruner](),
                load_if_exists=True,
            )
        yield study
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        said = str(getattr(cause, "orig", cause))
        raise ValueError(f"{file}: expected the study of a search; SQLite: {said}") from None
    finally:
        optuna.logging.set_verbosity(verbosity)


def trial_folder(folder: Path, number: int) -> Path:
    """The folder of a trial's run in that of its search."""
    return folder / f"trial-{number:04d}"


def best_trial(folder: Path) -> Path | None:
    """The folder of the best trial of a search, by its `results.json`; None if that tells none."""
    if is_search(folder):
        with suppress(KeyError, OSError, RecursionError, TypeError, ValueError):
            number = int(json.loads(files.read_regular(folder / RESULTS_FILE))["best"])
            return trial_folder(folder, number)
    return None


def claim(
    study: "optuna.Study", search: Search, folder: Path, stack: ExitStack
) -> "tuple[optuna.Trial, Values] | None":
    """A trial for this process and its values: one whose process was killed, or a new one.

    It is locked until `stack` is closed. None if there are as many as were asked for.
    """
    import optuna

    running = optuna.trial.TrialState.RUNNING
    with _locked(folder):
        trials = study.get_trials(deepcopy=False)
        for number in [*(each.number for each in trials if each.state == running), len(trials)]:
            if number == search.trials:
                return None
            lock = folder / f".{trial_folder(folder, number).name}.lock"
            try:
                stack.enter_context(files.locked(lock, ""))
            except ValueError:
                continue
            # So that the draws do not depend on what this process has drawn before.
            seed = np.random.SeedSequence([search.seed, number]).generate_state(1)[0]
            study.sampler = optuna.samplers.TPESampler(seed=int(seed))
            if number == len(trials):
                trial = study.ask()
            else:
                trial = optuna.trial.Trial(study, trials[number]._trial_id)
            return trial, _draw(trial, search)
    return None


def _draw(trial: "optuna.Trial", search: Search) -> dict[str, Any]:
    """The values of a trial; those that it has already drawn stay."""
    values: dict[str, Any] = {}
    for name, space in search.space.items():
        if not isinstance(space, Range):
            values[name] = trial.suggest_categorical(name, list(space))
        elif isinstance(space.low, int) and isinstance(space.high, int):
            values[name] = trial.suggest_int(name, space.low, space.high, log=space.is_log)
        else:
            values[name] = trial.suggest_float(name, space.low, space.high, log=space.is_log)
    return values


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for other processes that draw a trial, and keep them from it."""
    from filelock import FileLock

    with FileLock(folder / ".study.lock"):
        yield


def end(
    study: "optuna.Study", trial: "optuna.Trial", status: str, loss: float | None, message: str
) -> None:
    """Record how a trial ended. One that diverged counts as infinitely bad in later draws."""
    from optuna.trial import TrialState

    trial.set_user_attr("end", {"status": status, "loss": loss, "message": message})
    if status in (FINISHED, DIVERGED):
        study.tell(trial, loss if status == FINISHED else math.inf)
    else:
        study.tell(trial, state=TrialState.PRUNED if status == PRUNED else TrialState.FAIL)


def read_trials(study: "optuna.Study") -> list[Trial]:
    """The trials of a study, in the order of their numbers."""
    trials = []
    for each in study.get_trials(deepcopy=False):
        # A process may have been killed between the two steps of `end`.
        how = each.user_attrs.get("end", {}) if each.state.is_finished() else {}
        losses, loss = each.intermediate_values, how.get("loss")
        last = max(losses, default=0)
        loss = losses.get(last) if loss is None else loss
        status, message = how.get("status", RUNNING), how.get("message", "")
        trials.append(Trial(each.number, each.params, status, loss, last, message))
    return trials


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first: those that finished by their loss, then those that were pruned."""

    def rank(trial: Trial) -> tuple[int, float, int]:
        loss = math.inf if trial.validation_loss is None else trial.validation_loss
        return RANKING.index(trial.status), loss, trial.number

    return sorted(trials, key=rank)


def table(search: Search, trials: Sequence[Trial]) -> str:
    """The trials as lines of text, the best first, and what the columns mean below."""
    rows = [["trial", *(name.replace("_", " ") for name in search.space), "loss", "status"]]
    for trial in ranked(trials):
        values = [shown(_rounded(trial.values.get(name, "-"))) for name in search.space]
        loss = "-" if trial.validation_loss is None else f"{trial.validation_loss:.4f}"
        status = trial.status
        if status == PRUNED:
            status = f"{status} at validation {trial.validations}"
        rows.append([str(trial.number), *values, loss, status])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([*(cell.rjust(n) for cell, n in zip(row, widths[:-1], strict=False)), row[-1]])
        for row in rows
    ]
    notes = [
        "loss: exact, in nats a character of the validation part, at the best checkpoint or, where",
        "it was pruned, at the last validation",
        *(f"trial {each.number}: {visible(each.message)}" for each in trials if each.message),
    ]
    return "\n".join([*lines, "", *notes]) + "\n"


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def write_results(folder: Path, search: Search, trials: Sequence[Trial]) -> dict[str, Any]:
    """Write `results.json`, which is returned, and `results.txt`."""
    order = ranked(trials)
    best = order[0].number if order and order[0].status == FINISHED else None
    results = {
        "unit": UNIT,
        "best": best,
        "trials": [
            {"folder": trial_folder(folder, each.number).name, **each._asdict()} for each in order
        ],
    }
    files.write_atomically(folder / TABLE_FILE, table(search, trials).encode())
    text = json.dumps(results, indent=2, allow_nan=False)
    files.write_atomically(folder / RESULTS_FILE, f"{text}\n".encode())
    return results
