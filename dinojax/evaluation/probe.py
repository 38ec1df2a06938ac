"""The outputs of the layers of a trained model along a text."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from dinojax.models.cells import State
from dinojax.models.trained import Trained


def hidden_states(trained: Trained, text: str) -> list[NDArray[np.floating]]:
    """Outputs of each layer after each character of `text`, [time, hidden] for each layer.

    The model reads the text from its initial state.

    Raises:
        ValueError: a character is not in the vocabulary.
    """
    model, params, vocab = trained

    def read(state: State, character: jax.Array) -> tuple[State, tuple[jax.Array, ...]]:
        return model.layer_outputs(params, state, character)

    inputs = jnp.asarray([model.vocab_size, *vocab.encode(text)], int)
    _, layers = lax.scan(read, model.initial_state(()), inputs)
    return [np.asarray(layer)[1:] for layer in layers]


def most_varying(activations: NDArray[np.floating], num: int) -> list[int]:
    """The `num` units whose activations [time, hidden] have the largest variance, largest first."""
    order = np.argsort(-activations.var(axis=0), kind="stable")
    return [int(unit) for unit in order[:num]]
