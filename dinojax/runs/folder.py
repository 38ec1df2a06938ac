"""The folder of a run: everything that training writes, and what it needs to resume.

runs/dinos/checkpoint-000035000.npz     state after so many steps; the newest and the best are kept
runs/dinos/config.json                  settings and data of the run
runs/dinos/train.txt                    names or text that the model learned from
runs/dinos/validation.txt, test.txt     names or text that were held out, if any
runs/dinos/train.json, ..               in place of these, where large data lie; see `references`
runs/dinos/earlier.txt                  further names that the runs before it learned, if any
runs/dinos/code-0123456789abcdef.py     code of the user's own that it needs, if any; see `code`
runs/dinos/selection/                   the run that chose the steps of this one, if it is refitted
runs/dinos/metrics.jsonl                losses and speed over time; see `metrics`
runs/dinos/.lock                        locked by the process that trains; always empty
runs/dinos/.new                         a run that is to take the place of this; see `exchange`

All functions raise an OSError if a file cannot be read or written.
"""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import dinojax
from dinojax.config import TrainConfig
from dinojax.data.stored import is_prepared
from dinojax.data.vocab import Vocab
from dinojax.files import remove_leftovers, write_atomically
from dinojax.messages import about, count
from dinojax.models.cells import Params
from dinojax.models.model import CharModel
from dinojax.models.trained import Trained
from dinojax.runs import checkpoint, code, exchange
from dinojax.runs.description import Description, Part, Parts, Tally, build_model, part_content
from dinojax.runs.exchange import CONFIG_FILE, LOCK_FILE, METRICS_FILE
from dinojax.runs.exchange import find_checkpoints as find_checkpoints
from dinojax.runs.exchange import locked as locked
from dinojax.runs.exchange import step_of as step_of
from dinojax.runs.kinds import kind_name
from dinojax.runs.metadata import from_metadata, to_metadata, write_config
from dinojax.runs.parameters import stored_params
from dinojax.runs.parts import read_part as read_part
from dinojax.runs.parts import restore_data as restore_data
from dinojax.runs.selection import SELECTION
from dinojax.training.step import TrainState

NUM_KEPT = 2
Begun = tuple[TrainState, Description, Parts]
"""A run before its first step."""


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
    def folder(self) -> Path:
        """The folder of the run; of several that are mixed, that of the first."""
        return exchange.home(self.checkpoint)

    @property
    def trained(self) -> Trained:
        return Trained(self.model, self.params, self.vocab, self.description.max_length)


def take_folder(folder: Path | str, overwrite: bool = False) -> None:
    """Make `folder` for a new run, or accept one that is empty except for an incomplete start.

    With `overwrite` it may hold a run, which stays until `start_run` has replaced it.

    Raises:
        ValueError: it is a file, it holds a run and `overwrite` is false, or it holds other files.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a folder for the run, or a new name")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = find_checkpoints(folder)
    if checkpoints and not overwrite:
        raise ValueError(f"{folder} holds a run; choose another folder, or overwrite it")
    if checkpoints and not any(map(checkpoint.is_begun, checkpoints)):
        raise ValueError(
            f"{folder} holds no run, but files named like checkpoints; choose another folder, or "
            "remove them"
        )
    # What a user may have put there is never replaced, whatever its name.
    ours = {folder / exchange.NEW} if exchange.is_ours(folder) else set()
    lock = folder / LOCK_FILE
    if lock.is_file() and not lock.stat().st_size:
        ours.add(lock)
    if not checkpoints and set(folder.iterdir()) - ours:
        raise ValueError(f"{folder} holds other files; choose a new or an empty folder")


def start_run(
    folder: Path | str,
    state: TrainState,
    description: Description,
    parts: Parts,
    selection: Begun | None = None,
) -> None:
    """Write the first checkpoint and the data of a new run, replacing an earlier run.

    It may have a `selection`. The folder must be locked. At any moment it holds all of the earlier
    run or all of the new one, each with its selection; see `exchange`. If the new one cannot be
    written, the earlier run is still there.

    Raises:
        ValueError: another process trains the selection of the earlier run, or there are other
            files in the place of the new selection.
    """
    folder, writers = Path(folder), _writers(state, description, parts)
    if selection:
        if (inside := folder / SELECTION).exists():
            take_folder(inside, overwrite=exchange.has_selection(folder))
        first = dict([writers.popitem()])
        inner = {f"{SELECTION}/{name}": write for name, write in _writers(*selection).items()}
        writers |= inner | first
    try:
        new = exchange.begin(folder, [*writers])
        for name, write in writers.items():
            write(new / name)
    finally:
        exchange.finish(folder)


def _writers(
    state: TrainState, description: Description, parts: Parts
) -> dict[str, Callable[[Path], object]]:
    """Functions that write the files of a new run, by their names; the checkpoint is the last."""

    def write_part(path: Path, part: Part) -> None:
        write_atomically(path, part_content(part))

    codes = code.copies(code.codes_of(description.config) | code.codes_of(description.kind))
    return {
        **{
            f"{name}.{'json' if is_prepared(part) else 'txt'}": partial(write_part, part=part)
            for name, part in parts.items()
        },
        **{name: partial(write_atomically, content=source) for name, source in codes.items()},
        CONFIG_FILE: partial(write_config, description=description),
        METRICS_FILE: partial(write_atomically, content=b""),
        f"checkpoint-{int(state.step):09d}.npz": lambda path: save_checkpoint(
            path.parent, state, description, Tally()
        ),
    }


def save_checkpoint(
    folder: Path | str,
    state: TrainState,
    description: Description,
    tally: Tally,
    *,
    keep: int = NUM_KEPT,
) -> Path:
    """Write a checkpoint into the folder of a run, and remove all but the newest and the best.

    In the cooldown, those from before it stay, too: from there the run can be extended. If it
    cannot be written, the older ones are still there.
    """
    folder = Path(folder)
    step, packages = int(state.step), ("jax", "jaxlib", "numpy", "optax")
    metadata = to_metadata(description, tally) | {
        "step": step,
        "key_implementation": str(jax.random.key_impl(state.key)),
        "versions": {"dinojax": dinojax.__version__} | {name: version(name) for name in packages},
    }
    path = folder / f"checkpoint-{step:09d}.npz"
    checkpoint.save(path, state, metadata)
    start = description.config.cooldown_start
    first = start if start < step <= description.config.steps else -1
    for old in [each for each in find_checkpoints(folder) if first < step_of(each) <= step][:-keep]:
        if step_of(old) != tally.best_step and not old.is_dir():
            old.unlink(missing_ok=True)
    remove_leftovers(folder)
    return path


def load_run(folder: Path | str, which: str = "best") -> Run:
    """The run in a folder at one of its checkpoints; see `load_checkpoint`."""
    return load_checkpoint(folder, which)[0]


def load_checkpoint(folder: Path | str, which: str) -> tuple[Run, Mapping[str, Any]]:
    """The run in a folder at one of its checkpoints, and all arrays of that checkpoint by name.

    `which` is "best", by validation loss (the last where there was no validation), "last", or a
    number of steps. Where the newest checkpoint is damaged, the one before it counts as the last.

    Raises:
        ValueError: the folder holds no run, no such checkpoint, or none that can be read.
    """
    folder = Path(folder)
    checkpoints = find_checkpoints(folder) if folder.is_dir() else []
    if not checkpoints:
        found = exchange.not_a_run(folder, "checkpoint")
        raise ValueError(f"{found}; expected the folder of a training run")
    if which not in ("best", "last"):
        steps = [step_of(path) for path in checkpoints]
        if not str(which).isdecimal() or int(which) not in steps:
            there = ", ".join(map(str, steps))
            raise ValueError(f"{folder} has no checkpoint of step {which}; it has {there}")
        return _read(checkpoints[steps.index(int(which))])
    errors: dict[Path, OSError | ValueError] = {}
    for path in reversed(checkpoints):
        try:
            run, arrays = _read(path)
        except (OSError, ValueError) as error:
            errors[path] = error
            continue
        damaged, best = [*errors], folder / f"checkpoint-{run.tally.best_step:09d}.npz"
        if which == "best" and run.tally.best_step not in (-1, run.step):
            try:
                run, arrays = _read(best)
            except (OSError, ValueError):
                damaged.append(best)
        return run._replace(damaged=tuple(damaged)), arrays
    raise next(iter(errors.values()))


def check_is_network(run: Run, wanted: str) -> None:
    """Raise a ValueError, with what is `wanted`, unless the model of a run is a network."""
    if run.description.model:
        got = kind_name(run.description.model)
        raise ValueError(f"expected the run of a network, got a {got}; {wanted}")


def check_without_labels(run: Run, wanted: str) -> None:
    """Raise a ValueError, with what is `wanted`, if a run learned names with labels."""
    if run.vocab.labels:
        labels = count(len(run.vocab.labels), "label")
        raise ValueError(f"expected a run without labels, got one with {labels}; {wanted}")


def restore_state(run: Run, arrays: Mapping[str, Any], like: TrainState) -> TrainState:
    """The training state in the arrays of a run's checkpoint; see `checkpoint.restore`.

    Raises:
        ValueError: an array is missing, has another shape or type, or is not finite.
    """
    with about(f"{run.checkpoint} could not be read"):
        _check_finite(arrays)
        return checkpoint.restore(arrays, like)


def _read(path: Path) -> tuple[Run, Mapping[str, Any]]:
    metadata, arrays = checkpoint.load(path)
    with about(f"{path} could not be read"):
        description, tally = from_metadata(metadata)
    code.check_copies(exchange.home(path), code.codes_of(description.kind))
    with about(f"{path} could not be read"):
        model = build_model(description.kind, description.vocab)
        like = {"params": stored_params(description.kind, description.vocab, arrays)}
        if not description.model and description.config.is_averaged:
            like = {"average": like}
        restored = checkpoint.restore(arrays, like | {"step": jax.ShapeDtypeStruct((), jnp.int32)})
        step = int(restored.pop("step"))
        if not 0 <= step == metadata.get("step"):
            raise ValueError(f"expected {step}, its number of steps, as step in its metadata")
        _check_finite(checkpoint.named_leaves(restored))
        params = restored.get("average", restored)["params"]
        if description.model:
            # Tables may be too large to be sent to the device for each call.
            params = jax.device_put(params)
        run = Run(description, model, params, step, tally, path, ())
    return run, arrays


def _check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        # A mean of squared gradients may overflow to infinity, and training goes on.
        is_good = ~np.isnan(array) if "/nu/" in name else np.isfinite(array)
        if not is_good.all():
            raise ValueError(f"{name} is not finite")
