import json
import math
import re
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import get_args

import pytest

from dinojax.config import CellName, GateName, TrainConfig, check_range, config_from, with_steps
from dinojax.models.cells import CELLS
from dinojax.models.gates import GATES
from dinojax.models.linear_cells import LINEAR_CELLS
from dinojax.presets import PRESETS, resolve, resolve_resumed

RANGES = {
    "num_layers": (1, 100),
    "batch_size": (1, 100_000),
    "window": (1, 100_000),
    "steps": (1, 10**9),
    "mogrifier_rounds": (0, 20),
    "mogrifier_rank": (1, 10_000),
    "hidden_size": (1, 10_000),
    "learning_rate": (1e-12, 1e3),
    "clip_value": (1e-12, 1e12),
    "validation_fraction": (0, 0.99),
    "validation_blocks": (0, 10_000),
    "test_fraction": (0, 0.99),
    "evaluate_every": (0, 10**9),
    "patience": (0, 10**9),
    "devices": (0, 4096),
    "seed": (0, 2**32 - 1),
    "split_seed": (0, 2**32 - 1),
}
INTEGERS = [field.name for field in fields(TrainConfig) if field.type is int]
NEEDS = {
    "patience": {"validation_fraction": 0.1},
    "validation_blocks": {"validation_fraction": 0.1, "batches": "windows"},
    "devices": {"batch_size": 4096},
    "mogrifier_rounds": {"cell": "lstm"},
    "mogrifier_rank": {"cell": "lstm", "mogrifier_rounds": 1},
}
"""Settings that another one needs in order to be above zero."""


def past_the_edges(field):
    low, high = RANGES[field]
    if field in INTEGERS:
        return [low - 1, high + 1, -(10**30), 10**30]
    # A bound of zero switches clipping off.
    zero = [] if field == "clip_value" or low == 0 else [0.0]
    return [math.nextafter(low, -math.inf), math.nextafter(high, math.inf), *zero, -1.0]


def numbers_named(message):
    """The low, high and value that an error names."""
    match = re.search(r"from (\S+) to (\S+), got (\S+)$", message)
    return [float(text.replace(",", "")) for text in match.groups()]


def test_defaults_are_the_exercise():
    exercise = {"steps": 35_000, "hidden_size": 50, "learning_rate": 0.01, "clip_value": 5.0}
    assert exercise.items() <= asdict(TrainConfig()).items()
    off = {"dropout", "epochs", "warmup", "weight_decay", "clip_norm", "reset_rate"}
    off |= {"validation_fraction", "test_fraction", "evaluate_every", "patience", "devices"}
    off |= {"validation_blocks", "refit"}
    off |= {"mogrifier_rounds"}
    assert not any(getattr(TrainConfig(), name) for name in off)
    assert PRESETS["dinos"] == TrainConfig()


def test_every_cell_and_every_gate_can_be_chosen():
    assert set(get_args(CellName)) == {*CELLS, *LINEAR_CELLS}
    assert set(get_args(GateName)) == set(GATES)


def test_a_config_does_not_change():
    with pytest.raises(FrozenInstanceError):
        TrainConfig().steps = 1


@pytest.mark.parametrize(
    ("field", "value"), [(field, edge) for field, edges in RANGES.items() for edge in edges]
)
def test_the_edges_of_a_range_are_in_it(field, value):
    assert getattr(TrainConfig(**{field: value}, **NEEDS.get(field, {})), field) == value


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
        TrainConfig(**{field: value}, **NEEDS.get(field, {}))


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
def test_an_error_shows_the_range_and_the_value_unambiguously(field, value):
    with pytest.raises(ValueError, match="expected a number") as caught:
        TrainConfig(**{field: value})
    assert numbers_named(str(caught.value)) == [*RANGES[field], value]


def test_settings_from_before_the_split_seed_split_by_their_seed():
    recorded = asdict(TrainConfig(seed=4))
    assert config_from(recorded).split_seed == 0
    del recorded["split_seed"]
    assert config_from(recorded).split_seed == 4
    assert resolve(recorded=recorded, given={"seed": 5}) == TrainConfig(seed=5, split_seed=4)


def test_check_range_says_name_range_and_value():
    check_range("--num", 2, 1, 3)
    with pytest.raises(ValueError, match=r"^--num: expected a number from 1 to 3, got 4$"):
        check_range("--num", 4, 1, 3)
    with pytest.raises(ValueError, match=r"^--num: expected a number from 1 to 3, got nan$"):
        check_range("--num", math.nan, 1, 3)
    with pytest.raises(ValueError, match=r"got 10,000.{40,50} \[\.\.\] .{50}$"):
        check_range("--num", 10**4_000, 1, 3)


@pytest.mark.parametrize("field", ["dropout", "warmup", "reset_rate"])
def test_shares_are_less_than_one(field):
    assert getattr(TrainConfig(**{field: 0.99}), field) == 0.99
    for value in (-0.1, 1, math.nan):
        with pytest.raises(ValueError, match=f"^{field.replace('_', ' ')}: expected a number"):
            TrainConfig(**{field: value})


@pytest.mark.parametrize("field", ["batches", "cell", "loss", "optimizer", "schedule"])
def test_an_unknown_choice_is_refused_with_a_list_of_the_choices(field):
    with pytest.raises(ValueError, match=f"^{field}: expected one of .*, got 'other'"):
        TrainConfig(**{field: "other"})


# Settings that depend on each other.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"average_trigger": 5}, "^average trigger: expected a validation fraction above 0"),
        (
            {"average_trigger": 5, "average_share": 0.9, "validation_fraction": 0.1},
            "^average share and average trigger: expected one of them",
        ),
        ({"optimizer": "schedule_free", "average_share": 0.9}, "^optimizer: schedule_free"),
        ({"optimizer": "schedule_free", "schedule": "cosine"}, "constant, got cosine"),
        ({"optimizer": "schedule_free", "cooldown": 0.2}, "neither a cooldown"),
    ],
)
def test_there_is_one_average_and_it_can_be_taken(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


def test_patience_needs_a_validation_to_judge_by():
    with pytest.raises(ValueError, match=r"^patience: expected a validation fraction above 0"):
        TrainConfig(patience=1)
    with pytest.raises(ValueError, match=r"^patience: expected a validation fraction above 0"):
        TrainConfig(patience=1, test_fraction=0.1)
    assert TrainConfig(patience=1, validation_fraction=0.01).patience == 1


@pytest.mark.parametrize(("validation", "test"), [(0.99, 0.01), (0.5, 0.5), (0.2, 0.8), (0.9, 0.9)])
def test_fractions_that_leave_too_little_are_refused(validation, test):
    sum_ = re.escape(str(validation + test))
    message = f"^validation and test fraction: expected a sum of up to 0.99, got {sum_}$"
    with pytest.raises(ValueError, match=message):
        TrainConfig(validation_fraction=validation, test_fraction=test)


@pytest.mark.parametrize(
    ("validation", "test"), [(0.99, 0.0), (0.0, 0.99), (0.5, 0.49), (0.1, 0.1)]
)
def test_fractions_that_leave_something(validation, test):
    config = TrainConfig(validation_fraction=validation, test_fraction=test)
    assert (config.validation_fraction, config.test_fraction) == (validation, test)


@pytest.mark.parametrize(("devices", "batch_size"), [(2, 1), (2, 3), (3, 4), (8, 4)])
def test_devices_that_do_not_divide_the_batch_are_refused(devices, batch_size):
    message = (
        f"^devices: expected a number that divides the batch size, {batch_size}, got {devices}$"
    )
    with pytest.raises(ValueError, match=message):
        TrainConfig(devices=devices, batch_size=batch_size)


@pytest.mark.parametrize(("devices", "batch_size"), [(0, 3), (1, 3), (3, 3), (2, 32)])
def test_devices_that_divide_the_batch(devices, batch_size):
    assert TrainConfig(devices=devices, batch_size=batch_size).devices == devices


# From JSON.


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_comes_back_from_json(preset):
    settings = json.loads(json.dumps(asdict(PRESETS[preset])))
    assert config_from(settings) == PRESETS[preset]


def test_a_config_without_any_default_comes_back_from_json():
    other = {"steps": 7, "lowercase": False, "patience": 3, "devices": 4, "evaluate_every": 5}
    config = replace(PRESETS["names"], **other, test_fraction=0.2, dtype="bfloat16", seed=1)
    assert config_from(json.loads(json.dumps(asdict(config)))) == config


def test_missing_settings_have_their_defaults():
    assert config_from({}) == TrainConfig()
    assert config_from({"steps": 7}) == TrainConfig(steps=7)


@pytest.mark.parametrize("name", ["stepz", "", "is_text", "__class__", "Steps"])
def test_an_unknown_setting_is_refused_with_all_that_are_known(name):
    with pytest.raises(ValueError, match=f"^unknown setting {name!r}; expected some of") as caught:
        config_from({"steps": 7, name: 1})
    known = str(caught.value).split("expected some of ")[1].split(", ")
    assert known == [field.name for field in fields(TrainConfig)]


WRONG = {
    int: [True, False, 4.5, 4.0, "4", None, [4], {}, math.nan],
    float: [True, "0.1", None, [0.1], {}],
    bool: [0, 1, 1.0, "true", None, []],
    str: [0, True, None, ["vanilla"], 1.5],
}


@pytest.mark.parametrize("field", fields(TrainConfig), ids=lambda field: field.name)
def test_a_value_of_another_type_is_refused_by_name(field):
    kind = str if get_args(field.type) else field.type
    for value in WRONG[kind]:
        shown = re.escape(repr(value))
        with pytest.raises(
            ValueError, match=f"^{field.name}: expected {kind.__name__}, got {shown}$"
        ):
            config_from({field.name: value})


def test_json_integers_are_accepted_as_floats_and_ranges_are_checked():
    for value in 0.0, 0, 5, 5.0:
        assert config_from({"clip_norm": value}) == TrainConfig(clip_norm=float(value))
    with pytest.raises(ValueError, match=r"^learning rate: expected a number from"):
        config_from({"learning_rate": 0})
    with pytest.raises(
        ValueError, match=r"^cell: expected one of vanilla, gru, .*, lstm, .*, lru, got 'rnn'"
    ):
        config_from({"cell": "rnn"})
    with pytest.raises(ValueError, match=r"^patience: "):
        config_from({"patience": 2})


# How the sources of settings combine.


def test_every_field_has_a_description():
    for field in fields(TrainConfig):
        assert field.metadata["help"]
        if field.type in (int, float):
            low, high = field.metadata["range"]
            assert low < high
            assert low <= getattr(TrainConfig(), field.name) <= high or field.metadata["or_zero"]


@pytest.mark.parametrize("preset", PRESETS)
def test_given_settings_replace_those_of_a_preset(preset):
    assert resolve(preset) == PRESETS[preset]
    given = {"hidden_size": 9, "seed": 3, "lowercase": False}
    assert resolve(preset, given=given) == replace(PRESETS[preset], **given)


def test_given_settings_replace_recorded_ones_which_replace_those_of_a_preset():
    recorded = asdict(PRESETS["text"]) | {"seed": 8, "steps": 5}
    assert resolve("names", recorded=recorded) == config_from(recorded)
    assert resolve(recorded=recorded, given={"seed": 9}) == config_from(recorded | {"seed": 9})
    assert resolve(recorded={"steps": 7}) == TrainConfig(steps=7)


def test_a_given_number_of_steps_replaces_epochs():
    assert resolve("names", given={"steps": 5}) == replace(PRESETS["names"], steps=5, epochs=0.0)
    assert resolve("names", given={"steps": 5, "epochs": 0.0}).epochs == 0
    with pytest.raises(ValueError, match="epochs: they set the steps, which are given, too"):
        resolve("names", given={"steps": 5, "epochs": 2.0})
    # Without either, the preset says nothing of the length.
    with pytest.raises(ValueError, match=r"^epochs: expected more than 0, or steps"):
        resolve("names", given={"epochs": 0.0})
    assert resolve("dinos", given={"epochs": 0.0}) == PRESETS["dinos"]
    with pytest.raises(ValueError, match="epochs: they set the steps, which are given, too"):
        resolve_resumed(PRESETS["names"], {"steps": 5, "epochs": 2.0})


def test_without_a_validation_part_there_is_no_patience_unless_it_is_given():
    recorded = asdict(PRESETS["names"]) | {"patience": 5}
    expected = replace(PRESETS["names"], validation_fraction=0.0)
    assert resolve(recorded=recorded, given={"validation_fraction": 0.0}) == expected
    assert resolve(recorded=recorded, given={"validation_fraction": 0.2}).patience == 5
    with pytest.raises(ValueError, match="patience: expected a validation fraction above 0"):
        resolve(recorded=recorded, given={"validation_fraction": 0.0, "patience": 5})


@pytest.mark.parametrize(
    ("of_the_preset", "given", "off"),
    [
        ({"mogrifier_rounds": 4, "mogrifier_rank": 8}, {"cell": "gru"}, ("rounds", "rank")),
        ({"mogrifier_rounds": 4, "mogrifier_rank": 8}, {"mogrifier_rounds": 0}, ("rank",)),
        ({"average_share": 0.9}, {"average_trigger": 2}, ("share",)),
        ({"average_trigger": 2}, {"average_share": 0.9}, ("trigger",)),
        ({"average_trigger": 2}, {"refit": True}, ("trigger",)),
        ({"average_trigger": 2}, {"validation_fraction": 0.0}, ("trigger",)),
        ({"refit": True}, {"average_trigger": 2}, ("refit",)),
        ({"refit": True, "patience": 2}, {"validation_fraction": 0.0}, ("refit", "patience")),
        ({"average_share": 0.9}, {"optimizer": "schedule_free"}, ("share",)),
        ({"cooldown": 0.2}, {"optimizer": "schedule_free"}, ("cooldown",)),
        ({"cooldown": 0.2}, {"schedule": "cosine"}, ("cooldown",)),
    ],
)
def test_given_settings_switch_off_what_they_rule_out_of_a_preset(of_the_preset, given, off):
    base = TrainConfig(cell="lstm", validation_fraction=0.1)
    chosen = resolve(recorded=asdict(replace(base, **of_the_preset)), given=given)
    # All that is off has its default.
    assert [name for name in of_the_preset if name.endswith(off)]
    expected = {k: v for k, v in of_the_preset.items() if not k.endswith(off)} | given
    assert chosen == replace(base, **expected)
    with pytest.raises(ValueError, match="expected"):
        config_from(asdict(base) | of_the_preset | given)


EARLIER = TrainConfig(
    cell="gru", gate="hard_sigmoid", num_layers=2, hidden_size=7, lowercase=False, dropout=0.5
)


def test_the_model_and_the_lower_casing_of_an_earlier_run_are_kept():
    like = {"cell": "gru", "gate": "hard_sigmoid", "num_layers": 2, "hidden_size": 7}
    expected = replace(TrainConfig(), **like, lowercase=False)
    assert resolve(earlier=EARLIER) == expected
    assert resolve(earlier=EARLIER, given=like) == expected
    assert resolve(earlier=EARLIER, given={"lowercase": True}) == replace(expected, lowercase=True)
    recorded = asdict(TrainConfig(seed=4))
    assert resolve(recorded=recorded, earlier=EARLIER) == TrainConfig(seed=4, **like)


def text_config(**settings):
    return replace(PRESETS["text"], **settings)


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (
            {"preset": "dino"},
            "unknown preset 'dino'; expected one of dinos, names, names-best, text, text-best",
        ),
        ({"given": {"stepz": 1}}, "unknown setting 'stepz'; expected some of batches, "),
        ({"given": {"steps": 1.5}}, "steps: expected int, got 1.5"),
        ({"given": {"hidden_size": 0}}, "hidden size: expected a number from 1 to 10,000, got 0"),
        ({"recorded": {"steps": 0}}, "steps: expected a number from"),
        (
            {"given": {"gate": "hard_sigmoid"}},
            "gate: a vanilla cell has no choice of gates; expected sigmoid, got hard_sigmoid",
        ),
        (
            {"earlier": EARLIER, "given": {"gate": "sigmoid"}},
            "gate: the earlier run has hard_sigmoid, got sigmoid",
        ),
        (
            {"earlier": EARLIER, "given": {"hidden_size": 8}},
            "hidden size: the earlier run has 7, got 8",
        ),
        (
            {"earlier": EARLIER, "preset": "text"},
            "the earlier run learned names, this one is to learn a text; choose a preset for names",
        ),
        (
            {"earlier": text_config()},
            "the earlier run learned a text, this one is to learn names; choose a preset for a",
        ),
        (
            {"preset": "names", "given": {"reset_rate": 0.1}},
            "reset rate: only for batches of windo",
        ),
        ({"given": {"window": 9}}, "window: only for packed batches or windows; a padded row is"),
    ],
)
def test_sources_that_do_not_go_together_are_refused(sources, says):
    with pytest.raises(ValueError, match=f"^{re.escape(says)}"):
        resolve(**sources)


def test_settings_of_some_batches_may_be_given_for_those_batches():
    assert resolve("names", given={"window": 9}).window == 9
    assert resolve("text", given={"window": 9, "reset_rate": 0.5}).reset_rate == 0.5
    given = {"batches": "packed", "window": 9}
    assert resolve(given=given) == TrainConfig(**given)


def test_a_resumed_run_may_change_its_length_its_patience_and_what_it_runs_on():
    config = replace(PRESETS["names"], steps=50)
    given = {"steps": 60, "patience": 3, "devices": 2, "seed": config.seed}
    given["recurrence"] = "loop"
    assert resolve_resumed(config, given) == replace(config, **given, epochs=0.0)
    assert resolve_resumed(config, {"epochs": 12.0}) == replace(config, epochs=12.0)
    says = r"^cell: the run has lstm, got gru; seed: the run has 0, got 1; a resumed run keeps its"
    with pytest.raises(ValueError, match=says):
        resolve_resumed(config, {"steps": 60, "cell": "gru", "seed": 1})


def test_epochs_and_validations_get_their_steps():
    assert with_steps(TrainConfig(), 9) == TrainConfig(evaluate_every=3500)
    config = with_steps(TrainConfig(epochs=2.5), 7)
    assert (config.steps, config.evaluate_every) == (18, 1)
    assert with_steps(config, 7) == config
    assert with_steps(TrainConfig(epochs=1e-6, evaluate_every=4), 7).steps == 1
