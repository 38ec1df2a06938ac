"""A model that also counts what it has just read, and expects to read it again.

    p_n(character | text)
        = (count_n(character) + w_n p_{n-1}(character)) / (total_n + w_n),    w_n = 20 distinct_n

for n from 3 to 8, where p_2 is what the model says. count_n is how often each character followed
the last n ones before, among the last characters of the text, total_n the sum of these counts, and
distinct_n how many of them are not zero. Where it is zero, p_n = p_{n-1}.

So the names of a play's persons, for example, are expected once they have been read. All that is
counted is in the state: a fresh state begins anew.

References:
    Kuhn and De Mori, "A cache-based natural language model for speech recognition", IEEE
    Transactions on Pattern Analysis and Machine Intelligence 12 (1990).
    Witten and Bell, "The zero-frequency problem", IEEE Transactions on Information Theory 37
    (1991): the number of distinct characters as the weight of the shorter context, there without
    a factor. The factor 20 and the range of n were the best for Shakespeare's plays and sonnets.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from dinojax.models.cells import Params, State
from dinojax.models.model import CharModel

SHORTEST, LONGEST, WEIGHT = 3, 8, 20.0
NUM_LENGTHS = LONGEST - SHORTEST + 1


class Recent(NamedTuple):
    """The characters that were read last."""

    ids: jax.Array
    """Their ids, the newest last, int32 [..., size]; "no character" before the first one."""
    matches: jax.Array
    """How many characters before each of them are the last ones of the text, up to `LONGEST`."""


class CacheState(NamedTuple):
    """The state of a model with a cache."""

    model: State
    recent: Recent


def cached(model: CharModel, size: int) -> CharModel:
    """`model` with a cache of the last `size` characters of a text.

    Its parameters are those of `model`, and "no character" empties the cache, whether resets are
    asked for or not. A step takes time in proportion to `size`.

    Raises:
        ValueError: `size` is less than 1.
    """
    if size < 1:
        raise ValueError(f"expected a cache of at least 1 character, got {size}")
    nothing = model.vocab_size

    def initial_state(batch_shape: tuple[int, ...]) -> State:
        shape = *batch_shape, size
        recent = Recent(jnp.full(shape, nothing, jnp.int32), jnp.zeros(shape, jnp.int32))
        return CacheState(model.initial_state(batch_shape), recent)

    def read(recent: Recent, inputs: jax.Array) -> Recent:
        new = inputs.astype(jnp.int32)[..., None]
        # What precedes a character has one more match if the character before it is the new one.
        matches = jnp.where(recent.ids == new, jnp.minimum(recent.matches + 1, LONGEST), 0)
        ids = jnp.concatenate([recent.ids[..., 1:], new], axis=-1)
        is_start = new == nothing
        return Recent(jnp.where(is_start, nothing, ids), jnp.where(is_start, 0, matches))

    def step(params: Params, state: State, inputs: jax.Array) -> tuple[State, jax.Array]:
        last, logits = model.step(params, state.model, inputs)
        recent = read(state.recent, inputs)
        return CacheState(last, recent), mixed(logits, *seen(recent, nothing, logits.dtype))

    def unroll(
        params: Params,
        state: State,
        inputs: jax.Array,
        length: jax.Array | None = None,
        resets: bool = False,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[State, jax.Array]:
        last, logits = model.unroll(params, state.model, inputs, length, resets, dropout_keys)

        def count(recent: Recent, at: tuple[jax.Array, jax.Array]) -> tuple[Recent, Any]:
            new = read(recent, at[0])
            if length is not None:
                new = jax.tree.map(partial(jnp.where, at[1] < length), new, recent)
            return new, seen(new, nothing, logits.dtype)

        recent, counted = lax.scan(count, state.recent, (inputs, jnp.arange(len(inputs))))
        return CacheState(last, recent), mixed(logits, *counted)

    def layer_outputs(params: Params, state: State, inputs: jax.Array) -> tuple[State, Any]:
        last, outputs = model.layer_outputs(params, state.model, inputs)
        return CacheState(last, read(state.recent, inputs)), outputs

    return CharModel(nothing, model.newline, model.init, initial_state, step, unroll, layer_outputs)


def seen(recent: Recent, vocab_size: int, dtype: DTypeLike) -> tuple[jax.Array, jax.Array]:
    """What counts say of the next character: its share [..., vocab], and what is left [...].

    p_8 = share + left p_2.
    """
    *batch_shape, size = recent.ids.shape
    ids, matches = recent.ids.reshape(-1, size), recent.matches.reshape(-1, size)
    # Indices beyond the end are dropped: "no character", and contexts that are too short.
    lengths = jnp.where(matches < SHORTEST, NUM_LENGTHS, matches - SHORTEST)
    counts = jnp.zeros((len(ids), NUM_LENGTHS, vocab_size), dtype)
    counts = counts.at[jnp.arange(len(ids))[:, None], lengths, ids].add(1, mode="drop")
    # A longer context is also one of the shorter ones.
    counts = jnp.flip(jnp.cumsum(jnp.flip(counts, axis=1), axis=1), axis=1)
    weights = WEIGHT * jnp.sum(counts > 0, axis=-1, dtype=dtype, keepdims=True)
    totals = counts.sum(axis=-1, keepdims=True) + weights
    share, left = jnp.zeros_like(counts[:, 0]), jnp.ones_like(totals[:, 0])
    for n in range(NUM_LENGTHS):
        is_known = totals[:, n] > 0
        divisor = jnp.where(is_known, totals[:, n], 1)
        kept = jnp.where(is_known, weights[:, n] / divisor, 1)
        share, left = counts[:, n] / divisor + kept * share, kept * left
    return share.reshape(*batch_shape, vocab_size), left.reshape(*batch_shape)


def mixed(logits: jax.Array, share: jax.Array, left: jax.Array) -> jax.Array:
    """The logarithms of share + left * softmax(logits); see `seen`."""
    log_left = jnp.log(left)[..., None]
    return jnp.logaddexp(jnp.log(share), log_left + jax.nn.log_softmax(logits))
