"""The folder of a run: everything that training writes, and what it needs to resume.

runs/dinos/checkpoint-000035000.npz     state after so many steps; the newest and the best are kept
runs/dinos/config.json                  settings and data of the run
runs/dinos/train.txt                    names or text that the model learned from
runs/dinos/validation.txt, test.txt     names or text that were held out, if any
runs/dinos/earlier.txt                  further names that the runs before it learned, if any
runs/dinos/metrics.jsonl                losses and speed over time; see `metrics`

All functions raise an OSError if a file cannot be read or written.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import dinojax
from dinojax import files
from dinojax.config import TrainConfig
from dinojax.data.vocab import Vocab
from dinojax.files import digest, write_atomically
from dinojax.models.cells import Params
from dinojax.models.model import CharModel
from dinojax.models.trained import Trained
from dinojax.runs import checkpoint
from dinojax.runs.description import (
    PARTS,
    Description,
    Parts,
    Tally,
    build_model,
    from_metadata,
    part_content,
    to_metadata,
    write_config,
)
from dinojax.training.step import TrainState

CONFIG_FILE, LOCK_FILE = "config.json", ".lock"
NUM_KEPT = 2


class Run(NamedTuple):
    """A run as one of its checkpoints describes it."""

    description: Description
    model: CharModel
    params: Params
    step: int
    """Number of training steps done."""
    tally: Tally
    checkpoint: Path
    damaged: tuple[Path, ...]
    """Preferred checkpoints that were passed over because they are damaged or missing."""

    @property
    def config(self) -> TrainConfig:
        return self.description.config

    @property
    def vocab(self) -> Vocab:
        return self.description.vocab

    @property
    def trained(self) -> Trained:
        return Trained(self.model, self.params, self.vocab)


def take_folder(folder: Path, overwrite: bool = False) -> None:
    """Make `folder` for a new run, or accept one that is empty except for an incomplete start.

    With `overwrite` it may hold a run, which stays until `start_run` has replaced it.

    Raises:
        ValueError: it is a file, it holds a run and `overwrite` is false, or it holds other files.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a folder for the run, or a new name")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = find_checkpoints(folder)
    if checkpoints and not overwrite:
        raise ValueError(f"{folder} holds a run; choose another folder, or overwrite it")
    ours = {folder / LOCK_FILE, *_leftovers(folder)}
    if (folder / LOCK_FILE).exists():
        # The user's own files may have these names; a lock shows that a run was started here.
        ours |= {folder / name for name in (CONFIG_FILE, *(f"{part}.txt" for part in PARTS))}
    if not checkpoints and set(folder.iterdir()) - ours:
        raise ValueError(f"{folder} holds other files; choose a new or an empty folder")


def locked(folder: Path) -> AbstractContextManager[None]:
    """Lock the folder of a run. The lock of a process that has died does not count.

    Raises:
        OSError: the lock file cannot be made.
        ValueError: another process has locked it.
    """
    return files.locked(
        folder / LOCK_FILE,
        f"another process trains in {folder}; wait until it has ended, or choose another folder",
    )


def start_run(folder: Path, state: TrainState, description: Description, parts: Parts) -> None:
    """Write the first checkpoint and the data of a new run, replacing an earlier run.

    If the checkpoint cannot be written, the earlier run is still there.
    """
    earlier = find_checkpoints(folder)
    if not earlier:
        # The checkpoint comes last: a run that is killed before it can be started again.
        _write_data(folder, description, parts)
    first = save_checkpoint(folder, state, description, Tally())
    if earlier:
        for path in earlier:
            if path != first:
                path.unlink(missing_ok=True)
        _write_data(folder, description, parts)


def _write_data(folder: Path, description: Description, parts: Parts) -> None:
    for name in PARTS:
        if name in parts:
            write_atomically(folder / f"{name}.txt", part_content(parts[name]))
        else:
            (folder / f"{name}.txt").unlink(missing_ok=True)
    write_config(folder / CONFIG_FILE, description)


def read_part(folder: Path, description: Description, name: str) -> list[str] | str:
    """A part of a run's data: its names, or its text.

    Raises:
        ValueError: the run has no such part, or the file was changed.
    """
    if name not in description.parts:
        raise ValueError(
            f"{folder} has no {name} part; it has {', '.join(description.parts)} (others are set "
            "aside by a validation fraction or a test fraction)"
        )
    path = folder / f"{name}.txt"
    content = path.read_bytes()
    if digest(content) != description.parts[name]:
        raise ValueError(f"{path} was changed after training: its checksum does not match")
    text = content.decode()
    return text if description.config.is_text else text.removesuffix("\n").split("\n")


def save_checkpoint(
    folder: Path, state: TrainState, description: Description, tally: Tally, *, keep: int = NUM_KEPT
) -> Path:
    """Write a checkpoint into the folder of a run, and remove all but the newest and the best.

    If it cannot be written, the older ones are still there.
    """
    step, packages = int(state.step), ("jax", "jaxlib", "numpy", "optax")
    metadata = to_metadata(description, tally) | {
        "step": step,
        "key_implementation": str(jax.random.key_impl(state.key)),
        "versions": {"dinojax": dinojax.__version__} | {name: version(name) for name in packages},
    }
    path = _checkpoint_path(folder, step)
    checkpoint.save(path, state, metadata)
    older = [each for each in find_checkpoints(folder) if _step_of(each) <= step][:-keep]
    for old in [*older, *_leftovers(folder)]:
        if old != _checkpoint_path(folder, tally.best_step):
            old.unlink(missing_ok=True)
    return path


def load_run(folder: Path, which: str = "best") -> Run:
    """The run in a folder at one of its checkpoints; see `load_checkpoint`."""
    return load_checkpoint(folder, which)[0]


def load_checkpoint(folder: Path, which: str) -> tuple[Run, Mapping[str, Any]]:
    """The run in a folder at one of its checkpoints, and all arrays of that checkpoint by name.

    `which` is "best", by validation loss (the last where there was no validation), "last", or a
    number of steps. Where the newest checkpoint is damaged, the one before it counts as the last.

    Raises:
        ValueError: the folder holds no run, no such checkpoint, or none that can be read.
    """
    checkpoints = find_checkpoints(folder) if folder.is_dir() else []
    if not checkpoints:
        found = "a run: it has no checkpoint" if folder.is_dir() else "a folder"
        raise ValueError(f"{folder} is not {found}; expected the folder of a training run")
    if which not in ("best", "last"):
        path = _checkpoint_path(folder, int(which))
        if path not in checkpoints:
            steps = ", ".join(str(_step_of(path)) for path in checkpoints)
            raise ValueError(f"{folder} has no checkpoint of step {which}; it has {steps}")
        return _read(path)
    errors: dict[Path, ValueError] = {}
    for path in reversed(checkpoints):
        try:
            run, arrays = _read(path)
        except ValueError as error:
            errors[path] = error
            continue
        damaged, best = [*errors], _checkpoint_path(folder, run.tally.best_step)
        if which == "best" and run.tally.best_step not in (-1, run.step):
            try:
                run, arrays = _read(best)
            except (FileNotFoundError, ValueError):
                damaged.append(best)
        return run._replace(damaged=tuple(damaged)), arrays
    raise next(iter(errors.values()))


def restore_state(run: Run, arrays: Mapping[str, Any], like: TrainState) -> TrainState:
    """The training state in the arrays of a run's checkpoint; see `checkpoint.restore`."""
    with _named(run.checkpoint):
        return checkpoint.restore(arrays, like)


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    pattern = re.compile(r"checkpoint-\d{9,}\.npz")
    found = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    return sorted(found, key=_step_of)


def _read(path: Path) -> tuple[Run, Mapping[str, Any]]:
    metadata, arrays = checkpoint.load(path)
    with _named(path):
        description, tally = from_metadata(metadata)
        model = build_model(description.config, description.vocab)
        like = jax.eval_shape(lambda: model.init(jax.random.key(0)))
        params = checkpoint.restore(arrays, like, "params/")
        for name, array in arrays.items():
            if name.startswith("params/") and not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")
        run = Run(description, model, params, metadata["step"], tally, path, ())
    return run, arrays


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} could not be read: {error}") from None


def _checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step:09d}.npz"


def _leftovers(folder: Path) -> list[Path]:
    """Temporary files of processes that were killed while writing."""
    parts = "|".join(PARTS)
    ours = rf"checkpoint-\d{{9,}}\.npz|({parts})\.txt|config\.json|metrics\.jsonl"
    pattern = re.compile(rf"\.({ours}|loss\.(png|svg))\.\d+\.tmp")
    return [path for path in folder.iterdir() if pattern.fullmatch(path.name)]


def _step_of(path: Path) -> int:
    return int(path.stem.split("-")[1])
