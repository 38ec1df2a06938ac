"""A linear recurrence along time, one step after the other or in parallel.

    h_t = a_t * h_{t-1} + b_t        for each feature on its own

Numbers are tuples of real arrays of equal shapes: (x,) for real ones, (re, im) for complex ones.
A decay a_t of exactly zero forgets what was before, even NaN and infinity: that is a reset.
"""

from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax

from dinojax import platforms

Numbers = tuple[jax.Array, ...]
"""Real or complex numbers, in one part or two."""


class Run(Protocol):
    """The states [time, ...] by `decays` and `terms` [time, ...], from a state `start` [...].

    In `reverse`, time runs backwards: h_t = a_t * h_{t+1} + b_t, and `start` is behind the end.
    """

    def __call__(
        self, decays: Numbers, terms: Numbers, start: Numbers, *, reverse: bool = False
    ) -> Numbers: ...


def times(x: Numbers, y: Numbers) -> Numbers:
    """The products x * y, zero wherever x is zero, whatever y is."""
    if len(x) == 1:
        return (jnp.where(x[0] == 0, 0, x[0] * y[0]),)
    is_zero = (x[0] == 0) & (x[1] == 0)
    products = x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]
    return tuple(jnp.where(is_zero, 0, product) for product in products)


def conjugate(x: Numbers) -> Numbers:
    """The complex conjugates; real numbers are their own."""
    return (x[0], *(-part for part in x[1:]))


def advance(decay: Numbers, state: Numbers, term: Numbers) -> Numbers:
    """One step: decay * state + term."""
    return tuple(map(jnp.add, times(decay, state), term))


def sequential(
    decays: Numbers, terms: Numbers, start: Numbers, *, reverse: bool = False
) -> Numbers:
    """The states, one step after the other; see `Run`."""

    def step(state: Numbers, inputs: tuple[Numbers, Numbers]) -> tuple[Numbers, Numbers]:
        decay, term = inputs
        state = advance(decay, state, term)
        return state, state

    return lax.scan(step, start, (decays, terms), reverse=reverse)[1]


def associative(
    decays: Numbers, terms: Numbers, start: Numbers, *, reverse: bool = False
) -> Numbers:
    """The states in a number of rounds that grows with the logarithm of time; see `Run`.

    Two steps in a row are one step, of decay a_2 a_1 and term a_2 b_1 + b_2 (Blelloch, 1990).
    Decays of magnitude up to one cannot overflow, and nothing is divided by them, so that their
    logarithms are not needed.
    """

    def joined(
        first: tuple[Numbers, Numbers], second: tuple[Numbers, Numbers]
    ) -> tuple[Numbers, Numbers]:
        return times(second[0], first[0]), advance(second[0], first[1], second[1])

    total, states = lax.associative_scan(joined, (decays, terms), reverse=reverse)
    return advance(total, tuple(x[None] for x in start), states)


def by_platform(
    decays: Numbers, terms: Numbers, start: Numbers, *, reverse: bool = False
) -> Numbers:
    """`sequential` or `associative`, whichever suits the device; see `platforms`."""
    return platforms.linear_recurrence(
        decays,
        terms,
        start,
        sequential=partial(sequential, reverse=reverse),
        parallel=partial(associative, reverse=reverse),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0, 4))
def unroll(
    run: Run, decays: Numbers, terms: Numbers, start: Numbers, reverse: bool = False
) -> Numbers:
    """`run(decays, terms, start, reverse=reverse)`, whose gradient is a `run` the other way.

    With g_t the gradient of all that follows with respect to h_t, and d_t that of h_t's own use:

        g_t = d_t + conj(a_{t+1}) g_{t+1},    dL/db_t = g_t,    dL/da_t = g_t conj(h_{t-1})

    It can be differentiated in reverse mode, any number of times.
    """
    return run(decays, terms, start, reverse=reverse)


def _unroll_forward(
    run: Run, decays: Numbers, terms: Numbers, start: Numbers, reverse: bool
) -> tuple[Numbers, tuple[Numbers, Numbers, Numbers]]:
    states = unroll(run, decays, terms, start, reverse)
    return states, (decays, states, start)


def _unroll_backward(
    run: Run, reverse: bool, residuals: tuple[Numbers, Numbers, Numbers], d_states: Numbers
) -> tuple[Numbers, Numbers, Numbers]:
    decays, states, start = residuals
    # Behind the last state comes nothing.
    zeros = tuple(map(jnp.zeros_like, start))
    factors = conjugate(_shifted(decays, zeros, not reverse))
    d_terms = unroll(run, factors, d_states, zeros, not reverse)
    d_decays = times(d_terms, conjugate(_shifted(states, start, reverse)))
    first = -1 if reverse else 0
    d_start = times(conjugate(_at(decays, first)), _at(d_terms, first))
    return d_decays, d_terms, d_start


unroll.defvjp(_unroll_forward, _unroll_backward)


def _shifted(values: Numbers, start: Numbers, reverse: bool) -> Numbers:
    """What stands one step before each of `values` [time, ...]; `start` [...] before the first."""

    def shift(x: jax.Array, first: jax.Array) -> jax.Array:
        return jnp.concatenate([x[1:], first[None]] if reverse else [first[None], x[:-1]])

    return tuple(map(shift, values, start))


def _at(values: Numbers, t: int) -> Numbers:
    return tuple(x[t] for x in values)
