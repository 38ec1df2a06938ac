"""How a trained model reads a text: the cost of each character, and the outputs of its layers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from dinojax.data.batches import Batch
from dinojax.evaluation.score import log_probability
from dinojax.models.cells import State
from dinojax.models.trained import Trained


def surprisal(trained: Trained, strings: Sequence[str]) -> list[NDArray[np.floating]]:
    """Surprisal of each character of each string, nats [time].

    This is minus the log-probability of the character given those before it. The model reads each
    string from its initial state.

    Raises:
        ValueError: a character is not in the vocabulary.
    """
    model, params, vocab = trained
    targets = np.zeros((max(map(len, strings)), len(strings)), int)
    for column, string in zip(targets.T, strings, strict=True):
        column[: len(string)] = vocab.encode(string)
    inputs = np.concatenate([np.full_like(targets[:1], model.vocab_size), targets[:-1]])
    weights = np.ones(targets.shape, np.float32)
    columns = -np.asarray(log_probability(params, model, Batch(inputs, targets, weights))).T
    return [column[: len(string)] for column, string in zip(columns, strings, strict=True)]


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
