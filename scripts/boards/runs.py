"""The runs of a board, trained or taken up where they were stopped, and measured."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinojax import parallel
from dinojax.data.stored import Text
from dinojax.doctor.machine import find_devices
from dinojax.evaluation.compare import compare_text
from dinojax.evaluation.losses import summarize
from dinojax.files import atomic_file
from dinojax.models.trained import Trained
from dinojax.runs import folder as runs
from dinojax.runs.description import HELD_OUT, Parts
from dinojax.runs.metrics import read_metrics
from dinojax.runs.mixtures import character_nats
from dinojax.runs.ngrams import costs_of
from dinojax.runs.replica import Step, Task
from dinojax.runs.replica import train as train_replica
from dinojax.runs.speed import measured_rate
from dinojax.runs.sweep import DIVERGED, FAILED
from dinojax.sampling.accept import sample

from bench_sides.report import describe_machine
from boards.recipes import Planned

SIZE = 2_048
"""Rows and columns of the matrices whose product says how fast a machine is."""
SECONDS = 0.3
"""How long that is measured, before and after each training."""
NUM_NAMES, NUM_CHARACTERS = 1_000, 10_000
"""How many names are drawn to see how many are new, or characters to see how many are copied."""


def train(planned: Planned) -> Generator[Step | dict[str, Any]]:
    """Train a run, or what is left of it; yields its steps and, at last, its line of the board.

    The line of a run that diverged says why and has no figures. When the caller closes the
    generator, the run is saved as it is.

    Raises:
        ValueError: the run failed.
    """
    name, recipe, seed = planned.key
    line = {"data": name, "recipe": recipe, "seed": seed, **planned.identity}
    file, rate = planned.file, product_rate()
    how = planned.keep_window, file, file, planned.data_sha256
    task = Task(str(planned.folder), asdict(planned.config), *how)
    with closing(train_replica(task)) as coming:
        for event in coming:
            if isinstance(event, Step):
                yield event
            elif event.status == FAILED:
                raise ValueError(event.message)
            elif event.status == DIVERGED:
                yield line | {DIVERGED: event.message}
            else:
                yield line | measure(planned) | {"gflops": (rate + product_rate()) / 2}


def measure(planned: Planned) -> dict[str, Any]:
    """The figures of a finished run; what its held-out characters cost goes into their file."""
    run = runs.load_run(planned.folder)
    parts = {
        name: runs.read_part(run.folder, run.description, name) for name in ("train", *HELD_OUT)
    }
    nats = {name: character_nats(run.trained, parts[name]) for name in HELD_OUT}
    with atomic_file(planned.costs_file) as file:
        np.savez(file, validation=nats["validation"], test=nats["test"])
    last = read_metrics(planned.folder)[-1]
    return {
        "step": run.step,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.params)),
        **{name: dict(summarize(costs_of(nats[name], parts[name]))) for name in HELD_OUT},
        "share": share_of_samples(run.trained, parts, run.config.seed),
        "machine": f"{describe_machine()}; {find_devices().said}",
        "seconds": last["seconds"],
        "training_seconds": last["training_seconds"],
    }


def share_of_samples(trained: Trained, parts: Parts, seed: int) -> float:
    """The share of new ones among distinct names that a model draws, or of copies in a text.

    A new name is in no part of the list. Copied characters are in spans of 20 or more that are in
    the training text; see `copying`.
    """
    text = parts["train"]
    if isinstance(text, str | Text):
        found = compare_text(trained, text, "", NUM_CHARACTERS, seed=seed)
        return found.models[0].figures["share_copied"]
    drawn = set(sample(trained, NUM_NAMES, seed=seed).names)
    return len(drawn.difference(*parts.values())) / len(drawn)


def product_rate() -> float:
    """The speed of a product of large float32 matrices, in 10^9 operations a second.

    All devices share its rows.
    """
    mesh = parallel.make_mesh(parallel.num_available())
    product = jax.jit(parallel.spread(jnp.matmul, mesh, in_axes=(0, None), out_axes=0))
    matrix = jnp.ones((SIZE, SIZE))
    factors = [parallel.place(matrix, mesh, axis) for axis in (0, None)]

    def multiply() -> float:
        product(*factors).block_until_ready()
        return 2e-9 * SIZE**3

    multiply()
    return measured_rate(multiply, SECONDS)
