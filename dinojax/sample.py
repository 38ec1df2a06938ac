"""New names from a trained model and an explicit key."""

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


def draw(weights: jax.Array, uniforms: jax.Array) -> jax.Array:
    """Ids [...] drawn in proportion to `weights` [..., vocab], by a uniform number in [0, 1) each.

    The first id whose cumulative weight exceeds the uniform number times the sum: the rule of
    NumPy's `choice`, by which the exercise draws. It takes one random number where
    `jax.random.categorical` takes `vocab`, and follows the same law.
    """
    vocab_size = weights.shape[-1]
    if vocab_size <= 128:
        # With 27 symbols, 1.3 times as many names a second as with cumsum. The columns up to a
        # multiple of 16, which repeat the total, fill vector registers: 1.7 times the product.
        columns = -(-vocab_size // 16) * 16
        cumulative = weights @ jnp.triu(jnp.ones((vocab_size, columns), weights.dtype))
    else:
        cumulative = jnp.cumsum(weights, axis=-1)
    total = cumulative[..., -1:]
    # The second condition matters where rounding lifts a uniform number's share to the total.
    passed = (cumulative <= uniforms[..., None] * total) & (cumulative < total)
    return jnp.sum(passed, axis=-1)


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
    logits -= logits.max(axis=-1, keepdims=True)
    weights = controlled_weights(logits, controls)
    ids = draw(weights, uniforms)

    def chosen(values: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, ids[..., None], axis=-1)[..., 0]

    new = chosen(logits) - jnp.log(jnp.exp(logits).sum(axis=-1))
    drawn = lax.cond(
        leave_as_it_is(controls, model.vocab_size),
        lambda: new,
        lambda: jnp.log(chosen(weights) / weights.sum(axis=-1)),
    )
    return state, ids, new, drawn


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


def stream_names(
    key: jax.Array,
    params: Params,
    model: CharModel,
    newline: int,
    num: int,
    max_length: int,
    controls: Controls = UNCONTROLLED,
    rows: int = 4096,
) -> Samples:
    """The same law as `sample_names`, for many names: no row waits for a longer name in another.

    Each of `rows` rows writes one name after another, its state reset after each, until all have
    written as many: name i is number `i // rows` of row `i % rows`. Two to three times as many
    names a second as `sample_names` at 100,000. `num`, `max_length`, `rows` are static in `jit`.
    """
    rows = min(rows, num)
    first = jnp.arange(rows)
    initial = model.initial_state((rows,))

    def write(carry: Any) -> Any:
        key, state, previous, turn, position, samples = carry
        key, key_draw = jax.random.split(key)
        uniforms = jax.random.uniform(key_draw, (rows,), samples.log_probabilities.dtype)
        state, ids, new, drawn = sample_step(params, model, state, previous, uniforms, controls)
        ends = ids == newline
        is_full = position == max_length
        counts = ends | ~is_full
        # Rows that have had all their turns point past the end, where writing is dropped.
        name = turn * rows + first
        samples = Samples(
            ids=samples.ids.at[name, position].set(ids, mode="drop"),
            lengths=samples.lengths.at[name].set(position, mode="drop"),
            log_probabilities=samples.log_probabilities.at[name].add(
                jnp.where(counts, new, 0), mode="drop"
            ),
            drawn_log_probabilities=samples.drawn_log_probabilities.at[name].add(
                jnp.where(counts, drawn, 0), mode="drop"
            ),
            ended=samples.ended.at[name].set(ends, mode="drop"),
        )
        done = ends | is_full
        state = jax.tree.map(
            lambda new, old: jnp.where(done.reshape(rows, *[1] * (old.ndim - 1)), new, old),
            initial,
            state,
        )
        previous = jnp.where(done, model.vocab_size, ids)
        return (
            key,
            state,
            previous,
            turn + done.astype(int),
            jnp.where(done, 0, position + 1),
            samples,
        )

    zeros = jnp.zeros(num, params["readout"]["bias"].dtype)
    samples = Samples(
        ids=jnp.full((num, max_length), newline),
        lengths=jnp.zeros(num, int),
        log_probabilities=zeros,
        drawn_log_probabilities=zeros,
        ended=zeros.astype(bool),
    )
    turn = jnp.zeros(rows, int)
    start = (key, initial, jnp.full(rows, model.vocab_size), turn, turn, samples)
    *_, samples = lax.while_loop(lambda carry: jnp.any(carry[3] * rows + first < num), write, start)
    return samples
