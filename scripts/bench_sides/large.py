"""The bench's works on data that are prepared: a text and a list of names, which it generates.

Preparing, and the start of a run, are whole programs. The speed of training is that on these data
beside small ones in memory: the two sides take turns.
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

SIZES = {"text": (10**9, 10**7), "names": (10**7, 10**5)}
"""Characters of a large text and of a small one, and names of the lists."""
TINY_SIZES = {"text": 2 * 10**5, "names": 2 * 10**4}
"""Of both in a trial of the bench itself."""
STEPS, TINY_STEPS = 400, 4
SETTINGS = {"hidden_size": 128, "batch_size": 32, "window": 64, "devices": 1}
LARGE, SMALL = "prepared", "in memory"


class Figures(NamedTuple):
    """What was measured on data of one kind."""

    kind: str
    size: int
    """Number of characters of the text, or of names."""
    prepare_seconds: float
    first_step_seconds: float
    """From the shell prompt to the end of a run of one step, of prepared data."""
    memory_above_jax: float
    """Megabytes of that run above those of the same run of small data."""
    relative_speeds: list[float]
    """Steps a second on the large data, divided by those on small ones in memory; a round each."""


def write_names(file: Path, size: int) -> None:
    """Write names of 3 to 12 random letters."""
    generator = np.random.default_rng(0)
    with file.open("wb") as stream:
        for first in range(0, size, 2**20):
            lengths = generator.integers(3, 13, min(2**20, size - first))
            ends = np.cumsum(lengths + 1) - 1
            letters = generator.integers(ord("a"), ord("z"), ends[-1] + 1, np.uint8, endpoint=True)
            letters[ends] = ord("\n")
            stream.write(letters.tobytes())


def write_text(file: Path, size: int) -> None:
    """Write a text of random words and lines."""
    generator = np.random.default_rng(0)
    with file.open("wb") as stream:
        for first in range(0, size, 2**24):
            letters = generator.integers(ord("a"), ord("z"), min(2**24, size - first), np.uint8)
            letters[::7], letters[::70] = ord(" "), ord("\n")
            stream.write(letters.tobytes())


WRITERS = {"text": write_text, "names": write_names}


def measure(
    kind: str,
    time_program: Callable[[list[str], dict[str, str]], tuple[float, float]],
    sides: tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]],
    folder: Path,
    *,
    rounds: int,
    is_tiny: bool,
) -> Figures:
    """Measure data of a kind, "text" or "names", in `folder`, which takes some two gigabytes.

    `sides` are functions of the bench that start a side, ask it and end it.
    """
    start, ask, end = sides
    size, small_size = [TINY_SIZES[kind]] * 2 if is_tiny else SIZES[kind]
    files = {side: folder / f"{kind} {side}.txt" for side in (LARGE, SMALL)}
    WRITERS[kind](files[LARGE], size)
    WRITERS[kind](files[SMALL], small_size)
    cache = {"XDG_CACHE_HOME": str(folder / "cache")}

    def program(name: str, *words: str) -> tuple[float, float]:
        return time_program(["-m", "dinojax", name, kind, *words], cache)

    def first_step(side: str) -> tuple[float, float]:
        settings = [x for n, v in SETTINGS.items() for x in (f"--{n.replace('_', '-')}", str(v))]
        out = ["--steps", "1", "--out", str(folder / side), "--overwrite"]
        return program("train", "--data", str(files[side]), *settings, *out)

    prepare_seconds, _ = program("prepare", "--data", str(files[LARGE]))
    first_step(SMALL)
    (_, small_memory), (seconds, memory) = first_step(SMALL), first_step(LARGE)
    steps = TINY_STEPS if is_tiny else STEPS
    given = {"kind": kind, "steps": steps, "cache": cache["XDG_CACHE_HOME"]}
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
    return Figures(kind, size, prepare_seconds, seconds, memory - small_memory, ratios)


def report(figures: Figures) -> str:
    """The figures as lines of text."""
    low, high = min(figures.relative_speeds), max(figures.relative_speeds)
    things = {"text": "A text of {} million characters", "names": "A list of {} million names"}
    return "\n".join(
        [
            things[figures.kind].format(f"{figures.size / 1e6:,g}"),
            f"  prepared in {figures.prepare_seconds:.1f} s",
            f"  a run of one step: {figures.first_step_seconds:.1f} s from shell prompt to end",
            f"  memory above the same run of small data: {figures.memory_above_jax:,.0f} MB",
            f"  speed relative to small data in memory: {median(figures.relative_speeds):.2f} "
            f"({low:.2f} .. {high:.2f})",
        ]
    )


def main() -> None:
    """One side: train on the data that are given as JSON in the first argument, round by round."""
    given = json.loads(sys.argv[1])
    os.environ["XDG_CACHE_HOME"] = given["cache"]
    for answer in train(given["kind"], Path(given["file"]), given["steps"], given["side"] == LARGE):
        print(json.dumps(answer), flush=True)
        if not sys.stdin.readline():
            break


def train(kind: str, file: Path, steps: int, is_large: bool) -> Iterator[float]:
    """Prepare and warm up; then yield the seconds of each round of so many steps."""
    from dinojax import startup
    from dinojax.data.prepared import finished
    from dinojax.data.reading import read
    from dinojax.presets import resolve

    startup.start_jax(1)
    from dinojax.runs.description import describe
    from dinojax.runs.experiment import make_experiment
    from dinojax.training import loop

    size = 0 if is_large else 2**40
    config = resolve(kind, given={**SETTINGS, "steps": 10**9, "validation_fraction": 0.0})
    is_text, lowercase = config.is_text, config.lowercase
    corpus = finished(read([file], is_text=is_text, lowercase=lowercase, in_memory=size))
    described = describe(config, corpus.data, keep_window=True, sha256=corpus.sha256)
    experiment = make_experiment(*described)
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
