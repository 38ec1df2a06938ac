"""A cell along time as one kernel for GPUs, in place of several launches for each time step.

Importing this file imports Pallas, which takes half as long as JAX: import it where it is used.
"""

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from dinojax.contradictions import MAX_FUSED
from dinojax.models.cells import Activations, Cell, Params, State
from dinojax.models.fused_kernels import MIN_TILE, ROWS, backward, clear, forward, run


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
        ValueError: the cell has no `product`, or more than `MAX_FUSED` hidden units.
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
    if cell.product is None or cell.hidden_size > MAX_FUSED:
        raise ValueError(
            f"the fused kernel needs a cell with a `product` and up to {MAX_FUSED} hidden units; "
            "run this one by the loop"
        )
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
    states, preactivations = run(
        partial(forward, cell),
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
    d_preactivations, d_first = run(
        partial(backward, cell),
        (jnp.reshape(length, 1).astype(jnp.int32), _kernels(cell, params)),
        (_pack(states), preactivations, d_last, _pack(d_outputs), _pack_resets(resets)),
        (_shapes(preactivations, time), _shapes(d_last, 1)),
        interpret,
    )
    unpack = partial(_unpack, cell=cell, batch_shape=batch_shape)
    before = clear(jax.tree.map(lambda x: x[:-1], states), resets)
    _, pull = jax.vjp(
        lambda params, projected: cell.preactivate(params, before, projected), params, projected
    )
    d_params, d_projected = pull(_cut(unpack(d_preactivations), length))
    d_state = jax.tree.map(lambda x: x[0], unpack(d_first))
    return d_params, d_state, d_projected, None, None


fused.defvjp(_fused_forward, _fused_backward)


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


def _cut(tree: Any, length: jax.Array) -> Any:
    """Zeros from `length` on."""
    return clear(tree, jnp.arange(jax.tree.leaves(tree)[0].shape[0]) >= length)
