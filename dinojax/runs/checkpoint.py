"""A checkpoint: everything a run needs to resume, in one file that is complete or absent.

It is an `.npz` archive with one array for each leaf of the state, named by its path
(`params/readout/bias`), and the JSON text `metadata`, whose `sha256` covers everything else.
`save` and `load` raise an OSError if the file cannot be written or read.
"""

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.files import open_regular, write_atomically
from dinojax.messages import quoted
from dinojax.runs.memory import machine_memory

FORMAT = 2
"""Version of the format; raised when an older dinojax would misread a new checkpoint."""
MAX_ARRAYS = 10_000
MAX_METADATA = 2**26
"""In bytes. A vocabulary of all characters that there are takes less."""
_START = b"metadata.npy"
"""Name of the first member of a checkpoint, after 30 bytes."""


def save(path: Path, state: Any, metadata: Mapping[str, Any]) -> None:
    """Write the pytree `state` and the JSON-like `metadata` to `path`; see `write_atomically`.

    The same state and metadata give the same bytes.

    Raises:
        ValueError: an array has a type that NumPy cannot store, such as bfloat16.
    """
    arrays = {
        name: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for name, leaf in named_leaves(state).items()
    }
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name}: expected bool, int or float, got {array.dtype}")
    complete = {**metadata, "format": FORMAT}
    complete["sha256"] = _digest(arrays, complete)
    text, buffer = np.array(json.dumps(complete, sort_keys=True)), io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{"metadata": text, **arrays})
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The metadata and the arrays of a checkpoint, by name.

    The size of the file bounds the time and the memory it takes. Nothing in it is executed.

    Raises:
        ValueError: it is damaged, edited, not a checkpoint, larger than the memory of the machine,
            or written by a newer dinojax.
    """
    with open_regular(path) as file:
        size, available = os.fstat(file.fileno()).st_size, machine_memory()
        if size > available:
            raise ValueError(
                f"{path} has {size / 1e9:,.1f} GB, more than the {available / 1e9:,.1f} GB of "
                "memory there are; read it on a larger machine"
            )
        content = file.read()
    try:
        arrays = _read_arrays(content)
        metadata = json.loads(str(arrays.pop("metadata")[()]))
        version, sha256 = metadata["format"], metadata.pop("sha256", None)
        digest = _digest(arrays, metadata)
    # For damaged archives, zipfile and its libraries raise many kinds of exceptions.
    except Exception:
        raise ValueError(
            f"{path} is damaged or not a checkpoint of dinojax; use another checkpoint of the run, "
            "or train it again"
        ) from None
    if version != FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {quoted(version)}, this dinojax reads {FORMAT}; "
            "use the version of dinojax that wrote it, or a newer one"
        )
    if sha256 != digest:
        raise ValueError(
            f"{path} was changed after it was written: its checksum does not match; use another "
            "checkpoint of the run, or train it again"
        )
    return metadata, arrays


def is_begun(path: Path) -> bool:
    """Whether a file starts like a checkpoint, be it damaged further on; or holds nothing."""
    try:
        with open_regular(path) as file:
            start = file.read(30 + len(_START))
    except OSError:
        return False
    return not start or (start.startswith(b"PK") and start[30:] == _START)


def _read_arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an archive, by name. Sizes are compared with its length before any is made."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {each.filename.removesuffix(".npy"): each for each in archive.infolist()}
        are_stored = all(each.compress_type == zipfile.ZIP_STORED for each in members.values())
        size = sum(each.file_size for each in members.values())
        are_few = len(members) == len(archive.infolist()) <= MAX_ARRAYS
        is_small = members["metadata"].file_size <= MAX_METADATA
        if not (are_stored and are_few and is_small and size <= len(content)):
            raise ValueError
        return {name: _read_array(archive.read(each)) for name, each in members.items()}


def _read_array(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    one = np.lib.format.read_array_header_1_0
    shape, _, dtype = (one if version == (1, 0) else np.lib.format.read_array_header_2_0)(file)
    if math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError
    file.seek(0)
    return np.load(file, allow_pickle=False)


def restore(arrays: Mapping[str, np.ndarray], like: Any) -> Any:
    """The pytree with the structure, shapes and types of `like`, from the arrays of a checkpoint.

    `like` may hold arrays or `jax.ShapeDtypeStruct`, and may be a part, as in {"params": ..}.

    Raises:
        ValueError: an array is missing or has another shape or type.
    """
    leaves: list[Any] = []
    for name, leaf in named_leaves(like).items():
        is_key = _is_key(leaf)
        expected = jax.eval_shape(jax.random.key_data, leaf) if is_key else leaf
        array: Any = arrays.get(name)
        if array is None or (array.shape, array.dtype) != (expected.shape, expected.dtype):
            got = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise ValueError(
                f"expected {name} as {expected.dtype}{list(expected.shape)}, got {got}; "
                "is this the checkpoint of another model?"
            )
        if is_key:
            implementation = jax.random.key_impl(jnp.empty((), leaf.dtype))
            array = jax.random.wrap_key_data(jnp.asarray(array), impl=implementation)
        leaves.append(array)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def checksum(tree: Any, metadata: Mapping[str, Any]) -> str:
    """The SHA-256 checksum of the arrays of a pytree, with their names, and of `metadata`."""
    return _digest({name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}, metadata)


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their paths, such as `layers/0/bias`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
