"""Settings of a training run that contradict each other."""

from typing import Any

from dinojax.own import brief

MAX_FUSED = 512
"""Most hidden units of the fused kernel: an LSTM of more exceeds the memory of a GPU's core."""
WITH_KERNEL = "vanilla", "gru", "lstm"
"""The cells that the fused kernel runs."""
WITH_GATES = "gru", "gru_reset_before", "lstm"
"""The cells whose gates may have another function than the sigmoid."""


def check_consistent(config: Any) -> None:
    """Raise a ValueError if settings of a `config.TrainConfig` contradict each other."""
    if config.cell not in WITH_GATES and config.gate != "sigmoid":
        raise ValueError(
            f"gate: a {brief(config.cell)} cell has no choice of gates; "
            f"expected sigmoid, got {config.gate}"
        )
    if config.mogrifier_rounds and config.cell != "lstm":
        raise ValueError(f"mogrifier rounds: expected the cell lstm, got {brief(config.cell)}")
    if config.mogrifier_rank != 24 and not config.mogrifier_rounds:
        raise ValueError("mogrifier rank: expected mogrifier rounds above 0 to use it, got 0")
    if config.recurrence == "fused" and config.mogrifier_rounds:
        raise ValueError(
            "recurrence: the fused kernel has no Mogrifier rounds; choose auto, or 0 rounds"
        )
    if config.recurrence == "fused" and (
        config.cell not in WITH_KERNEL or config.hidden_size > MAX_FUSED
    ):
        raise ValueError(
            f"recurrence: the fused kernel is for cells {', '.join(WITH_KERNEL)} of up to "
            f"{MAX_FUSED} hidden units, got {brief(config.cell)} of {config.hidden_size:,}; "
            "choose auto"
        )
    if (held_out := config.validation_fraction + config.test_fraction) > 0.99:
        raise ValueError(
            f"validation and test fraction: expected a sum of up to 0.99, got {held_out}"
        )
    if config.cooldown and config.schedule != "constant":
        raise ValueError(
            f"cooldown: for a constant learning rate, which falls only at the end; expected "
            f"the schedule constant, got {config.schedule}"
        )
    if config.optimizer == "schedule_free" and (
        config.schedule != "constant"
        or config.cooldown
        or config.average_share
        or config.average_trigger
    ):
        raise ValueError(
            "optimizer: schedule_free averages by itself, at a constant rate; expected the "
            f"schedule constant, got {config.schedule}, and neither a cooldown nor an average"
        )
    if config.warmup + config.cooldown > 1:
        raise ValueError(
            f"warmup and cooldown: expected a sum of up to 1, got {config.warmup + config.cooldown}"
        )
    if config.average_trigger and config.average_share:
        raise ValueError(
            "average share and average trigger: expected one of them, as there is one average, "
            "got both"
        )
    if config.average_trigger and config.refit:
        raise ValueError(
            "average trigger: a refit has no validation to begin a mean; expected 0, got "
            f"{config.average_trigger:,}; choose an average share"
        )
    needs = {"patience": config.patience, "refit": config.refit}
    needs["average trigger"] = config.average_trigger
    needs["validation blocks"] = config.has_blocks
    for name, value in needs.items():
        if value and not config.validation_fraction:
            raise ValueError(f"{name}: expected a validation fraction above 0 to judge by, got 0")
    if config.has_blocks and not config.is_text:
        raise ValueError(
            f"validation blocks: for a text; names are held out one by one, expected 0 or 1, "
            f"got {config.validation_blocks:,}"
        )
    if config.devices and config.batch_size % config.devices:
        raise ValueError(
            f"devices: expected a number that divides the batch size, {config.batch_size:,}, "
            f"got {config.devices:,}"
        )
