"""A character model that Keras saved, as one of ours; nothing of Keras is needed."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dinojax.files import open_regular
from dinojax.interchange import keras_files
from dinojax.interchange.imported import Imported
from dinojax.interchange.keras_files import RECURRENT, Array, Layer, Saved, Shapes
from dinojax.messages import quoted

NUM_GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}
Allowed = Mapping[str, list[Any]]
_RECURRENT: Allowed = {"activation": ["tanh"], "go_backwards": [False], "return_state": [False]}
SETTINGS: Mapping[str, Allowed] = {
    "InputLayer": {},
    "Embedding": {"mask_zero": [False]},
    "SimpleRNN": _RECURRENT,
    "GRU": _RECURRENT,
    "LSTM": _RECURRENT,
    "Dropout": {},
    "Dense": {"activation": ["linear", "softmax"]},
    "Activation": {"activation": ["softmax"]},
    "Softmax": {"axis": [-1]},
}
"""The layers that have a counterpart, and what those of their settings may be that matter."""


def read(path: Path | str) -> Imported:
    """The model in a file of Keras: one-hot characters, recurrent layers, a Dense readout.

    The recurrent layers are of one kind, SimpleRNN, GRU or LSTM, and of one size. The softmax may
    be in the file or not. Dropout has no part in what the model computes: where the same follows
    each recurrent layer, it becomes the setting; dropout within layers is left out. A layer that
    keeps its state between batches (`stateful`) is read like any other.

    A vector of zeros, with which the input of such a model is padded, is "no character" here, and
    newline is a character like the others. The file does not name the characters: they are those of
    the text that the model learned from, sorted. An Embedding in place of one-hot characters
    becomes part of the input kernel, embedding @ kernel, so that further training is not the same
    as in Keras.

    Raises:
        OSError: the file cannot be opened, or is a pipe or a device.
        ValueError: it is damaged, or something in it has no counterpart here.
    """
    path = Path(path)
    damaged = f"{path} is damaged, or not a model that Keras saved"
    with open_regular(path) as file:
        try:
            with keras_files.opened(file) as saved:
                return _convert(saved)
        except UnicodeError:
            raise ValueError(damaged) from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        except Exception:
            raise ValueError(damaged) from None


def _convert(saved: Saved) -> Imported:
    _check(saved.layers)
    recurrent = [layer for layer in saved.layers if layer.kind in RECURRENT]
    (readout,) = (layer for layer in saved.layers if layer.kind == "Dense")
    designs = [_design(layer, saved.version) for layer in recurrent]
    if any(design != designs[0] for design in designs):
        raise ValueError(f"expected recurrent layers that are all alike, got {quoted(designs)}")
    num_symbols, size = readout.config["units"], designs[0]["hidden_size"]
    embedding = [layer for layer in saved.layers if layer.kind == "Embedding"]
    num_inputs = embedding[0].config["output_dim"] if embedding else num_symbols
    sizes = [num_inputs, *(size for _ in recurrent[1:])]
    layers = [_recurrent_params(saved, *each) for each in zip(recurrent, sizes, strict=True)]
    for layer in embedding:
        (rows,) = saved.arrays(layer, {"embeddings": (num_symbols, num_inputs)}).values()
        layers[0]["input_kernel"] = rows @ layers[0]["input_kernel"]
    shapes = {"kernel": (size, num_symbols), "bias": (num_symbols,)}
    params = {"layers": layers, "readout": _arrays(saved, readout, shapes)}
    more = {"num_layers": len(layers), "dropout": _dropout(saved.layers)}
    return Imported(designs[0] | more, params, vocab=None)


def _check(layers: Sequence[Layer]) -> None:
    """Raise a ValueError if a layer or its place has no counterpart."""
    for layer in layers:
        if layer.kind not in SETTINGS:
            known = ", ".join(SETTINGS)
            kind = f"layer {quoted(layer.name)} is a {quoted(layer.kind)}"
            raise ValueError(f"{kind}; expected some of {known}")
        for name, allowed in SETTINGS[layer.kind].items():
            if (value := layer.config.get(name, allowed[0])) not in allowed:
                setting = f"layer {quoted(layer.name)}: expected {name}"
                expected = " or ".join(map(repr, allowed))
                raise ValueError(f"{setting} {expected}, got {quoted(value)}")
    kinds = [layer.kind for layer in layers if layer.kind not in ("InputLayer", "Dropout")]
    order = r"(Embedding )?((SimpleRNN|GRU|LSTM) )+Dense( Activation| Softmax)?"
    is_softmax = [layer.config.get("activation") == "softmax" for layer in layers]
    if not re.fullmatch(order, " ".join(kinds)) or sum(is_softmax) + kinds.count("Softmax") > 1:
        raise ValueError(
            "expected an Embedding or none, recurrent layers, a Dense layer and one softmax or "
            f"none, got {quoted(kinds)}"
        )


def _design(layer: Layer, version: str) -> dict[str, Any]:
    """The settings that describe a recurrent layer."""
    gru = "gru" if _resets_after(layer) else "gru_reset_before"
    cell = {"SimpleRNN": "vanilla", "GRU": gru, "LSTM": "lstm"}[layer.kind]
    gate = layer.config.get("recurrent_activation", "sigmoid")
    # Keras 3 has another function of that name, x / 6 + 0.5.
    gates = ("sigmoid", "hard_sigmoid") if version.startswith("2.") else ("sigmoid",)
    if gate not in gates:
        raise ValueError(
            f"layer {quoted(layer.name)}: expected recurrent_activation "
            f"{' or '.join(map(repr, gates))} for Keras {quoted(version)}, got {quoted(gate)}"
        )
    return {"cell": cell, "gate": gate, "hidden_size": layer.config["units"]}


def _resets_after(layer: Layer) -> bool:
    """Whether the reset gate of a GRU acts after the product; the first versions had no choice."""
    return layer.kind == "GRU" and bool(layer.config.get("reset_after"))


def _recurrent_params(saved: Saved, layer: Layer, num_inputs: int) -> dict[str, Array]:
    """The parameters of a recurrent layer, its gates in our order."""
    size = layer.config["units"]
    columns = NUM_GATES[layer.kind] * size
    has_two = _resets_after(layer)
    shapes: Shapes = {
        "kernel": (num_inputs, columns),
        "recurrent_kernel": (size, columns),
        "bias": (2, columns) if has_two else (columns,),
    }
    arrays = _arrays(saved, layer, shapes)
    if layer.kind == "GRU":
        # Keras has the update gate first, we the reset gate.
        for name, x in arrays.items():
            update, reset, candidate = np.split(x, 3, axis=-1)
            arrays[name] = np.concatenate([reset, update, candidate], axis=-1)
    kernel, recurrent_kernel, bias = arrays.values()
    params = {"input_kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}
    if has_two:
        of_inputs, of_state = bias
        # The reset gate multiplies the bias of the candidate; the others can be added up.
        candidate = np.arange(columns) >= 2 * size
        params["bias"] = of_inputs + np.where(candidate, 0, of_state)
        params["candidate_bias"] = of_state[candidate]
    return params


def _arrays(saved: Saved, layer: Layer, shapes: Shapes) -> dict[str, Array]:
    """The arrays of a layer, with zeros for a bias that it does not have."""
    if layer.config.get("use_bias", True):
        return saved.arrays(layer, shapes)
    stored = {name: shape for name, shape in shapes.items() if name != "bias"}
    return saved.arrays(layer, stored) | {"bias": np.zeros(shapes["bias"], np.float32)}


def _dropout(layers: Sequence[Layer]) -> float:
    """The rate of dropout after each recurrent layer; 0 where that differs."""
    rates = {
        after.config["rate"] if after.kind == "Dropout" else 0.0
        for layer, after in pairwise(layers)
        if layer.kind in RECURRENT
    }
    return rates.pop() if len(rates) == 1 else 0.0
