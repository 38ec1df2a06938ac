"""What may come next, after the beginning of a name or of a text."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from dinojax.models.cells import Params
from dinojax.models.model import CharModel
from dinojax.models.trained import Trained
from dinojax.sampling.controls import Controls, controlled
from dinojax.sampling.draw import UNCONTROLLED, Beginning
from dinojax.sampling.strings import begin, check_types, num_to_draw

Floats = NDArray[np.float64]


class NextCharacters(NamedTuple):
    """All characters that may come next, the likeliest first."""

    characters: str
    """Newline ends a name. A name may begin with the character of its label; see `data.labels`."""
    probabilities: Floats
    """Of each character under the model."""
    drawn_probabilities: Floats
    """Of each under the controls; 0 for those that may not be drawn."""


def next_characters(
    trained: Trained,
    prompt: str = "",
    *,
    controls: Controls = UNCONTROLLED,
    is_name: bool = False,
    label: str | None = None,
) -> NextCharacters:
    """How probable each character is to follow the `prompt`, or to begin a name or a text.

    A name with labels begins with its label, or has the `label` that is given.

    Raises:
        TypeError: see `check_types`.
        ValueError: see `begin`.
    """
    check_types(trained, prompt)
    beginning = begin(trained, prompt, is_name=is_name, label=label)
    found = _next(trained.params, beginning, controls, model=trained.model)
    plain, drawn = (np.exp(np.asarray(each, float)) for each in found)
    order = np.argsort(-plain, kind="stable")
    if (vocab := trained.vocab).labels:
        # Nothing else is ever drawn there; see `models.labelled`.
        is_label = order >= vocab.plain.size
        order = order[is_label if num_to_draw(vocab, label) else ~is_label]
    characters = "".join(vocab.characters[i] for i in order.tolist())
    return NextCharacters(characters, plain[order], drawn[order])


@partial(jax.jit, static_argnames="model")
def _next(
    params: Params, beginning: Beginning, controls: Controls, *, model: CharModel
) -> tuple[Any, Any]:
    """Log-probabilities [vocab] of the next character under the model, and under the controls."""
    _, logits = model.step(params, beginning.state, beginning.previous)
    return jax.nn.log_softmax(logits), controlled(logits, controls)
