"""Models in safetensors files, with PyTorch's names, beside `config.json` and `vocab.json`."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from dinojax.config import OF_THE_MODEL, TrainConfig, config_from
from dinojax.data.vocab import Vocab
from dinojax.files import read_regular
from dinojax.interchange.imported import Imported
from dinojax.interchange.torch import MODULES, Tensors, from_state_dict, to_state_dict
from dinojax.messages import about, quoted
from dinojax.models.cells import Params
from dinojax.models.trained import Trained
from dinojax.runs.description import build_model

MODEL_FILE, CONFIG_FILE, VOCAB_FILE = "model.safetensors", "config.json", "vocab.json"
TYPES: Mapping[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
}
"""The types of numbers that are read, as the format names them."""

LOAD_WEIGHTS = f"""\
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

folder = Path(__file__).parent
weights = load_file(folder / "{MODEL_FILE}")
characters = json.loads((folder / "{VOCAB_FILE}").read_text("utf-8"))["characters"]"""
"""The first lines of `numpy_file.program`, for a program in the folder of a model."""

_TORCH = """\
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

folder = Path({folder!a})
rnn, readout = torch.nn.{module}({vocab}, {hidden}, {layers}), torch.nn.Linear({hidden}, {vocab})
model = torch.nn.ModuleDict({{"rnn": rnn, "readout": readout}})
model.load_state_dict(load_file(folder / "{model_file}"))
characters = json.loads((folder / "{vocab_file}").read_text("utf-8"))["characters"]


@torch.no_grad()
def logits(text):
    ids = torch.tensor([-1, *map(characters.index, text)])
    # At first a vector of zeros, for no character.
    one_hot = (ids[:, None] == torch.arange({vocab})).float()
    # [len(text) + 1, vocab]: of each character and of what follows.
    return readout(rnn(one_hot)[0])
"""


def files(trained: Trained, config: TrainConfig) -> dict[str, bytes]:
    """The files of a model by name, which `read` reads."""
    # Imported here, as other formats do not need it.
    from safetensors.numpy import save

    return {
        # Some programs read a file only if it names their framework.
        MODEL_FILE: save(to_state_dict(trained.params), {"format": "pt"}),
        CONFIG_FILE: f"{json.dumps(asdict(config), indent=2)}\n".encode(),
        VOCAB_FILE: vocab_content(trained.vocab),
    }


def vocab_content(vocab: Vocab) -> bytes:
    """The content of `vocab.json`: the characters in the order of their ids."""
    return f"{json.dumps({'characters': vocab.characters})}\n".encode()


def torch_code(config: TrainConfig, vocab_size: int, folder: Path | str) -> str:
    """Lines of Python that load a model into PyTorch from its folder, and compute logits."""
    return _TORCH.format(
        folder=str(folder),
        module=MODULES[config.cell],
        vocab=vocab_size,
        hidden=config.hidden_size,
        layers=config.num_layers,
        model_file=MODEL_FILE,
        vocab_file=VOCAB_FILE,
    )


def read(path: Path | str) -> Imported:
    """The model in a safetensors file; see `from_state_dict` for what it may hold.

    A configuration and a vocabulary come from `config.json` and `vocab.json` beside it, where they
    exist, as `files` has them. The tensors do not tell the gates, and whether the reset gate of a
    GRU acts before the product; without a configuration, they are those of PyTorch.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is damaged or holds something else, or the files contradict each other.
    """
    path = Path(path)
    from safetensors import SafetensorError

    config_file, vocab_file = path.with_name(CONFIG_FILE), path.with_name(VOCAB_FILE)
    with about(config_file):
        recorded = _read_json(config_file)
    try:
        resets_before = recorded.get("cell") == "gru_reset_before"
        found, params = from_state_dict(_tensors(path), resets_before=resets_before)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    with about(config_file if recorded else path):
        config = config_from(recorded or found)
        # The tensors have a place for no others.
        for name, value in {**found, "mogrifier_rounds": 0}.items():
            if (other := getattr(config, name)) != value:
                raise ValueError(f"{name} is {other}, but that of {path.name} is {value}")
    with about(vocab_file):
        vocab, params = _with_vocab(_read_json(vocab_file), params)
    settings = {name: getattr(config, name) for name in OF_THE_MODEL}
    return Imported(settings, params, vocab, config if recorded else None)


def load(path: Path | str) -> Trained:
    """The model in a safetensors file with a vocabulary beside it; see `read`."""
    settings, params, vocab, _ = read(Path(path))
    if vocab is None:
        raise ValueError(f"{path}: expected {VOCAB_FILE} beside it, with the model's characters")
    return Trained(build_model(config_from(settings), vocab), params, vocab)


def _tensors(path: Path) -> Tensors:
    """The tensors in a file by name."""
    # Not by `safetensors.numpy`, which does not know bfloat16.
    from safetensors import deserialize

    tensors = {}
    for name, stored in deserialize(read_regular(path)):  # type: ignore[no-untyped-call]  # safetensors
        if (dtype := stored["dtype"]) not in TYPES:
            raise ValueError(f"{name}: expected numbers of {', '.join(TYPES)}, got {dtype}")
        tensors[name] = np.frombuffer(stored["data"], TYPES[dtype]).reshape(stored["shape"])
    return tensors


def _with_vocab(described: Mapping[str, Any], params: Params) -> tuple[Vocab | None, Params]:
    """The vocabulary in the object of `vocab.json`, None for an empty one, and `params` for it.

    The characters may stand in any order there. Ours are sorted, and with them what the model has
    for each: a row of its input kernel, a column of its readout.
    """
    if not described:
        return None, params
    characters, size = described.get("characters"), params["readout"]["bias"].size
    if not isinstance(characters, str):
        raise ValueError("expected the characters in the order of their ids, as one string")
    if len(characters) != size or len(set(characters)) != size or "\n" not in characters:
        raise ValueError(
            f"expected {size:,} different characters, as many as the model reads and writes, one "
            f"of them newline, got {quoted(characters)}, {len(characters):,} in all"
        )
    if re.search("[\ud800-\udfff]", characters):
        raise ValueError("expected Unicode characters, got a surrogate")
    order = sorted(range(size), key=characters.__getitem__)
    first, *above = params["layers"]
    layers = [first | {"input_kernel": first["input_kernel"][order]}, *above]
    readout = {name: np.ascontiguousarray(x[..., order]) for name, x in params["readout"].items()}
    return Vocab("".join(sorted(characters))), params | {"layers": layers, "readout": readout}


def _read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file, empty if there is no such file."""
    try:
        value = json.loads(read_regular(file))
    except FileNotFoundError:
        value = {}
    except (RecursionError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value
