"""The proof of an exported model: what was written computes what the model computes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dinojax.data.stored import Text
from dinojax.models.trained import Trained

NUM_STRINGS, LENGTH = 32, 64
TOLERANCE = 1e-5
"""Largest difference of two logits, as a share of the largest logit if that is above one. Rounding
in float32 makes smaller ones."""
Logits = Callable[[str], ArrayLike]
"""From a string to the logits [len + 1, vocab] of each character and of what follows."""


def choose_strings(part: Sequence[str] | str | Text) -> list[str]:
    """Beginnings of names, or pieces of a text, spread evenly over a part of the data."""
    is_text = isinstance(part, str | Text)
    num = -(-len(part) // LENGTH) if is_text else len(part)
    places = map(round, np.linspace(0, num - 1, min(NUM_STRINGS, num)))
    if is_text:
        return [str(part[place * LENGTH : (place + 1) * LENGTH]) for place in places]
    return [part[place][:LENGTH] for place in places]


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
