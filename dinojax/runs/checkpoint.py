"""A checkpoint: everything a run needs to resume, in one file that is complete or absent.

It is an `.npz` archive with one array for each leaf of the state, named by its path
(`params/readout/bias`), and the JSON text `metadata`, whose `sha256` covers everything else.
`save` and `load` raise an OSError if the file cannot be written or read.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.files import write_atomically

FORMAT = 2
"""Version of the format; raised when an older dinojax would misread a new checkpoint."""


def save(path: Path, state: Any, metadata: Mapping[str, Any]) -> None:
    """Write the pytree `state` and the JSON-like `metadata` to `path`; see `write_atomically`.

    The same state and metadata give the same bytes.

    Raises:
        ValueError: an array has a type that NumPy cannot store, such as bfloat16.
    """
    arrays = {
        name: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for name, leaf in _named_leaves(state).items()
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

    Raises:
        ValueError: it is damaged, edited, not a checkpoint, or written by a newer dinojax.
    """
    content = Path(path).read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        metadata = json.loads(str(arrays.pop("metadata")[()]))
        version, sha256 = metadata["format"], metadata.pop("sha256", None)
    # For damaged archives, zipfile and its libraries raise many kinds of exceptions.
    except Exception:
        raise ValueError(f"{path} is damaged or not a checkpoint of dinojax") from None
    if version != FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {version}, this dinojax reads {FORMAT}; "
            "use the version of dinojax that wrote it, or a newer one"
        )
    if sha256 != _digest(arrays, metadata):
        raise ValueError(f"{path} was changed after it was written: its checksum does not match")
    return metadata, arrays


def restore(arrays: Mapping[str, np.ndarray], like: Any, prefix: str = "") -> Any:
    """The pytree with the structure, shapes and types of `like`, from the arrays of a checkpoint.

    `like` may hold arrays or `jax.ShapeDtypeStruct`; `prefix` selects a part, such as "params/".

    Raises:
        ValueError: an array is missing or has another shape or type.
    """
    leaves: list[Any] = []
    for name, leaf in _named_leaves(like).items():
        is_key = _is_key(leaf)
        expected = jax.eval_shape(jax.random.key_data, leaf) if is_key else leaf
        array: Any = arrays.get(prefix + name)
        if array is None or (array.shape, array.dtype) != (expected.shape, expected.dtype):
            got = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
            raise ValueError(
                f"expected {prefix + name} as {expected.dtype}{list(expected.shape)}, got {got}; "
                "is this the checkpoint of another model?"
            )
        if is_key:
            implementation = jax.random.key_impl(jnp.empty((), leaf.dtype))
            array = jax.random.wrap_key_data(jnp.asarray(array), impl=implementation)
        leaves.append(array)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def checksum(tree: Any, metadata: Mapping[str, Any]) -> str:
    """The SHA-256 checksum of the arrays of a pytree, with their names, and of `metadata`."""
    return _digest({name: np.asarray(leaf) for name, leaf in _named_leaves(tree).items()}, metadata)


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
