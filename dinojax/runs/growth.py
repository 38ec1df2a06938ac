"""What a run wrote as it learned: names of several checkpoints, from the same random numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dinojax.config import check_range
from dinojax.data.stored import lookup
from dinojax.data.text import capitalized
from dinojax.evaluation.losses import summarize
from dinojax.runs import folder as runs
from dinojax.runs.experiment import make_evaluation
from dinojax.runs.lineage import learned_of
from dinojax.runs.parts import read_part
from dinojax.sampling.strings import draw_names

MAX_NAMES = 50
"""Most names of a moment."""
DRAWN = 4
"""How many times as many names are drawn as are wanted, as some are empty."""


class Moment(NamedTuple):
    """A run at one of its checkpoints."""

    step: int
    loss: float
    """Nats a character over the validation part, or over what it learned where there is none."""
    names: list[str]
    """With capitals, where the run reads small letters. One that was cut ends in an ellipsis."""
    is_new: list[bool]
    """Whether each name is not among those it learned."""


def growth(folder: Path | str, num: int = 12, *, num_names: int = 8, seed: int = 0) -> list[Moment]:
    """What the run in a folder wrote at up to `num` of its checkpoints, the first to the last.

    Their numbers of steps grow by about the same factor from one to the next. Name i is drawn from
    the same random numbers at each of them, so that it changes as little as the network does. Names
    that are empty at any of them are left out.

    Raises:
        OSError: a file cannot be read.
        ValueError: the folder holds no run of a network that learned names, or `num_names` is out
            of range.
    """
    check_range("num_names", num_names, 1, MAX_NAMES)
    last = runs.load_run(folder, "last")
    runs.check_is_network(last, "only a network is trained step by step")
    if last.config.is_text:
        raise ValueError(f"expected a run of names, but {folder} learned a text")
    parts = {
        name: read_part(last.folder, last.description, name) for name in last.description.parts
    }
    part, known = parts.get("validation", parts["train"]), lookup(learned_of(parts))
    evaluate = make_evaluation(last.model, last.vocab, part)
    shown = capitalized if last.config.lowercase else str
    steps, losses, drawn = [], [], []
    for path in spread([*runs.find_checkpoints(last.folder)], num):
        steps.append(runs.step_of(path))
        # With the same model, nothing is compiled again.
        params = runs.load_run(last.folder, str(steps[-1])).params
        losses.append(summarize(evaluate(params))["nats_per_character"])
        trained = last.trained._replace(params=params)
        (block,) = draw_names(jax.random.key(seed), trained, DRAWN * num_names)
        drawn.append(block)
    is_whole = np.all([[bool(name) for name in block.names] for block in drawn], axis=0)
    rows = np.flatnonzero(is_whole)[:num_names].tolist()
    return [
        Moment(
            step,
            loss,
            [shown(block.names[i]) + "…" * (not block.ended[i]) for i in rows],
            [block.names[i] not in known for i in rows],
        )
        for step, loss, block in zip(steps, losses, drawn, strict=True)
    ]


def spread(checkpoints: Sequence[Path | str], num: int) -> list[Path | str]:
    """Up to `num` of some checkpoints, the first and the last included, evenly on a log scale."""
    steps, num = np.log1p([runs.step_of(path) for path in checkpoints]), min(num, len(checkpoints))
    # The first step after the first checkpoint: nothing lies between the two.
    start = steps[min(1, len(steps) - 1)]
    wanted = [steps[-1], steps[0], *np.linspace(steps[-1], start, max(1, num - 1))[1:]]
    places: list[int] = []
    for each in wanted[:num]:
        distances = np.abs(steps - each)
        distances[places] = np.inf
        places.append(int(distances.argmin()))
    return [checkpoints[place] for place in sorted(places)]
