"""The controls of sampling, against plain Python code for one row at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinojax.sampling.controls import (
    NO_LIMIT,
    Controls,
    controlled,
    controlled_weights,
    leave_as_it_is,
)


def slow(logits, temperature=1.0, top_k=NO_LIMIT, top_p=1.0, min_p=0.0):
    """Probabilities after the controls, [vocab], applied in the order that the module states."""
    if temperature == 0:
        weights = [0.0] * len(logits)
        weights[int(np.argmax(logits))] = 1.0
    else:
        weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    ordered = sorted(weights, reverse=True)
    least = ordered[min(top_k, len(ordered)) - 1]
    weights = [w if w >= least else 0.0 for w in weights]
    if top_p < 1:
        total, reached = sum(weights), 0.0
        for least in sorted(weights, reverse=True):
            reached += least / total
            if reached >= top_p:
                break
        weights = [w if w >= least else 0.0 for w in weights]
    weights = [w if w >= min_p * max(weights) else 0.0 for w in weights]
    return np.array(weights) / sum(weights)


CASES = [
    {},
    {"temperature": 0.5},
    {"temperature": 0.0},
    {"top_k": 1},
    {"top_k": 3},
    {"top_p": 0.5},
    {"min_p": 0.3},
    {"temperature": 2.0, "top_k": 6, "top_p": 0.8, "min_p": 0.2},
    {"temperature": 0.0, "top_k": 2, "top_p": 0.1, "min_p": 1.0},
]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_probabilities_are_those_of_the_slow_version(case, ties, x64):
    logits = np.random.default_rng(0).normal(size=(20, 9)) * 2
    if ties:
        logits = np.round(logits)
    actual = np.exp(controlled(jnp.asarray(logits), Controls(**case)))
    expected = [slow(row, **case) for row in logits]
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(actual.sum(axis=-1), 1, rtol=1e-12)
    shifted = jnp.asarray(logits - logits.max(axis=-1, keepdims=True))
    weights = controlled_weights(shifted, Controls(**case))
    shares = weights / weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(shares, expected, rtol=1e-12, atol=1e-15)


@given(
    logits=st.lists(st.floats(-20, 20), min_size=1, max_size=12),
    temperature=st.just(0.0) | st.floats(0.05, 20),
    top_k=st.integers(1, 20),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_any_controls_leave_a_distribution(logits, temperature, top_k, top_p, min_p):
    with jax.enable_x64(True):
        controls = Controls(temperature, top_k, top_p, min_p)
        law = np.exp(controlled(jnp.asarray(logits), controls))
    assert law.sum() == pytest.approx(1, rel=1e-12)
    assert law[int(np.argmax(logits))] == law.max() > 0
    # The order of likelihood is kept; at temperature zero, the first of equal maxima is drawn.
    order = np.argsort(np.array(logits)[::-1], kind="stable")
    assert all(np.diff(law[::-1][order]) >= -1e-15)


def test_each_row_may_have_its_own(x64):
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(len(CASES), 7)))
    rows = [Controls(**case) for case in CASES]
    together = Controls(*(jnp.asarray(values) for values in zip(*rows, strict=True)))
    alone = [controlled(row, controls) for row, controls in zip(logits, rows, strict=True)]
    np.testing.assert_allclose(controlled(logits, together), jnp.stack(alone), rtol=1e-12)


def test_a_top_p_of_one_keeps_what_rounding_would_lose():
    logits = jnp.asarray([0.0, *[-18.0] * 5])
    assert np.isfinite(controlled(logits, Controls(min_p=1e-12))).all()


@pytest.mark.parametrize("temperature", [1e-37, 1e-39, 1e-44])
def test_a_temperature_that_rounds_to_zero_acts_like_zero(temperature):
    logits, likeliest = jnp.asarray([40.0, 99.0, 98.0, -1000.0]), [0, 1, 0, 0]
    for case in ({}, {"top_k": 3}):
        controls = Controls(temperature, **case)
        np.testing.assert_array_equal(jnp.exp(controlled(logits, controls)), likeliest)
        weights = controlled_weights(logits - 99, controls)
        np.testing.assert_array_equal(weights / weights.sum(), likeliest)


def test_whether_controls_change_anything():
    assert leave_as_it_is(Controls(), 9)
    assert leave_as_it_is(Controls(top_k=9, top_p=jnp.ones(3)), 9)
    for case in CASES[1:]:
        assert not leave_as_it_is(Controls(**case), 9)
    assert not leave_as_it_is(Controls(temperature=jnp.array([1.0, 0.9])), 9)
