"""All checks of this machine, in the order in which they are reported."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from dinojax.config import CellName, TrainConfig
from dinojax.doctor import machine
from dinojax.doctor.machine import Finding, without_home
from dinojax.startup import num_cores, start_jax

Check = Callable[[], Iterable[Finding]]
"""Makes one finding or several."""


def examine(start: Callable[[], None] = start_jax) -> Iterator[Finding]:
    """What there is on this machine, whether it computes what it should, and how fast.

    `start` starts JAX, unless it has started, and raises a ValueError if it cannot; then the rest
    is left out. A check that raises an error is a fault that says why. All take about ten seconds,
    or five where compiled programs are found in the cache; nothing else is left on disk.
    """
    yield from _tried("versions", lambda: [machine.find_versions(), *machine.check_packages()])
    try:
        start()
    except (ValueError, ImportError) as error:
        yield Finding("JAX", "fault", without_home(" ".join(str(error).split())))
        yield machine.find_settings()
        return
    yield from _tried("machine", _look_around)
    checks = list(_computations())
    # Most of the time is spent in compiling, which threads share.
    with ThreadPoolExecutor(num_cores()) as pool:
        for findings in pool.map(lambda check: list(_tried(*check)), checks):
            yield from findings
    from dinojax.doctor.speed import measure_speeds

    yield from _tried("speed", measure_speeds)


def _look_around() -> Iterator[Finding]:
    import jax

    from dinojax.runs.memory import machine_memory

    yield machine.find_machine(machine_memory())
    yield machine.find_settings()
    yield machine.find_devices()
    yield machine.check_accelerator(jax.default_backend(), os.environ.get("JAX_PLATFORMS"))
    yield machine.check_cache()


def _computations() -> Iterator[tuple[str, Check]]:
    """The name of each check of computations, and the check."""
    from dinojax.doctor import computations, gradients
    from dinojax.runs.description import build_model

    names, vocab = computations.some_names()

    def check_cell(cell: CellName) -> Iterator[Finding]:
        # The first layer reads ids, the second one vectors.
        config = TrainConfig(cell=cell, num_layers=2, hidden_size=gradients.HIDDEN_SIZE)
        yield gradients.check_cell(cell, build_model(config, vocab), vocab, names)

    def check_repeats() -> Iterator[Finding]:
        yield computations.check_repeats(computations.training_twice(vocab, names))

    def check_checkpoint() -> Iterator[Finding]:
        with TemporaryDirectory() as folder:
            yield computations.check_checkpoint(Path(folder))

    for cell in get_args(CellName):
        yield f"cell {cell}", partial(check_cell, cell)
    yield "same seed twice", check_repeats
    yield "sampling", computations.check_samplings
    yield "checkpoint", check_checkpoint


def _tried(name: str, check: Check) -> Iterator[Finding]:
    """The findings of a check, with the seconds that each took; an exception is a fault."""
    started = time.monotonic()
    try:
        for finding in check():
            seconds = time.monotonic() - started
            yield finding._replace(seconds=round(seconds, 3))
            started = time.monotonic()
    # Whatever goes wrong is what the user wants to know.
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        yield Finding(name, "fault", f"the check failed: {without_home(said)}")
