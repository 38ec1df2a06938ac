"""One of several processes that train every preset, and the same in a process of its own.

As a program: PORT NUM_PROCESSES PROCESS_ID DEVICES FOLDER.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

NAMES = [f"{a}{b}{c}" for a in ("ab", "cade", "gor") for b in ("", "ti", "lome") for c in "xyz"]
NAMES = [name + "saurus" * (i % 3) for i, name in enumerate(NAMES * 4)]
STEPS = 20
KINDS = "dinos", "names", "text", "text-best"
"""Presets of all kinds."""
SETTINGS = {"hidden_size": 12, "batch_size": 8, "steps": STEPS, "epochs": 0, "seed": 3}
PATIENT = SETTINGS | {
    "steps": 400, "evaluate_every": 5, "patience": 2, "validation_fraction": 0.3,
    "learning_rate": 0.5, "average_trigger": 1,
}  # fmt: skip


def train(preset, devices):
    """All arrays of a small run of a preset after some steps, and what was reported, by name."""
    from dinojax.parallel import gather, whole
    from dinojax.presets import PRESETS
    from dinojax.runs.checkpoint import named_leaves
    from dinojax.runs.description import describe
    from dinojax.runs.experiment import make_experiment
    from dinojax.runs.session import start, work

    config = replace(PRESETS[preset], **SETTINGS, devices=devices)
    config = replace(config, validation_fraction=0.2, evaluate_every=STEPS // 2, refit=False)
    config = replace(config, average_share=0.5 if preset == "names" else 0.0)
    data = "\n".join(NAMES) if config.is_text else NAMES
    experiment = make_experiment(*describe(config, data))
    state, tally = start(experiment, None)
    reports = [*work(experiment, state, tally)]
    state = whole(reports[-1].state)
    parts = {"params": state.params, "average": state.average, "recurrent": state.recurrent_state}
    arrays = named_leaves(gather(parts))
    losses = [each.validation_loss for each in reports if each.validation_loss is not None]
    return arrays | {"losses": np.array(losses)}


def main(port, num, number, devices, folder):
    from dinojax import processes, startup

    processes.join(processes.Cluster(f"127.0.0.1:{port}", num, number))
    startup.start_jax(devices // num)
    from dinojax.runs.session import train as train_library

    for preset in KINDS:
        arrays = train(preset, devices)
        if number == 0:
            # With "/" in a name, `savez` makes a folder in the archive.
            np.savez(folder / f"{preset}.npz", **arrays)
    said = {}
    run = folder / "run" if number == 0 else folder / "not made"
    said["patient"] = np.asarray(
        train_library(NAMES, folder=run, **PATIENT).params["readout"]["bias"]
    ).tolist()
    for what, names, settings in (
        ("data", NAMES[number:], {}),
        ("settings", NAMES, {"learning_rate": 0.1 + number}),
        ("rows", NAMES, {"batch_size": 7}),
        # The first process alone finds that it holds a run.
        ("folder", NAMES, {"folder": run}),
    ):
        try:
            train_library(names, **SETTINGS | settings)
        except ValueError as error:
            said[what] = str(error)
    try:
        with processes.together("software"):
            processes.compare("software", {"jax": f"0.1{number}"})
    except ValueError as error:
        said["versions"] = str(error)
    (folder / f"said-{number}.json").write_text(json.dumps(said))
    processes.leave()


if __name__ == "__main__":
    *numbers, out = sys.argv[1:]
    main(*map(int, numbers), Path(out))
