"""A run in the format of another program, proved to compute the same."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax

from dinojax.config import TrainConfig
from dinojax.files import new_folder, write_atomically
from dinojax.interchange import numpy_file, safetensors, stablehlo
from dinojax.interchange.card import model_card
from dinojax.interchange.proof import Logits, choose_strings, prove
from dinojax.interchange.torch import has_cell, has_layout
from dinojax.messages import quoted
from dinojax.models.trained import Trained
from dinojax.own import brief, own_code
from dinojax.runs.description import build_model
from dinojax.runs.folder import Run, check_is_network, check_without_labels, read_part

FORMATS = "safetensors", "torch", "numpy", "stablehlo"
PROGRAM = f"{numpy_file.NAME}.py"


class Exported(NamedTuple):
    """What `export` has written and how it was proved."""

    files: list[Path]
    num_strings: int
    part: str
    """Part of the data that these strings are from."""
    difference: float
    """Largest difference of their logits from those of the run."""
    code: str
    """Lines of Python that load the model; empty where a file is a program itself."""


def export(run: Run, form: str, folder: Path | str) -> Exported:
    """Write a run in one of the `FORMATS` into a new folder, and prove it; see `prove`.

    What is written computes in float32, also where training rounded factors to bfloat16.

    Raises:
        ArithmeticError: what was written does not compute the same; nothing is left behind.
        OSError: a file cannot be read or written; nothing is left behind.
        ValueError: the format is unknown, the model is no network, it has a cell that the format
            lacks, the folder exists, or the data of the run were changed.
    """
    folder = Path(folder)
    if form not in FORMATS:
        raise ValueError(f"expected a format of {', '.join(FORMATS)}, got {quoted(form)}")
    check_is_network(
        run, "other programs get networks; export its members one by one, if it has any"
    )
    if form != "stablehlo" and own_code(run.config.cell):
        raise ValueError(
            f"{brief(run.config.cell)} is code of the user's own, which this format cannot hold; "
            "export it as stablehlo"
        )
    if form != "stablehlo" and run.config.mogrifier_rounds:
        raise ValueError("this format has no Mogrifier rounds; export it as stablehlo")
    check_without_labels(run, "other programs would draw labels within names")
    if form == "torch" and not has_cell(run.config):
        raise ValueError(
            f"PyTorch has no {run.config.cell} cell with {run.config.gate} gates; export it in "
            "another format"
        )
    if form == "safetensors" and not has_layout(run.config):
        raise ValueError(
            f"the tensors of this format are those of PyTorch, which has no {run.config.cell} "
            "cell; export it in another format"
        )
    config = replace(run.config, dtype="float32")
    trained = run.trained._replace(model=build_model(config, run.vocab))
    parts = run.description.parts
    name = next(name for name in ("validation", "test", "train") if name in parts)
    part = read_part(run.checkpoint.parent, run.description, name)
    strings = choose_strings(part)
    # GPUs and TPUs round the factors of products by default.
    with new_folder(folder) as temporary, jax.default_matmul_precision("float32"):
        for file, content in _files(form, run, trained, config).items():
            write_atomically(temporary / file, content)
        difference = prove(trained, strings, _read_back(form, trained, config, temporary))
    files = sorted(folder.iterdir())
    return Exported(files, len(strings), name, difference, _code(form, trained, config, folder))


def _files(form: str, run: Run, trained: Trained, config: TrainConfig) -> dict[str, bytes]:
    """The content of each file by name."""
    if form == "numpy":
        return numpy_file.files(trained, config)
    if form == "stablehlo":
        return stablehlo.files(trained, config.is_text)
    files = safetensors.files(trained, config)
    if form == "safetensors":
        files["README.md"] = model_card(run, trained, config).encode()
        files[PROGRAM] = _program(trained, config).encode()
    return files


def _code(form: str, trained: Trained, config: TrainConfig, folder: Path) -> str:
    """Lines of Python that load what was written, unless there is a program among the files."""
    if form == "torch":
        return safetensors.torch_code(config, trained.vocab.size, folder)
    return stablehlo.code(trained, config.is_text, folder) if form == "stablehlo" else ""


def _read_back(form: str, trained: Trained, config: TrainConfig, folder: Path) -> Logits:
    """The logits that the written files compute.

    Those of a `state_dict` are computed by PyTorch where it is installed, else by NumPy.
    """
    namespace: dict[str, Any] = {"__file__": str(folder / PROGRAM)}
    code = _code(form, trained, config, folder)
    if form == "torch" and not find_spec("torch"):
        code = _program(trained, config)
    exec(code or (folder / PROGRAM).read_text("utf-8"), namespace)
    return namespace["logits"]


def _program(trained: Trained, config: TrainConfig) -> str:
    """The program in NumPy that reads the weights of a safetensors file."""
    return numpy_file.program(config, trained.max_length, safetensors.LOAD_WEIGHTS)
