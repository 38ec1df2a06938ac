"""The kernels of `fused`, forward and backward in time, written in Pallas for its Triton backend.

Each program takes `ROWS` rows of a batch through all time steps, so that no program waits for
another. The state stays in registers, and so do the recurrent weights if they are few. Otherwise
each time step reads them anew, from the caches of the GPU, a tile at a time.

Arrays are [time, ROWS, units]; `states` has the state before each time step and, one more, after
the last, a single state has one time step, `kernels` is [leaves, units, units], `resets`
[time, ROWS, 1]. `units` is a power of two, as Triton demands. What lies past `length` [1] is
neither read nor written.

A program has one core of a GPU for itself, so that 64 rows occupy four of them. For an LSTM of 256
units in float32 each step reads a megabyte of weights; persistent kernels that share the weights
out among cores (Diamos et al., 2016) avoid that, but their programs must wait for each other.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from dinojax.models.cells import Activations, Cell, State
from dinojax.models.recurrence import choose_rows

ROWS = 16
"""Rows of a program; tensor cores multiply no fewer."""
RESIDENT_BYTES = 2**16
"""Recurrent weights of up to so many bytes are read once; of others, so many are read at a time."""
MIN_TILE, MAX_TILE = 16, 64
"""Fewest and most rows of the recurrent weights that are read at a time."""


def forward(
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
    """Write all states and preactivations, from the first state and what inputs contribute.

    `fixed` has the preactivations without the product of the state. `synchronize` makes what one
    thread of a program has written visible to its others.
    """
    assert cell.product
    leaves = cell.product.leaves
    tile, resident = _read_once(kernels)

    def body(t: jax.Array, state: State) -> State:
        is_reset = resets[t] != 0
        state = clear(state, is_reset)
        values, structure = jax.tree.flatten(_at(fixed, t))

        def add(hidden: jax.Array, weights: Any, values: list[jax.Array]) -> list[jax.Array]:
            values = list(values)
            for leaf, kernel in zip(leaves, weights, strict=True):
                values[leaf] += _dot(hidden, kernel, 0)
            return values

        def add_tile(k: jax.Array, values: list[jax.Array]) -> list[jax.Array]:
            units = pl.ds(k * tile, tile)
            # The output of a state is one of its leaves, here of leaves in memory.
            hidden = clear(cell.output(states)[t, :, units], is_reset)
            return add(hidden, [kernels[i, units, :] for i in range(len(leaves))], values)

        if resident:
            values = add(cell.output(state), resident, values)
        else:
            values = lax.fori_loop(0, pl.cdiv(cell.hidden_size, tile), add_tile, values)
        new = jax.tree.unflatten(structure, values)
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


def backward(
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
    """Write the gradients of all preactivations and of the first state."""
    assert cell.product
    leaves = cell.product.leaves
    tile, resident = _read_once(kernels)

    def update(state: State, preactivations: Activations) -> tuple[State, jax.Array]:
        state = cell.update(state, preactivations)
        return state, cell.output(state)

    def body(i: jax.Array, d_state: State) -> State:
        t = length[0] - 1 - i
        is_reset = resets[t] != 0
        state = clear(_at(states, t), is_reset)
        _, pull_update = jax.vjp(update, state, _at(preactivations, t))
        d_state, d_values = pull_update((d_state, d_outputs[t]))
        _put(d_preactivations, t, d_values)

        def add(values: list[jax.Array], weights: Any, d_hidden: jax.Array) -> jax.Array:
            for value, kernel in zip(values, weights, strict=True):
                d_hidden += _dot(value, kernel, 1)
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
        return clear(d_state, is_reset)

    _put(d_first, 0, lax.fori_loop(0, length[0], body, _at(d_last, 0)))


def run(
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


def _read_once(kernels: Any) -> tuple[int, list[jax.Array]]:
    """How many rows of the recurrent weights to read at a time, and all of them if they are few."""
    num, units, _ = kernels.shape
    tile = RESIDENT_BYTES // (pl.next_power_of_2(num) * units * kernels.dtype.itemsize)
    if tile >= units:
        return units, [kernels[i] for i in range(num)]
    return min(max(MIN_TILE, tile), MAX_TILE), []


def _dot(left: jax.Array, kernel: jax.Array, axis: int) -> jax.Array:
    """`left` times a kernel along its `axis`, as in `products.linear`."""
    return lax.dot_general(
        left.astype(kernel.dtype), kernel, (((1,), (axis,)), ((), ())),
        preferred_element_type=left.dtype,
    )  # fmt: skip


def clear(tree: Any, is_cleared: jax.Array) -> Any:
    """Zeros in the rows where `is_cleared` [...], the values of the tree elsewhere."""
    return choose_rows(is_cleared, jax.tree.map(jnp.zeros_like, tree), tree)


def _at(refs: Any, t: jax.Array | int) -> Any:
    return jax.tree.map(lambda ref: ref[t], refs)


def _put(refs: Any, t: jax.Array | int, values: Any) -> None:
    def put(ref: Any, value: jax.Array) -> None:
        ref[t] = value

    jax.tree.map(put, refs, values)
