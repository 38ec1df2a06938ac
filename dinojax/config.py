"""The configuration of a run, and the named ones to start from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """All that decides a training run, besides its data. The defaults are the exercise's.

    Raises:
        ValueError: a value is out of range.
    """

    steps: int = 35_000
    hidden_size: int = 50
    learning_rate: float = 0.01
    clip_value: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1, 10**9)
        check_range("hidden size", self.hidden_size, 1, 10_000)
        check_range("learning rate", self.learning_rate, 1e-12, 1e3)
        check_range("clip value", self.clip_value, 1e-12, 1e12)
        check_range("seed", self.seed, 0, 2**32 - 1)


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise a ValueError unless `value` is a number from `low` to `high`."""
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a number from {low:,} to {high:,}, got {value:,}")


PRESETS = {"dinos": TrainConfig()}
"""Configurations by name; `dinos` is the exercise."""
