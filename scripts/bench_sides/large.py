"""The bench's works on a text that is larger than memory: it is generated, prepared and removed.

Preparing, and the start of a run, are whole programs. The speed of training is that of this text
beside a small one in memory: the two sides take turns.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

SIZE, SMALL_SIZE, TINY_SIZE = 10**9, 10**7, 2 * 10**6
"""Characters of the large text and of the small one; of both in a trial of the bench itself."""
STEPS, TINY_STEPS = 400, 4
SETTINGS = {"hidden_size": 128, "batch_size": 32, "window": 64, "devices": 1}
LARGE, SMALL = "prepared", "in memory"


class Figures(NamedTuple):
    """What was measured."""

    characters: int
    prepare_seconds: float
    first_step_seconds: float
    """From the shell prompt to the end of a run of one step, of prepared data."""
    memory_above_jax: float
    """Megabytes of that run above those of the same run of a small text."""
    relative_speeds: list[float]
    """Steps a second on the large text, divided by those on a small one in memory; a round each."""


def write_text(file: Path, size: int) -> None:
    """Write a text of random words and lines."""
    generator = np.random.default_rng(0)
    with file.open("wb") as stream:
        for first in range(0, size, 2**24):
            letters = generator.integers(ord("a"), ord("z"), min(2**24, size - first), np.uint8)
            letters[::7], letters[::70] = ord(" "), ord("\n")
            stream.write(letters.tobytes())


def measure(
    time_program: Callable[[list[str], dict[str, str]], tuple[float, float]],
    sides: tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]],
    folder: Path,
    *,
    rounds: int,
    is_tiny: bool,
) -> Figures:
    """Measure in `folder`, which takes two bytes for each character of the large text.

    `sides` are functions of the bench that start a side, ask it and end it.
    """
    start, ask, end = sides
    size = TINY_SIZE if is_tiny else SIZE
    files = {LARGE: folder / "large.txt", SMALL: folder / "small.txt"}
    write_text(files[LARGE], size)
    write_text(files[SMALL], min(size, SMALL_SIZE))
    cache = {"XDG_CACHE_HOME": str(folder / "cache")}

    def program(name: str, *words: str) -> tuple[float, float]:
        return time_program(["-m", "dinojax", name, "text", *words], cache)

    def first_step(side: str) -> tuple[float, float]:
        settings = [x for n, v in SETTINGS.items() for x in (f"--{n.replace('_', '-')}", str(v))]
        out = ["--steps", "1", "--out", str(folder / side), "--overwrite"]
        return program("train", "--data", str(files[side]), *settings, *out)

    prepare_seconds, _ = program("prepare", "--data", str(files[LARGE]))
    first_step(SMALL)
    (_, small_memory), (seconds, memory) = first_step(SMALL), first_step(LARGE)
    steps = TINY_STEPS if is_tiny else STEPS
    given = {"steps": steps, "cache": cache["XDG_CACHE_HOME"]}
    processes = {
        x: start("bench_sides.large", given | {"file": str(files[x]), "side": x}) for x in files
    }
    for side, process in processes.items():
        ask(process, side)
    ratios = []
    for _ in range(rounds):
        taken = {side: ask(process, side, "again") for side, process in processes.items()}
        ratios.append(taken[SMALL] / taken[LARGE])
    for process in processes.values():
        end(process)
    return Figures(size, prepare_seconds, seconds, memory - small_memory, ratios)


def report(figures: Figures) -> str:
    """The figures as lines of text."""
    low, high = min(figures.relative_speeds), max(figures.relative_speeds)
    return "\n".join(
        [
            f"A text of {figures.characters / 1e6:,.0f} million characters",
            f"  prepared in {figures.prepare_seconds:.1f} s",
            f"  a run of one step: {figures.first_step_seconds:.1f} s from shell prompt to end",
            f"  memory above the same run of a small text: {figures.memory_above_jax:,.0f} MB",
            f"  speed relative to a small text in memory: {median(figures.relative_speeds):.2f} "
            f"({low:.2f} .. {high:.2f})",
        ]
    )


def main() -> None:
    """One side: train on the text that is given as JSON in the first argument, round by round."""
    given = json.loads(sys.argv[1])
    os.environ["XDG_CACHE_HOME"] = given["cache"]
    for answer in train(Path(given["file"]), given["steps"], given["side"] == LARGE):
        print(json.dumps(answer), flush=True)
        if not sys.stdin.readline():
            break


def train(file: Path, steps: int, is_large: bool) -> Iterator[float]:
    """Prepare and warm up; then yield the seconds of each round of so many steps."""
    from dinojax import startup
    from dinojax.config import resolve
    from dinojax.data.prepared import finished
    from dinojax.data.reading import read

    startup.start_jax(1)
    from dinojax.runs.description import describe
    from dinojax.runs.experiment import make_experiment
    from dinojax.training import loop

    size = 0 if is_large else 2**40
    corpus = finished(read([file], is_text=True, lowercase=False, in_memory=size))
    config = resolve("text", given={**SETTINGS, "steps": 10**9, "validation_fraction": 0.0})
    experiment = make_experiment(*describe(config, corpus.data, sha256=corpus.sha256))
    progress = loop.run(
        experiment.train_step, experiment.initial_state(None), experiment.dataset, steps=10**9
    )

    def take(num: int) -> float:
        started, done = time.perf_counter(), 0
        while done < num:
            done += len(next(progress).losses)
        # Calls grow, so that a round may take some steps more.
        return (time.perf_counter() - started) / done

    take(2 * steps)
    while True:
        yield take(steps)


if __name__ == "__main__":
    main()
