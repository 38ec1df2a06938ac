"""Measure dinojax against what else one would use, on this machine; see --help.

Each side of each work is a process of its own (see `bench_sides`). They take turns: in every round
each does its work once, while the others wait, so that whatever else the machine does hurts all
alike. A slower side gets less work, but of the same kind: losses and lengths of names show that.
Compilation is timed apart. Characters include the newline that ends each name.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from dinojax.cli.arguments import Parser, path, whole_number
from dinojax.cli.terminal import Program, run
from dinojax.config import PRESETS, check_range
from dinojax.files import check_writable

SCRIPTS = Path(__file__).resolve().parent
TESTS = SCRIPTS.parent / "tests"
OPENBLAS_VARIABLES = "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"
TINY_STEPS = 500


class Line(NamedTuple):
    """What was measured of one side at one work."""

    work: str
    side: str
    unit: str
    rates: Sequence[float]
    """In units a second, round by round; of whole programs, seconds."""
    compile_seconds: float
    peak_memory: float
    """Of the process, in megabytes."""
    share: float | None = None
    """Of the floating-point operations a second that a large matrix product reaches."""
    shown: float | None = None
    """A loss or a length, as `shown_as` says."""
    shown_as: str = ""


def parse_arguments() -> tuple[Parser, Namespace]:
    """Read the command line: the parser, to report errors with, and its result."""
    # Not before main has cleared the environment: it imports NumPy.
    from dinojax.data.text import bundled_names

    parser = Parser(
        Program("bench", __file__),
        "Measure dinojax against the exercise's own loop in NumPy, and against PyTorch where it is "
        "installed, on this machine.",
    )
    add = parser.add_argument
    add("--data", type=path, default=bundled_names(), help="UTF-8 file of names, one a line")
    add("--rounds", type=whole_number, default=5, help="how often each side does its work")
    add("--json", type=path, metavar="FILE", help="also write all figures to this file")
    add("--tiny", action="store_true", help="little work, only to see that all of it runs")
    arguments = parser.parse_args(sys.argv[1:])
    with parser.reported_errors():
        check_range("--rounds", arguments.rounds, 1, 1_000)
    return parser, arguments


def main() -> int:
    """Measure and print the table; returns the exit code."""
    removed = [name for name in OPENBLAS_VARIABLES if os.environ.pop(name, None) is not None]
    parser, arguments = parse_arguments()
    from dinojax.data.text import read_names
    from dinojax.data.vocab import build_vocab

    with parser.reported_errors():
        names, _ = read_names(arguments.data)
        if "\t" in "".join(names):
            raise ValueError(
                f"{arguments.data}: a name holds a tab, which the NumPy loop cannot read"
            )
        if arguments.json:
            check_writable(arguments.json)
    machine = describe_machine()
    print(machine)
    if removed:
        print(f"Without {' and '.join(removed)}, which may force a slow kernel on NumPy")
    if not find_spec("torch"):
        print("PyTorch is not installed: its rows are missing; pip install torch")
    sys.stdout.flush()
    with TemporaryDirectory() as folder:
        lines = list(measure(arguments, Path(folder), build_vocab(names).size))
    print(table(lines))
    if arguments.json:
        from dinojax.files import write_atomically

        log = {"machine": machine, "lines": [line._asdict() for line in lines]}
        write_atomically(arguments.json, json.dumps(log, indent=1).encode() + b"\n")
    return 0


def measure(arguments: Namespace, folder: Path, vocab_size: int) -> Iterator[Line]:
    """Whole programs first, as one of them makes the run that the rest reads; then each work."""
    from tqdm import tqdm

    from bench_sides import work as works

    trained = folder / "run"
    yield from time_programs(arguments, trained)
    product_rate = 0.0
    for name, work in tqdm(works.WORKS.items(), "works", leave=False, disable=None):
        sides = [side for side in work.amounts if side != works.PYTORCH or find_spec("torch")]
        tasks = [
            works.Task(
                side,
                name,
                works.amount_of(name, side, arguments.tiny),
                arguments.data,
                trained,
                folder / f"{name}.npz",
                works.TINY_COMPARED if arguments.tiny else work.compared,
            )
            for side in sides
        ]
        size = works.VOCAB_SIZE if work.is_text else vocab_size
        for side, compile_seconds, rounds, peak_memory in time_sides(tasks, arguments.rounds):
            rates = [each["amount"] / each["seconds"] for each in rounds]
            if name == works.LARGE_PRODUCT:
                product_rate = median(rates)
                share = None
            else:
                a_second = median(each["characters"] / each["seconds"] for each in rounds)
                share = works.operations_per_character(work, size) * a_second / product_rate
            shown = rounds[0]["shown"]
            yield Line(
                name,
                side,
                work.unit,
                rates,
                compile_seconds,
                peak_memory,
                share,
                shown,
                work.shown,
            )


def time_sides(
    tasks: Sequence[Any], num_rounds: int
) -> Iterator[tuple[str, float, list[Mapping[str, float]], float]]:
    """Let the sides of a work take turns: of each, seconds to compile, rounds, peak memory."""
    processes: list[subprocess.Popen[str]] = []
    prepared, rounds = [], [[] for _ in tasks]  # type: list[float], list[list[Any]]
    with ExitStack() as stack:
        for task in tasks:
            processes.append(stack.enter_context(start_side(task)))
            stack.callback(processes[-1].kill)
            prepared.append(ask(processes[-1], task.side))
        for _ in range(num_rounds):
            for task, process, done in zip(tasks, processes, rounds, strict=True):
                done.append(ask(process, task.side, "again"))
        for task, process, seconds, done in zip(tasks, processes, prepared, rounds, strict=True):
            yield task.side, seconds, done, end_side(process)


def start_side(task: Any) -> subprocess.Popen[str]:
    """Start one side's process."""
    paths = [str(SCRIPTS), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.Popen(
        [sys.executable, "-m", "bench_sides.process", json.dumps(task._asdict(), default=str)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def ask(process: "subprocess.Popen[str]", side: str, line: str = "") -> Any:
    """What a side's process answers, to a line or by itself."""
    assert process.stdin
    assert process.stdout
    if line:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise OSError(f"the side {side} failed; what it said is above")
    return json.loads(answer)


def end_side(process: "subprocess.Popen[str]") -> float:
    """End a side's process; the most memory that it held, in megabytes."""
    assert process.stdin
    process.stdin.close()
    return wait(process)


def wait(process: "subprocess.Popen[str]") -> float:
    """Wait for the end of a process; the most memory that it held, in megabytes."""
    # Unlike Popen.wait, it tells what this one child used.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def time_programs(arguments: Namespace, trained: Path) -> Iterator[Line]:
    """Run whole programs, from the shell prompt to the last line."""
    from tqdm import tqdm

    steps = TINY_STEPS if arguments.tiny else PRESETS["dinos"].steps
    data = ["--data", str(arguments.data), "--steps", str(steps)]
    train = [str(SCRIPTS / "train.py"), *data, "--out", str(trained), "--overwrite"]
    sample = [str(SCRIPTS / "sample.py"), str(trained), "--num", "1"]
    with TemporaryDirectory() as empty_cache:
        first = time_program(train, {"XDG_CACHE_HOME": empty_cache})
    found: dict[str, list[tuple[float, float]]] = {"train.py": [], "sample.py, one name": []}
    for _ in tqdm(range(arguments.rounds), "programs", leave=False, disable=None):
        found["train.py"].append(time_program(train))
        found["sample.py, one name"].append(time_program(sample))
    found = {"train.py, nothing compiled yet": [first], **found}
    for side, figures in found.items():
        seconds, memory = zip(*figures, strict=True)
        yield Line("from shell prompt to end", side, "seconds", seconds, 0.0, max(memory))


def time_program(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[float, float]:
    """Run Python with these arguments: wall seconds, peak resident megabytes."""
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    ) as process:
        assert process.stderr
        try:
            errors = process.stderr.read()
            memory = wait(process)
        except KeyboardInterrupt:
            process.kill()
            raise
    seconds = time.perf_counter() - started
    if process.returncode:
        last_line = errors.strip().split("\n")[-1]
        raise OSError(f"{arguments[0]} failed: {last_line}")
    return seconds, memory


def describe_machine() -> str:
    """What the figures depend on, in one line."""
    import numpy as np

    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    cpu = model[1] if model else platform.processor() or platform.machine()
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    try:
        torch = f", PyTorch {version('torch')}"
    except PackageNotFoundError:
        torch = ""
    return (
        f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, JAX {version('jax')}, "
        f"NumPy {np.__version__} with {blas['name']} {blas['version']}{torch}"
    )


def table(lines: Sequence[Line]) -> str:
    """A line for each side of each work, with the ratio of dinojax to it, in aligned columns."""
    head = "side", "a second", "min .. max", "dinojax/it", "of product", "compile s", "MB", ""
    ours = {line.work: median(line.rates) for line in lines if line.side == "dinojax"}
    groups: dict[str, list[Sequence[str]]] = {}
    for line in lines:
        rate = median(line.rates)
        is_program = line.unit == "seconds"
        is_rival = not is_program and line.side != "dinojax"
        spread = f"{short(min(line.rates))} .. {short(max(line.rates))}"
        unit = "s" if is_program else line.unit
        cells = (
            line.side,
            f"{short(rate)}{' s' if is_program else ''}",
            spread,
            f"{ours[line.work] / rate:.2f}" if is_rival else "",
            "" if line.share is None else f"{line.share:.3f}",
            f"{line.compile_seconds:.1f}" if line.compile_seconds else "",
            f"{line.peak_memory:,.0f}",
            "" if line.shown is None else f"{line.shown:.4g} {line.shown_as}",
        )
        title = line.work if is_program else f"{line.work}: {unit} a second"
        groups.setdefault(title, []).append(cells)
    rows = [head, *(row for group in groups.values() for row in group)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def aligned(row: Sequence[str]) -> str:
        first, *numbers, last = row
        padded = [cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)]
        return "  ".join([first.ljust(widths[0]), *padded, last]).rstrip()

    found = [aligned(head)]
    for title, group in groups.items():
        found += [title, *map(aligned, group)]
    return "\n".join(found)


def short(value: float) -> str:
    """A figure to four places, whole from 1,000 on."""
    return f"{value:,.0f}" if value >= 1_000 else f"{value:#.4g}"


if __name__ == "__main__":
    run(Program("bench", __file__), main)
