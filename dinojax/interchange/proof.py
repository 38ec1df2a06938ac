"""The proof of an exported model: what was written computes what the model computes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dinojax.models.trained import Trained

NUM_STRINGS, LENGTH = 32, 64
TOLERANCE = 1e-5
"""Largest difference of two logits, as a share of the largest logit if that is above one. Rounding
in float32 makes smaller ones."""
Logits = Callable[[str], ArrayLike]
"""From a string to the logits [len + 1, vocab] of each character and of what follows."""


def choose_strings(part: Sequence[str] | str) -> list[str]:
    """Beginnings of names, or pieces of a text, spread evenly over a part of the data."""
    if isinstance(part, str):
        part = [part[i : i + LENGTH] for i in range(0, len(part), LENGTH)]
    places = np.linspace(0, len(part) - 1, min(NUM_STRINGS, len(part)))
    return [part[round(place)][:LENGTH] for place in places]


def model_logits(trained: Trained, strings: Sequence[str]) -> list[NDArray[Any]]:
    """The logits [len + 1, vocab] of each of these strings."""
    model, vocab = trained.model, trained.vocab
    ids = np.full((max(map(len, strings)) + 1, len(strings)), vocab.no_character, int)
    for column, string in enumerate(strings):
        ids[1 : len(string) + 1, column] = vocab.encode(string)
    _, logits = jax.jit(model.unroll)(trained.params, model.initial_state((len(strings),)), ids)
    columns = np.asarray(logits).swapaxes(0, 1)
    return [each[: len(string) + 1] for each, string in zip(columns, strings, strict=True)]


def prove(trained: Trained, strings: Sequence[str], logits: Logits) -> float:
    """The largest difference of the logits of an exported model from ours.

    Raises:
        ArithmeticError: it is above `TOLERANCE`.
    """
    largest = difference = 0.0
    for ours, string in zip(model_logits(trained, strings), strings, strict=True):
        largest = max(largest, np.abs(ours).max())
        # Unlike `max`, this keeps NaN.
        difference = np.maximum(difference, np.abs(np.asarray(logits(string)) - ours).max())
    if not difference <= TOLERANCE * max(1, largest):
        raise ArithmeticError(
            f"expected logits that differ by up to {TOLERANCE:g} of the largest, {largest:.4g}, "
            f"from those of the run, got a difference of {difference:.2g}"
        )
    return float(difference)
