"""A search: the folder of many runs whose settings are drawn, by what the earlier ones reached.

    runs/names-search/search.json       what was asked; see `Search`
    runs/names-search/study.db          the trials so far, Optuna's study in SQLite
    runs/names-search/trial-0007/       the run of a trial, an ordinary one
    runs/names-search/results.json, results.txt     the trials, the best first

Settings are drawn by Optuna's TPE (Bergstra et al., 2011), the first ten at random. A trial whose
validations fall behind those of others is pruned: it ends early.

Any number of processes, on any number of machines that share the folder, may work on a search. A
trial is locked by the process that trains it; one whose process was killed is taken up again from
its last checkpoint by the next that looks for work. The draws of a trial depend on the seed of the
search, its number and the trials that have ended before: with one process, a search is the same
each time, also if it was interrupted; with several, who ends first decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from dinojax.config import TrainConfig, check_range
from dinojax.messages import quoted
from dinojax.presets import resolve
from dinojax.runs.asked import (
    OF_THE_SWEEP,
    Values,
    check_values,
    read_asked,
    shown,
    with_validation,
    write_asked,
)

SEARCH_FILE = "search.json"
LOG_RATIO = 10
"""A range whose bounds have this ratio or more is searched on a logarithmic scale."""
MAX_CORNERS = 4096
"""Most combinations of bounds that are checked before the start."""

PrunerName = Literal["median", "halving", "none"]
"""Prune what is worse than the median of others at the same validation; or all but the best third,
at the first, third and ninth validation (ASHA, Li et al., 2018); or nothing."""


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float

    @property
    def is_log(self) -> bool:
        """Whether it is searched on a logarithmic scale."""
        return self.low > 0 and self.high >= LOG_RATIO * self.low


class Search(NamedTuple):
    """What was asked, as `search.json` holds it."""

    preset: str
    data: str
    """Paths of the data as given, one a line; empty for the bundled names."""
    data_sha256: str
    settings: Values
    """Settings that all trials share."""
    space: Mapping[str, Range | Sequence[Any]]
    """A range or the choices of each setting that is searched."""
    trials: int
    seed: int
    """Of the draws of settings, and of every run."""
    pruner: PrunerName


def make_search(
    preset: str,
    data: str,
    data_sha256: str,
    *,
    trials: int,
    settings: Mapping[str, Any],
    seed: int = 0,
    pruner: PrunerName = "median",
) -> Search:
    """A search over `settings`, fields of `TrainConfig`: each a value, a list or a `Range`.

    Where the preset holds out no data to validate, a share is held out; see `with_validation`.

    Raises:
        ValueError: a range or a value is not possible, or there is nothing to search.
    """
    check_range("trials", trials, 1, 100_000)
    check_range("seed", seed, 0, 2**32 - 1)
    if pruner not in get_args(PrunerName):
        expected = ", ".join(get_args(PrunerName))
        raise ValueError(f"pruner: expected one of {expected}, got {quoted(pruner)}")
    fixed, space = dict[str, Any](), dict[str, Range | Sequence[Any]]()
    kinds: dict[str, Any] = {each.name: each.type for each in fields(TrainConfig)}
    for name, given in settings.items():
        words = name.replace("_", " ")
        if name in OF_THE_SWEEP:
            raise ValueError(f"{words}: a search gives each run its seed and one device")
        if isinstance(given, Range):
            if kinds.get(name) not in (int, float):
                raise ValueError(f"{words}: expected values, not a range")
            if not given.low < given.high:
                raise ValueError(
                    f"{words}: expected a range from a smaller to a larger number, got "
                    f"{shown(given.low)} to {shown(given.high)}"
                )
            values: Range | list[Any] = Range(*map(kinds[name], given))
            if values != given:
                raise ValueError(f"{words}: expected a range of whole numbers, got {given.high}")
        else:
            values = list(given) if isinstance(given, list | tuple) else [given]
        check_values(name, values)
        if len(values) == 1:
            fixed[name] = values[0]
        else:
            space[name] = values
    if not space:
        raise ValueError(
            "there is nothing to search; give a setting a range such as 1e-4:1e-2, or several "
            "values"
        )
    fixed = with_validation(preset, fixed, "search")
    search = Search(preset, data, data_sha256, fixed, space, trials, seed, pruner)
    for corner in islice(product(*space.values()), MAX_CORNERS):
        config_of(search, dict(zip(space, corner, strict=True)))
    return search


def config_of(search: Search, values: Values) -> TrainConfig:
    """The configuration of the trial that has drawn these values.

    Raises:
        ValueError: they are not possible together.
    """
    return resolve(
        search.preset,
        given={**search.settings, **values, "seed": search.seed, "devices": 1},
    )


def write_search(folder: Path | str, search: Search) -> None:
    """Write `search.json`; see `read_search`."""
    space = {
        name: each._asdict() if isinstance(each, Range) else each
        for name, each in search.space.items()
    }
    write_asked(Path(folder) / SEARCH_FILE, {**search._asdict(), "space": space})


def is_search(folder: Path | str) -> bool:
    """Whether a folder is that of a search."""
    return (Path(folder) / SEARCH_FILE).is_file()


def read_search(folder: Path | str) -> Search:
    """What was asked of the search in a folder.

    Raises:
        OSError: `search.json` cannot be read.
        ValueError: the folder holds no search, that of a newer dinojax, or a damaged one.
    """

    def make(settings: Values, space: Mapping[str, Any], **content: Any) -> Search:
        ranges = {name: Range(**x) if isinstance(x, dict) else x for name, x in space.items()}
        return make_search(**content, settings={**settings, **ranges})

    return read_asked(Path(folder) / SEARCH_FILE, "search", make)
