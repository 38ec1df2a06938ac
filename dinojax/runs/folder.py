"""The folder of a run: all that a training writes, and what it needs to go on.

runs/dinos/checkpoint-000035000.npz     after so many steps; the newest few and the best are kept
runs/dinos/config.json                  what decided the run; `scripts/train.py --config` reads it
runs/dinos/train.txt                    what it learned from, as the model read it
runs/dinos/validation.txt, test.txt     what it was kept from, where there is such a part
runs/dinos/metrics.jsonl                how it went; see `metrics`
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import dinojax
from dinojax import files
from dinojax.config import TrainConfig, config_from
from dinojax.data.vocab import Vocab
from dinojax.files import digest, write_atomically
from dinojax.models.cells import CELLS, Params
from dinojax.models.layers import from_cell
from dinojax.models.model import CharModel, char_model
from dinojax.runs import checkpoint
from dinojax.training.step import TrainState

CONFIG_FILE, LOCK_FILE = "config.json", ".lock"
PARTS = "train", "validation", "test"
KEPT_CHECKPOINTS = 2


class Description(NamedTuple):
    """What stays as it is throughout a run."""

    config: TrainConfig
    vocab: Vocab
    data: str
    """Path of the data, as it was given; empty for the bundled names."""
    data_sha256: str
    """Checksum of that file."""
    init_from: str
    """The run whose parameters it began with, as it was given; empty for none."""
    parts: Mapping[str, str]
    """Checksums of the files of its parts, as in {"train": ..}."""


class Tally(NamedTuple):
    """What a training must remember besides its state, to go on as if it had never stopped."""

    best_step: int = -1
    """Steps done at the best validation; -1 before the first."""
    best_loss: float = float("inf")
    """The validation loss there, nats a character."""
    validations_since: int = 0
    """How many were no better since."""
    nats: float = 0.0
    """Sum of the training losses since the last line of metrics."""
    characters: float = 0.0
    """How many characters these were for."""


class Run(NamedTuple):
    """A trained model and what it was trained by."""

    description: Description
    model: CharModel
    params: Params
    step: int
    """Training steps done."""
    tally: Tally
    checkpoint: Path
    damaged: tuple[Path, ...]
    """Checkpoints that would have been used, but that are damaged or missing."""

    @property
    def config(self) -> TrainConfig:
        """What decided the training."""
        return self.description.config

    @property
    def vocab(self) -> Vocab:
        """The characters it knows."""
        return self.description.vocab


def build_model(config: TrainConfig, vocab: Vocab) -> CharModel:
    """The model that a configuration describes."""
    sizes = vocab.size, *[config.hidden_size] * config.num_layers
    product_dtype = None if config.dtype == "float32" else jnp.bfloat16
    layers = [
        from_cell(CELLS[config.cell](below, size, product_dtype=product_dtype))
        for below, size in pairwise(sizes)
    ]
    return char_model(layers, vocab, dropout=config.dropout, product_dtype=product_dtype)


def next_free_folder(preset: str) -> Path:
    """Make the folder runs/`preset`, or the next free of runs/`preset`-2, -3, ..

    Raises:
        OSError: it cannot be made.
    """
    Path("runs").mkdir(exist_ok=True)
    for number in count(1):
        folder = Path("runs", preset if number == 1 else f"{preset}-{number}")
        # Making it is the test: two runs that start at once get two folders.
        with suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def take_folder(folder: Path, overwrite: bool) -> None:
    """Make `folder` for a new run, or take it as it is if it is empty but for leftovers.

    These are of runs that were killed before their first checkpoint was whole.

    With `overwrite` it may hold a run, which stays until `start_run` has replaced it.

    Raises:
        OSError: the folder cannot be made.
        ValueError: it holds a run and `overwrite` is not given, or it holds other files.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a folder for the run, or a new name")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = find_checkpoints(folder)
    if checkpoints and not overwrite:
        raise ValueError(f"{folder} holds a run; choose another --out, or give --overwrite")
    lock = folder / LOCK_FILE
    ours = {lock, *_leftovers(folder)}
    if lock.exists():
        # A file of the user's may have such a name; where there is a lock, a run was begun.
        ours |= {folder / name for name in (CONFIG_FILE, *(f"{part}.txt" for part in PARTS))}
    if not checkpoints and set(folder.iterdir()) - ours:
        raise ValueError(f"{folder} holds other files; choose a new or an empty folder")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep the folder of a run to this process; a process that has died does not keep it.

    Raises:
        OSError: the lock cannot be made.
        ValueError: another process writes to the run.
    """
    try:
        with files.locked(folder / LOCK_FILE):
            yield
    except BlockingIOError:
        raise ValueError(
            f"another process trains in {folder}; wait until it has ended, or choose another --out"
        ) from None


def part_content(part: Sequence[str] | str) -> bytes:
    """What the file of a part holds: names, one a line, or a text."""
    text = part if isinstance(part, str) else "".join(f"{name}\n" for name in part)
    return text.encode()


def start_run(
    folder: Path,
    state: TrainState,
    description: Description,
    parts: Mapping[str, Sequence[str] | str],
) -> None:
    """Write the first checkpoint and the data of a new run, in the place of a run before it.

    Raises:
        OSError: a file cannot be written; if it is the checkpoint, the run before is still there.
    """
    earlier = find_checkpoints(folder)
    if not earlier:
        # Before the checkpoint, which makes it a run: killed in between, it could not go on.
        _write_data(folder, description, parts)
    first = save_checkpoint(folder, state, description, Tally())
    if earlier:
        for path in earlier:
            if path != first:
                path.unlink(missing_ok=True)
        _write_data(folder, description, parts)


def _write_data(
    folder: Path, description: Description, parts: Mapping[str, Sequence[str] | str]
) -> None:
    for name in PARTS:
        if name in parts:
            write_atomically(folder / f"{name}.txt", part_content(parts[name]))
        else:
            (folder / f"{name}.txt").unlink(missing_ok=True)
    write_config(folder, description)


def write_config(folder: Path, description: Description) -> None:
    """Write what decides a run where a person can read it, and `--config` too.

    Raises:
        OSError: the file cannot be written.
    """
    content = {
        "data": description.data,
        "data_sha256": description.data_sha256,
        "init_from": description.init_from,
        **asdict(description.config),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / CONFIG_FILE, text.encode())


def read_part(folder: Path, description: Description, name: str) -> list[str] | str:
    """A part of a run's data: its names, or its text.

    Raises:
        OSError: the file cannot be read.
        ValueError: the run has no such part, or the file was changed.
    """
    if name not in description.parts:
        raise ValueError(
            f"{folder} has no {name} part; it has {', '.join(description.parts)} "
            "(train.py sets others apart by --validation-fraction and --test-fraction)"
        )
    path = folder / f"{name}.txt"
    content = path.read_bytes()
    if digest(content) != description.parts[name]:
        raise ValueError(f"{path} was changed after training: wrong checksum")
    text = content.decode()
    return text if description.config.is_text else text.removesuffix("\n").split("\n")


def save_checkpoint(
    folder: Path,
    state: TrainState,
    description: Description,
    tally: Tally,
    keep: int = KEPT_CHECKPOINTS,
) -> Path:
    """Write a checkpoint into a run's folder, then remove those before it but for a few.

    The newest `keep` stay, and the best.

    Raises:
        OSError: it cannot be written; those before it are still there.
    """
    path = _checkpoint_path(folder, int(state.step))
    metadata = {
        "config": asdict(description.config),
        "characters": description.vocab.characters,
        "data": description.data,
        "data_sha256": description.data_sha256,
        "init_from": description.init_from,
        "parts": dict(description.parts),
        "tally": tally._asdict() | {"best_loss": repr(tally.best_loss)},
        "step": int(state.step),
        "key_implementation": str(jax.random.key_impl(state.key)),
        "versions": {
            "dinojax": dinojax.__version__,
            **{package: version(package) for package in ("jax", "jaxlib", "numpy", "optax")},
        },
    }
    checkpoint.save(path, state, metadata)
    checkpoints = find_checkpoints(folder)
    up_to_this = checkpoints[: checkpoints.index(path) + 1]
    for old in up_to_this[:-keep]:
        if old != _checkpoint_path(folder, tally.best_step):
            old.unlink(missing_ok=True)
    for leftover in _leftovers(folder):
        leftover.unlink(missing_ok=True)
    return path


def load_run(folder: Path, which: str = "best") -> Run:
    """The run in a folder, with the parameters of one of its checkpoints.

    `which` is "best", by validation loss (the last where nothing was validated), "last", or a
    number of steps. Where the newest checkpoint is damaged, the one before it counts as last.

    Raises:
        OSError: a file cannot be read.
        ValueError: the folder holds no run, no such checkpoint, or none that can be used.
    """
    run, _ = _load(folder, which)
    return run


def load_state(folder: Path, like: TrainState) -> TrainState:
    """All of the last state of a run; `like` has its structure.

    Raises:
        OSError: a file cannot be read.
        ValueError: no checkpoint can be used.
    """
    run, arrays = _load(folder, "last")
    try:
        return checkpoint.restore(arrays, like)
    except ValueError as error:
        raise ValueError(f"{run.checkpoint} cannot be used: {error}") from None


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    pattern = re.compile(r"checkpoint-\d{9,}\.npz")
    found = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    return sorted(found, key=_step_of)


def _load(folder: Path, which: str) -> tuple[Run, Mapping[str, Any]]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one that scripts/train.py wrote")
    checkpoints = find_checkpoints(folder)
    if not checkpoints:
        raise ValueError(
            f"{folder} is not a run: it has no checkpoint; expected a folder that "
            "scripts/train.py wrote"
        )
    if which not in ("best", "last"):
        path = _checkpoint_path(folder, int(which))
        if path not in checkpoints:
            steps = ", ".join(str(_step_of(path)) for path in checkpoints)
            raise ValueError(f"{folder} has no checkpoint of step {which}; it has {steps}")
        return _read(path)
    damaged: list[Path] = []
    errors: list[ValueError] = []
    while checkpoints:
        path = checkpoints.pop()
        try:
            run, arrays = _read(path)
        except ValueError as error:
            damaged.append(path)
            errors.append(error)
            continue
        best = run.tally.best_step
        if which == "best" and best not in (-1, run.step):
            path = _checkpoint_path(folder, best)
            try:
                run, arrays = _read(path)
            except (FileNotFoundError, ValueError):
                damaged.append(path)
        return run._replace(damaged=tuple(damaged)), arrays
    raise errors[0]


def _read(path: Path) -> tuple[Run, Mapping[str, Any]]:
    metadata, arrays = checkpoint.load(path)
    try:
        config = config_from(metadata["config"])
        vocab = Vocab(metadata["characters"])
        described = (metadata[name] for name in ("data", "data_sha256", "init_from", "parts"))
        tally = metadata["tally"] | {"best_loss": float(metadata["tally"]["best_loss"])}
        model = build_model(config, vocab)
        like = jax.eval_shape(lambda: model.init(jax.random.key(0)))
        run = Run(
            description=Description(config, vocab, *described),
            model=model,
            params=checkpoint.restore(arrays, like, "params/"),
            step=metadata["step"],
            tally=Tally(**tally),
            checkpoint=path,
            damaged=(),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {error}") from None
    return run, arrays


def _checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step:09d}.npz"


def _leftovers(folder: Path) -> list[Path]:
    """What writes that were killed have left behind."""
    ours = r"checkpoint-\d{9,}\.npz|(train|validation|test)\.txt|config\.json|metrics\.jsonl"
    pattern = re.compile(rf"\.({ours}|loss\.(png|svg))\.\d+\.tmp")
    return [path for path in folder.iterdir() if pattern.fullmatch(path.name)]


def _step_of(path: Path) -> int:
    return int(path.stem.split("-")[1])
