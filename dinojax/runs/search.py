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

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from dinojax.config import TrainConfig, check_range
from dinojax.files import read_regular, write_atomically
from dinojax.messages import about, quoted
from dinojax.presets import resolve
from dinojax.runs.sweep import FRACTION, OF_THE_SWEEP, SHARED, Values, shown

SEARCH_FILE = "search.json"
FORMAT = 1
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

    Where the preset holds out no data to validate, a share of `FRACTION` is held out.

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
            space[name] = Range(*map(kinds[name], given))
            if space[name] != given:
                raise ValueError(f"{words}: expected a range of whole numbers, got {given.high}")
            continue
        values = list(given) if isinstance(given, list | tuple) else [given]
        for i, value in enumerate(values):
            if value in values[:i]:
                raise ValueError(f"{words}: {shown(value)} is given twice")
        if len(values) == 1:
            fixed[name] = values[0]
        else:
            space[name] = values
    for name in SHARED:
        if name in space:
            raise ValueError(
                f"{name.replace('_', ' ')}: expected one value, as losses over different data "
                "cannot be compared"
            )
    if not space:
        raise ValueError(
            "there is nothing to search; give a setting a range such as 1e-4:1e-2, or several "
            "values"
        )
    if not resolve(preset, given=fixed).validation_fraction:
        if "validation_fraction" in fixed:
            raise ValueError(
                "validation fraction: expected more than 0, as a search compares validation losses"
            )
        fixed["validation_fraction"] = FRACTION
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
    content = {"format": FORMAT, **search._asdict(), "space": space}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_atomically(Path(folder) / SEARCH_FILE, f"{text}\n".encode(errors="backslashreplace"))


def is_search(folder: Path | str) -> bool:
    """Whether a folder is that of a search."""
    return (Path(folder) / SEARCH_FILE).is_file()


def read_search(folder: Path | str) -> Search:
    """What was asked of the search in a folder.

    Raises:
        OSError: `search.json` cannot be read.
        ValueError: the folder holds no search, that of a newer dinojax, or a damaged one.
    """
    folder = Path(folder)
    if not is_search(folder):
        raise ValueError(f"{folder} holds no search: it has no {SEARCH_FILE}")
    file = folder / SEARCH_FILE
    with about(file):
        try:
            content = json.loads(read_regular(file).decode())
            version, space = content.pop("format"), content.pop("space")
            if version == FORMAT:
                given = {n: Range(**x) if isinstance(x, dict) else x for n, x in space.items()}
                settings = {**content.pop("settings"), **given}
                return make_search(**content, settings=settings)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            raise ValueError("expected what was asked of a search, a JSON object") from None
        raise ValueError(f"has format {quoted(version)}, this dinojax reads {FORMAT}")
