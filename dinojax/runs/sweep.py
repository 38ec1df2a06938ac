"""A sweep: the folder of many runs that differ in a few settings and in their seeds.

    runs/names-sweep/sweep.json                                what was asked; see `Sweep`
    runs/names-sweep/learning_rate=0.001,dropout=0.1/seed-0/   a replica, an ordinary run
    runs/names-sweep/results.json, results.txt                 what came of it; see `results`
    runs/names-sweep/.lock                                     locked by who works on it

Seed i has the same initial draws and the same order of the data in every setting, so that settings
can be compared seed by seed. All have the same parts for validation and test.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from dinojax.config import TrainConfig, check_range
from dinojax.files import read_regular
from dinojax.messages import about, quoted, shortened
from dinojax.presets import PRESETS, resolve
from dinojax.runs.asked import (
    OF_THE_SWEEP,
    Values,
    check_values,
    read_asked,
    shown,
    with_validation,
    write_asked,
)

SWEEP_FILE, RESULTS_FILE, TABLE_FILE = "sweep.json", "results.json", "results.txt"
MAX_REPLICAS = 100_000
MAX_NAME = 200
"""Longest name of a setting, in characters."""
FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"


class Sweep(NamedTuple):
    """What was asked, as `sweep.json` holds it."""

    preset: str
    data: str
    """Paths of the data as given, one a line; empty for the bundled names."""
    data_sha256: str
    settings: Values
    """Settings given with one value, which all replicas share."""
    values: Mapping[str, Sequence[Any]]
    """The values of each setting that is swept."""
    seeds: int
    """Each setting is trained with the seeds 0, 1, .. below this number."""
    baseline: Values
    """The values, of the settings that are swept, with which all others are compared."""


class Replica(NamedTuple):
    """One run of a sweep."""

    setting: str
    """Name of its setting, and of the folder in that of the sweep; see `setting_name`."""
    values: Values
    """The values of the settings that are swept."""
    seed: int
    config: TrainConfig

    @property
    def folder(self) -> Path:
        """Its folder, relative to that of the sweep."""
        return Path(self.setting, f"seed-{self.seed}")


class Outcome(NamedTuple):
    """How a replica ended."""

    status: str
    """`FINISHED`, `DIVERGED` or `FAILED`."""
    validation_loss: float | None = None
    """Exact loss of its best checkpoint over the validation part, in nats per character."""
    best_step: int | None = None
    """Steps done at that checkpoint."""
    steps: int | None = None
    """Steps done in all."""
    num_parameters: int | None = None
    """Number of parameters of its model; None also where an earlier version wrote the results."""
    message: str = ""
    """Why it did not finish."""


def make_sweep(
    preset: str,
    data: str,
    data_sha256: str,
    *,
    seeds: int,
    settings: Mapping[str, Any],
    baseline: Values | None = None,
) -> Sweep:
    """A sweep over `settings`, fields of `TrainConfig`, each a value or a list of values.

    A setting is swept if it has several values or is named in `baseline`; one with a single value
    is that of all replicas. Values that `baseline` leaves out are those of the preset. Where the
    preset holds out no data to validate, a share is held out; see `with_validation`.

    Raises:
        ValueError: a value or a combination is not possible, or comes twice, or losses could not
            be compared.
    """
    check_range("seeds", seeds, 1, 10_000)
    given = {n: [*x] if isinstance(x, list | tuple) else [x] for n, x in settings.items()}
    for name in OF_THE_SWEEP:
        if name in given:
            raise ValueError(f"{name.replace('_', ' ')}: a sweep gives each replica its own")
    for name, values in given.items():
        check_values(name, values)
    if "steps" in given and any(given.get("epochs", [])):
        raise ValueError("epochs: they set the steps, which are given, too; give one of the two")
    for name in baseline or {}:
        if name not in given:
            swept = ", ".join(given) or "none"
            raise ValueError(f"baseline: {quoted(name)} is not swept; expected some of {swept}")
    chosen = {n: x for n, x in given.items() if len(x) > 1 or n in (baseline or {})}
    fixed = {name: values[0] for name, values in given.items() if name not in chosen}
    fixed = with_validation(preset, fixed, "sweep")
    base = asdict(PRESETS[preset])
    compared = {name: (baseline or {}).get(name, base[name]) for name in chosen}
    sweep = Sweep(preset, data, data_sha256, fixed, chosen, seeds, compared)
    plan(sweep)
    return sweep


def plan(sweep: Sweep) -> list[Replica]:
    """The replicas of a sweep, setting by setting, the baseline first.

    Raises:
        ValueError: a setting is not possible, two are the same, or there are too many replicas.
    """
    combinations = [
        dict(zip(sweep.values, each, strict=True)) for each in product(*sweep.values.values())
    ]
    settings = [sweep.baseline, *(each for each in combinations if each != sweep.baseline)]
    if (num := len(settings) * sweep.seeds) > MAX_REPLICAS:
        raise ValueError(f"a sweep of {num:,} runs; expected up to {MAX_REPLICAS:,}")
    replicas, names = [], dict[TrainConfig, str]()
    for values in settings:
        name = setting_name(sweep.preset, values)
        if len(name) > MAX_NAME:
            raise ValueError(f"too many swept settings for the name of a folder: {shortened(name)}")
        given = {**sweep.settings, **values, "devices": 1}
        if given.get("epochs"):
            # Earlier versions took both, and the epochs set the steps.
            given.pop("steps", None)
        config = resolve(sweep.preset, given=given)
        # Epochs set the steps.
        course = replace(config, steps=1) if config.epochs else config
        if course in names:
            raise ValueError(f"the settings {names[course]} and {name} are the same")
        names[course] = name
        replicas += [
            Replica(name, values, seed, replace(config, seed=seed)) for seed in range(sweep.seeds)
        ]
    if len({each.is_text for each in names}) > 1:
        raise ValueError("batches: expected all for names, or all for a text")
    return replicas


def setting_name(preset: str, values: Values) -> str:
    """The name of a setting and its folder: "learning_rate=0.001,dropout=0.1".

    Where no setting is swept, it is that of the preset.
    """
    return ",".join(f"{name}={shown(value)}" for name, value in values.items()) or preset


def write_sweep(folder: Path | str, sweep: Sweep) -> None:
    """Write `sweep.json`; see `read_sweep`."""
    write_asked(Path(folder) / SWEEP_FILE, sweep._asdict())


def is_sweep(folder: Path | str) -> bool:
    """Whether a folder is that of a sweep."""
    return (Path(folder) / SWEEP_FILE).is_file()


def read_sweep(folder: Path | str) -> Sweep:
    """What was asked of the sweep in a folder.

    Raises:
        OSError: `sweep.json` cannot be read.
        ValueError: the folder holds no sweep, or that of a newer dinojax, or one that is damaged.
    """
    file = Path(folder) / SWEEP_FILE
    sweep = read_asked(file, "sweep", _checked)
    with about(file):
        plan(sweep)
    return sweep


def _checked(**content: Any) -> Sweep:
    sweep = Sweep(**content)
    kinds = (str, str, str, dict, dict, int, dict)
    if not all(type(x) is kind for x, kind in zip(sweep, kinds, strict=True)):
        raise TypeError
    if not all(type(values) is list for values in sweep.values.values()):
        raise TypeError
    return sweep


def read_outcomes(folder: Path | str) -> dict[Path, Outcome]:
    """How the replicas of a sweep ended, by their folders relative to that of the sweep.

    Those that have not ended are missing.
    """
    return {
        Path(each["folder"]): Outcome(**{name: each[name] for name in Outcome._fields})
        for each in _read_results(Path(folder))["replicas"]
    }


def best_setting(folder: Path | str) -> str:
    """The name of a sweep's best setting; see `results.summarize`.

    Raises:
        ValueError: no replica has finished.
    """
    folder = Path(folder)
    best = _read_results(folder)["best"]
    if best is None:
        raise ValueError(f"{folder} has no finished replica yet")
    return str(best)


def members(folder: Path | str) -> list[Path]:
    """The folders of the finished replicas of a sweep's best setting, in the order of their seeds.

    `folder` may also be that of one of its settings.

    Raises:
        OSError: a file cannot be read.
        ValueError: the folder is none of a sweep, or no replica has finished.
    """
    folder = Path(folder)
    sweep, setting = folder, None
    if not is_sweep(folder) and is_sweep(folder.resolve().parent):
        sweep, setting = folder.resolve().parent, folder.resolve().name
    replicas = plan(read_sweep(sweep))
    setting, outcomes = setting or best_setting(sweep), read_outcomes(sweep)
    found = [
        sweep / replica.folder
        for replica in replicas
        if replica.setting == setting
        and replica.folder in outcomes
        and outcomes[replica.folder].status == FINISHED
    ]
    if not found:
        raise ValueError(f"{folder} has no finished replica yet")
    return found


def _read_results(folder: Path) -> dict[str, Any]:
    file = folder / RESULTS_FILE
    if not file.exists():
        return {"best": None, "replicas": []}
    with about(file):
        try:
            content = json.loads(read_regular(file).decode())
            for each in content["replicas"]:
                each.setdefault("num_parameters", None)
                _ = each["folder"], *(each[name] for name in Outcome._fields)
            _ = content["best"]
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            raise ValueError("expected the results of a sweep; remove it") from None
    return dict(content)
