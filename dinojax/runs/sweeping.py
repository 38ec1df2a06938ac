"""Work on a sweep: check what was asked, train its replicas, and record what came of them."""

import json
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dinojax import files, platforms
from dinojax.models.code import pinned
from dinojax.runs.asked import shown
from dinojax.runs.code import codes_in, write_copies
from dinojax.runs.description import Part, describe
from dinojax.runs.exchange import LOCK_FILE
from dinojax.runs.experiment import make_experiment
from dinojax.runs.memory import available_bytes, training_bytes
from dinojax.runs.replica import Step, Task, paths_in_lines, read_data, train_stacked
from dinojax.runs.results import write_results
from dinojax.runs.sweep import (
    DIVERGED,
    FINISHED,
    RESULTS_FILE,
    Outcome,
    Replica,
    Sweep,
    is_sweep,
    make_sweep,
    plan,
    read_outcomes,
    read_sweep,
    setting_name,
    write_sweep,
)
from dinojax.runs.workers import train_beside
from dinojax.startup import num_cores


class Progress(NamedTuple):
    """How far a replica has come."""

    replica: Replica
    share: float
    """Share of its steps that are done."""
    outcome: Outcome | None
    """How it ended, if it did."""


def num_processes(num_replicas: int, jobs: int = 0, operations: float = math.inf) -> int:
    """How many processes train `num_replicas` replicas; 1 means this process alone.

    At most `jobs`; with 0 for `jobs`, as many as suit the platform, and the floating-point
    `operations` that all replicas take together.
    """
    operations = math.inf if jobs else operations
    chosen = jax.default_backend(), num_replicas, num_cores(), operations
    suited = platforms.replica_processes(*chosen)
    return min(suited, jobs or suited)


def take_folder(folder: Path | str) -> None:
    """Make `folder` for a new sweep, or accept one that is empty.

    Raises:
        ValueError: it is a file, or it holds a sweep or other files.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a folder for the sweep, or a new name")
    folder.mkdir(parents=True, exist_ok=True)
    if is_sweep(folder):
        raise ValueError(f"{folder} holds a sweep; resume it, or choose another folder")
    if {path.name for path in folder.iterdir()} - {LOCK_FILE}:
        raise ValueError(f"{folder} holds other files; choose a new or an empty folder")


@contextmanager
def locked(folder: Path | str) -> Iterator[None]:
    """Lock the folder of a sweep, and remove what a process that was killed has left there.

    Raises:
        OSError: the lock file cannot be made.
        ValueError: another process has locked it.
    """
    folder = Path(folder)
    message = "wait until it has ended, or choose another folder"
    with files.locked(folder / LOCK_FILE, f"another process works in {folder}; {message}"):
        files.remove_leftovers(folder)
        yield


def check(sweep: Sweep, left: Sequence[Replica], *, data: str | None = None, jobs: int = 0) -> int:
    """Check data and memory before what is `left` of a sweep is trained.

    Returns how many replicas are to be trained at once; for `data` and `jobs` see `work`.

    Raises:
        OSError: the data cannot be read.
        ValueError: they have changed or are too small, or there is not enough memory.
    """
    operations, largest = 0.0, 0
    part: Part = []
    if left or data is not None:
        # All settings read the data alike.
        file, config = sweep.data if data is None else data, plan(sweep)[0].config
        part, _ = read_data(file, config, sweep.data_sha256)
    for _, group in groupby(left, lambda replica: replica.setting):
        replicas = list(group)
        described = describe(replicas[0].config, part, keep_window=_keeps_window(sweep))
        experiment = make_experiment(*described)
        state = jax.eval_shape(experiment.initial_state, None)
        largest = max(largest, training_bytes(state, experiment.step_size))
        # Two for each parameter and character, and as many for each of two gradients.
        num_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        characters = experiment.step_size * experiment.config.steps * len(replicas)
        operations += 6.0 * num_params * characters
    chosen, available = num_processes(len(left), jobs, operations), available_bytes()
    if chosen * largest > available:
        raise ValueError(
            f"{chosen:,} replicas at once take at least {chosen * largest / 1e9:,.1f} GB of "
            f"memory; there are {available / 1e9:,.1f} GB; choose fewer jobs, hidden units or "
            "layers, or a smaller batch size"
        )
    return chosen


def replicas_left(folder: Path | str) -> list[Replica]:
    """The replicas of the sweep in a folder that neither finished nor diverged, or are gone."""
    folder = Path(folder)
    outcomes, ended = read_outcomes(folder), (FINISHED, DIVERGED)
    there = {
        x for x, outcome in outcomes.items() if outcome.status in ended and (folder / x).is_dir()
    }
    return [replica for replica in plan(read_sweep(folder)) if replica.folder not in there]


def work(
    folder: Path | str, *, data: str | None = None, jobs: int = 0
) -> Generator[Progress | None]:
    """Train what is left of the sweep in a folder, which must be locked, and report it.

    `data` is where the data are now, if not where `sweep.json` says. At most `jobs` replicas
    are trained at once; 0 stands for as many as there are cores. It yields None at times when
    nothing has happened, so that the caller can stop: once it closes the generator, all replicas
    are saved as they are. Replicas that diverged are not trained again, those that failed are.

    Raises:
        OSError: the results cannot be written.
        ValueError: the folder holds no sweep, or its results were changed.
    """
    folder = Path(folder)
    sweep, left = read_sweep(folder), replicas_left(folder)
    again = {replica.folder for replica in left}
    write_copies(folder, codes_in({**sweep.settings, **sweep.values}))
    outcomes = {where: x for where, x in read_outcomes(folder).items() if where not in again}
    tasks = [task_of(sweep, each, folder, data) for each in left]
    with closing(_train(tasks, num_processes(len(left), jobs))) as coming:
        for event in coming:
            if event is None:
                yield None
                continue
            replica, what = left[event[0]], event[1]
            if isinstance(what, Step):
                yield Progress(replica, what.step / what.steps, None)
            else:
                outcomes[replica.folder] = what
                write_results(folder, sweep, outcomes)
                yield Progress(replica, 1.0, what)
    write_results(folder, sweep, outcomes)


def task_of(sweep: Sweep, replica: Replica, folder: Path | str, data: str | None = None) -> Task:
    """What a process needs to train a replica."""
    return Task(
        folder=str(Path(folder) / replica.folder),
        settings=asdict(replica.config),
        keep_window=_keeps_window(sweep),
        data=sweep.data if data is None else data,
        source=sweep.data,
        data_sha256=sweep.data_sha256,
    )


def sweep(
    folder: Path | str,
    preset: str = "dinos",
    data: Path | str | Sequence[Path | str] = "",
    *,
    seeds: int = 8,
    baseline: Mapping[str, Any] | None = None,
    jobs: int = 0,
    **settings: Any,
) -> dict[str, Any]:
    """Train every combination of `settings` with every seed below `seeds`; returns the results.

    Each of `settings`, fields of `TrainConfig`, is a value or a list of values; see `make_sweep`.
    `data` is where names or texts are, a file, a folder of them or several (see `reading.read`);
    empty for the bundled names. If `folder` holds this sweep already, what is left of it is
    trained. The results are those of `results.json`; see `results.summarize`. For how close a
    replica comes to the same run trained alone, see `replica`.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: a setting, the data or the folder is not suitable.
    """
    folder = Path(folder)
    data = paths_in_lines(data)
    wanted = new_sweep(preset, data, seeds=seeds, settings=settings, baseline=baseline)
    if is_sweep(folder):
        check_same(read_sweep(folder), wanted)
    jobs = check(wanted, plan(wanted), jobs=jobs)
    if not is_sweep(folder):
        take_folder(folder)
    with locked(folder):
        if not is_sweep(folder):
            write_sweep(folder, wanted)
        for _ in work(folder, data=wanted.data, jobs=jobs):
            pass
    return dict(json.loads(files.read_regular(folder / RESULTS_FILE)))


def new_sweep(
    preset: str,
    data: str,
    *,
    seeds: int,
    settings: Mapping[str, Any],
    baseline: Mapping[str, Any] | None = None,
) -> Sweep:
    """What is asked of a sweep, with the checksum of its data and of code; see `make_sweep`."""
    settings, baseline = pinned(settings), pinned(baseline or {})
    asked: dict[str, Any] = {"seeds": seeds, "settings": settings, "baseline": baseline}
    config = plan(make_sweep(preset, data, "", **asked))[0].config
    return make_sweep(preset, data, read_data(data, config)[1], **asked)


def check_same(recorded: Sweep, wanted: Sweep) -> None:
    """Raise a ValueError that says where a sweep differs from the one that a folder holds."""
    before, now = _as_asked(recorded), _as_asked(wanted)
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{name}: the sweep has {before.get(name, 'none')}, got {now.get(name, 'none')}; "
                "a resumed sweep stays what it was; start another in a new folder"
            )


def _as_asked(sweep: Sweep) -> dict[str, str]:
    settings = {name: [value] for name, value in sweep.settings.items()} | dict(sweep.values)
    return {
        "preset": sweep.preset,
        "checksum of the data": f"{sweep.data_sha256[:12]}..",
        "seeds": f"{sweep.seeds:,}",
        **{name.replace("_", " "): ", ".join(map(shown, x)) for name, x in settings.items()},
        "baseline": setting_name(sweep.preset, sweep.baseline),
    }


def _keeps_window(sweep: Sweep) -> bool:
    return "window" in {**sweep.settings, **sweep.values}


def _train(
    tasks: Sequence[Task], num_processes: int
) -> Generator[tuple[int, Step | Outcome] | None]:
    """Train the replicas of `tasks`, as `train_beside` does, or in this process if it is one."""
    if num_processes > 1:
        yield from train_beside(tasks, num_processes)
        return
    first = 0
    for _, group in groupby(tasks, lambda task: {**task.settings, "seed": 0}):
        alike = list(group)
        with closing(train_stacked(alike)) as coming:
            yield from ((first + i, what) for i, what in coming)
        first += len(alike)
