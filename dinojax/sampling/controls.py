"""Controls of sampling: which characters may be drawn, and how often.

They are applied in this order, each to the result of the one before:

    temperature   softmax(logits / temperature): below 1, likely characters come more often, above
                  1, unlikely ones; at 0, only the likeliest (the first of several)
    top-k         keeps the k likeliest characters, and those as likely as the k-th
    top-p         keeps the fewest likeliest characters whose probabilities sum to p or more, and
                  those as likely as the last of them (Holtzman et al., 2020)
    min-p         keeps those at least p times as likely as the likeliest (Nguyen et al., 2024)

The remaining probabilities are scaled to sum to one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

NO_LIMIT = 2**31 - 1


class Controls(NamedTuple):
    """One number for all rows, or one for each row, [...]; the defaults change nothing."""

    temperature: jax.Array | float = 1.0
    top_k: jax.Array | int = NO_LIMIT
    top_p: jax.Array | float = 1.0
    min_p: jax.Array | float = 0.0


def controlled(logits: jax.Array, controls: Controls) -> jax.Array:
    """Log-probabilities [..., vocab] of the characters drawn from `logits` [..., vocab], in nats.

    A character that may not be drawn has minus infinity.
    """
    temperature, top_k, top_p, min_p = _for_rows(logits, controls)
    likeliest = jax.nn.one_hot(logits.argmax(axis=-1), logits.shape[-1], dtype=bool)
    at_zero = jnp.where(likeliest, jnp.zeros((), logits.dtype), -jnp.inf)
    # With a maximum of 0, the largest stays finite when divided by a small temperature.
    logits -= logits.max(axis=-1, keepdims=True)
    is_positive = _is_positive(temperature)
    tempered = jnp.where(is_positive, logits / jnp.where(is_positive, temperature, 1), at_zero)

    descending = -jnp.sort(-tempered, axis=-1)
    last = jnp.clip(top_k, 1, logits.shape[-1]) - 1
    least = jnp.take_along_axis(descending, last, axis=-1)

    shares = jax.nn.softmax(jnp.where(descending >= least, descending, -jnp.inf), axis=-1)
    before = jnp.cumsum(shares, axis=-1) - shares
    # Rounding may make the sum reach one too early, but a p of one keeps every character.
    num = jnp.sum(before < top_p, axis=-1, keepdims=True)
    last = jnp.where(top_p >= 1, logits.shape[-1], jnp.maximum(num, 1)) - 1
    least = jnp.maximum(least, jnp.take_along_axis(descending, last, axis=-1))

    least = jnp.maximum(least, descending[..., :1] + jnp.log(min_p))
    return jax.nn.log_softmax(jnp.where(tempered >= least, tempered, -jnp.inf), axis=-1)


def controlled_weights(logits: jax.Array, controls: Controls) -> jax.Array:
    """exp(logits) [..., vocab] under the controls, up to a factor; no logit may be above 0.

    Sorting dominates the time of a step of a small model, so it is skipped where possible.
    """
    temperature, *_ = _for_rows(logits, controls)
    is_tempered = leave_as_it_is(controls._replace(temperature=1.0), logits.shape[-1])
    return lax.cond(
        is_tempered & jnp.all(_is_positive(temperature)),
        lambda: jnp.exp(logits / temperature),
        lambda: jnp.exp(controlled(logits, controls)),
    )


def leave_as_it_is(controls: Controls, vocab_size: int) -> jax.Array:
    """Whether the controls change nothing in any row."""
    temperature, top_k, top_p, min_p = map(jnp.asarray, controls)
    is_plain = jnp.all(temperature == 1) & jnp.all(top_k >= vocab_size)
    return is_plain & jnp.all(top_p >= 1) & jnp.all(min_p <= 0)


def _is_positive(temperature: jax.Array) -> jax.Array:
    """Whether one can divide by the temperature; XLA flushes subnormal numbers to zero."""
    # JAX's finfo has no type annotations.
    smallest = float(jnp.finfo(temperature.dtype).tiny)  # type: ignore[no-untyped-call]
    return jnp.greater_equal(temperature, smallest)


def _for_rows(logits: jax.Array, controls: Controls) -> list[jax.Array]:
    """The controls as [..., 1], in the types of what they are compared with."""
    types: tuple[DTypeLike, ...] = logits.dtype, jnp.int32, logits.dtype, logits.dtype
    shape = logits.shape[:-1]
    values = zip(controls, types, strict=True)
    return [jnp.broadcast_to(jnp.asarray(x, dtype), shape)[..., None] for x, dtype in values]
