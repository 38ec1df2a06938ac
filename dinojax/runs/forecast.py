"""The loss to expect of a network on held-out data, from that of the best n-gram model there.

    expected loss = loss of the n-gram model
                    + at_10k + per_decade * log10(num / 10,000) + per_nat * (that loss - 2)
                    + shortfall * halvings ** 1.5

where num is the number of characters to learn from, and halvings says how much shorter the training
is than would be enough: log2(steps that are enough / steps), or 0. For names, the steps of the
recipe are enough; for a text, see `steps_enough`.

The numbers were fitted, by least squares, to 48 measured runs of the recipes and of networks like
theirs. 38 learned lists: dinosaurs, first names, English words, names of time zones, of Unicode
characters and of Python's variables, 100 to 31,033 of them, in one to 30 epochs. Ten learned texts:
Shakespeare's sonnets and plays and a README, of 30 thousand to a million characters, in 100 to
2,700 steps. Six more texts, of 10 to 46 thousand characters, ended where this law expects them.
The more there is of a text, the more a network learns that n-grams do not. Of a list, it depends on
the names: where they share long parts, n-grams have a low loss and are hard to beat.
"""

import math
from typing import NamedTuple


class Law(NamedTuple):
    """How far the loss of a network is above that of the best n-gram model."""

    at_10k: float
    per_decade: float
    per_nat: float
    shortfall: float


class Expected(NamedTuple):
    """A range of losses, in nats per character."""

    low: float
    high: float


NAMES = Law(at_10k=0.007, per_decade=0.0, per_nat=-0.136, shortfall=0.019)
TEXTS = Law(at_10k=0.225, per_decade=-0.13, per_nat=0.0, shortfall=0.106)
LONG_TEXT = 130_000
"""Characters of a text for which the steps of the recipe are enough; see `steps_enough`."""
SPREAD = 0.05
"""Standard deviation of what the laws leave unexplained, in nats per character."""
OF_THE_ERROR = 0.5
"""How much it grows with the standard error of the loss of the n-gram model."""


def expected_loss(
    law: Law, ngram_loss: float, standard_error: float, num_characters: int, halvings: float
) -> Expected:
    """The loss that a law expects, two standard deviations less and more.

    `standard_error` is that of `ngram_loss`, NaN if it is not known.
    """
    middle = ngram_loss + law.at_10k + law.per_decade * math.log10(num_characters / 10_000)
    middle += law.per_nat * (ngram_loss - 2) + law.shortfall * halvings**1.5
    error = OF_THE_ERROR * standard_error if math.isfinite(standard_error) else 0.0
    half = 2 * math.hypot(SPREAD, error)
    return Expected(middle - half, middle + half)


def steps_enough(steps: int, num_characters: int) -> int:
    """After how many steps further ones gain little, for a text and the `steps` of its recipe.

    They grow with the square root of the number of characters, once these are `LONG_TEXT`.
    """
    return math.ceil(steps * math.sqrt(max(1, num_characters / LONG_TEXT)))
