"""What to train on given data in a given time: a function of what was measured.

`advising` measures it.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from dinojax.config import TrainConfig
from dinojax.data.stored import NameList, Text, num_characters
from dinojax.evaluation.baseline import MOST_READ, Baseline
from dinojax.runs.description import Part
from dinojax.runs.forecast import NAMES, TEXTS, Expected, expected_loss, steps_enough
from dinojax.runs.speed import Speed

MARGIN = 0.9
"""Share of the given minutes that a proposal uses."""
VALIDATION_SPEED = 3
"""How many times faster a network reads in a validation than in training."""
TO_COMPILE = 5.0
"""Seconds until what validates and draws samples is compiled; measured on two cores."""
NUM_VALIDATIONS = 11
"""Ten in training, and one of the best parameters at its end."""


class Facts(NamedTuple):
    """What data are."""

    is_text: bool
    num_characters: int
    """Of names with their newlines."""
    num_symbols: int
    num_names: int | None = None
    """None for a text, as are the next three."""
    num_distinct: int | None = None
    longest: int | None = None
    """Length of the longest name, in characters."""
    mean_length: float | None = None


class Plan(NamedTuple):
    """The network that suits data of this size, and its training."""

    config: TrainConfig
    """With its number of steps."""
    steps_per_epoch: int
    num_parameters: int
    num_validated: int
    """Characters that each validation reads."""


class Proposal(NamedTuple):
    """What to train."""

    is_ngram: bool
    """Whether it is an n-gram model, as there is not enough time for a network."""
    settings: Mapping[str, Any]
    """Those that differ from the settings of the plan."""
    steps: int
    """Number of training steps; 0 for an n-gram model."""
    epochs: float
    """How many times they read the data."""
    seconds: float
    """The time they take, with compilation and validations."""
    whole_seconds: float
    """The time that the whole plan takes."""
    expected: Expected
    """The loss on the validation part, in nats per character."""


def facts_of(data: Part, num_symbols: int) -> Facts:
    """The facts of names or a text as a model reads them."""
    num = num_characters(data)
    if isinstance(data, str | Text):
        return Facts(True, num, num_symbols)
    if isinstance(data, NameList):
        # The whole list, as it was read.
        num_distinct, longest = int(data.store.ranks.max()) + 1, int(data.lengths.max()) - 1
    else:
        num_distinct, longest = len(set(data)), max(map(len, data))
    mean_length = (num - len(data)) / len(data)
    return Facts(False, num, num_symbols, len(data), num_distinct, longest, mean_length)


def propose(
    facts: Facts, ngrams: Baseline, plan: Plan, speed: Speed, minutes: float | None = None
) -> Proposal:
    """What to train in `minutes`; by default, in as many as the plan takes.

    In fewer minutes, training is shorter. If it could not read the data once, or the beginning of
    large ones, an n-gram model is proposed. In more minutes, a text is read as often as saves
    something; see `forecast`.
    """
    steps, counted = plan.config.steps, min(facts.num_characters, MOST_READ)
    whole = seconds_of(steps, plan, speed)
    enough = steps_enough(steps, counted) if facts.is_text else steps
    settings = dict[str, Any]()
    if minutes is not None:
        fit = steps_in(60 * MARGIN * minutes, plan, speed)
        if fit < speed.steps * seconds_to_read(facts, plan, speed):
            exact = Expected(ngrams.loss, ngrams.loss)
            return Proposal(True, settings, 0, 0.0, 0.0, whole, exact)
        steps = min(steps_enough(steps, facts.num_characters) if facts.is_text else steps, fit)
        if steps != plan.config.steps:
            # Two digits, rounded down, so that they still fit.
            unit = 10 ** max(0, len(f"{steps}") - 2)
            settings["steps"] = steps = steps // unit * unit
    return Proposal(
        is_ngram=False,
        settings=settings,
        steps=steps,
        epochs=steps / plan.steps_per_epoch,
        seconds=seconds_of(steps, plan, speed),
        whole_seconds=whole,
        expected=expected_loss(
            TEXTS if facts.is_text else NAMES,
            ngrams.loss,
            ngrams.standard_error,
            counted,
            max(0.0, math.log2(enough / steps)),
        ),
    )


def seconds_to_read(facts: Facts, plan: Plan, speed: Speed) -> float:
    """How many seconds the shortest training steps: it reads the data, or their beginning, once."""
    once = min(plan.config.steps, plan.steps_per_epoch) / speed.steps
    return min(once, min(facts.num_characters, MOST_READ) / speed.characters)


def seconds_of(steps: int, plan: Plan, speed: Speed) -> float:
    """How many seconds these steps take, with compilation and validations."""
    return _overhead(plan, speed) + steps / speed.steps


def steps_in(seconds: float, plan: Plan, speed: Speed) -> int:
    """How many steps can be done in `seconds`, with compilation and validations."""
    return max(0, math.floor((seconds - _overhead(plan, speed)) * speed.steps))


def _overhead(plan: Plan, speed: Speed) -> float:
    read = NUM_VALIDATIONS * plan.num_validated
    return speed.first + TO_COMPILE + read / (VALIDATION_SPEED * speed.characters)
