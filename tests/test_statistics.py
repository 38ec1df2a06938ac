"""Spreads and comparisons against direct computation."""

import itertools
import math
import statistics

import numpy as np
import pytest

from dinojax.evaluation.statistics import compare, spread

OURS = [1.93, 1.95, 1.90, 1.97, 1.94]
BASELINE = [1.99, 1.95, 1.96, 2.01, 1.98]
T_4 = 2.7764451051977987
"""The 97.5 % point of Student's t with 4 degrees of freedom, from a printed table."""


def test_a_spread_is_that_of_python():
    found = spread(OURS)
    assert found.num == 5
    assert found.mean == pytest.approx(statistics.mean(OURS), rel=1e-12)
    assert found.standard_deviation == pytest.approx(statistics.stdev(OURS), rel=1e-12)
    assert found.standard_error == pytest.approx(statistics.stdev(OURS) / math.sqrt(5), rel=1e-12)


def test_one_loss_has_no_spread_and_none_has_no_mean():
    one = spread([2.0])
    assert (one.num, one.mean) == (1, 2.0)
    assert math.isnan(one.standard_deviation)
    assert math.isnan(one.standard_error)
    none = spread([])
    assert none.num == 0
    assert math.isnan(none.mean)


def test_a_comparison_is_that_of_loops():
    differences = [a - b for a, b in zip(OURS, BASELINE, strict=True)]
    wins = sum(
        1.0 if a < b else 0.5 if a == b else 0.0 for a, b in itertools.product(OURS, BASELINE)
    )
    found = compare(OURS, BASELINE)
    assert found.num_pairs == 5
    assert found.difference == pytest.approx(statistics.mean(differences), rel=1e-12)
    margin = T_4 * statistics.stdev(differences) / math.sqrt(5)
    assert found.margin == pytest.approx(margin, rel=1e-9)
    assert found.probability_of_improvement == pytest.approx(wins / 25, rel=1e-12)


def test_pairs_that_vary_alike_are_told_apart_by_less():
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=20), 0.01 * rng.normal(size=20)
    found = compare(common + own - 0.05, common)
    assert found.difference + found.margin < 0
    assert found.margin < 0.02 < spread(common).standard_error


def test_the_interval_covers_the_difference_as_often_as_it_says():
    rng = np.random.default_rng(1)
    draws = rng.normal(0.3, 1.0, size=(2_000, 4))
    found = [compare(draw, np.zeros(4)) for draw in draws]
    covered = sum(abs(each.difference - 0.3) <= each.margin for each in found)
    # Four standard errors of a binomial share.
    assert abs(covered / 2_000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2_000)


def test_one_pair_has_no_interval_and_none_says_nothing():
    one = compare([1.0], [2.0])
    assert (one.difference, one.probability_of_improvement) == (-1.0, 1.0)
    assert math.isnan(one.margin)
    assert all(math.isnan(value) for value in compare([], [])[1:])


def test_ties_count_half():
    assert compare([1.0, 1.0], [1.0, 1.0]).probability_of_improvement == 0.5


def test_losses_without_partners_are_refused():
    with pytest.raises(ValueError, match="expected pairs of losses"):
        compare([1.0, 2.0], [1.0])
