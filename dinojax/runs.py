"""The folder of a run: the checkpoints of a training and the names it learned from.

runs/dinos/checkpoint-000035000.npz     after so many steps; the newest two are kept
runs/dinos/names.txt                    the training names as the model read them, one a line
"""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from itertools import count, pairwise
from pathlib import Path
from typing import NamedTuple

import jax

import dinojax
from dinojax import checkpoint
from dinojax.cells import CELLS, Params
from dinojax.config import TrainConfig
from dinojax.model import CharModel, char_model
from dinojax.train import TrainState
from dinojax.vocab import Vocab

NAMES_FILE = "names.txt"
KEPT_CHECKPOINTS = 2
LEFTOVERS = ".checkpoint-*.tmp"
"""What saves that were killed have left behind."""


class Run(NamedTuple):
    """A trained model and what it was trained by."""

    config: TrainConfig
    vocab: Vocab
    model: CharModel
    params: Params
    step: int
    """Training steps done."""
    names_sha256: str
    """Checksum of the file of training names."""


def build_model(config: TrainConfig, vocab: Vocab) -> CharModel:
    """The model that a configuration describes."""
    sizes = vocab.size, *[config.hidden_size] * config.num_layers
    cells = [CELLS[config.cell](below, size) for below, size in pairwise(sizes)]
    return char_model(cells, vocab.size, dropout=config.dropout)


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

    With `overwrite` it may hold a run, which stays until `start_run` has replaced it.

    Raises:
        OSError: the folder cannot be made.
        ValueError: it holds a run and `overwrite` is not given, or it holds other files.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a folder for the run, or a new name")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = _checkpoints(folder)
    if checkpoints and not overwrite:
        raise ValueError(f"{folder} holds a run; choose another --out, or give --overwrite")
    if not checkpoints and set(folder.iterdir()) - set(folder.glob(LEFTOVERS)):
        raise ValueError(f"{folder} holds other files; choose a new or an empty folder")


def start_run(
    folder: Path, state: TrainState, config: TrainConfig, vocab: Vocab, names: Sequence[str]
) -> None:
    """Write the first checkpoint and the names of a new run, in the place of a run before it.

    Raises:
        OSError: a file cannot be written; if it is the checkpoint, the run before is still there.
    """
    earlier = _checkpoints(folder)
    first = save_checkpoint(folder, state, config, vocab, names)
    for path in earlier:
        if path != first:
            path.unlink(missing_ok=True)
    # Of a running text no copy is kept.
    if names:
        write_names(folder, names)
    else:
        (folder / NAMES_FILE).unlink(missing_ok=True)


def write_names(folder: Path, names: Sequence[str]) -> None:
    """Write the training names into a run's folder.

    Raises:
        OSError: the file cannot be written.
    """
    checkpoint.write_atomically(folder / NAMES_FILE, _names_content(names))


def read_names(folder: Path, names_sha256: str) -> list[str]:
    """The training names of a run.

    Raises:
        OSError: the file cannot be read.
        ValueError: it was changed.
    """
    content = (folder / NAMES_FILE).read_bytes()
    if hashlib.sha256(content).hexdigest() != names_sha256:
        raise ValueError(f"{folder / NAMES_FILE} was changed after training: wrong checksum")
    return content.decode().removesuffix("\n").split("\n")


def save_checkpoint(
    folder: Path, state: TrainState, config: TrainConfig, vocab: Vocab, names: Sequence[str]
) -> Path:
    """Write a checkpoint into a run's folder, then remove those before it but for the newest.

    Raises:
        OSError: it cannot be written; those before it are still there.
    """
    path = folder / f"checkpoint-{int(state.step):09d}.npz"
    metadata = {
        "config": asdict(config),
        "characters": vocab.characters,
        "names_sha256": hashlib.sha256(_names_content(names)).hexdigest(),
        "step": int(state.step),
        "key_implementation": str(jax.random.key_impl(state.key)),
        "versions": {
            "dinojax": dinojax.__version__,
            **{package: version(package) for package in ("jax", "jaxlib", "numpy", "optax")},
        },
    }
    checkpoint.save(path, state, metadata)
    checkpoints = _checkpoints(folder)
    up_to_this = checkpoints[: checkpoints.index(path) + 1]
    for old in up_to_this[:-KEPT_CHECKPOINTS]:
        old.unlink(missing_ok=True)
    for leftover in folder.glob(LEFTOVERS):
        leftover.unlink(missing_ok=True)
    return path


def load_run(folder: Path) -> Run:
    """The run in a folder, as its newest checkpoint has it.

    Raises:
        OSError: a file cannot be read.
        ValueError: the folder holds no run, or its newest checkpoint cannot be used.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one that scripts/train.py wrote")
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        raise ValueError(
            f"{folder} is not a run: it has no checkpoint; expected a folder that "
            "scripts/train.py wrote"
        )
    try:
        metadata, arrays = checkpoint.load(checkpoints[-1])
    except ValueError as error:
        if len(checkpoints) > 1:
            hint = f"; remove it to use the one before it, {checkpoints[-2].name}"
            raise ValueError(f"{error}{hint}") from None
        raise
    try:
        config = TrainConfig(**metadata["config"])
        vocab = Vocab(metadata["characters"])
        model = build_model(config, vocab)
        like = jax.eval_shape(model.init, jax.random.key(0))
        params = checkpoint.restore(arrays, like, "params/")
        return Run(config, vocab, model, params, metadata["step"], metadata["names_sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{checkpoints[-1]} cannot be used: {error}") from None


def _names_content(names: Sequence[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    pattern = re.compile(r"checkpoint-\d{9,}\.npz")
    found = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.split("-")[1]))
