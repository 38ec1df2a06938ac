"""Curves of metrics: points, smoothed, and the mean of several runs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SMOOTHED_OVER = 20
"""A curve is smoothed by a mean over this part of it: a twentieth."""

Metrics = Sequence[Mapping[str, Any]]
"""The lines of metrics of a run."""


class Curve(NamedTuple):
    """The mean of one loss of several runs, as far as all of them have come."""

    x: NDArray[np.float64]
    """[num]"""
    mean: NDArray[np.float64]
    """[num]"""
    error: NDArray[np.float64] | None
    """Standard error of the mean over the runs, [num]; None for a single run."""


def make_curve(runs: Sequence[Metrics], across: str, loss: str, *, smooth: bool = False) -> Curve:
    """A loss of some runs against characters or seconds, at the steps at which all of them have it.

    x, too, is the mean over the runs. With `smooth`, the loss of each run is smoothed first.
    """
    found = [_points(metrics, across, loss) for metrics in runs]
    common = sorted(set(found[0]).intersection(*found[1:]))
    table = np.array([[each[step] for step in common] for each in found], float)
    x, losses = table.reshape(len(runs), len(common), 2).transpose(2, 0, 1)
    if smooth:
        losses = np.array([smoothed(each) for each in losses])
    error = losses.std(axis=0, ddof=1) / math.sqrt(len(runs)) if len(runs) > 1 else None
    return Curve(x.mean(axis=0), losses.mean(axis=0), error)


def reach(num: int) -> int:
    """How many points to each side the mean takes by which `num` points are smoothed."""
    return num // (2 * SMOOTHED_OVER)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each value and its neighbours, `reach` of them on each side.

    Near the beginning, where losses fall fast, there are fewer on both sides; near the end, fewer
    after it.
    """
    befores = [min(i, reach(len(values))) for i in range(len(values))]
    return np.array([values[i - n : i + n + 1].mean() for i, n in enumerate(befores)])


def has_training_time(runs: Iterable[Metrics]) -> bool:
    """Whether all lines say how long the training steps took; those of earlier versions do not."""
    return all("training_seconds" in line for metrics in runs for line in losses_of(metrics))


def losses_of(metrics: Metrics) -> list[Mapping[str, Any]]:
    """The lines that hold losses, not events."""
    return [line for line in metrics if "event" not in line]


def _points(metrics: Metrics, across: str, loss: str) -> dict[int, tuple[Any, Any]]:
    """Place and loss of each step at which both are finite numbers."""
    found = dict[int, tuple[Any, Any]]()
    for line in losses_of(metrics):
        x, y = line.get(across), line.get(loss)
        if across == "seconds":
            # Where an earlier version began the run, training seconds go on from its seconds.
            x = line.get("training_seconds", x)
        if all(isinstance(n, int | float) and math.isfinite(n) for n in (x, y)):
            found[line["step"]] = x, y
    return found
