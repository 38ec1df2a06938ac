"""New names from a trained model and an explicit key."""

import math
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dinojax.cells import Params, State
from dinojax.controls import Controls, controlled_weights, leave_as_it_is
from dinojax.model import CharModel

UNCONTROLLED = Controls()


class Samples(NamedTuple):
    """Sampled names."""

    ids: jax.Array
    """Characters [num, max_length]; from `lengths` on, newline."""
    lengths: jax.Array
    """Characters in each name [num], the newline not counted."""
    log_probabilities: jax.Array
    """Log-probability of each name under the model, without controls, in nats, [num].

    Of the name and its newline if it ended, of the characters alone if it was cut."""
    drawn_log_probabilities: jax.Array
    """The same under the law it was drawn from, as the controls made it."""
    ended: jax.Array
    """Whether the name ended by itself, [num]; if not, it was cut at `max_length`."""


def draw(weights: jax.Array, uniforms: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Ids [...] drawn in proportion to `weights` [..., vocab], by a uniform number in [0, 1) each.

    And the log-probability [...] of each, in nats. It takes the first id whose cumulative weight
    exceeds the uniform number times the sum: the rule of NumPy's `choice`, by which the exercise
    draws. It needs one random number where `jax.random.categorical` needs `vocab`, and follows the
    same law.
    """
    columns = jnp.moveaxis(weights, -1, 0)

    def passed(cumulative: jax.Array, total: jax.Array) -> jax.Array:
        threshold = jnp.broadcast_to(uniforms * total, cumulative.shape)
        # The second condition matters where rounding lifts a uniform number's share to the total.
        return (cumulative <= threshold) & (cumulative < jnp.broadcast_to(total, cumulative.shape))

    if len(columns) <= 128:
        # Written out, it is one loop over the rows that fills vector registers: with 27 symbols, a
        # step of `stream_names` takes 0.8 times as long as with a triangular product.
        *others, total = accumulate(columns, jnp.add)
        ids = sum((passed(x, total).astype(int) for x in others), jnp.zeros(uniforms.shape, int))
    else:
        running = jnp.cumsum(columns, axis=0)
        ids = jnp.sum(passed(running, running[-1]), axis=0)
    chosen = jnp.take_along_axis(columns, ids[None], axis=0)[0]
    # A sum of its own: with `total`, the loop would fall apart, and a step takes 1.1 times as long.
    # Scaled, as the quotient may be too small a number where neither of the two is.
    return ids, jnp.log(chosen * 2.0**24 / columns.sum(axis=0)) - 24 * math.log(2)


def sample_step(
    params: Params,
    model: CharModel,
    state: State,
    previous: jax.Array,
    uniforms: jax.Array,
    controls: Controls = UNCONTROLLED,
) -> tuple[State, jax.Array, jax.Array, jax.Array]:
    """Read characters `previous` [...] and draw the next, with `uniforms` [...] and `controls`.

    Returns the state, the ids drawn, their log-probabilities under the model, and those under the
    law they were drawn from, in nats, [...] each.
    """
    state, logits = model.step(params, state, previous)

    # Each branch takes off the maximum itself: XLA makes one kernel of that and of exp, and a step
    # takes 0.9 times as long.
    def draw_as_it_is() -> tuple[jax.Array, jax.Array, jax.Array]:
        ids, new = draw(jnp.exp(logits - logits.max(axis=-1, keepdims=True)), uniforms)
        return ids, new, new

    def draw_controlled() -> tuple[jax.Array, jax.Array, jax.Array]:
        shifted = logits - logits.max(axis=-1, keepdims=True)
        ids, drawn = draw(controlled_weights(shifted, controls), uniforms)
        chosen = jnp.take_along_axis(shifted, ids[..., None], axis=-1)[..., 0]
        return ids, chosen - jnp.log(jnp.exp(shifted).sum(axis=-1)), drawn

    is_plain = leave_as_it_is(controls, model.vocab_size)
    # Behind the barrier it is not known when XLA compiles: a branch it knew would be merged into
    # all that follows and computed again for each use. On the CPU a step takes 0.6 times as long.
    return state, *lax.cond(lax.optimization_barrier(is_plain), draw_as_it_is, draw_controlled)


class Beginning(NamedTuple):
    """Where sampling goes on from."""

    state: State
    """Of the model, after all characters but the last, without a batch."""
    previous: jax.Array
    """Id of the last character, or "no character"."""
    log_probability: jax.Array
    """Of the characters read, under the model, in nats."""


def read_prompt(params: Params, model: CharModel, prompt: jax.Array) -> Beginning:
    """What the model knows after the characters `prompt`, ids [time], from the start of a text."""
    inputs = jnp.concatenate([jnp.full(1, model.vocab_size), prompt.astype(int)])
    state, logits = model.unroll(params, model.initial_state(()), inputs[:-1])
    log_probabilities = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_probabilities, inputs[1:, None], axis=1)
    return Beginning(state, inputs[-1], chosen.sum())


def sample_text(
    key: jax.Array,
    params: Params,
    model: CharModel,
    beginning: Beginning,
    num: int,
    controls: Controls = UNCONTROLLED,
) -> tuple[Beginning, jax.Array]:
    """The next `num` characters of one text: where it stands then, and their ids [num].

    A `lax.scan` threads the key and splits it at every step. `num` is static under `jit`.
    """

    def write(carry: Any, _: None) -> tuple[Any, jax.Array]:
        key, beginning = carry
        key, key_draw = jax.random.split(key)
        uniform = jax.random.uniform(key_draw, (), beginning.log_probability.dtype)
        state, ids, new = sample_step(
            params, model, beginning.state, beginning.previous, uniform, controls
        )[:3]
        return (key, Beginning(state, ids, beginning.log_probability + new)), ids

    (_, last), ids = lax.scan(write, (key, beginning), length=num)
    return last, ids


def sample_names(
    key: jax.Array,
    params: Params,
    model: CharModel,
    newline: int,
    num: int,
    max_length: int,
    controls: Controls = UNCONTROLLED,
    beginning: Beginning | None = None,
) -> Samples:
    """`num` names, each from its start until newline or for `max_length` characters.

    A `lax.scan` threads the key and splits it at every step; once all names have ended, the steps
    that remain are skipped. A name depends on the key and its place, not on `num`. `newline` is the
    id that ends a name; `num` and `max_length` are static under `jit`. With a `beginning` each name
    goes on from there: `ids` hold what follows, and the log-probabilities are those of the whole
    names, of which the beginning was not drawn.
    """

    def write(carry: Any) -> tuple[Any, jax.Array]:
        key, state, previous, ended, log_probabilities = carry
        key, key_draw = jax.random.split(key)
        uniforms = jax.random.uniform(key_draw, (num,), log_probabilities[0].dtype)
        state, ids, *new = sample_step(params, model, state, previous, uniforms, controls)
        ids = jnp.where(ended, newline, ids)
        log_probabilities = tuple(
            total + jnp.where(ended, 0, x) for total, x in zip(log_probabilities, new, strict=True)
        )
        return (key, state, ids, ended | (ids == newline), log_probabilities), ids

    def skip(carry: Any) -> tuple[Any, jax.Array]:
        return carry, jnp.full(num, newline)

    def body(carry: Any, _: None) -> tuple[Any, jax.Array]:
        return lax.cond(carry[3].all(), skip, write, carry)

    if beginning is None:
        beginning = read_prompt(params, model, jnp.zeros(0, int))
    rows = jax.tree.map(lambda x: jnp.broadcast_to(x, (num, *x.shape)), beginning)
    log_probabilities = rows.log_probability, jnp.zeros_like(rows.log_probability)
    start = key, rows.state, rows.previous, jnp.zeros(num, bool), log_probabilities
    cut, ids = lax.scan(body, start, length=max_length)
    # One more draw, which counts only where it is newline: does a name of full length end there?
    (*_, ended, log_probabilities), _ = body(cut, None)
    whole, drawn = (jnp.where(ended, x, y) for x, y in zip(log_probabilities, cut[4], strict=True))
    return Samples(ids.T, jnp.sum(ids != newline, axis=0), whole, drawn, ended)
