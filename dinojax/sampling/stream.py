"""Very many new names: no row waits for a longer name in another."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from dinojax import parallel
from dinojax.models.cells import Params
from dinojax.models.model import CharModel
from dinojax.models.recurrence import choose_rows
from dinojax.sampling.controls import Controls
from dinojax.sampling.draw import UNCONTROLLED, Beginning, Samples, read_prompt, sample_step

STEPS = 4
"""Steps for which `stream_names` draws random numbers at once."""


class _Written(NamedTuple):
    """What is known of each name, as in `Samples`; one more column than a name has characters."""

    ids: jax.Array
    log_probabilities: jax.Array
    drawn_log_probabilities: jax.Array


class _Stream(NamedTuple):
    """What the loop over steps carries; all but the last two are per row, [rows, ...]."""

    row: Beginning
    """State, last character and log-probability of the name that each row writes."""
    drawn_log_probability: jax.Array
    name: jax.Array
    """Number of that name; past the end where none is left to write."""
    position: jax.Array
    """Characters written of it."""
    next_name: jax.Array
    """Number of the name that is begun next."""
    written: _Written


def stream_names(
    key: jax.Array,
    params: Params,
    model: CharModel,
    num: int,
    max_length: int,
    *,
    controls: Controls = UNCONTROLLED,
    rows: int = 4096,
    beginning: Beginning | None = None,
) -> Samples:
    """The law of `sample_names`, for many names: no row waits for a longer name in another.

    Each of `rows` rows writes one name after another and resets its state after each. Names are
    numbered in the order in which they are begun, within a step by row, and each one that was begun
    is finished: so the order says nothing about lengths. `num`, `max_length` and `rows` are static
    under `jit`. With a `beginning` each name continues from there, as in `sample_names`.
    """
    rows = min(rows, num)
    if beginning is None:
        beginning = read_prompt(params, model, jnp.zeros(0, int))
    initial = jax.tree.map(lambda x: jnp.broadcast_to(x, (rows, *x.shape)), beginning)
    dtype = beginning.log_probability.dtype

    def write(stream: _Stream, uniforms: jax.Array) -> tuple[_Stream, None]:
        row, name, position = stream.row, stream.name, stream.position
        state, ids, new, drawn = sample_step(
            params, model, row.state, row.previous, uniforms, controls=controls
        )
        ends = ids == model.newline
        is_full = position == max_length
        counts = ends | ~is_full
        total = row.log_probability + jnp.where(counts, new, 0)
        drawn_total = stream.drawn_log_probability + jnp.where(counts, drawn, 0)
        columns, totals, drawn_totals = stream.written
        # What is past the end is dropped.
        written = _Written(
            columns.at[name, position].set(ids.astype(columns.dtype), mode="drop"),
            totals.at[name].set(total, mode="drop"),
            drawn_totals.at[name].set(drawn_total, mode="drop"),
        )
        done = ends | is_full
        begun = jnp.cumsum(done)
        return _Stream(
            row=choose_rows(done, initial, Beginning(state, ids, total)),
            drawn_log_probability=jnp.where(done, 0, drawn_total),
            name=jnp.where(done, stream.next_name + begun - 1, name),
            position=jnp.where(done, 0, position + 1),
            next_name=stream.next_name + begun[-1],
            written=written,
        ), None

    def write_some(carry: tuple[jax.Array, _Stream]) -> tuple[jax.Array, _Stream]:
        key, stream = carry
        key, uniforms = draw_ahead(key, STEPS, rows, dtype)
        return key, lax.scan(write, stream, uniforms)[0]

    def is_unfinished(carry: tuple[jax.Array, _Stream]) -> jax.Array:
        return jnp.any(carry[1].name < num)

    zeros = jnp.zeros(num, dtype)
    columns = jnp.full((num, max_length + 1), model.newline, np.min_scalar_type(model.vocab_size))
    start = _Stream(
        row=initial,
        drawn_log_probability=jnp.zeros(rows, dtype),
        name=jnp.arange(rows),
        position=jnp.zeros(rows, int),
        next_name=jnp.asarray(rows),
        written=_Written(columns, zeros, zeros),
    )
    _, stream = lax.while_loop(is_unfinished, write_some, (key, start))
    columns, total, drawn_total = stream.written
    ids, after = columns[:, :max_length], columns[:, max_length]
    lengths = jnp.sum(ids != model.newline, axis=1)
    return Samples(ids.astype(int), lengths, total, drawn_total, after == model.newline)


def draw_ahead(
    key: jax.Array, num: int, rows: int, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array]:
    """The key after `num` steps, and the uniform numbers [num, rows] of these steps."""

    def split(key: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        key, key_draw = jax.random.split(key)
        return key, key_draw

    key, keys = lax.scan(split, key, length=num)
    return key, jax.vmap(lambda key: jax.random.uniform(key, (rows,), dtype))(keys)


def on_each_device(
    keys: jax.Array, write: Callable[..., Samples], mesh: Mesh | None, *arguments: Any
) -> Samples:
    """The names of `write(key, *arguments)` for each of `keys` [devices], key after key.

    Each device writes the names of one key and waits for no other: on a CPU, a device that shares
    each operation with a second core has to wake it each time. What a key gives does not depend on
    the number of devices.

    Raises:
        ValueError: there are not as many devices as keys.
    """
    num_devices = parallel.num_devices(mesh)
    if len(keys) != num_devices:
        raise ValueError(f"expected a key for each of {num_devices} devices, got {len(keys)}")

    def write_here(keys: jax.Array, *arguments: Any) -> Samples:
        return write(keys[0], *arguments)

    in_axes = 0, *[None] * len(arguments)
    return parallel.spread(write_here, mesh, in_axes, out_axes=0)(keys, *arguments)
