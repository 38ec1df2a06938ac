"""Presets, and how the settings of a run combine from all that gives them."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from dinojax.config import OF_THE_DATA, OF_THE_MODEL, TrainConfig, config_from
from dinojax.messages import quoted
from dinojax.own import brief

_ADAMW = TrainConfig(
    loss="mean", optimizer="adamw", warmup=0.05, weight_decay=0.01, clip_value=0.0, clip_norm=1.0
)
_COMMON = replace(_ADAMW, cell="lstm", hidden_size=256, average_share=0.2, validation_fraction=0.1)
_NAMES = replace(_COMMON, batches="packed", batch_size=32, window=16)
_TEXT = replace(
    _COMMON, batches="windows", lowercase=False, batch_size=64, window=32, reset_rate=0.05
)
PRESETS = {
    "dinos": TrainConfig(),
    "names": replace(_NAMES, num_layers=2, dropout=0.5, epochs=14),
    "names-best": replace(
        _NAMES,
        num_layers=2,
        hidden_size=384,
        dropout=0.6,
        batch_size=64,
        epochs=26,
        refit=True,
    ),
    "text": replace(_TEXT, steps=1_350, learning_rate=2e-2),
    "text-best": replace(
        _TEXT,
        num_layers=2,
        hidden_size=384,
        dropout=0.25,
        batch_size=32,
        window=64,
        steps=5_600,
        # Of a text of 100,000 characters, the second of ten validations is the best.
        patience=3,
        learning_rate=1.5e-2,
        refit=True,
    ),
}
"""Configurations by name: `dinos` is the exercise, `names` suits a long list of names, `text`
learns a text in a minute. `names-best` and `text-best` are larger, and refitted; they take minutes
to half an hour."""


def resolve(
    preset: str = "dinos",
    *,
    recorded: Mapping[str, Any] | None = None,
    earlier: TrainConfig | None = None,
    given: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """The configuration of a new run, from the sources of its settings.

    The settings start from `preset` or, in its place, from those `recorded` with another run or
    given by a recipe. `given` settings replace them, and switch off what they rule out, such as
    Mogrifier rounds by another cell than lstm. A run that starts from the parameters of an
    `earlier` run has its cell, gate, layers and hidden units, and, unless recorded or given, its
    lower-casing.

    Raises:
        ValueError: a setting is unknown, has a bad value, or contradicts another or an earlier run.
    """
    check_preset(preset, PRESETS)
    base = PRESETS[preset] if recorded is None else config_from(recorded)
    given = given or {}
    if base.epochs and given.get("epochs") == 0 and "steps" not in given:
        raise ValueError("epochs: expected more than 0, or steps in their place, got 0")
    given = _without_rivals(_without_epochs(given))
    inherited = {name: getattr(earlier, name) for name in OF_THE_MODEL} if earlier else {}
    for name, value in inherited.items():
        if given.get(name, value) != value:
            raise ValueError(
                f"{name.replace('_', ' ')}: the earlier run has {brief(value)}, got "
                f"{brief(given[name])}"
            )
    if earlier and recorded is None:
        inherited["lowercase"] = earlier.lowercase
    config = config_from(asdict(base) | inherited | given)
    if earlier and config.is_text != earlier.is_text:
        old, new = ("names", "a text") if config.is_text else ("a text", "names")
        raise ValueError(
            f"the earlier run learned {old}, this one is to learn {new}; choose a preset for {old}"
        )
    if "reset_rate" in given and not config.is_text:
        raise ValueError("reset rate: only for batches of windows; names always start afresh")
    if "window" in given and config.batches == "padded":
        raise ValueError("window: only for packed batches or windows; a padded row is one name")
    return config


def resolve_suited(
    suited: Mapping[str, Any], *, earlier: TrainConfig | None, given: Mapping[str, Any]
) -> TrainConfig:
    """The configuration of a new run, from settings that suit its data, such as `recipes.recipe`.

    A run that starts from the parameters of an `earlier` run has its lower-casing, unless given.
    For what else it has of that run, and for errors, see `resolve`.
    """
    inherited = {"lowercase": earlier.lowercase} if earlier else {}
    return resolve(recorded={**suited, **inherited}, earlier=earlier, given=given)


def check_preset(preset: str, known: Collection[str]) -> None:
    """Raise a ValueError if a preset is none of those `known`."""
    if preset not in known:
        raise ValueError(f"unknown preset {quoted(preset)}; expected one of {', '.join(known)}")


def resolve_resumed(config: TrainConfig, given: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a resumed run.

    Only its length, its patience and what it runs on, devices and recurrence, may change.

    Raises:
        ValueError: `given` changes another setting, or a value is out of range.
    """
    given = _without_epochs(given)
    lengths = [name for name in ("steps", "epochs", "patience") if name in given]
    if config.refit and lengths:
        raise ValueError(f"{lengths[0]}: a run that is refitted keeps its own; train another run")
    differences = [
        f"{name.replace('_', ' ')}: the run has {brief(getattr(config, name))}, got {brief(value)}"
        for name, value in given.items()
        if name not in ("steps", "epochs", "patience", "devices", "recurrence")
        and value != getattr(config, name)
    ]
    if differences:
        raise ValueError(f"{'; '.join(differences)}; a resumed run keeps its settings")
    return replace(config, **given)


def ngram_config(given: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a run of an n-gram model: what its data are, and how they are split.

    Settings that are not `given` are those of the preset "names" or, for windows of a text, "text".

    Raises:
        ValueError: a setting is none of `OF_THE_DATA`, or has a bad value.
    """
    for name in given:
        if name not in OF_THE_DATA:
            expected = ", ".join(each.replace("_", " ") for each in OF_THE_DATA)
            raise ValueError(
                f"{name.replace('_', ' ')}: an n-gram model has no such setting; it has {expected}"
            )
    is_text = given.get("batches") == "windows"
    preset = asdict(PRESETS["text" if is_text else "names"])
    settings = {name: preset[name] for name in OF_THE_DATA} | {"batches": "padded"} | dict(given)
    # Any text is long enough for one window of one character.
    return config_from(settings | {"steps": 1, "window": 1 if is_text else preset["window"]})


def _without_epochs(given: Mapping[str, Any]) -> dict[str, Any]:
    if "steps" in given and given.get("epochs"):
        raise ValueError("epochs: they set the steps, which are given, too; give one of the two")
    # A given number of steps takes the place of epochs.
    return ({"epochs": 0.0} if "steps" in given else {}) | dict(given)


def _without_rivals(given: Mapping[str, Any]) -> dict[str, Any]:
    # Settings of the preset that those given leave without use, or rule out, are off.
    off: dict[str, Any] = {}
    if given.get("validation_fraction") == 0:
        # Nothing to wait for or to choose by.
        off |= {"patience": 0, "validation_blocks": 0, "refit": False, "average_trigger": 0}
    if given.get("cell", "lstm") != "lstm":
        off |= {"mogrifier_rounds": 0}
    if (off | dict(given)).get("mogrifier_rounds") == 0:
        off |= {"mogrifier_rank": TrainConfig.mogrifier_rank}
    if given.get("schedule", "constant") != "constant":
        off |= {"cooldown": 0.0}
    if given.get("optimizer") == "schedule_free":
        off |= {"schedule": "constant", "cooldown": 0.0, "average_share": 0.0, "average_trigger": 0}
    if given.get("average_trigger"):
        off |= {"average_share": 0.0, "refit": False}
    if given.get("average_share") or given.get("refit"):
        off |= {"average_trigger": 0}
    return off | dict(given)
