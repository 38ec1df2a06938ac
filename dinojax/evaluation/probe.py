"""The outputs of the layers of a trained model along a text."""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from dinojax.models.trained import Trained


def hidden_states(trained: Trained, text: str) -> list[NDArray[np.floating]]:
    """Outputs of each layer after each character of `text`, [time, hidden] for each layer.

    Raises:
        ValueError: a character is not in the vocabulary.
    """
    model, params, vocab, _ = trained
    inputs = jnp.asarray([model.vocab_size, *vocab.encode(text)], int)
    _, layers = lax.scan(partial(model.layer_outputs, params), model.initial_state(()), inputs)
    return [np.asarray(layer)[1:] for layer in layers]


def most_varying(activations: NDArray[np.floating], num: int) -> list[int]:
    """The `num` units whose activations [time, hidden] have the largest variance, largest first."""
    return np.argsort(-activations.var(axis=0), kind="stable")[:num].tolist()
