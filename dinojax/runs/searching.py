"""Work on a search: train its trials, in one process or several, and record what came of them."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dinojax.config import config_from
from dinojax.messages import why
from dinojax.models.code import pinned
from dinojax.runs import replica
from dinojax.runs.asked import Values
from dinojax.runs.code import codes_in, write_copies
from dinojax.runs.description import describe
from dinojax.runs.exchange import CONFIG_FILE, METRICS_FILE, current
from dinojax.runs.experiment import make_experiment
from dinojax.runs.metadata import read_config
from dinojax.runs.metrics import read_metrics
from dinojax.runs.replica import Step, paths_in_lines, read_data
from dinojax.runs.search import (
    PrunerName,
    Range,
    Search,
    config_of,
    is_search,
    make_search,
    read_search,
    write_search,
)
from dinojax.runs.study import (
    PRUNED,
    RUNNING,
    Trial,
    claim,
    end,
    open_study,
    read_trials,
    trial_folder,
    write_results,
)
from dinojax.runs.sweep import FAILED, FINISHED, Outcome
from dinojax.runs.sweeping import num_processes, take_folder
from dinojax.runs.workers import train_beside

if TYPE_CHECKING:
    import optuna

SECONDS_PER_LOOK = 0.5
"""How often to look which trials have ended."""


class Task(NamedTuple):
    """What a process needs to work on a search; all of it is JSON."""

    folder: str
    data: str | None
    """Where the data are now, if not where `search.json` says."""


def train(task: Task) -> Generator[Step | Outcome]:
    """Train one trial after the other until none is left; yields steps, and at last an outcome.

    When the caller closes the generator, the run is saved, and its trial waits to be taken up.
    """
    folder, ended = Path(task.folder), 0
    try:
        search = read_search(folder)
        with open_study(folder, search) as study:
            while True:
                with ExitStack() as stack:
                    claimed = claim(study, search, folder, stack)
                    if claimed is None:
                        break
                    yield from _train(task, search, study, *claimed)
                    ended += 1
        yield Outcome(FINISHED, steps=ended)
    # Of any type: others may go on with the search.
    except Exception as error:
        yield Outcome(FAILED, message=why(error))


def _train(
    task: Task, search: Search, study: "optuna.Study", trial: "optuna.Trial", values: Values
) -> Generator[Step]:
    """Train the run of a trial to its end, or until it is pruned, and record that."""
    folder = trial_folder(Path(task.folder), trial.number)
    outcome = Outcome(PRUNED)
    try:
        config = config_of(search, values)
        if _was_behind(trial, folder):
            end(study, trial, PRUNED, None, "")
            return
    except (OSError, ValueError) as error:
        end(study, trial, FAILED, None, why(error))
        return
    run = replica.Task(
        folder=str(folder),
        settings=asdict(config),
        keep_window=_keeps_window(search),
        data=search.data if task.data is None else task.data,
        source=search.data,
        data_sha256=search.data_sha256,
    )
    with closing(replica.train(run)) as coming:
        for what in coming:
            if isinstance(what, Outcome):
                outcome = what
                break
            yield what
            if what.validation_loss is not None:
                _report(trial, what.validations, what.validation_loss)
                if what.step < what.steps and trial.should_prune():
                    break
    end(study, trial, outcome.status, outcome.validation_loss, outcome.message)


def _was_behind(trial: "optuna.Trial", folder: Path) -> bool:
    """Report what a process that was killed did not, and say whether it was about to prune."""
    if not current(folder, METRICS_FILE).exists():
        return False
    config = config_from(read_config(current(folder, CONFIG_FILE))[0])
    behind = False
    for line in read_metrics(folder):
        if (loss := line.get("validation_loss")) is not None:
            _report(trial, -(-line["step"] // config.evaluate_every), loss)
            behind = line["step"] < config.steps and trial.should_prune()
    return behind


def _report(trial: "optuna.Trial", number: int, loss: float) -> None:
    # A run that was killed repeats what came after its last checkpoint.
    if number not in trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
        trial.report(loss, number)


def work(folder: Path | str, *, data: str | None = None, jobs: int = 0) -> Generator[Trial | None]:
    """Work on the search in a folder until no trial is left, and report those that end.

    Other processes may work on it at the same time; the trials that they end are reported, too.
    `data` is where the data are now, if not where `search.json` says. At most `jobs` trials are
    trained at once; 0 stands for as many as there are cores. It yields None at times when nothing
    has happened, so that the caller can stop: once it closes the generator, all runs are saved.

    Raises:
        OSError: the data cannot be read, or the results not be written.
        ValueError: the folder holds no search, the data have changed, or a process could not go on.
    """
    folder = Path(folder)
    search = read_search(folder)
    first = {name: space[0] for name, space in search.space.items()}
    file = search.data if data is None else data
    read_data(file, config_of(search, first), search.data_sha256)
    with open_study(folder, search) as study:
        trials = read_trials(study)
        ended = {each.number for each in trials if each.status != RUNNING}
        num = num_processes(search.trials - len(ended), jobs)
        task, failures = Task(str(folder), data), list[str]()
        tasks = [task] * num
        looked = -SECONDS_PER_LOOK

        def news() -> list[Trial]:
            found = read_trials(study)
            new = [x for x in found if x.status != RUNNING and x.number not in ended]
            if new:
                write_results(folder, search, found)
            ended.update(each.number for each in new)
            return new

        events = train_beside(tasks, num, __name__) if num > 1 else train(task)
        with closing(events):
            for event in events:
                what = event[1] if num > 1 and event else event
                if isinstance(what, Outcome) and what.status == FAILED:
                    failures.append(what.message)
                if time.monotonic() - looked > SECONDS_PER_LOOK:
                    looked = time.monotonic()
                    yield from news()
                yield None
        yield from news()
        write_results(folder, search, read_trials(study))
    if failures and len(ended) < search.trials:
        raise ValueError(failures[0])


def search(
    folder: Path | str,
    preset: str = "dinos",
    data: Path | str | Sequence[Path | str] = "",
    *,
    trials: int,
    seed: int = 0,
    pruner: PrunerName = "median",
    jobs: int = 0,
    **settings: Any,
) -> dict[str, Any]:
    """Search over `settings` with as many `trials`; returns the results, the best trial first.

    Each of `settings`, fields of `TrainConfig`, is a value, a list of choices or a `Range`; see
    `make_search`. For `data` see `sweeping.sweep`. If `folder` holds this search already, it goes
    on. The results are those of `results.json`; see `study.write_results`.

    Raises:
        ImportError: Optuna is not installed.
        OSError: a file cannot be read or written.
        ValueError: a setting, the data or the folder is not suitable.
    """
    folder = Path(folder)
    asked: dict[str, Any] = {"trials": trials, "seed": seed, "pruner": pruner}
    begin(folder, new_search(preset, paths_in_lines(data), settings=settings, **asked))
    for _ in work(folder, jobs=jobs):
        pass
    with open_study(folder, read_search(folder)) as study:
        return write_results(folder, read_search(folder), read_trials(study))


def new_search(preset: str, data: str, *, settings: Mapping[str, Any], **asked: Any) -> Search:
    """What is asked of a search, with the checksum of its data and of code; see `make_search`.

    Raises:
        OSError: the data cannot be read.
        ValueError: they, or memory, do not suffice for the largest of all values.
    """
    wanted = make_search(preset, data, "", settings=pinned(settings), **asked)
    largest = {
        name: space.high if isinstance(space, Range) else max(space, key=_size)
        for name, space in wanted.space.items()
    }
    config = config_of(wanted, largest)
    part, sha256 = read_data(data, config)
    make_experiment(*describe(config, part, keep_window=_keeps_window(wanted)))
    return wanted._replace(data_sha256=sha256)


def _size(value: Any) -> float:
    return value if isinstance(value, int | float) else 0


def _keeps_window(search: Search) -> bool:
    return "window" in {**search.settings, **search.space}


def begin(folder: Path | str, wanted: Search) -> None:
    """Make the folder of a new search, or find that it holds this one.

    Raises:
        ValueError: it holds something else.
    """
    folder = Path(folder)
    if is_search(folder):
        if (recorded := read_search(folder)) != wanted:
            names = [n for n in Search._fields if getattr(recorded, n) != getattr(wanted, n)]
            raise ValueError(
                f"{folder} holds another search: it differs in {', '.join(names)}; a search stays "
                "what it was; start another in a new folder"
            )
        return
    take_folder(folder)
    write_copies(folder, codes_in({**wanted.settings, **wanted.space}))
    write_search(folder, wanted)
