"""The configuration of a training run: settings, presets, and how they combine."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args, get_origin

from dinojax.contradictions import WITH_GATES, check_consistent
from dinojax.messages import quoted, shortened
from dinojax.own import own_code

# ruff: noqa: RUF009  # `_setting` returns a `dataclasses.field`.

BatchKind = Literal["padded", "packed", "windows"]
CellName = Literal[
    "vanilla", "gru", "gru_reset_before", "lstm", "mingru", "minlstm", "rglru", "lru"
]
GateName = Literal["sigmoid", "hard_sigmoid"]
OptimizerName = Literal[
    "sgd", "momentum", "rmsprop", "adam", "adamw", "lion", "muon", "schedule_free"
]
LossName = Literal["summed", "mean"]
ScheduleName = Literal["constant", "cosine"]
DTypeName = Literal["float32", "bfloat16"]
RecurrenceName = Literal["auto", "loop", "fused"]
OF_THE_MODEL = (
    "cell", "gate", "mogrifier_rounds", "mogrifier_rank", "num_layers", "hidden_size",
)  # fmt: skip
"""The settings that parameters depend on."""
WITH_CODE = "cell", "loss", "optimizer"
"""The settings whose value may be a function in a Python file; see `own`."""
COLUMNS = "column", "count_column", "label_column"
"""The settings that say which columns of a table hold what; empty for none."""
OF_THE_DATA = (
    *("batches", "lowercase", *COLUMNS, "validation_fraction", "validation_blocks"),
    *("test_fraction", "split_seed"),
)
"""The settings that decide what the data are and how they are split."""
_NATS = "nats per unit"


def choices_of(kind: Any) -> tuple[str, ...]:
    """The names that a setting of this type has for its values; none if it is a number."""
    inner = [choices_of(each) for each in get_args(kind) if each is not str]
    return get_args(kind) if get_origin(kind) is Literal else sum(inner, ())


def _setting(default: Any, text: str, *bounds: float, unit: str = "", or_zero: bool = False) -> Any:
    """A field with its help and unit; a number is within `bounds` or, with `or_zero`, zero."""
    metadata = {"help": text, "unit": unit, "range": bounds, "or_zero": or_zero}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a training run except its data. Defaults are the exercise's.

    Raises:
        ValueError: a value is out of range, or two contradict each other.
    """

    batches: BatchKind = _setting(
        "padded", "names padded one per row, names packed end to end, or windows of a running text"
    )
    lowercase: bool = _setting(True, "convert the data to lower case")
    column: str = _setting(
        "",
        "column of the names in a table, by its number or by its name in the first line; 1 if only "
        "another column is given",
    )
    count_column: str = _setting(
        "",
        "column of counts: how many times each name counts; if all columns are given by number, "
        "the first line is a header only if its count is no number",
    )
    label_column: str = _setting("", "column of labels, one for each name")
    cell: CellName | str = _setting("vanilla", "recurrent cell of each layer, or one of your own")
    gate: GateName = _setting("sigmoid", f"function of the gates of {', '.join(WITH_GATES)}")
    mogrifier_rounds: int = _setting(
        0, "times that input and state of an lstm gate each other in a step", 0, 20
    )
    mogrifier_rank: int = _setting(24, "rank of the matrices of these gates", 1, 10_000)
    num_layers: int = _setting(1, "number of recurrent layers", 1, 100)
    hidden_size: int = _setting(50, "number of hidden units of each layer", 1, 10_000)
    dropout: float = _setting(0.0, "share of each layer's outputs dropped in training", 0, 0.99)
    dtype: DTypeName = _setting(
        "float32", "type of the factors of matrix products; bfloat16 is for GPUs and TPUs"
    )
    recurrence: RecurrenceName = _setting(
        "auto", "how cells run along time in training; fused is one kernel, for NVIDIA GPUs"
    )
    batch_size: int = _setting(1, "number of rows per step; a padded row is one name", 1, 100_000)
    window: int = _setting(
        64, "length of a packed row or of a window of a text", 1, 100_000, unit="characters"
    )
    reset_rate: float = _setting(0.0, "share of rows whose state is reset in a step", 0, 0.99)
    loss: LossName | str = _setting(
        "summed", "sum over the characters of a name, mean of all, or one of your own"
    )
    steps: int = _setting(35_000, "number of training steps", 1, 10**9)
    epochs: float = _setting(0.0, "passes over the data; above 0, they set the steps", 0, 10**6)
    optimizer: OptimizerName | str = _setting(
        "sgd", "rule that turns gradients into updates, or one of your own"
    )
    learning_rate: float = _setting(0.01, "size of the updates", 1e-12, 1e3)
    schedule: ScheduleName = _setting("constant", "learning rate after the warm-up")
    warmup: float = _setting(0.0, "share of the steps with a rising learning rate", 0, 0.99)
    cooldown: float = _setting(
        0.0,
        "share of the steps, at the end, with a falling learning rate, if it is constant before; a "
        "run that is resumed with more steps goes on from where it began to fall",
        0,
        0.99,
    )
    weight_decay: float = _setting(
        0.0,
        "decay per step of adamw, lion, muon and schedule_free, times the learning rate",
        0,
        1e3,
    )
    clip_value: float = _setting(
        5.0, "bound on each gradient entry, 0 for none", 1e-12, 1e12, unit=_NATS, or_zero=True
    )
    clip_norm: float = _setting(
        0.0, "bound on the gradient's norm, 0 for none", 1e-12, 1e12, unit=_NATS, or_zero=True
    )
    average_share: float = _setting(
        0.0,
        "share of the steps over which an exponential average of the parameters is taken; the "
        "average is then the model; 0 for none",
        0,
        1,
    )
    average_trigger: int = _setting(
        0,
        "as soon as a validation is worse than the best of those more than so many before it, the "
        "mean of the parameters from then on is the model, so that the steps between validations "
        "matter; 0 for no mean",
        0,
        1_000,
    )
    validation_fraction: float = _setting(0.0, "share of the data held out to validate", 0, 0.99)
    validation_blocks: int = _setting(
        0,
        "blocks, spread over a text, that are held out to validate, some of them whole documents "
        "or plays; 0 or 1 for the stretch after the training part",
        0,
        10_000,
    )
    test_fraction: float = _setting(0.0, "share of the data that training never reads", 0, 0.99)
    evaluate_every: int = _setting(0, "steps between validations, 0 for a tenth", 0, 10**9)
    patience: int = _setting(
        0, "validations without improvement that end training, 0 for no limit", 0, 10**9
    )
    refit: bool = _setting(
        False,
        "once validation has chosen the steps, train anew on all but the test part, for as many "
        "passes as were best",
    )
    devices: int = _setting(
        0,
        "devices (or cores), of all processes, that share the rows, 0 for as many as divide them "
        "evenly",
        0,
        4096,
    )
    seed: int = _setting(0, "seed of every random choice but the split of the data", 0, 2**32 - 1)
    split_seed: int = _setting(
        0, "seed of the choice of names, or of blocks, to hold out", 0, 2**32 - 1
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            name, value, choices = each.name, getattr(self, each.name), choices_of(each.type)
            if choices and value not in choices and not (name in WITH_CODE and own_code(value)):
                said = f"{name}: expected one of {', '.join(choices)}, got {quoted(value)}"
                hint = "; or a Python file, a colon and the name of a function in it"
                raise ValueError(said + hint * (name in WITH_CODE))
            if each.type in (int, float) and not (each.metadata["or_zero"] and value == 0):
                check_range(name.replace("_", " "), value, *each.metadata["range"])
        for name in COLUMNS if self.is_text else ():
            if getattr(self, name):
                raise ValueError(f"{name.replace('_', ' ')}: for a list of names; a text has none")
        check_consistent(self)

    @property
    def is_text(self) -> bool:
        """Whether the run learns from a running text, not from names."""
        return self.batches == "windows"

    @property
    def is_averaged(self) -> bool:
        """Whether the model is an average of the parameters that the optimizer works on."""
        is_asked = self.average_share > 0 or self.average_trigger > 0
        return is_asked or self.optimizer == "schedule_free"

    @property
    def has_blocks(self) -> bool:
        """Whether the validation part of a text is several blocks."""
        return self.validation_blocks > 1

    @property
    def has_constant_rate(self) -> bool:
        """Whether the learning rate is the same at every step, in a run of any length."""
        return self.schedule == "constant" and not (self.warmup or self.cooldown)

    @property
    def cooldown_start(self) -> int:
        """Steps before the cooldown; all, if there is none."""
        return self.steps - round(self.cooldown * self.steps)


def config_from(settings: Mapping[str, Any]) -> TrainConfig:
    """The configuration with these settings, as read from JSON; others have their defaults.

    Earlier versions of dinojax had no split seed, and drew the parts from the seed.

    Raises:
        ValueError: a setting is unknown, or its value has another type or is out of range.
    """
    types = {each.name: each.type for each in fields(TrainConfig)}
    for name, value in settings.items():
        if name not in types:
            raise ValueError(f"unknown setting {quoted(name)}; expected some of {', '.join(types)}")
        expected: Any = str if choices_of(types[name]) else types[name]
        # JSON may write the float 5.0 as 5, and bool is a subclass of int.
        if type(value) is not expected and (type(value), expected) != (int, float):
            raise ValueError(f"{name}: expected {expected.__name__}, got {quoted(value)}")
    earlier = {"split_seed": settings["seed"]} if "seed" in settings else {}
    return TrainConfig(**earlier | dict(settings))


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise a ValueError unless `value` is a number from `low` to `high`."""
    if not low <= value <= high:
        got = shortened(f"{value:,}")
        raise ValueError(f"{name}: expected a number from {low:,} to {high:,}, got {got}")


def with_steps(config: TrainConfig, steps_per_epoch: int) -> TrainConfig:
    """The configuration with the number of steps of its epochs, and of steps per validation."""
    if config.epochs:
        config = replace(config, steps=max(1, round(config.epochs * steps_per_epoch)))
    return replace(config, evaluate_every=config.evaluate_every or max(1, config.steps // 10))
