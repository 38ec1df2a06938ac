"""Very many new names: no row waits for a longer name in another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from dinojax.cells import Params
from dinojax.controls import Controls
from dinojax.model import CharModel
from dinojax.sample import UNCONTROLLED, Beginning, Samples, read_prompt, sample_step

STEPS = 4
"""Steps for which `stream_names` draws random numbers at once: one device of two cores writes 1.4
times as many names a second as with those of one step."""


def stream_names(
    key: jax.Array,
    params: Params,
    model: CharModel,
    newline: int,
    num: int,
    max_length: int,
    controls: Controls = UNCONTROLLED,
    rows: int = 4096,
    beginning: Beginning | None = None,
) -> Samples:
    """The same law as `sample_names`, for many names: no row waits for a longer name in another.

    Each of `rows` rows writes one name after another, its state reset after each. The names are
    numbered as they are begun, in one step by row: a row that is done takes the next number of all,
    and all that were begun are written to their end, so that their order tells nothing of their
    length. Three to four times as many names a second as `sample_names` at 100,000. `num`,
    `max_length`, `rows` are static in `jit`. With a `beginning` each name goes on from there, as in
    `sample_names`.
    """
    rows = min(rows, num)
    if beginning is None:
        beginning = read_prompt(params, model, jnp.zeros(0, int))
    initial = jax.tree.map(lambda x: jnp.broadcast_to(x, (rows, *x.shape)), beginning)
    dtype = beginning.log_probability.dtype

    def write(carry: Any, uniforms: jax.Array) -> tuple[Any, None]:
        row, drawn_total, name, next_name, position, samples = carry
        state, ids, new, drawn = sample_step(
            params, model, row.state, row.previous, uniforms, controls
        )
        ends = ids == newline
        is_full = position == max_length
        counts = ends | ~is_full
        total = row.log_probability + jnp.where(counts, new, 0)
        drawn_total += jnp.where(counts, drawn, 0)
        # Where no name is left to write, a row's name is past the end, and writing is dropped.
        columns, totals, drawn_totals = samples
        samples = (
            columns.at[name, position].set(ids.astype(columns.dtype), mode="drop"),
            totals.at[name].set(total, mode="drop"),
            drawn_totals.at[name].set(drawn_total, mode="drop"),
        )
        done = ends | is_full
        row = jax.tree.map(
            lambda new, old: jnp.where(done.reshape(rows, *[1] * (old.ndim - 1)), new, old),
            initial,
            Beginning(state, ids, total),
        )
        drawn_total = jnp.where(done, 0, drawn_total)
        position = jnp.where(done, 0, position + 1)
        begun = jnp.cumsum(done)
        name = jnp.where(done, next_name + begun - 1, name)
        return (row, drawn_total, name, next_name + begun[-1], position, samples), None

    def write_some(carry: Any) -> Any:
        key, carry = carry
        key, uniforms = draw_ahead(key, STEPS, rows, dtype)
        return key, lax.scan(write, carry, uniforms)[0]

    def is_unfinished(carry: Any) -> jax.Array:
        name = carry[1][2]
        return jnp.any(name < num)

    zeros = jnp.zeros(num, dtype)
    # One more column than a name has characters: what came after the last one.
    ids = jnp.full((num, max_length + 1), newline, np.min_scalar_type(model.vocab_size))
    name, position = jnp.arange(rows), jnp.zeros(rows, int)
    start = initial, jnp.zeros(rows, dtype), name, jnp.asarray(rows), position
    _, carry = lax.while_loop(is_unfinished, write_some, (key, (*start, (ids, zeros, zeros))))
    ids, total, drawn_total = carry[-1]
    ids, after = ids[:, :max_length], ids[:, max_length]
    lengths = jnp.sum(ids != newline, axis=1)
    return Samples(ids.astype(int), lengths, total, drawn_total, after == newline)


def draw_ahead(
    key: jax.Array, num: int, rows: int, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array]:
    """The key after `num` steps, and the uniform numbers [num, rows] of these."""

    def split(key: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        key, key_draw = jax.random.split(key)
        return key, key_draw

    key, keys = lax.scan(split, key, length=num)
    return key, jax.vmap(lambda key: jax.random.uniform(key, (rows,), dtype))(keys)


def on_each_device(
    keys: jax.Array, write: Callable[..., Samples], mesh: Mesh, *arguments: Any
) -> Samples:
    """The names of `write(key, *arguments)` for each of `keys` [devices], key after key.

    Each device of `mesh`, which has one axis, writes by one key, and waits for no other: with
    `stream_names` on two cores 1.2 to 2 times as many names a second as by one device, which has to
    wake the second core for its half of every operation. How many devices there are changes nothing
    that a key gives.

    Raises:
        ValueError: there are not as many devices as keys.
    """
    if len(keys) != mesh.size:
        raise ValueError(f"expected a key for each of {mesh.size} devices, got {len(keys)}")
    (axis_name,) = mesh.axis_names
    everywhere, each = PartitionSpec(), PartitionSpec(axis_name)

    def write_here(keys: jax.Array, *arguments: Any) -> Samples:
        return write(keys[0], *arguments)

    spread = jax.shard_map(
        write_here,
        mesh=mesh,
        in_specs=(each, *[everywhere] * len(arguments)),
        out_specs=each,
        check_vma=False,
    )
    return spread(keys, *arguments)
