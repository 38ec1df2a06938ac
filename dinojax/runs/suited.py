"""Settings that suit the data of a run."""

from collections.abc import Container
from dataclasses import replace
from typing import Any

from dinojax.config import TrainConfig
from dinojax.data.splits import split_text
from dinojax.data.stored import Text, num_characters
from dinojax.recipes import recipe
from dinojax.runs.description import Part


def recipe_for(data: Part) -> dict[str, Any]:
    """The settings that suit names or a text; see `recipes.recipe`."""
    is_text = isinstance(data, str | Text)
    return recipe(num_characters(data), None if is_text else len(data))


def fitted(config: TrainConfig, data: Part, given: Container[str] = ()) -> TrainConfig:
    """The configuration with as many rows, and as long a window, as a short text can fill.

    Settings that are `given` stay as they are. The rows can be shared by the devices, if their
    number is set.
    """
    if not isinstance(data, str | Text):
        return config
    fractions = config.validation_fraction, config.test_fraction
    num, rows, window = len(split_text(data, *fractions)[0]), config.batch_size, config.window
    if "batch_size" not in given:
        each = max(1, config.devices)
        rows = min(rows, max(1, num // window // each) * each)
    if "window" not in given:
        window = min(window, max(1, num // rows))
    return replace(config, batch_size=rows, window=window)
