"""The parameters of a model whose vocabulary has grown."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dinojax.data.vocab import Vocab
from dinojax.models.cells import Params


def grown(params: Params, fresh: Params, old: Vocab, new: Vocab) -> Params:
    """The `params` of a model of the vocabulary `old` as those of a model of the vocabulary `new`.

    `new` has all characters of `old`, and others, which get the numbers of `fresh`, the initial
    parameters of the same model with the vocabulary `new`. All numbers of `params` are kept, each
    at the new id of its character. So after the same characters the states are the same, and so
    are the logits of old characters, up to the rounding of a wider product. New characters take
    part in the softmax, and leave the old ones less probability.

    An axis belongs to the vocabulary if it differs in length between `params` and `fresh`. It has
    an entry for each character, or one more, the last, for "no character".

    Raises:
        ValueError: `new` lacks a character of `old`, or an axis differs in another way.
    """
    ids = new.encode(old.characters)

    def grow(array: jax.Array, fresh_array: jax.Array) -> jax.Array:
        lengths = zip(array.shape, fresh_array.shape, strict=True)
        places = [_places(*each, ids, new) for each in lengths]
        whole = np.array(fresh_array)
        whole[np.ix_(*places)] = array
        return jnp.asarray(whole)

    return jax.tree.map(grow, params, fresh)


def _places(length: int, new_length: int, ids: NDArray[np.integer], new: Vocab) -> NDArray[np.intp]:
    """Where the entries of an axis of this length are in an axis of the new length."""
    if length == new_length:
        return np.arange(length)
    if (length, new_length) == (len(ids), new.size):
        return ids.astype(np.intp)
    if (length, new_length) == (len(ids) + 1, new.size + 1):
        return np.append(ids, new.no_character).astype(np.intp)
    raise ValueError(
        f"expected axes as long as the vocabularies of {len(ids):,} and {new.size:,} characters, "
        f"or one longer, got {length:,} and {new_length:,}"
    )
