"""A model of names with labels: the first symbol of a name is its label, and no other is one."""

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.models.cells import Params, State
from dinojax.models.model import CharModel

IMPOSSIBLE = -1e30
"""Logit of what cannot follow.

It is finite, as padding, whose weight is zero, has impossible targets, and zero times infinity
would be NaN."""


def labelled(model: CharModel, num_labels: int) -> CharModel:
    """`model` for names that begin with one of the last `num_labels` of its characters, the labels.

    After "no character" only labels can follow, and after all else none can, so that

        p(label, name) = p(label) p(name | label)

    and the probabilities of all labelled names sum to one. What can follow keeps its logit.
    Parameters and state are those of `model`.

    Raises:
        ValueError: there is no label, or no other character.
    """
    size = model.vocab_size
    if not 0 < num_labels < size:
        raise ValueError(f"expected from 1 to {size - 1:,} labels, got {num_labels:,}")
    is_label = np.arange(size) >= size - num_labels

    def masked(inputs: jax.Array, logits: jax.Array) -> jax.Array:
        is_start = jnp.broadcast_to((inputs == size)[..., None], logits.shape)
        can_follow = is_start == jnp.broadcast_to(is_label, logits.shape)
        return jnp.where(can_follow, logits, jnp.asarray(IMPOSSIBLE, logits.dtype))

    def step(params: Params, state: State, inputs: jax.Array) -> tuple[State, jax.Array]:
        state, logits = model.step(params, state, inputs)
        return state, masked(inputs, logits)

    def unroll(
        params: Params,
        state: State,
        inputs: jax.Array,
        length: jax.Array | None = None,
        resets: bool = False,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[State, jax.Array]:
        state, logits = model.unroll(params, state, inputs, length, resets, dropout_keys)
        return state, masked(inputs, logits)

    return model._replace(step=step, unroll=unroll)
