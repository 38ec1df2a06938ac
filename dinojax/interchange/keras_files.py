"""The layers of a model in a file of Keras: `.h5` of Keras 2 or 3, and `.keras` of Keras 3.

Nothing in a file is executed: it holds a description in JSON, and arrays.
"""

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from dinojax.interchange import hdf5
from dinojax.messages import quoted

RECURRENT = "SimpleRNN", "GRU", "LSTM"
Array = NDArray[np.float32]
Shapes = Mapping[str, tuple[int, ...]]


class Layer(NamedTuple):
    """A layer as the file describes it."""

    kind: str
    """The name of its class; with its module if that is not one of Keras's."""
    number: int
    """How many layers of this kind stand before it."""
    name: str
    config: Mapping[str, Any]


class Saved(NamedTuple):
    """What a file holds."""

    version: str
    """The version of Keras that wrote it."""
    layers: list[Layer]
    """Each reads the one before it."""
    arrays: Callable[[Layer, Shapes], dict[str, Array]]
    """Reads the arrays of a layer, which have these names and shapes, in this order."""


@contextmanager
def opened(file: BinaryIO) -> Iterator[Saved]:
    """The model in a file.

    Raises:
        ValueError: the file does not hold a model, or its layers are not a chain.
        Exception: the file is damaged; h5py, json and zipfile raise many kinds of exceptions.
    """
    is_archive = file.read(4) == b"PK\x03\x04"
    with _archive(file) if is_archive else _h5(file) as saved:
        yield saved


@contextmanager
def _h5(file: BinaryIO) -> Iterator[Saved]:
    """One HDF5 file, in which the groups of the layers have their names."""
    with h5py.File(file, "r") as root:

        def arrays(layer: Layer, shapes: Shapes) -> dict[str, Array]:
            group = hdf5.innermost(hdf5.member(root, f"model_weights/{layer.name}"))
            # TensorFlow calls the first result of the operation "kernel" "kernel:0".
            stored = {name.removesuffix(":0"): name for name in hdf5.names(group)}
            return {x: hdf5.array(group, stored.get(x, x), shape) for x, shape in shapes.items()}

        model = _json(hdf5.text(root, "model_config"))
        yield Saved(hdf5.text(root, "keras_version"), _chain(model), arrays)


@contextmanager
def _archive(file: BinaryIO) -> Iterator[Saved]:
    """A zip archive with an HDF5 file, in which groups have the kinds of layers, and numbers."""
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:

        def content(name: str) -> bytes:
            entry = archive.getinfo(name)
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size:
                raise ValueError(f"expected {name} whole and not compressed, as Keras stores it")
            return archive.read(entry)

        model, about = (_json(content(name)) for name in ("config.json", "metadata.json"))
        weights = io.BytesIO(content("model.weights.h5"))
    with h5py.File(weights, "r") as root:

        def arrays(layer: Layer, shapes: Shapes) -> dict[str, Array]:
            kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", layer.kind).lower()
            number = f"_{layer.number}" if layer.number else ""
            inner = "cell/vars" if layer.kind in RECURRENT else "vars"
            group = hdf5.member(root, f"layers/{kind}{number}/{inner}")
            numbered = enumerate(shapes.items())
            return {name: hdf5.array(group, str(i), shape) for i, (name, shape) in numbered}

        yield Saved(about["keras_version"], _chain(model), arrays)


def _json(content: str | bytes) -> Any:
    """The value in JSON; a RuntimeError if it is damaged."""
    try:
        return json.loads(content)
    except ValueError:
        # Also of a number with more digits than Python reads.
        raise RuntimeError("damaged JSON") from None


def _chain(model: Mapping[str, Any]) -> list[Layer]:
    """The layers of a model in JSON."""
    kind, config = model["class_name"], model["config"]
    if kind not in ("Sequential", "Model", "Functional"):
        raise ValueError(f"expected a Sequential or a Functional model, got {quoted(kind)}")
    # The first versions of Keras 2 wrote a mere list.
    described = config if isinstance(config, list) else config["layers"]
    if kind != "Sequential":
        names = [layer["name"] for layer in described]
        is_chain = [_sources(layer) for layer in described] == [[], *([x] for x in names[:-1])]
        last = [names[-1], 0, 0]
        if not is_chain or config["output_layers"] not in (last, [last]):
            raise ValueError("expected layers that each read the one before, got other connections")
    numbers: Counter[str] = Counter()
    layers = []
    for layer in described:
        kind, module = layer["class_name"], layer.get("module") or "keras"
        if module.split(".")[0] != "keras":
            kind = f"{module}.{kind}"
        layers.append(Layer(kind, numbers[kind], layer["config"]["name"], layer["config"]))
        numbers[kind] += 1
    return layers


def _sources(layer: Mapping[str, Any]) -> list[Any]:
    """The names of the layers that a layer of a Functional model reads, and whatever else."""
    sources: list[Any] = []
    for node in layer["inbound_nodes"]:
        if isinstance(node, list):
            read = [(name, more) for name, _, _, more in node]
        else:
            read = [(x["config"]["keras_history"][0], node["kwargs"]) for x in node["args"]]
        for name, more in read:
            # A further input, such as an initial state, is a list or an object.
            sources += [name, *(x for x in more.values() if isinstance(x, list | dict))]
    return sources
