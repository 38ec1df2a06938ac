"""Settings of a network and of its training that suit data of a given size.

They are meant for less than a minute on two cores. Comments give the losses over held-out names or
characters by which they were chosen, in nats a character (JAX 0.10.2), of one run or a few. For
names, the least loss of n-gram models of order 2 to 5 is in brackets.
"""

import math
from typing import Any

AUTO = "auto"
"""The name of these settings, in place of that of a preset."""


def recipe(num_characters: int, num_names: int | None = None) -> dict[str, Any]:
    """Settings of `TrainConfig` that suit a list of `num_names` names or, without it, a text.

    `num_characters` counts all characters, those of names with their newlines. Settings that are
    not in the result have the defaults of `TrainConfig`.
    """
    common: dict[str, Any] = {
        # New names have the capitals of the list. They cost nothing: 1.642 for the dinosaurs with
        # capitals, 1.650 without.
        "lowercase": False,
        "dropout": 0.3,
        "loss": "mean",
        "optimizer": "adamw",
        # With the average the rate can be higher, too. Against half the rate and a cosine, means of
        # two splits: 2.950 and 2.961 for 40 names, 2.242 and 2.250 for 1,000, 1.549 and
        # 1.566 for the dinosaurs, 2.034 and 2.063 for 10,000.
        "schedule": "constant",
        "average_share": 0.2,
        "warmup": 0.05,
        "weight_decay": 0.01,
        "clip_value": 0.0,
        "clip_norm": 1.0,
        "validation_fraction": 0.1,
        # Half of the validations of a run: those of a few names vary much.
        "patience": 5,
    }
    return common | (_of_text(num_characters) if num_names is None else _of_names(num_names))


def _of_names(num: int) -> dict[str, Any]:
    # The losses of the sizes below are with a cosine and a rate of 4e-3.
    names: dict[str, Any] = {"batches": "padded", "learning_rate": 8e-3}
    if num <= 1_000:
        # First names: 2.654 (2.692) for 40 of them, 2.566 (2.650) for 100, 2.420 (2.473) for 300
        # and 2.286 (2.345) for 1,000. GRUs of 32 to 128 units: 2.649 to 2.691, 2.588 to 2.653,
        # 2.426 to 2.458 and 2.280 to 2.295.
        network = {"cell": "lru", "hidden_size": 64, "batch_size": 16}
        return names | network | {"epochs": 30.0}
    if num <= 5_000:
        # 1,538 dinosaurs: 1.642 (1.665). A GRU of 128 units: 1.672.
        network = {"cell": "lru", "num_layers": 2, "hidden_size": 128, "batch_size": 16}
        return names | network | {"epochs": 600 / math.sqrt(num)}
    # First names: 2.066 (2.118) for 10,000, in 8 passes, and 1.984 for 31,033, in 6. The LRU above:
    # 2.127 and 2.072, in as much time.
    network = {"cell": "gru", "hidden_size": 256, "batch_size": 32}
    return names | network | {"epochs": min(1_000 / math.sqrt(num), 300_000 / num)}


def _of_text(num: int) -> dict[str, Any]:
    text = {"batches": "windows", "cell": "lstm", "hidden_size": 256, "window": 32, "steps": 900}
    text |= {"batch_size": 64, "learning_rate": 2e-2, "reset_rate": 0.05}
    if num < 50_000:
        # The first 10,000, 20,000 and 40,000 characters of the sonnets: 1.961, 1.848 and 1.673; at
        # half this rate 2.037, 1.880 and 1.713, and with a cosine 1.771 for the last. Patience ends
        # the training on shorter texts.
        return text | {"batch_size": max(1, min(16, num // 256))}
    if num < 500_000:
        # All 94,275 characters: 1.618. With a cosine 1.664; then, without dropout 1.699, by a GRU
        # 1.722.
        return text
    # As the preset "text", for a million characters of plays, read three times: 1.539 in windows of
    # 256. With a cosine, no average and 900 steps: 1.616; with an average over a share of 0.18 of
    # 900 steps at a constant rate: 1.580.
    return text | {"dropout": 0.0, "steps": 1_350}
