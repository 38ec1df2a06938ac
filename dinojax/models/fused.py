"""A cell along time as one kernel for GPUs, in place of several launches for each time step.

It is written in Pallas for its Triton backend. Each program of the kernel takes `ROWS` rows of a
batch through all time steps, so that no program waits for another. The state stays in registers,
and so do the recurrent weights if they are few. Otherwise each time step reads them anew, from the
caches of the GPU, a tile at a time.

Importing this file imports Pallas, which takes time: import it where it is used.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from dinojax.models.cells import Activations, Cell, Params, State
from dinojax.models.recurrence import choose_rows

ROWS = 16
"""Rows of a program; tensor cores multiply no fewer."""
RESIDENT_BYTES = 2**16
"""Recurrent weights of up to so many bytes are read once; of others, so many are read at a time."""
MIN_TILE, MAX_TILE = 16, 64
"""Fewest and most rows of the recurrent weights that are read at a time."""


@partial(jax.custom_vjp, nondiff_argnums=(0, 6))
def fused(
    cell: Cell,
    params: Params,
    state: State,
    projected: Activations,
    length: jax.Array,
    resets: jax.Array | None = None,
    interpret: bool = False,
) -> tuple[State, jax.Array]:
    """What `recurrence.loop` computes, as one kernel for an NVIDIA GPU.

    The gradient, which can be taken once, is a second kernel that goes back in time, and then a
    product over all time steps. Hidden units are padded to a power of two, rows to a multiple of
    `ROWS`. With `interpret`, JAX runs the kernels operation by operation on any device: slow, and
    meant for tests. Products of float32 numbers have the precision that
    `jax_default_matmul_precision` asks for.

    Raises:
        ValueError: the cell has no `product`.
    """
    return _fused_forward(cell, params, state, projected, length, resets, interpret)[0]


def _fused_forward(
    cell: Cell,
    params: Params,
    state: State,
    projected: Activations,
    length: jax.Array,
    resets: jax.Array | None,
    interpret: bool,
) -> tuple[tuple[State, jax.Array], Any]:
    if cell.product is None:
        raise ValueError("the fused kernel needs a cell with a `product`; run this one by the loop")
    time, batch_shape = jax.tree.leaves(projected)[0].shape[0], jax.tree.leaves(state)[0].shape[:-1]
    # All of the preactivations but the product, at all time steps.
    zeros = cell.initial_state((1,) * (1 + len(batch_shape)))
    fixed = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (time, *batch_shape, cell.hidden_size)),
        cell.preactivate(params, zeros, projected),
    )
    if resets is None:
        resets = jnp.zeros((time, *batch_shape), bool)
    first, fixed = _pack(_add_time(state)), _pack(fixed)
    states, preactivations = _run(
        partial(_forward_kernel, cell),
        (jnp.reshape(length, 1).astype(jnp.int32), _kernels(cell, params)),
        (first, fixed, _pack_resets(resets)),
        (_shapes(first, time + 1), _shapes(fixed, time)),
        interpret,
    )
    # The kernels leave past the length whatever was there.
    states = _cut(_unpack(states, cell, batch_shape), length + 1)
    last = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, length, keepdims=False), states)
    outputs = cell.output(jax.tree.map(lambda x: x[1:], states))
    return (last, outputs), (params, projected, states, preactivations, length, resets)


def _fused_backward(cell: Cell, interpret: bool, residuals: Any, cotangents: Any) -> Any:
    params, projected, states, preactivations, length, resets = residuals
    d_last, d_outputs = cotangents
    time, *batch_shape = resets.shape
    d_last = _pack(_add_time(d_last))
    d_preactivations, d_first = _run(
        partial(_backward_kernel, cell),
        (jnp.reshape(length, 1).astype(jnp.int32), _kernels(cell, params)),
        (_pack(states), preactivations, d_last, _pack(d_outputs), _pack_resets(resets)),
        (_shapes(preactivations, time), _shapes(d_last, 1)),
        interpret,
    )
    unpack = partial(_unpack, cell=cell, batch_shape=batch_shape)
    before = _clear(jax.tree.map(lambda x: x[:-1], states), resets)
    _, pull = jax.vjp(
        lambda params, projected: cell.preactivate(params, before, projected), params, projected
    )
    d_params, d_projected = pull(_cut(unpack(d_preactivations), length))
    d_state = jax.tree.map(lambda x: x[0], unpack(d_first))
    return d_params, d_state, d_projected, None, None


fused.defvjp(_fused_forward, _fused_backward)

# In the kernels, arrays are [time, ROWS, units], and a state alone has one time step. `states` has
# the state before each time step, and after the last one.


def _forward_kernel(
    cell: Cell,
    synchronize: Callable[[], None],
    length: Any,
    kernels: Any,
    first: Any,
    fixed: Any,
    resets: Any,
    states: Any,
    preactivations: Any,
) -> None:
    assert cell.product
    leaves, dtype = cell.product
    tile, resident = _read_once(kernels, dtype)

    def body(t: jax.Array, state: State) -> State:
        is_reset = resets[t] != 0
        state = _clear(state, is_reset)
        values, structure = jax.tree.flatten(_at(fixed, t))

        def add(hidden: jax.Array, weights: Any, values: list[jax.Array]) -> list[jax.Array]:
            values = list(values)
            for leaf, kernel in zip(leaves, weights, strict=True):
                values[leaf] += _dot(hidden, kernel, 0, dtype)
            return values

        def add_tile(k: jax.Array, values: list[jax.Array]) -> list[jax.Array]:
            units = pl.ds(k * tile, tile)
            hidden = _clear(cell.output(states)[t, :, units], is_reset)
            return add(hidden, [kernels[i, units, :] for i in range(len(leaves))], values)

        if resident:
            values = add(cell.output(state), resident, values)
        else:
            values = lax.fori_loop(0, pl.cdiv(cell.hidden_size, tile), add_tile, values)
        new = structure.unflatten(values)
        _put(preactivations, t, new)
        state = cell.update(state, new)
        _put(states, t + 1, state)
        if not resident:
            synchronize()
        return state

    state = _at(first, 0)
    _put(states, 0, state)
    synchronize()
    lax.fori_loop(0, length[0], body, state)


def _backward_kernel(
    cell: Cell,
    synchronize: Callable[[], None],
    length: Any,
    kernels: Any,
    states: Any,
    preactivations: Any,
    d_last: Any,
    d_outputs: Any,
    resets: Any,
    d_preactivations: Any,
    d_first: Any,
) -> None:
    assert cell.product
    leaves, dtype = cell.product
    tile, resident = _read_once(kernels, dtype)

    def update(state: State, preactivations: Activations) -> tuple[State, jax.Array]:
        state = cell.update(state, preactivations)
        return state, cell.output(state)

    def body(i: jax.Array, d_state: State) -> State:
        t = length[0] - 1 - i
        is_reset = resets[t] != 0
        state = _clear(_at(states, t), is_reset)
        _, pull_update = jax.vjp(update, state, _at(preactivations, t))
        d_state, d_values = pull_update((d_state, d_outputs[t]))
        _put(d_preactivations, t, d_values)

        def add(values: list[jax.Array], weights: Any, d_hidden: jax.Array) -> jax.Array:
            for value, kernel in zip(values, weights, strict=True):
                d_hidden += _dot(value, kernel, 1, dtype)
            return d_hidden

        def add_tile(k: jax.Array, d_hidden: jax.Array) -> jax.Array:
            units = pl.ds(k * tile, tile)
            refs = jax.tree.leaves(d_preactivations)
            values = [refs[leaf][t, :, units] for leaf in leaves]
            return add(values, [kernels[i, :, units] for i in range(len(leaves))], d_hidden)

        d_hidden = jnp.zeros_like(cell.output(state))
        if resident:
            values = jax.tree.leaves(d_values)
            d_hidden = add([values[leaf] for leaf in leaves], resident, d_hidden)
        else:
            synchronize()
            d_hidden = lax.fori_loop(0, pl.cdiv(cell.hidden_size, tile), add_tile, d_hidden)
        _, pull_output = jax.vjp(cell.output, state)
        d_state = jax.tree.map(jnp.add, d_state, pull_output(d_hidden)[0])
        # Nothing flows back to the state that a reset replaced.
        return _clear(d_state, is_reset)

    _put(d_first, 0, lax.fori_loop(0, length[0], body, _at(d_last, 0)))


def _run(
    kernel: Callable[..., None], whole: Any, by_rows: Any, results: Any, interpret: bool
) -> Any:
    """Run a kernel for each `ROWS` rows of arrays [time, rows, features]; it reads others whole."""

    def all_of(x: Any) -> pl.BlockSpec:
        return pl.BlockSpec(x.shape, lambda i: (0,) * x.ndim)

    def rows_of(x: Any) -> pl.BlockSpec:
        return pl.BlockSpec((x.shape[0], ROWS, x.shape[2]), lambda i: (0, i, 0))

    num_rows, num_units = jax.tree.leaves(results)[0].shape[1:]
    options = triton.CompilerParams(num_warps=4 if num_units < 128 else 8, num_stages=2)
    # One program at a time has nothing to wait for.
    synchronize = (lambda: None) if interpret else triton.debug_barrier
    return pl.pallas_call(
        partial(kernel, synchronize),
        results,
        grid=num_rows // ROWS,
        in_specs=(*jax.tree.map(all_of, whole), *jax.tree.map(rows_of, by_rows)),
        out_specs=jax.tree.map(rows_of, results),
        compiler_params=None if interpret else options,
        interpret=interpret,
    )(*whole, *by_rows)


def _read_once(kernels: Any, product_dtype: Any) -> tuple[int, list[jax.Array]]:
    """How many rows of the recurrent weights to read at a time, and all of them if they are few."""
    num, units, _ = kernels.shape
    size = units * num * kernels.dtype.itemsize
    if units * size <= RESIDENT_BYTES:
        return units, [kernels[i] for i in range(num)]
    return min(max(MIN_TILE, RESIDENT_BYTES // size), MAX_TILE), []


def _dot(left: jax.Array, kernel: jax.Array, axis: int, product_dtype: Any) -> jax.Array:
    """`left` times a kernel along its `axis`, as in `products.linear`."""
    return lax.dot_general(
        left.astype(kernel.dtype), kernel, (((1,), (axis,)), ((), ())),
        preferred_element_type=left.dtype,
    )  # fmt: skip


def _clear(tree: Any, is_cleared: jax.Array) -> Any:
    return choose_rows(is_cleared, jax.tree.map(jnp.zeros_like, tree), tree)


def _cut(tree: Any, length: jax.Array) -> Any:
    """Zeros from `length` on."""
    return _clear(tree, jnp.arange(jax.tree.leaves(tree)[0].shape[0]) >= length)


def _at(refs: Any, t: jax.Array | int) -> Any:
    return jax.tree.map(lambda ref: ref[t], refs)


def _put(refs: Any, t: jax.Array | int, values: Any) -> None:
    def put(ref: Any, value: jax.Array) -> None:
        ref[t] = value

    jax.tree.map(put, refs, values)


def _kernels(cell: Cell, params: Params) -> jax.Array:
    """The recurrent weights of each leaf that they add to, [leaves, units, units]."""
    assert cell.product
    size, units = cell.hidden_size, _num_units(cell.hidden_size)
    kernels = params["recurrent_kernel"].reshape(size, -1, size).swapaxes(0, 1)
    padding = (0, units - size)
    return jnp.pad(kernels.astype(cell.product.dtype or kernels.dtype), ((0, 0), padding, padding))


def _num_units(hidden_size: int) -> int:
    return max(MIN_TILE, pl.next_power_of_2(hidden_size))


def _pack(tree: Any) -> Any:
    """Arrays [time, ..., hidden] as [time, rows, units], with zeros for the rows and units added.

    Zeros stay zeros in all cells, and add nothing to gradients.
    """

    def pack(x: jax.Array) -> jax.Array:
        size = x.shape[-1]
        flat = x.reshape(x.shape[0], -1, size)
        padding = (0, 0), (0, -flat.shape[1] % ROWS), (0, _num_units(size) - size)
        return jnp.pad(flat, padding)

    return jax.tree.map(pack, tree)


def _unpack(tree: Any, cell: Cell, batch_shape: tuple[int, ...]) -> Any:
    def unpack(x: jax.Array) -> jax.Array:
        x = x[:, : prod(batch_shape), : cell.hidden_size]
        return x.reshape(x.shape[0], *batch_shape, cell.hidden_size)

    return jax.tree.map(unpack, tree)


def _pack_resets(resets: jax.Array) -> jax.Array:
    """Resets [time, ...] as [time, rows, 1]. Triton has no arrays of truth values in memory."""
    flat = resets.reshape(len(resets), -1, 1).astype(jnp.int32)
    return jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % ROWS), (0, 0)))


def _add_time(state: State) -> State:
    return jax.tree.map(lambda x: x[None], state)


def _shapes(tree: Any, time: int) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((time, *x.shape[1:]), x.dtype), tree)
