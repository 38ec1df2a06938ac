"""New names and texts from a trained model and an explicit key."""

import math
from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dinojax.models.cells import Params, State
from dinojax.models.model import CharModel
from dinojax.sampling.controls import Controls, controlled_weights, leave_as_it_is

UNCONTROLLED = Controls()


class Samples(NamedTuple):
    """Sampled names."""

    ids: jax.Array
    """Ids of their characters [num, max_length]; newline from `lengths` on."""
    lengths: jax.Array
    """Number of characters in each name [num], newline not counted."""
    log_probabilities: jax.Array
    """Log-probabilities [num] under the model in nats, newline included if the name ended."""
    drawn_log_probabilities: jax.Array
    """The same under the controls that the names were drawn with."""
    ended: jax.Array
    """Whether the name ended by itself, [num]; otherwise it was cut at `max_length`."""


def draw(weights: jax.Array, uniforms: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw ids [...] in proportion to `weights` [..., vocab], by one uniform number in [0, 1) each.

    Returns the ids and the log-probability [...] of each, in nats. An id is the first whose
    cumulative weight exceeds the uniform number times the sum, as in NumPy's `choice`, by which the
    exercise draws. `jax.random.categorical` follows the same distribution by `vocab` numbers.
    """
    columns = jnp.moveaxis(weights, -1, 0)

    def passed(cumulative: jax.Array, total: jax.Array) -> jax.Array:
        threshold = jnp.broadcast_to(uniforms * total, cumulative.shape)
        # The second condition matters where rounding lifts the threshold to the total.
        return (cumulative <= threshold) & (cumulative < jnp.broadcast_to(total, cumulative.shape))

    if len(columns) <= 128:
        # Written out, it is one loop over the rows that fills vector registers.
        *others, total = accumulate(columns, jnp.add)
        ids = sum((passed(x, total).astype(int) for x in others), jnp.zeros(uniforms.shape, int))
    else:
        running = jnp.cumsum(columns, axis=0)
        ids = jnp.sum(passed(running, running[-1]), axis=0)
    chosen = jnp.take_along_axis(columns, ids[None], axis=0)[0]
    # A sum of its own: with `total`, XLA would split the loop. The factor keeps the quotient from
    # underflowing where neither of its parts does.
    return ids, jnp.log(chosen * 2.0**24 / columns.sum(axis=0)) - 24 * math.log(2)


class Drawn(NamedTuple):
    """The state and the characters [...] after a step, with log-probabilities as in `Samples`."""

    state: State
    ids: jax.Array
    log_probabilities: jax.Array
    drawn_log_probabilities: jax.Array


def sample_step(
    params: Params,
    model: CharModel,
    state: State,
    previous: jax.Array,
    uniforms: jax.Array,
    *,
    controls: Controls = UNCONTROLLED,
) -> Drawn:
    """Read characters `previous` [...] and draw the next ones, by `uniforms` [...]."""
    state, logits = model.step(params, state, previous)

    # Each branch subtracts the maximum itself, so that XLA fuses that with exp.
    def draw_as_it_is() -> tuple[jax.Array, jax.Array, jax.Array]:
        ids, new = draw(jnp.exp(logits - logits.max(axis=-1, keepdims=True)), uniforms)
        return ids, new, new

    def draw_controlled() -> tuple[jax.Array, jax.Array, jax.Array]:
        shifted = logits - logits.max(axis=-1, keepdims=True)
        ids, drawn = draw(controlled_weights(shifted, controls), uniforms)
        chosen = jnp.take_along_axis(shifted, ids[..., None], axis=-1)[..., 0]
        return ids, chosen - jnp.log(jnp.exp(shifted).sum(axis=-1)), drawn

    is_plain = leave_as_it_is(controls, model.vocab_size)
    # The barrier hides the condition from XLA. A branch that XLA knows would be merged into all
    # that follows, and computed again for each use.
    drawn = lax.cond(lax.optimization_barrier(is_plain), draw_as_it_is, draw_controlled)
    return Drawn(state, *drawn)


class Beginning(NamedTuple):
    """Where sampling continues from."""

    state: State
    """State of the model after all characters but the last, without a batch."""
    previous: jax.Array
    """Id of the last character, or "no character"."""
    log_probability: jax.Array
    """Log-probability of the characters read under the model, in nats; see `read_prompt`."""


def read_prompt(
    params: Params, model: CharModel, prompt: jax.Array, num_given: int = 0
) -> Beginning:
    """Read the characters `prompt`, ids [time], from the start of a name or a text.

    The log-probability is conditioned on the first `num_given` of them.
    """
    inputs = jnp.concatenate([jnp.full(1, model.vocab_size), prompt.astype(int)])
    state, logits = model.unroll(params, model.initial_state(()), inputs[:-1])
    log_probabilities = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_probabilities, inputs[1:, None], axis=1)
    return Beginning(state, inputs[-1], chosen[num_given:].sum())


def sample_text(
    key: jax.Array,
    params: Params,
    model: CharModel,
    beginning: Beginning,
    num: int,
    *,
    controls: Controls = UNCONTROLLED,
) -> tuple[Beginning, jax.Array]:
    """Draw the next `num` characters of one text.

    Returns where the text can be continued, and the ids [num]. The key is split at every step.
    `num` is static under `jit`.
    """

    def write(
        carry: tuple[jax.Array, Beginning], _: None
    ) -> tuple[tuple[jax.Array, Beginning], jax.Array]:
        key, (state, previous, log_probability) = carry
        key, key_draw = jax.random.split(key)
        uniform = jax.random.uniform(key_draw, (), log_probability.dtype)
        drawn = sample_step(params, model, state, previous, uniform, controls=controls)
        after = Beginning(drawn.state, drawn.ids, log_probability + drawn.log_probabilities)
        return (key, after), drawn.ids

    (_, last), ids = lax.scan(write, (key, beginning), length=num)
    return last, ids


class _Names(NamedTuple):
    """What the loop over characters carries, [num, ...] but for the key."""

    key: jax.Array
    row: Beginning
    drawn_log_probabilities: jax.Array
    ended: jax.Array


def sample_names(
    key: jax.Array,
    params: Params,
    model: CharModel,
    num: int,
    max_length: int,
    *,
    controls: Controls = UNCONTROLLED,
    beginning: Beginning | None = None,
) -> Samples:
    """Draw `num` names, each from its start until newline or for `max_length` characters.

    A `lax.scan` threads the key and splits it at every step; once all names have ended, the
    remaining steps are skipped. A name depends on the key and its place, not on `num`. `num` and
    `max_length` are static under `jit`. With a `beginning`, each name continues from there: `ids`
    hold what follows it, and log-probabilities under the model are those of the whole names.
    """

    def write(names: _Names) -> tuple[_Names, jax.Array]:
        key, (state, previous, total), drawn_total, ended = names
        key, key_draw = jax.random.split(key)
        uniforms = jax.random.uniform(key_draw, (num,), total.dtype)
        state, ids, new, drawn = sample_step(
            params, model, state, previous, uniforms, controls=controls
        )
        ids = jnp.where(ended, model.newline, ids)
        row = Beginning(state, ids, total + jnp.where(ended, 0, new))
        drawn_total += jnp.where(ended, 0, drawn)
        return _Names(key, row, drawn_total, ended | (ids == model.newline)), ids

    def body(names: _Names, _: None) -> tuple[_Names, jax.Array]:
        return lax.cond(
            names.ended.all(), lambda x: (x, jnp.full(num, model.newline)), write, names
        )

    if beginning is None:
        beginning = read_prompt(params, model, jnp.zeros(0, int))
    rows = jax.tree.map(lambda x: jnp.broadcast_to(x, (num, *x.shape)), beginning)
    start = _Names(key, rows, jnp.zeros_like(rows.log_probability), jnp.zeros(num, bool))
    cut, ids = lax.scan(body, start, length=max_length)
    # One more draw, which counts only where it is newline: does a name of full length end there?
    last, _ = body(cut, None)
    return Samples(
        ids.T,
        jnp.sum(ids != model.newline, axis=0),
        jnp.where(last.ended, last.row.log_probability, cut.row.log_probability),
        jnp.where(last.ended, last.drawn_log_probabilities, cut.drawn_log_probabilities),
        last.ended,
    )
