"""Rows over devices and hosts: meshes, who holds which rows, gathering, and who may write.

No other file makes a mesh: all are written for one device and call these functions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ROWS = "rows"
"""Name of the only axis of a mesh."""


def make_mesh(num_devices: int) -> Mesh | None:
    """The first `num_devices` devices; None for one device, which needs no mesh.

    Raises:
        ValueError: there are not as many devices.
    """
    if num_devices > jax.device_count():
        raise ValueError(
            f"expected up to {jax.device_count()}, as many devices as there are, got {num_devices}"
        )
    return None if num_devices == 1 else Mesh(np.array(jax.devices()[:num_devices]), (ROWS,))


def num_devices(mesh: Mesh | None) -> int:
    """How many devices share the rows."""
    return 1 if mesh is None else mesh.size


def axis_of(mesh: Mesh | None) -> str | None:
    """The axis by which functions on a mesh add up, None for one device; see `total`."""
    return None if mesh is None else ROWS


def spread(
    function: Callable[..., Any], mesh: Mesh | None, in_axes: tuple[Any, ...], out_axes: Any
) -> Callable[..., Any]:
    """`function` on every device at once, each with its share of the rows.

    Axes are as in `jax.vmap`: a number says along which axis an argument or a result has its rows,
    None that all devices have the whole of it. Unlike `jax.vmap`, `function` keeps that axis.
    """
    if mesh is None:
        return function
    return jax.shard_map(
        function, mesh=mesh, in_specs=_specs(in_axes), out_specs=_specs(out_axes), check_vma=False
    )


def place(tree: Any, mesh: Mesh | None, axes: Any) -> Any:
    """`tree` on the devices, as `spread` expects an argument with these `axes`.

    An argument that lies elsewhere at first would have the function compiled twice.
    """
    if mesh is None:
        return jax.device_put(tree)
    return jax.device_put(tree, jax.tree.map(partial(NamedSharding, mesh), _specs(axes)))


def gather(tree: Any) -> Any:
    """`tree` as NumPy arrays in this process, wherever its arrays lie."""
    return jax.device_get(tree)


def total(tree: Any, axis: str | None) -> Any:
    """The sum of `tree` over the devices of a mesh; inside `spread`."""
    return tree if axis is None else lax.psum(tree, axis)


def largest(value: jax.Array, axis: str | None) -> jax.Array:
    """The largest `value` of any device of a mesh; inside `spread`."""
    return value if axis is None else lax.pmax(value, axis)


def row_numbers(num: int, axis: str | None) -> jax.Array:
    """The numbers of this device's `num` rows among the rows of all; inside `spread`."""
    rows = jnp.arange(num, dtype=jnp.int32)
    return rows if axis is None else rows + num * lax.axis_index(axis)


def may_write() -> bool:
    """Whether this process prints and saves: the first of several."""
    return jax.process_index() == 0


def _specs(axes: Any) -> Any:
    """A tree of axes, each a number or None, as partition specifications."""

    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, ROWS)

    return jax.tree.map(spec, axes, is_leaf=lambda axis: axis is None)
