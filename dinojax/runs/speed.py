"""How fast this machine takes the training steps of an experiment, measured for a moment."""

import time
from collections.abc import Callable
from typing import NamedTuple

from dinojax.runs.experiment import Experiment
from dinojax.training.loop import run


class Speed(NamedTuple):
    """The speed of training."""

    steps: float
    """Steps a second."""
    characters: float
    """Target characters a second."""
    first: float
    """Seconds of the first step, which is compiled unless the cache holds it."""


def training_speed(experiment: Experiment, seconds: float) -> Speed:
    """The speed of training over `seconds`, once calls have grown to their full size.

    It trains as a run does, and forgets what it learned. Other programs that compute at the same
    time lower the speed.

    Raises:
        FloatingPointError: training diverged.
    """
    progress = run(
        experiment.train_step,
        experiment.initial_state(None),
        experiment.dataset,
        steps=10**9,
        mesh=experiment.mesh,
    )
    started = time.perf_counter()
    next(progress)
    first = time.perf_counter() - started
    num_steps = num_characters = 0.0

    def take_some() -> float:
        nonlocal num_steps, num_characters
        done = next(progress)
        num_steps += len(done.losses)
        num_characters += float(done.num_characters.sum())
        return len(done.losses)

    steps = measured_rate(take_some, seconds)
    return Speed(steps, steps * num_characters / num_steps, first)


def measured_rate(do_some: Callable[[], float], seconds: float) -> float:
    """How much `do_some` does in a second, as it reports, once its calls have their full size.

    They have half of `seconds` to grow, and then are measured.
    """
    rate = 0.0
    for duration in (seconds / 2, seconds):
        started, done, spent = time.perf_counter(), 0.0, 0.0
        while spent < duration:
            done += do_some()
            spent = time.perf_counter() - started
        rate = done / spent
    return rate
