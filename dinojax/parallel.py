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
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ROWS = "rows"
"""Name of the only axis of a mesh."""


def make_mesh(num_devices: int) -> Mesh | None:
    """The first `num_devices` devices; None for one device, which needs no mesh.

    Of several processes, each takes part with equally many, the first of its own.

    Raises:
        ValueError: there are not as many devices, or the processes cannot share the number evenly.
    """
    num = jax.process_count()
    if num_devices > (available := num * num_available()):
        raise ValueError(
            f"expected up to {available}, as many devices as there are, got {num_devices}"
        )
    if num_devices % num:
        raise ValueError(
            f"expected a multiple of {num}, the number of processes, as the devices of all count, "
            f"got {num_devices}"
        )
    if num_devices == 1:
        return None
    chosen = [jax.local_devices(i)[: num_devices // num] for i in range(num)]
    return Mesh(np.array(chosen).ravel(), (ROWS,))


def num_available() -> int:
    """How many devices each process has at least."""
    return min(len(jax.local_devices(i)) for i in range(jax.process_count()))


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
    shardings = jax.tree.map(partial(NamedSharding, mesh), _specs(axes))
    if not mesh.is_multi_process:
        return jax.device_put(tree, shardings)
    # Each process has the whole of `tree`, and puts its share on its devices.
    return jax.tree.map(lambda each, part: jax.tree.map(partial(_put, each), part), shardings, tree)


def whole(tree: Any) -> Any:
    """`tree` with all rows of its arrays in this process; all processes must call this together.

    With one process it is `tree` itself.
    """
    return jax.tree.map(_whole, tree) if jax.process_count() > 1 else tree


def gather(tree: Any) -> Any:
    """`tree` as NumPy arrays in this process, wherever its arrays lie; see `whole`."""
    return jax.device_get(whole(tree))


def of_first(tree: Any) -> Any:
    """The `tree` of the first process, in all processes, which must call this together."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.broadcast_one_to_all(tree)


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


def _put(sharding: NamedSharding, leaf: Any) -> jax.Array:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put(sharding, jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _whole(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    if leaf.is_fully_replicated:
        return leaf.addressable_data(0)
    return multihost_utils.process_allgather(leaf, tiled=True)


def _specs(axes: Any) -> Any:
    """A tree of axes, each a number or None, as partition specifications."""

    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, ROWS)

    return jax.tree.map(spec, axes, is_leaf=lambda axis: axis is None)
