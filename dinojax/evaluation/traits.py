"""Units of a trained model that follow something that a reader of a text can name."""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from dinojax.data.batches import cut_text, pad_names
from dinojax.models.cells import Params
from dinojax.models.trained import Trained

Floats = NDArray[np.float64]
VOWELS = "aeiou"
LEAST = 0.5
"""Smallest absolute correlation of a unit that follows a trait."""


class Follower(NamedTuple):
    """A unit that follows a trait of the text."""

    layer: int
    unit: int
    trait: str
    correlation: float
    """Pearson's, over characters that did not enter the choice of the unit."""


def followers(
    trained: Trained, part: Sequence[str] | str, *, least: float = LEAST
) -> tuple[list[Follower], int]:
    """For each of `traits`, the unit whose output follows it best, if it does so well enough.

    A unit's output after it has read a character is compared with the trait of that character. The
    unit is the one of the largest absolute correlation over the first half of the characters of
    `part`, names or a text. It counts if its correlation over the second half, which is returned
    with it, is at least `least` in absolute value and has the same sign. The largest come first.

    It also returns how many characters were read. Of a single character, nothing can be said.

    Raises:
        ValueError: `part` is empty or holds an unknown character.
    """
    layers, text, is_read = _outputs(trained, part)
    outputs = np.concatenate(layers, axis=1).astype(np.float64)
    half, found = len(outputs) // 2, list[Follower]()
    if half < 2:
        return found, len(outputs)
    seen: list[Floats] = []
    for name, values in traits(text).items():
        values = values[is_read]
        # In names of one word, the place in the line is the place in the word.
        if any(np.array_equal(values, each) for each in seen):
            continue
        seen.append(values)
        first, second = np.split(values, [half])
        correlations = _correlations(outputs[:half], first)
        best = int(np.abs(correlations).argmax())
        correlation = float(_correlations(outputs[half:, [best]], second)[0])
        if abs(correlation) >= least and correlation * correlations[best] > 0:
            place = np.unravel_index(best, (len(layers), layers[0].shape[1]))
            found.append(Follower(int(place[0]), int(place[1]), name, correlation))
    return sorted(found, key=lambda each: -abs(each.correlation)), len(outputs)


def traits(text: str) -> dict[str, Floats]:
    """What a reader may notice at each character of a text, by name: numbers [len(text)] each."""
    place = np.arange(len(text))
    base = [unicodedata.normalize("NFD", character)[0].lower() for character in text]
    is_letter, is_newline = _where(map(str.isalpha, text)), _where(c == "\n" for c in text)
    is_vowel = _where(character in VOWELS for character in base)
    is_quote = _where(character == '"' for character in text)
    since_letter = _since(~is_letter)
    return {
        "place in the word": since_letter,
        "place in the line": _since(is_newline),
        "vowel": is_vowel.astype(float),
        "letters since a vowel": np.minimum(_since(is_vowel), since_letter),
        "same letter again": np.array([i > 0 and base[i] == base[i - 1] for i in place], float),
        "space": _where(map(str.isspace, text)).astype(float),
        "capital letter": _where(map(str.isupper, text)).astype(float),
        "digit": _where(map(str.isdigit, text)).astype(float),
        "end of a sentence": _where(c in ".!?…" for c in text).astype(float),
        "inside quotes": np.cumsum(is_quote) % 2.0 + _depth(text, "“„«", "”»"),
        "inside brackets": _depth(text, "([{", ")]}"),
    }


def _outputs(
    trained: Trained, part: Sequence[str] | str
) -> tuple[list[NDArray[np.floating]], str, NDArray[np.bool]]:
    """Outputs of each layer after each character read, [num, hidden]; the text; what was read.

    Of names, written one a line, all but the newlines are read; of a text, all but the last.
    """
    model, params, vocab = trained.model, trained.params, trained.vocab
    if isinstance(part, str):
        inputs, text = cut_text(part, vocab, len(part)).inputs, part
        is_read = np.arange(len(part)) < len(part) - 1
    else:
        inputs, text = pad_names(part, vocab).inputs, "".join(f"{name}\n" for name in part)
        is_read = _where(character != "\n" for character in text)
    state = model.initial_state(inputs.shape[1:])

    @jax.jit
    def read(params: Params) -> tuple[jax.Array, ...]:
        step = partial(model.layer_outputs, params)
        return lax.scan(step, state, jnp.asarray(inputs, int))[1]

    # Column by column: name by name.
    chosen, layers = (inputs != vocab.no_character).T, read(params)
    return [np.asarray(layer).swapaxes(0, 1)[chosen] for layer in layers], text, is_read


def _correlations(outputs: Floats, values: Floats) -> Floats:
    """Pearson's correlation of each column of `outputs` [num, hidden] with `values` [num].

    It is zero where one of the two is constant.
    """
    outputs, values = outputs - outputs.mean(axis=0), values - values.mean()
    scale = np.sqrt((outputs**2).sum(axis=0) * (values**2).sum())
    found: Floats = np.divide(values @ outputs, scale, out=np.zeros_like(scale), where=scale > 0)
    return found


def _since(marks: NDArray[np.bool]) -> Floats:
    """How many characters ago the last of `marks` [num] was; before the first, since the start."""
    place = np.arange(len(marks))
    last = np.maximum.accumulate(np.where(marks, place, -1))
    return (place - last).astype(float)


def _depth(text: str, opening: str, closing: str) -> Floats:
    """How many of the characters in `opening` are open at each character of a text."""
    changes = [(character in opening) - (character in closing) for character in text]
    return np.maximum(np.cumsum(changes), 0.0)


def _where(flags: Iterable[bool]) -> NDArray[np.bool]:
    return np.fromiter(flags, bool)
