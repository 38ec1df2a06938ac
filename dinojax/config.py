"""The configuration of a run, and the named ones to start from."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

BatchKind = Literal["padded", "packed", "windows"]
CellName = Literal["vanilla", "gru", "lstm"]
OptimizerName = Literal["sgd", "momentum", "rmsprop", "adam", "adamw", "lion"]
LossName = Literal["summed", "mean"]
ScheduleName = Literal["constant", "cosine"]
DTypeName = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainConfig:
    """All that decides a training run, besides its data. The defaults are the exercise's.

    Raises:
        ValueError: a value is out of range.
    """

    batches: BatchKind = "padded"
    """Names, padded or packed, or windows of a running text; see `batches`."""
    lowercase: bool = True
    cell: CellName = "vanilla"
    num_layers: int = 1
    hidden_size: int = 50
    dropout: float = 0.0
    dtype: DTypeName = "float32"
    """Of the numbers that matrix products multiply; all else is float32."""
    batch_size: int = 1
    window: int = 64
    """Characters in a row of a packed or windowed batch."""
    reset_rate: float = 0.0
    """Share of the rows whose state is set back before a window."""
    loss: LossName = "summed"
    steps: int = 35_000
    epochs: float = 0.0
    """Where not zero, it decides the number of steps."""
    optimizer: OptimizerName = "sgd"
    learning_rate: float = 0.01
    schedule: ScheduleName = "constant"
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises to its full value."""
    weight_decay: float = 0.0
    clip_value: float = 5.0
    """Bound on the size of each entry of the gradient; zero for none."""
    clip_norm: float = 0.0
    """Bound on the norm of the whole gradient; zero for none."""
    validation_fraction: float = 0.0
    """Share of the data that is not learned from, but that tells how well it is learned."""
    test_fraction: float = 0.0
    """Share of the data that training does not see at all."""
    evaluate_every: int = 0
    """Steps between two validations; zero for a tenth of the run."""
    patience: int = 0
    """Validations without an improvement after which training stops; zero for never."""
    devices: int = 0
    """How many share the rows of a batch; zero for the most that do so evenly."""
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            choices = get_args(field.type)
            value = getattr(self, field.name)
            if choices and value not in choices:
                raise ValueError(
                    f"{field.name}: expected one of {', '.join(choices)}, got {value!r}"
                )
        check_range("num layers", self.num_layers, 1, 100)
        check_range("hidden size", self.hidden_size, 1, 10_000)
        check_range("batch size", self.batch_size, 1, 100_000)
        check_range("window", self.window, 1, 100_000)
        check_range("steps", self.steps, 1, 10**9)
        check_range("epochs", self.epochs, 0, 10**6)
        check_range("learning rate", self.learning_rate, 1e-12, 1e3)
        check_range("weight decay", self.weight_decay, 0, 1e3)
        for name in "clip value", "clip norm":
            bound = getattr(self, name.replace(" ", "_"))
            if bound != 0:
                check_range(name, bound, 1e-12, 1e12)
        for name in "dropout", "reset rate", "warmup", "validation fraction", "test fraction":
            check_range(name, getattr(self, name.replace(" ", "_")), 0, 0.99)
        if self.validation_fraction + self.test_fraction > 0.99:
            raise ValueError(
                "validation and test fraction: expected a sum of up to 0.99, got "
                f"{self.validation_fraction + self.test_fraction}"
            )
        check_range("evaluate every", self.evaluate_every, 0, 10**9)
        check_range("patience", self.patience, 0, 10**9)
        if self.patience and not self.validation_fraction:
            raise ValueError(
                "patience: expected a validation fraction above 0 to judge by, got "
                f"{self.validation_fraction}"
            )
        check_range("devices", self.devices, 0, 4096)
        if self.devices and self.batch_size % self.devices:
            raise ValueError(
                f"devices: expected a number that divides the batch size, {self.batch_size:,}, "
                f"got {self.devices:,}"
            )
        check_range("seed", self.seed, 0, 2**32 - 1)

    @property
    def is_text(self) -> bool:
        """Whether it learns from a running text, not from names."""
        return self.batches == "windows"


def config_from(settings: Mapping[str, Any]) -> TrainConfig:
    """The configuration with these settings, as they are read from JSON.

    Raises:
        ValueError: a setting is unknown, or has a value of another type or out of range.
    """
    types = {field.name: field.type for field in fields(TrainConfig)}
    for name, value in settings.items():
        if name not in types:
            raise ValueError(f"unknown setting {name!r}; expected some of {', '.join(types)}")
        expected: Any = str if get_args(types[name]) else types[name]
        # JSON writes a float such as 5.0 as it likes, and bool is a kind of int.
        is_number = expected is float and type(value) is int
        if type(value) is not expected and not is_number:
            raise ValueError(f"{name}: expected {expected.__name__}, got {value!r}")
    return TrainConfig(**settings)


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise a ValueError unless `value` is a number from `low` to `high`."""
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a number from {low:,} to {high:,}, got {value:,}")


PRESETS = {
    "dinos": TrainConfig(),
    "names": TrainConfig(
        batches="packed",
        cell="lstm",
        num_layers=2,
        hidden_size=256,
        dropout=0.5,
        validation_fraction=0.1,
        batch_size=32,
        window=16,
        loss="mean",
        epochs=11,
        optimizer="adamw",
        learning_rate=6e-3,
        schedule="cosine",
        warmup=0.05,
        weight_decay=0.01,
        clip_value=0.0,
        clip_norm=1.0,
    ),
    "text": TrainConfig(
        batches="windows",
        lowercase=False,
        cell="lstm",
        hidden_size=256,
        validation_fraction=0.1,
        batch_size=64,
        window=32,
        reset_rate=0.05,
        loss="mean",
        steps=900,
        optimizer="adamw",
        learning_rate=2e-2,
        schedule="cosine",
        warmup=0.05,
        weight_decay=0.01,
        clip_value=0.0,
        clip_norm=1.0,
    ),
}
PRESETS["text-best"] = replace(
    PRESETS["text"],
    num_layers=2,
    hidden_size=384,
    dropout=0.5,
    steps=8_000,
    learning_rate=1e-2,
)
"""Configurations by name: `dinos` is the exercise, `names` for a long list, `text` for a text in
half a minute and `text-best` in less than half an hour."""
