"""Measure dinojax against the exercise's own loop in NumPy, on this machine; see --help.

In every round each side does its work once, one after the other, so that whatever else the machine
does hurts both alike. THE reference, to which ratios relate, is the exercise's way: NumPy, one
character at a time. It gets less work than dinojax, because it is slower, but of the same kind:
losses and lengths of names show that. Training is timed from step 1,000 on, compilation apart; its
characters include the newline that ends each name, those of sampling do not.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from dinojax.command_line import Parser, check_writable, path, run, whole_number
from dinojax.config import PRESETS, check_range
from dinojax.devices import start_jax

SCRIPTS = Path(__file__).resolve().parent
TESTS = SCRIPTS.parent / "tests"
OPENBLAS_VARIABLES = "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"
REFERENCE = "NumPy"
RECIPE = PRESETS["dinos"]
MAX_LENGTH = 50
LAST_LOSSES = 1_000
"""The mean of so many losses, up to the last step that both sides do, is shown for both."""

Figures = defaultdict[tuple[str, str, str], list[float]]
"""What was measured, one figure a round, by work, who did it, and unit."""


class Sizes(NamedTuple):
    """How much work a round is."""

    steps: int
    reference_steps: int
    names: int
    reference_names: int


FULL = Sizes(RECIPE.steps, 3_000, 100_000, 10_000)
TINY = Sizes(2_000, 200, 1_000, 100)


def parse_arguments() -> tuple[Parser, Namespace]:
    """Read the command line: the parser, to report errors with, and its result."""
    # Not before main has cleared the environment: it imports NumPy.
    from dinojax.data import bundled_names

    parser = Parser("Measure dinojax against the exercise's own loop in NumPy, on this machine.")
    add = parser.add_argument
    add("--data", type=path, default=bundled_names(), help="UTF-8 file of names, one a line")
    add("--rounds", type=whole_number, default=5, help="how often each side does its work")
    add("--json", type=path, metavar="FILE", help="also write all figures to this file")
    add("--tiny", action="store_true", help="little work, only to see that all of it runs")
    arguments = parser.parse_args()
    with parser.reported_errors():
        check_range("--rounds", arguments.rounds, 1, 1_000)
    return parser, arguments


def main() -> int:
    """Measure and print the table; returns the exit code."""
    removed = [name for name in OPENBLAS_VARIABLES if os.environ.pop(name, None) is not None]
    parser, arguments = parse_arguments()
    # The rival is the tests' oracle and no part of the package.
    sys.path.append(str(TESTS))
    from dinojax.data import read_names
    from dinojax.vocab import build_vocab

    import numpy_reference

    with parser.reported_errors():
        names, _ = read_names(arguments.data)
        if build_vocab(names).newline != numpy_reference.NEWLINE:
            raise ValueError(
                f"{arguments.data}: a name holds a tab, which the NumPy loop cannot read"
            )
        if arguments.json:
            check_writable(arguments.json)
    machine = describe_machine()
    print(machine)
    if removed:
        print(f"Without {' and '.join(removed)}, which may force a slow kernel on NumPy")
    sys.stdout.flush()

    sizes = TINY if arguments.tiny else FULL
    figures: Figures = defaultdict(list)
    # Before JAX is imported here: Linux gives a child a peak of no less than its parent's.
    time_programs(arguments.data, sizes, arguments.rounds, figures)
    with parser.reported_errors():
        start_jax()
    vocab, model, params = time_training(names, sizes, arguments.rounds, figures)
    time_sampling(vocab, model, params, sizes, arguments.rounds, figures)
    print_table(figures)
    if arguments.json:
        from dinojax.checkpoint import write_atomically

        fields = "work", "who", "unit", "figures"
        rows = [dict(zip(fields, (*row, all_), strict=True)) for row, all_ in figures.items()]
        log = {"machine": machine, "sizes": sizes._asdict(), "rows": rows}
        write_atomically(arguments.json, json.dumps(log, indent=1).encode() + b"\n")
    return 0


def time_programs(data: Path, sizes: Sizes, rounds: int, figures: Figures) -> None:
    """Run whole programs, from the shell prompt to the last line."""
    from tqdm import tqdm

    with TemporaryDirectory() as folder:
        out = str(Path(folder, "run"))
        train = [str(SCRIPTS / "train.py"), "--data", str(data), "--steps", str(sizes.steps)]
        numpy_alone = (
            f"import sys; sys.path += {[str(SCRIPTS), str(TESTS)]}; import bench; "
            f"bench.train_numpy_alone({str(data)!r}, {sizes.reference_steps})"
        )
        for i in tqdm(range(rounds), "programs", leave=False, disable=None):
            seconds, memory = time_program(*train, "--out", out, "--overwrite")
            if i == 0:
                figures["shell", "train.py, first round", "s"].append(seconds)
            figures["shell", "train.py", "s"].append(seconds)
            figures["peak memory", "dinojax, train.py", "MB"].append(memory)
            seconds, _ = time_program(str(SCRIPTS / "sample.py"), out, "--num", "20")
            figures["shell", "sample.py", "s"].append(seconds)
            _, memory = time_program("-c", numpy_alone)
            figures["peak memory", REFERENCE, "MB"].append(memory)


def time_program(*arguments: str) -> tuple[float, float]:
    """Run Python with these arguments: wall seconds, peak resident megabytes."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        try:
            errors = process.stderr.read()
            # Unlike Popen.wait, it tells what this one child used.
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        last_line = errors.strip().split("\n")[-1]
        raise OSError(f"{arguments[0]} failed: {last_line}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def train_numpy_alone(data: str, steps: int) -> None:
    """The reference as a program of its own, for its memory."""
    from dinojax.data import read_names
    from dinojax.vocab import build_vocab

    import numpy_reference as reference

    names, _ = read_names(Path(data))
    vocab = build_vocab(names)
    names_ids = [vocab.encode(name).tolist() for name in names]
    params = reference.exercise_params(vocab.size, RECIPE.hidden_size)
    order = [step % len(names) for step in range(steps)]
    train_reference(params, names_ids, order, reference.loss_and_gradients)


def train_dinojax(
    train_step: Any, start: Any, dataset: Any, steps: int
) -> tuple[Any, list[float], dict[int, float]]:
    """Train by the loop of scripts/train.py; the state, losses, and times when steps were done."""
    from dinojax import train

    losses: list[float] = []
    times = {0: time.perf_counter()}
    for state, new_losses, *_ in train.run(train_step, start, dataset, steps):
        losses += new_losses.tolist()
        times[int(state.step)] = time.perf_counter()
    return state, losses, times


def train_reference(params: Any, names_ids: Any, order: Any, gradients_of: Any) -> list[float]:
    """Train in NumPy by the recipe; returns the losses."""
    from numpy_reference import train

    rate, clip = RECIPE.learning_rate, RECIPE.clip_value
    return train(params, names_ids, order, rate, clip, False, 0.0, gradients_of=gradients_of)[2]


def time_training(
    names: Sequence[str], sizes: Sizes, rounds: int, figures: Figures
) -> tuple[Any, Any, Any]:
    """Train both ways from the same start, in the same order; returns vocab, model, parameters."""
    import jax
    import numpy as np
    from tqdm import tqdm

    from dinojax import runs, train
    from dinojax.batches import padded
    from dinojax.vocab import build_vocab

    import numpy_reference as reference

    vocab = build_vocab(names)
    dataset = padded(names, vocab)
    names_ids = [vocab.encode(name).tolist() for name in names]
    model = runs.build_model(RECIPE, vocab)
    optimizer = train.clipped_sgd(RECIPE.learning_rate, RECIPE.clip_value)
    train_step = train.make_train_step(model, optimizer)
    key_params, key_train = jax.random.split(jax.random.key(RECIPE.seed))
    start = train.init_train_state(
        key_train, model.init(key_params), model, optimizer, 1, smoothed_loss=0.0
    )
    epochs = range(-(-sizes.steps // len(names)))
    orders = [train.epoch_order(key_train, epoch, len(names)) for epoch in epochs]
    order = np.concatenate(orders)[: sizes.steps]
    numpy_params, reference_order = jax.device_get(start.params), order[: sizes.reference_steps]

    def record(who: str, order: Any, losses: list[float], seconds: float) -> None:
        figures["train", who, "steps/s"].append(len(order) / seconds)
        num_characters = float(dataset.examples.weights.sum(axis=0)[order].sum())
        figures["train", who, "characters/s"].append(num_characters / seconds)
        unit = f"nats a name, step {sizes.reference_steps:,}"
        figures["train", who, unit].append(fmean(losses[: sizes.reference_steps][-LAST_LOSSES:]))

    for _ in tqdm(range(rounds), "training", leave=False, disable=None):
        state, losses, times = train_dinojax(train_step, start, dataset, sizes.steps)
        # The first call runs one step; after CHUNK_SIZE steps begin the calls of full size.
        figures["train", "dinojax", "s to compile"].append(times[1] - times[0])
        seconds = times[sizes.steps] - times[train.CHUNK_SIZE]
        record("dinojax", order[train.CHUNK_SIZE :], losses, seconds)
        for who, gradients_of in (
            (REFERENCE, reference.loss_and_gradients),
            ("NumPy, batched over time", reference.tuned_loss_and_gradients),
        ):
            started = time.perf_counter()
            losses = train_reference(numpy_params, names_ids, reference_order, gradients_of)
            record(who, reference_order, losses, time.perf_counter() - started)
    return vocab, model, state.params


def time_sampling(
    vocab: Any, model: Any, params: Any, sizes: Sizes, rounds: int, figures: Figures
) -> None:
    """Write names with trained parameters: many in one call, or one after the other."""
    import jax
    import numpy as np
    from tqdm import tqdm

    from dinojax.sample import sample_names, stream_names

    import numpy_reference as reference

    def record(who: str, lengths: Sequence[int], seconds: float) -> None:
        figures["sample", who, "names/s"].append(len(lengths) / seconds)
        figures["sample", who, "characters/s"].append(sum(lengths) / seconds)
        figures["sample", who, "characters a name"].append(fmean(lengths))

    compiled = {}
    for sampler in stream_names, sample_names:
        started = time.perf_counter()
        fixed = {"model": model, "newline": vocab.newline, "num": sizes.names}
        jitted = jax.jit(sampler, static_argnames=(*fixed, "max_length"))
        who = f"dinojax, {sampler.__name__}"
        lowered = jitted.lower(jax.random.key(0), params, **fixed, max_length=MAX_LENGTH)
        compiled[who] = lowered.compile()
        figures["sample", who, "s to compile"].append(time.perf_counter() - started)

    numpy_params = jax.device_get(params)
    for seed in tqdm(range(rounds), "sampling", leave=False, disable=None):
        for who, write_names in compiled.items():
            started = time.perf_counter()
            lengths = np.asarray(write_names(jax.random.key(seed), params).lengths)
            seconds = time.perf_counter() - started
            record(who, lengths.tolist(), seconds)
        generator = np.random.default_rng(seed)
        started = time.perf_counter()
        names = reference.sample_names(numpy_params, generator, sizes.reference_names, MAX_LENGTH)
        seconds = time.perf_counter() - started
        record(REFERENCE, list(map(len, names)), seconds)


def describe_machine() -> str:
    """What the figures depend on, in one line."""
    import numpy as np

    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    cpu = model[1] if model else platform.processor() or platform.machine()
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return (
        f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, JAX {version('jax')}, "
        f"NumPy {np.__version__} with {blas['name']} {blas['version']}"
    )


def print_table(figures: Figures) -> None:
    """Print a line for each row, those to be compared together, in aligned columns."""
    lines = [("work", "who", "unit", "median", "min .. max", f"ratio to {REFERENCE}")]
    groups = list(dict.fromkeys((work, unit) for work, _, unit in figures))
    for work, who, unit in sorted(figures, key=lambda row: groups.index((row[0], row[2]))):
        values, reference = figures[work, who, unit], figures.get((work, REFERENCE, unit))
        spread = f"{short(min(values))} .. {short(max(values))}"
        ratio = f"{median(values) / median(reference):#.4g}" if reference else ""
        lines.append((work, who, unit, short(median(values)), spread, ratio))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        words, numbers = map(str.ljust, line[:3], widths), map(str.rjust, line[3:], widths[3:])
        print("  ".join((*words, *numbers)).rstrip())


def short(value: float) -> str:
    """A figure to four places, whole from 1,000 on."""
    return f"{value:,.0f}" if value >= 1_000 else f"{value:#.4g}"


if __name__ == "__main__":
    run(main)
