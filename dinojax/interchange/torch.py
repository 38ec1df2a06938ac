"""The layout of parameters in PyTorch's `state_dict`, and ours.

Such a model has layers nn.RNN, nn.GRU or nn.LSTM and an nn.Linear above them; the layers read
one-hot characters or an nn.Embedding. PyTorch's kernels are ours transposed, its gates stand in the
same order, and it has two biases where we have their sum. "No character", which our models read
first, is a vector of zeros in PyTorch, in place of the one-hot character or its embedding.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dinojax.config import TrainConfig
from dinojax.interchange.imported import in_float32
from dinojax.messages import about
from dinojax.models.cells import Params

MODULES = {"vanilla": "RNN", "gru": "GRU", "lstm": "LSTM"}
NUM_GATES = {"vanilla": 1, "gru": 3, "lstm": 4}
TENSORS = {"input_kernel": "weight_ih", "recurrent_kernel": "weight_hh", "bias": "bias_ih"}
MAX_LISTED = 20
Tensors = Mapping[str, NDArray[Any]]


def has_cell(config: TrainConfig) -> bool:
    """Whether PyTorch has the cell of a configuration."""
    return config.cell in MODULES and config.gate == "sigmoid"


def has_layout(config: TrainConfig) -> bool:
    """Whether `from_state_dict` reads the layers of a configuration."""
    return config.cell in (*MODULES, "gru_reset_before")


def to_state_dict(params: Params) -> dict[str, NDArray[Any]]:
    """The parameters of a model as PyTorch names them: `rnn.weight_ih_l0` .. `readout.bias`.

    Those that no layer of PyTorch's has keep our names, as in `rnn.decay_l0`.
    """
    tensors = {
        "readout.weight": np.transpose(params["readout"]["kernel"]),
        "readout.bias": params["readout"]["bias"],
    }
    for i, layer in enumerate(params["layers"]):
        others = {name: x for name, x in layer.items() if name != "candidate_bias"}
        for name, array in others.items():
            tensors[f"rnn.{TENSORS.get(name, name)}_l{i}"] = np.transpose(array)
        if "recurrent_kernel" in layer:
            recurrent_bias = np.zeros_like(layer["bias"])
            if "candidate_bias" in layer:
                recurrent_bias[-len(layer["candidate_bias"]) :] = layer["candidate_bias"]
            tensors[f"rnn.bias_hh_l{i}"] = recurrent_bias
    # safetensors writes the memory of an array as it is, even that of a transposed one.
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def from_state_dict(
    tensors: Tensors, *, resets_before: bool = False
) -> tuple[dict[str, Any], Params]:
    """The settings of the layers, as in `TrainConfig`, and the parameters of a model.

    Modules may have any names: they are recognised by the names and the shapes of their tensors,
    and the cell by its number of gates. An nn.RNN is taken to have tanh units, as its tensors do
    not tell. PyTorch has no GRU that `resets_before` the product; tensors of its shapes
    may be one of ours. An embedding is multiplied into the kernel of the first layer, and numbers
    become float32.

    Raises:
        ValueError: they are not the tensors of such a model, or could be read in several ways.
    """
    try:
        recurrent, others = _by_module(tensors)
        layers = [_layer(recurrent.get(i, {}), i, resets_before) for i in range(len(recurrent))]
        readout, embedding = _readout_and_embedding(layers, others)
    except ValueError as error:
        listed = [f"{name} {list(tensor.shape)}" for name, tensor in tensors.items()]
        shown = ", ".join(listed[:MAX_LISTED]) + (" .." if len(listed) > MAX_LISTED else "")
        raise ValueError(f"{error}; got {shown or 'no tensor'}") from None
    if embedding is not None:
        layers[0]["input_kernel"] = np.float32(embedding.astype(float) @ layers[0]["input_kernel"])
    hidden_size, num_columns = layers[0]["recurrent_kernel"].shape
    cell = next(name for name, num in NUM_GATES.items() if num * hidden_size == num_columns)
    cell += "_reset_before" * (cell == "gru" and resets_before)
    settings = {"cell": cell, "num_layers": len(layers), "hidden_size": hidden_size}
    return settings, {"layers": layers, "readout": readout}


def _by_module(tensors: Tensors) -> tuple[dict[int, Params], dict[str, Params]]:
    """The tensors of each recurrent layer, and those of each other module."""
    recurrent: dict[int, Params] = {}
    others: dict[str, Params] = {}
    owners = set()
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        found = re.fullmatch(r"(weight|bias)_(ih|hh|hr)(?:_l(\d{1,3}))?(_reverse)?", part)
        with about(name):
            if found and found[4]:
                raise ValueError("expected layers of one direction, not bidirectional ones")
            if found and found[2] == "hr":
                raise ValueError("expected layers without a projection (proj_size)")
            if not jnp.issubdtype(tensor.dtype, jnp.floating):
                raise ValueError(f"expected floating-point numbers, not {tensor.dtype}")
            numbers = in_float32(tensor)
        if found:
            owners.add(module)
            recurrent.setdefault(int(found[3] or 0), {})[f"{found[1]}_{found[2]}"] = numbers
        else:
            others.setdefault(module, {})[part] = numbers
    if len(owners) != 1:
        raise ValueError(f"expected one nn.RNN, nn.GRU or nn.LSTM, not {len(owners)}")
    return recurrent, others


def _layer(tensors: Params, number: int, resets_before: bool) -> Params:
    """Our parameters of a recurrent layer of PyTorch's."""
    kernel, recurrent = (tensors.get(f"weight_{x}", np.zeros(0)) for x in ("ih", "hh"))
    if (kernel.ndim, recurrent.ndim) != (2, 2):
        raise ValueError(f"layer {number}: expected matrices weight_ih and weight_hh")
    num_rows, hidden_size = recurrent.shape
    zeros = np.zeros(num_rows, np.float32)
    bias, recurrent_bias = (tensors.get(f"bias_{x}", zeros) for x in ("ih", "hh"))
    shapes = {kernel.shape[:1], bias.shape, recurrent_bias.shape}
    if shapes != {(num_rows,)} or num_rows not in [n * hidden_size for n in NUM_GATES.values()]:
        raise ValueError(f"layer {number}: expected 1, 3 or 4 gates of one size in every tensor")
    params = {
        "input_kernel": np.ascontiguousarray(kernel.T),
        "recurrent_kernel": np.ascontiguousarray(recurrent.T),
    }
    if num_rows == NUM_GATES["gru"] * hidden_size and not resets_before:
        # The reset gate multiplies this part alone.
        params["candidate_bias"] = recurrent_bias[-hidden_size:]
        recurrent_bias = np.append(recurrent_bias[:-hidden_size], zeros[:hidden_size])
    # Adding zero would change the sign of a negative zero.
    params["bias"] = np.where(recurrent_bias == 0, bias, bias + recurrent_bias)
    return params


def _readout_and_embedding(
    layers: Sequence[Params], others: Mapping[str, Params]
) -> tuple[Params, NDArray[Any] | None]:
    """Our parameters of the readout, and the embedding [vocab, features] if there is one."""
    input_size, hidden_size = (layers[0][f"{x}_kernel"].shape[0] for x in ("input", "recurrent"))
    sizes = {layer["recurrent_kernel"].shape for layer in layers}
    if len(sizes) > 1 or {len(layer["input_kernel"]) for layer in layers[1:]} - {hidden_size}:
        raise ValueError("expected layers of one kind and size, each reading the one below")
    readings = []
    for linear, *embeddings in permutations(others.values()) if len(others) in (1, 2) else ():
        shapes = _shapes(linear)
        size, *_ = (*shapes.get("weight", ()), 0)
        is_linear = {"bias": (size,)} | shapes == {"weight": (size, hidden_size), "bias": (size,)}
        # One-hot characters are what an identity matrix embeds.
        read = [_shapes(each) for each in embeddings] or [{"weight": (input_size, input_size)}]
        if is_linear and read == [{"weight": (size, input_size)}]:
            readings.append((linear, embeddings))
    if len(readings) != 1:
        raise ValueError(
            f"expected one nn.Linear [vocab, {hidden_size}] and, unless vocab is {input_size}, one "
            f"nn.Embedding [vocab, {input_size}], and no other module"
            + (", but cannot tell which is which" if readings else "")
        )
    linear, embeddings = readings[0]
    bias = linear.get("bias", np.zeros(len(linear["weight"]), np.float32))
    readout = {"kernel": np.ascontiguousarray(linear["weight"].T), "bias": bias}
    return readout, embeddings[0]["weight"] if embeddings else None


def _shapes(module: Params) -> dict[str, tuple[int, ...]]:
    return {part: tensor.shape for part, tensor in module.items()}
