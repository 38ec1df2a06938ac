"""What losses over several seeds say: their spread, and how two settings compare."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
"""Confidence of intervals."""


class Spread(NamedTuple):
    """Losses of one setting over seeds."""

    num: int
    mean: float
    standard_deviation: float
    """Of the losses (n - 1 in its denominator); NaN for fewer than two."""
    standard_error: float
    """Of the mean: the standard deviation / sqrt(n)."""


class Comparison(NamedTuple):
    """How the losses of one setting differ from those of another."""

    num_pairs: int
    difference: float
    """Mean of loss - baseline over pairs; below zero, the setting is better."""
    margin: float
    """Half the width of the confidence interval around it; NaN for fewer than two pairs."""
    probability_of_improvement: float
    """Probability that a replica of the setting has a lower loss than one of the baseline."""


def spread(losses: ArrayLike) -> Spread:
    """Mean and spread of `losses` [num]; all NaN for none."""
    values = np.asarray(losses, float)
    num = len(values)
    mean = float(values.mean()) if num else np.nan
    deviation = float(values.std(ddof=1)) if num > 1 else np.nan
    return Spread(num, mean, deviation, deviation / np.sqrt(max(num, 1)))


def compare(losses: ArrayLike, baseline: ArrayLike) -> Comparison:
    """Compare `losses` [num] with those of a `baseline` [num], of which the same seeds are pairs.

    The interval of the mean difference is that of Student's t for n pairs: t(n - 1) s / sqrt(n),
    where s is the standard deviation of the differences. The probability of improvement is the
    share of all pairs (i, j) with losses_i < baseline_j, ties counting half (Agarwal et al., Deep
    Reinforcement Learning at the Edge of the Statistical Precipice, 2021; Mann and Whitney, 1947).
    With no pair, all is NaN.

    Raises:
        ValueError: there are not as many of both.
    """
    ours, others = np.asarray(losses, float), np.asarray(baseline, float)
    if ours.shape != others.shape or ours.ndim != 1:
        raise ValueError(f"expected pairs of losses, got {ours.shape} and {others.shape}")
    # Imported here, as it takes a while.
    from scipy.special import stdtrit

    num, difference, _, error = spread(ours - others)
    quantile = float(stdtrit(num - 1, (1 + CONFIDENCE) / 2)) if num > 1 else np.nan
    wins = (ours[:, None] < others) + 0.5 * (ours[:, None] == others)
    return Comparison(num, difference, quantile * error, float(wins.mean()) if num else np.nan)
