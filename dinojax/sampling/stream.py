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


class _Stream(NamedTuple):
    """What the loop over steps carries, per row [rows, ...] and per name [num, ...]."""

    row: Beginning
    """State, last character and log-probability of the name that each row writes."""
    drawn_log_probability: jax.Array
    name: jax.Array
    """Number of that name; past the end where none is left to write."""
    position: jax.Array
    """Number of its characters that are written."""
    next_name: jax.Array
    """Number of the name that is begun next, a scalar."""
    ids: jax.Array
    """Characters of all names, with one more column than a name has characters."""
    totals: jax.Array
    """Log-probabilities of all names, as in `Samples`."""
    drawn_totals: jax.Array


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
    """Like `sample_names`, for many names: no row waits for a longer name in another.

    Each of `rows` rows writes one name after another and resets its state after each. Names are
    numbered in the order in which they are begun, within a step by row, and all that are begun are
    finished, so the order says nothing about lengths. `num`, `max_length` and `rows` are static
    under `jit`. With a `beginning`, each name continues from there, as in `sample_names`.
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
        done = ends | is_full
        begun = jnp.cumsum(done)
        return _Stream(
            row=choose_rows(done, initial, Beginning(state, ids, total)),
            drawn_log_probability=jnp.where(done, 0, drawn_total),
            name=jnp.where(done, stream.next_name + begun - 1, name),
            position=jnp.where(done, 0, position + 1),
            next_name=stream.next_name + begun[-1],
            # What is past the end is dropped.
            ids=stream.ids.at[name, position].set(ids.astype(stream.ids.dtype), mode="drop"),
            totals=stream.totals.at[name].set(total, mode="drop"),
            drawn_totals=stream.drawn_totals.at[name].set(drawn_total, mode="drop"),
        ), None

    def write_some(carry: tuple[jax.Array, _Stream]) -> tuple[jax.Array, _Stream]:
        key, stream = carry
        key, uniforms = draw_ahead(key, STEPS, rows, dtype)
        return key, lax.scan(write, stream, uniforms)[0]

    def is_unfinished(carry: tuple[jax.Array, _Stream]) -> jax.Array:
        _, stream = carry
        return jnp.any(stream.name < num)

    id_dtype = np.min_scalar_type(model.vocab_size)
    start = _Stream(
        row=initial,
        drawn_log_probability=jnp.zeros(rows, dtype),
        name=jnp.arange(rows),
        position=jnp.zeros(rows, int),
        next_name=jnp.asarray(rows),
        ids=jnp.full((num, max_length + 1), model.newline, id_dtype),
        totals=jnp.zeros(num, dtype),
        drawn_totals=jnp.zeros(num, dtype),
    )
    _, stream = lax.while_loop(is_unfinished, write_some, (key, start))
    ids, ended = stream.ids[:, :max_length], stream.ids[:, max_length] == model.newline
    lengths = jnp.sum(ids != model.newline, axis=1)
    return Samples(ids.astype(int), lengths, stream.totals, stream.drawn_totals, ended)


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

    Each device writes the names of one key and waits for no other: on a CPU, sharing an operation
    means waking a second core each time. What a key gives does not depend on the number of devices.
    Raises a ValueError unless there are as many devices as keys.
    """
    num_devices = parallel.num_devices(mesh)
    if len(keys) != num_devices:
        raise ValueError(f"expected a key for each of {num_devices} devices, got {len(keys)}")

    in_axes = 0, *[None] * len(arguments)
    on_mesh = parallel.spread(lambda keys, *x: write(keys[0], *x), mesh, in_axes, out_axes=0)
    return on_mesh(keys, *arguments)
