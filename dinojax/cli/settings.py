"""The settings of a new run: by flags, from a preset, a config.json or an earlier run."""

import json
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from dinojax.cli.arguments import number, whole_number
from dinojax.config import PRESETS, TrainConfig, config_from

if TYPE_CHECKING:
    from dinojax.runs.folder import Run

SETTINGS = {
    "batches": "names padded one a row, packed end to end, or windows of a running text",
    "lowercase": "read the data in lower case",
    "cell": "recurrent cell of each layer",
    "num_layers": "recurrent layers",
    "hidden_size": "units of each layer",
    "dropout": "share of each layer's outputs that is dropped in training",
    "dtype": "of the numbers that matrix products multiply; bfloat16 is for GPUs and TPUs",
    "batch_size": "rows a step; a padded row is one name",
    "window": "characters in a row of a packed or windowed batch; packed, at least a whole name",
    "reset_rate": "share of the rows whose state is set back before a window",
    "loss": "summed over a name's characters, or their mean",
    "steps": "training steps",
    "epochs": "passes over the data, which then decide the number of steps",
    "optimizer": "how gradients become updates",
    "learning_rate": "size of the updates",
    "schedule": "of the learning rate after its warm-up",
    "warmup": "share of the steps in which the learning rate rises to its full value",
    "weight_decay": "of adamw and lion, each step, times the learning rate",
    "clip_value": "bound on the size of each gradient entry, nats per unit; 0 for none",
    "clip_norm": "bound on the norm of the whole gradient, nats per unit; 0 for none",
    "validation_fraction": "share of the data to validate by, not to learn from",
    "test_fraction": "share of the data that training leaves alone",
    "evaluate_every": "steps between two validations, 0 for a tenth of the run",
    "patience": "validations in a row without an improvement that end training, 0 for never",
    "devices": "how many share the rows of a batch, 0 for the most that do so evenly; a core "
    "counts as one",
    "seed": "of all that is random",
}
"""What each setting means; a flag of the same name sets it."""
OF_WINDOWS = {"reset_rate"}
OF_ROWS = {"window"}
OF_THE_MODEL = "cell", "num_layers", "hidden_size"


class Plan(NamedTuple):
    """What a new run is to be, before its data is read."""

    config: TrainConfig
    data: Path | None
    """None for the bundled names."""
    expected_sha256: str | None
    """Checksum of the data in the config.json that names them; None where --data does."""
    init_from: Path | None
    earlier: "Run | None"
    """The run there."""


def add_settings(parser: ArgumentParser) -> None:
    """Add a flag for each setting; its help says the default of each preset.

    What is not given is None, so that the settings of a preset or of an earlier run stand.
    """
    for field in fields(TrainConfig):
        choices = get_args(field.type)
        values = {name: getattr(preset, field.name) for name, preset in PRESETS.items()}
        if field.name == "steps":
            values |= {name: "by its epochs" for name, preset in PRESETS.items() if preset.epochs}
        if len(set(values.values())) == 1:
            default = f"default: {values['dinos']}"
        else:
            default = "default: " + ", ".join(f"{name} {value}" for name, value in values.items())
        options: dict[str, Any] = {"help": f"{SETTINGS[field.name]} ({default})"}
        if field.type is bool:
            options |= {"action": BooleanOptionalAction}
        elif choices:
            options |= {"choices": choices}
        else:
            options |= {
                "type": whole_number if field.type is int else number,
                "metavar": "N" if field.type is int else "X",
            }
        parser.add_argument(flag_of(field.name), default=None, **options)


def flag_of(name: str) -> str:
    """The flag of a setting or another argument, as in "--hidden-size"."""
    return f"--{name.replace('_', '-')}"


def given_settings(arguments: Namespace) -> dict[str, Any]:
    """The settings that the command line gives; a number of steps takes the place of epochs."""
    values = {name: getattr(arguments, name) for name in SETTINGS}
    given = {name: value for name, value in values.items() if value is not None}
    if "steps" in given and "epochs" not in given:
        given["epochs"] = 0.0
    return given


def make_plan(arguments: Namespace, given: dict[str, Any]) -> Plan:
    """Settings from a preset or a config.json, with those given in their place; and the sources.

    Raises:
        OSError: a file cannot be read.
        ValueError: the settings cannot be used, or not with the run of --init-from.
    """
    config = PRESETS[arguments.preset or "dinos"]
    data, init_from, expected_sha256 = arguments.data, arguments.init_from, None
    if arguments.config:
        config, recorded = read_config(arguments.config)
        if not data:
            data = Path(recorded["data"]) if recorded["data"] else None
            expected_sha256 = recorded["data_sha256"]
        init_from = init_from or (Path(recorded["init_from"]) if recorded["init_from"] else None)
    config, earlier = replace(config, **given), None
    if init_from:
        from dinojax.runs import folder as runs

        earlier = runs.load_run(init_from)
        config = like_earlier(config, given, earlier)
        if not arguments.config and "lowercase" not in given:
            config = replace(config, lowercase=earlier.config.lowercase)
    if config.batches != "windows" and OF_WINDOWS & set(given):
        raise ValueError("--reset-rate is for --batches windows: names start anew each time")
    if config.batches == "padded" and OF_ROWS & set(given):
        raise ValueError("--window is for --batches packed or windows: a padded row is one name")
    if config.is_text and data is None:
        raise ValueError("a running text is needed: give its file with --data")
    return Plan(config, data, expected_sha256, init_from, earlier)


def read_config(file: Path) -> tuple[TrainConfig, dict[str, str]]:
    """The settings in a run's config.json, and what it says of its data."""
    try:
        settings = json.loads(file.read_text("utf-8"))
        recorded = {name: settings.pop(name) for name in ("data", "data_sha256", "init_from")}
        if not all(isinstance(value, str) for value in recorded.values()):
            raise TypeError
        return config_from(settings), recorded
    except KeyError as error:
        raise ValueError(f"{file}: expected the config.json of a run; {error} is missing") from None
    except (AttributeError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{file}: expected the config.json of a run, a JSON object") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def like_earlier(config: TrainConfig, given: dict[str, Any], earlier: "Run") -> TrainConfig:
    """The configuration with the model of an earlier run.

    Raises:
        ValueError: the command line asks for another model or another kind of data.
    """
    if config.is_text != earlier.config.is_text:
        kinds = ["names", "a text"] if config.is_text else ["a text", "names"]
        raise ValueError(
            f"--init-from: that run learned {kinds[0]}, this one is to learn {kinds[1]}; choose a "
            f"preset for {kinds[0]}"
        )
    for name in OF_THE_MODEL:
        value = getattr(earlier.config, name)
        if given.get(name, value) != value:
            raise ValueError(
                f"{flag_of(name)}: the run of --init-from has {value}, got {given[name]}"
            )
    return replace(config, **{name: getattr(earlier.config, name) for name in OF_THE_MODEL})
