"""Losses: cross-entropy in nats."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    """Cross-entropy of each target in nats, times its weight, [time, batch].

        weight * -log softmax(logits)[target]

    Shapes: `logits` [time, batch, vocab], `targets` and `weights` [time, batch].
    """
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return nats * weights.astype(nats.dtype)


def summed_cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The exercise's loss: cross-entropy in nats, summed over time, averaged over the batch.

    Returns the total and the number of rows. Longer names weigh more, as in the exercise, whose
    batch is one name.
    """
    nats = cross_entropy(logits, targets, weights)
    return nats.sum(), jnp.asarray(nats.shape[1], nats.dtype)


def mean_cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy in nats, averaged over the characters that count.

    Returns the total and the number of these characters.
    """
    nats = cross_entropy(logits, targets, weights)
    return nats.sum(), weights.sum().astype(nats.dtype)


LOSSES = {"summed": summed_cross_entropy, "mean": mean_cross_entropy}
"""All losses by name."""
