import math
import re
from dataclasses import FrozenInstanceError, asdict

import pytest

from dinojax.config import PRESETS, TrainConfig, check_range

RANGES = {
    "num_layers": (1, 100),
    "batch_size": (1, 100_000),
    "window": (1, 100_000),
    "steps": (1, 10**9),
    "hidden_size": (1, 10_000),
    "learning_rate": (1e-12, 1e3),
    "clip_value": (1e-12, 1e12),
    "seed": (0, 2**32 - 1),
}
INTEGERS = "steps", "hidden_size", "seed", "num_layers", "batch_size", "window"


def past_the_edges(field):
    low, high = RANGES[field]
    if field in INTEGERS:
        return [low - 1, high + 1, -(10**30), 10**30]
    # Zero bounds nothing.
    zero = [] if field == "clip_value" else [0.0]
    return [math.nextafter(low, 0), math.nextafter(high, math.inf), *zero, -1.0]


def numbers_named(message):
    """The low, high and value that an error names."""
    match = re.search(r"from (\S+) to (\S+), got (\S+)$", message)
    return [float(text.replace(",", "")) for text in match.groups()]


def test_defaults_are_the_exercise():
    exercise = {"steps": 35_000, "hidden_size": 50, "learning_rate": 0.01, "clip_value": 5.0}
    assert exercise.items() <= asdict(TrainConfig()).items()
    off = "dropout", "epochs", "warmup", "weight_decay", "clip_norm", "reset_rate"
    assert not any(getattr(TrainConfig(), name) for name in off)
    assert PRESETS["dinos"] == TrainConfig()


def test_a_config_does_not_change():
    with pytest.raises(FrozenInstanceError):
        TrainConfig().steps = 1


@pytest.mark.parametrize(
    ("field", "value"), [(field, edge) for field, edges in RANGES.items() for edge in edges]
)
def test_the_edges_of_a_range_are_in_it(field, value):
    assert getattr(TrainConfig(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field in RANGES
        for value in (*past_the_edges(field), math.nan, math.inf, -math.inf)
    ],
)
def test_what_is_past_the_edges_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"^{field.replace('_', ' ')}: expected a number from "):
        TrainConfig(**{field: value})


@pytest.mark.parametrize("field", INTEGERS)
@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["high", "low"])
def test_an_integer_too_large_for_a_float_is_refused(field, value):
    with pytest.raises(ValueError, match=f"^{field.replace('_', ' ')}: "):
        TrainConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 10**9 + 1),
        ("hidden_size", 0),
        ("hidden_size", 10_001),
        ("learning_rate", 0.0),
        ("learning_rate", 1000.5),
        ("clip_value", -5.0),
        ("clip_value", 2e12),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_an_error_tells_the_range_and_the_value_apart(field, value):
    with pytest.raises(ValueError, match="expected a number") as caught:
        TrainConfig(**{field: value})
    assert numbers_named(str(caught.value)) == [*RANGES[field], value]


def test_check_range_says_name_range_and_value():
    check_range("--num", 2, 1, 3)
    with pytest.raises(ValueError, match=r"^--num: expected a number from 1 to 3, got 4$"):
        check_range("--num", 4, 1, 3)
    with pytest.raises(ValueError, match=r"^--num: expected a number from 1 to 3, got nan$"):
        check_range("--num", math.nan, 1, 3)


@pytest.mark.parametrize("field", ["dropout", "warmup", "reset_rate"])
def test_shares_are_less_than_one(field):
    assert getattr(TrainConfig(**{field: 0.99}), field) == 0.99
    for value in (-0.1, 1, math.nan):
        with pytest.raises(ValueError, match=f"^{field.replace('_', ' ')}: expected a number"):
            TrainConfig(**{field: value})


@pytest.mark.parametrize("field", ["batches", "cell", "loss", "optimizer", "schedule"])
def test_what_is_not_among_the_choices_is_refused_with_them(field):
    with pytest.raises(ValueError, match=f"^{field}: expected one of .*, got 'other'"):
        TrainConfig(**{field: "other"})
