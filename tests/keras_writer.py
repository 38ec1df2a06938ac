"""Writes small models as Keras lays them out in files, and computes them in plain NumPy.

Nothing here imports Keras or dinojax. A model is a list of layers, each a dictionary with its
`kind`, its `config` and its `arrays` by name, in Keras's order of gates.
"""

import io
import json
import zipfile
from itertools import pairwise

import h5py
import numpy as np

NUM_GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}
LAYOUTS = {
    "2-list": "h5", "2": "h5", "2-functional": "h5",
    "3": "h5", "3-functional": "h5",
    "archive": "keras", "archive-functional": "keras",
}  # fmt: skip
"""The ways in which models are laid out, by version of Keras, and the ends of file names."""


def layer(kind, arrays=None, **config):
    return {"kind": kind, "config": config, "arrays": arrays or {}}


def make_model(
    kind, *, num_symbols=7, units=5, num_layers=1, gate="sigmoid", embedding=0, reset_after=None,
    use_bias=True, dropout=(), softmax="layer", seed=0,
):  # fmt: skip
    """A model with random arrays: none is zero, no two are the same."""
    generator = np.random.default_rng(seed)

    def draw(*shape):
        return generator.normal(0, 0.7, shape).astype("float32")

    layers, size = [layer("InputLayer")], num_symbols
    if embedding:
        table = {"embeddings": draw(num_symbols, embedding)}
        layers.append(layer("Embedding", table, mask_zero=False, output_dim=embedding))
        size = embedding
    for i in range(num_layers):
        config = {"units": units, "activation": "tanh", "use_bias": use_bias, "stateful": False}
        config |= {"go_backwards": False, "return_sequences": i + 1 < num_layers}
        if kind != "SimpleRNN":
            config["recurrent_activation"] = gate
        if reset_after is not None:
            config["reset_after"] = reset_after
        columns = NUM_GATES[kind] * units
        arrays = {"kernel": draw(size, columns), "recurrent_kernel": draw(units, columns)}
        if use_bias:
            arrays["bias"] = draw(2, columns) if reset_after else draw(columns)
        layers.append(layer(kind, arrays, **config))
        if dropout:
            layers.append(layer("Dropout", rate=dropout[i]))
        size = units
    arrays = {"kernel": draw(units, num_symbols)}
    if use_bias:
        arrays["bias"] = draw(num_symbols)
    activation = "softmax" if softmax == "dense" else "linear"
    layers.append(
        layer("Dense", arrays, units=num_symbols, activation=activation, use_bias=use_bias)
    )
    if softmax == "layer":
        layers.append(layer("Activation", activation="softmax"))
    return layers


def described(layers, layout):
    """The description of a model, as JSON-like data."""
    named = [{"name": f"my_{i}"} | each["config"] for i, each in enumerate(layers)]
    written = [
        {"class_name": each["kind"], "config": config}
        for each, config in zip(layers, named, strict=True)
    ]
    if layout.startswith("archive"):
        for each in written:
            each |= {"module": "keras.layers", "registered_name": None}
    if not layout.endswith("functional"):
        config = written if layout == "2-list" else {"name": "mine", "layers": written}
        return {"class_name": "Sequential", "config": config}
    for each in written:
        each |= {"name": each["config"]["name"], "inbound_nodes": []}
    for before, each in pairwise(written):
        if layout.startswith("2"):
            each["inbound_nodes"] = [[[before["name"], 0, 0, {}]]]
        else:
            history = {"shape": [None, None], "keras_history": [before["name"], 0, 0]}
            tensor = {"class_name": "__keras_tensor__", "config": history}
            each["inbound_nodes"] = [{"args": [tensor], "kwargs": {"mask": None}}]
    last = [written[-1]["name"], 0, 0]
    ends = {"output_layers": [last] if layout.startswith("2") else last}
    class_name = "Model" if layout.startswith("2") else "Functional"
    return {"class_name": class_name, "config": {"layers": written} | ends}


def write(path, layers, layout="2", description=None):
    """Write a model to a file in one of the `LAYOUTS`."""
    description = description or described(layers, layout)
    version = "2.2.4" if layout.startswith("2") else "3.8.0"
    if layout.startswith("archive"):
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            numbers = {}
            for each in layers:
                kind = {"SimpleRNN": "simple_rnn"}.get(each["kind"], each["kind"].lower())
                number = numbers[kind] = numbers.get(kind, -1) + 1
                place = f"layers/{kind}_{number}" if number else f"layers/{kind}"
                group = file.create_group(
                    f"{place}/cell/vars" if each["kind"] in NUM_GATES else f"{place}/vars"
                )
                for i, array in enumerate(each["arrays"].values()):
                    group[str(i)] = array
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": version}))
            archive.writestr("config.json", json.dumps(description))
            archive.writestr("model.weights.h5", content.getvalue())
        return
    with h5py.File(path, "w") as file:
        # Keras 2 wrote bytes, later versions text.
        text = json.dumps(description)
        file.attrs["model_config"] = text.encode() if layout.startswith("2") else text
        file.attrs["keras_version"] = version
        for i, each in enumerate(layers):
            group = file.create_group(f"model_weights/my_{i}")
            for name, array in each["arrays"].items():
                is_2 = layout.startswith("2")
                group[f"my_{i}/cell/{name}:0" if is_2 else f"my_{i}/{name}"] = array


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def hard_sigmoid(x):
    return np.maximum(0, np.minimum(1, 0.2 * x + 0.5))


def logits(layers, ids):
    """The logits [time, symbols] of a model along `ids`; an id past the last is a zero vector."""
    *_, readout = (each for each in layers if each["kind"] == "Dense")
    num_symbols = readout["config"]["units"]
    sequence = np.eye(num_symbols + 1, num_symbols)[np.asarray(ids)]
    for each in layers:
        arrays, config = each["arrays"], each["config"]
        if each["kind"] == "Embedding":
            sequence = sequence @ arrays["embeddings"].astype(float)
        if each["kind"] in NUM_GATES:
            sequence = _unrolled(each["kind"], config, arrays, sequence)
    return sequence @ readout["arrays"]["kernel"].astype(float) + readout["arrays"].get("bias", 0)


def _unrolled(kind, config, arrays, sequence):
    units = config["units"]
    gate = {"sigmoid": sigmoid, "hard_sigmoid": hard_sigmoid}.get(
        config.get("recurrent_activation")
    )
    kernel, recurrent = (arrays[x].astype(float) for x in ("kernel", "recurrent_kernel"))
    bias = arrays.get("bias", np.zeros(1)).astype(float)
    h, c, outputs = np.zeros(units), np.zeros(units), []

    def part(x, i):
        return x[..., i * units : (i + 1) * units]

    for x in sequence:
        if kind == "SimpleRNN":
            h = np.tanh(x @ kernel + bias + h @ recurrent)
        elif kind == "LSTM":
            total = x @ kernel + h @ recurrent + bias
            i, f, g, o = (part(total, n) for n in range(4))
            c = gate(f) * c + gate(i) * np.tanh(g)
            h = gate(o) * np.tanh(c)
        elif config.get("reset_after"):
            first, second = bias if bias.ndim == 2 else (bias, np.zeros(1))
            from_x, from_h = x @ kernel + first, h @ recurrent + second
            z, r = (gate(part(from_x, n) + part(from_h, n)) for n in range(2))
            h = z * h + (1 - z) * np.tanh(part(from_x, 2) + r * part(from_h, 2))
        else:
            from_x = x @ kernel + bias
            z, r = (gate(part(from_x, n) + h @ part(recurrent, n)) for n in range(2))
            h = z * h + (1 - z) * np.tanh(part(from_x, 2) + (r * h) @ part(recurrent, 2))
        outputs.append(h)
    return np.array(outputs)
