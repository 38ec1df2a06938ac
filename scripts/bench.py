"""Compare the speed of dinojax with NumPy and PyTorch on this machine; see --help.

Each side of each work is a process (see `bench_sides`). The sides take turns: in every round each
does its work once while the others wait, so that other load on the machine slows all of them alike.
A slower side gets less work of the same kind, as losses and lengths of names show. Compilation is
timed separately. Characters include the newline that ends each name.
"""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from dinojax.__main__ import interrupt
from dinojax.cli.arguments import Parser, output_file, path, whole_number
from dinojax.cli.terminal import Program, json_encoder, run
from dinojax.config import check_range
from dinojax.presets import PRESETS

from bench_sides.report import Line, describe_machine, table

SCRIPTS = Path(__file__).resolve().parent
TESTS = SCRIPTS.parent / "tests"
OPENBLAS_VARIABLES = "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"
TINY_STEPS = 500


def parse_arguments() -> tuple[Parser, Namespace]:
    """Read the command line; returns the parser, for reporting errors, and the arguments."""
    # This imports NumPy, which reads the environment that main has changed.
    from dinojax.data.corpus import bundled_names

    parser = Parser(
        Program("bench", __file__),
        "Measure dinojax against the exercise's own loop in NumPy, and against PyTorch where it is "
        "installed, on this machine.",
    )
    add = parser.add_argument
    text = "UTF-8 file of names, one a line (default: %(default)s)"
    add("--data", type=path, default=bundled_names(), help=text)
    text = "how often each side does its work (default: %(default)s)"
    add("--rounds", type=whole_number, default=5, help=text)
    add("--json", type=path, metavar="FILE", help="also write all figures to this file")
    text = "only the works that show what an accelerator gives, with bfloat16 beside float32"
    add("--device", action="store_true", help=text)
    text = "measure instead how training scales over processes and devices, and compute it beyond"
    add("--scaling", action="store_true", help=text)
    text = "measure instead how a gigabyte of text, or ten million names, are prepared and learned"
    add("--large", choices=("text", "names"), help=text)
    add("--tiny", action="store_true", help="little work, only to see that all of it runs")
    arguments = parser.parse_args(sys.argv[1:])
    with parser.reported_errors():
        check_range("--rounds", arguments.rounds, 1, 1_000)
    return parser, arguments


def main() -> int:
    """Measure and print the table; returns the exit code."""
    removed = [name for name in OPENBLAS_VARIABLES if os.environ.pop(name, None) is not None]
    parser, arguments = parse_arguments()
    from dinojax.data.corpus import read_names
    from dinojax.data.vocab import build_vocab
    from dinojax.files import write_atomically

    with parser.reported_errors():
        names = read_names(arguments.data).data
        if "\t" in "".join(names):
            raise ValueError(
                f"{arguments.data}: a name holds a tab, which the NumPy loop cannot read"
            )
        if arguments.json:
            arguments.json = output_file("--json", arguments.json)
    machine = describe_machine()
    print(machine)
    if removed:
        print(f"Without {' and '.join(removed)}, which may force a slow kernel on NumPy")
    if not find_spec("torch") and not (arguments.scaling or arguments.large):
        print("PyTorch is not installed: its rows are missing; pip install torch")
    sys.stdout.flush()

    def save(log: Mapping[str, Any]) -> None:
        if arguments.json:
            content = json_encoder(indent=1)({"machine": machine, **log})
            write_atomically(arguments.json, f"{content}\n".encode())

    if arguments.scaling:
        from bench_sides import scaling, scaling_model

        take = start_side, ask, end_side
        measured = list(scaling.measure(*take, arguments.rounds, arguments.tiny))
        assumed = scaling_model.Accelerator()
        computed = list(scaling_model.compute_all(assumed))
        print(f"{scaling.report(measured)}\n\n{scaling_model.report(computed, assumed)}")
        save(
            {
                "measured": [line._asdict() for line in measured],
                "computed": [line._asdict() for line in computed],
                "assumed": assumed._asdict(),
            }
        )
        return 0
    if arguments.large:
        from bench_sides import large

        how = {"rounds": arguments.rounds, "is_tiny": arguments.tiny}
        sides = start_side, ask, end_side
        with TemporaryDirectory() as folder:
            figures = large.measure(arguments.large, time_program, sides, Path(folder), **how)
        print(large.report(figures))
        save(figures._asdict())
        return 0
    with TemporaryDirectory() as folder:
        lines = []
        for line in measure(arguments, Path(folder), build_vocab(names).size):
            lines.append(line)
            # At once, so that what was measured outlives an interrupt.
            save({"lines": [each._asdict() for each in lines]})
    print(table(lines))
    return 0


def measure(arguments: Namespace, folder: Path, vocab_size: int) -> Iterator[Line]:
    """Measure whole programs, which also train the run that some works read, and then each work."""
    from tqdm import tqdm

    from bench_sides import work as works

    trained = folder / "run"
    yield from time_programs(arguments, trained)
    product_rate = 0.0
    names = works.ON_DEVICES if arguments.device else works.WORKS
    for name in tqdm(names, "works", leave=False, disable=None):
        work, sides = works.WORKS[name], works.sides_of(name, arguments.device)
        sides = [side for side in sides if side != works.PYTORCH or find_spec("torch")]
        tasks = [
            works.Task(
                side,
                name,
                works.amount_of(name, side, arguments.tiny, arguments.device),
                arguments.data,
                trained,
                folder / f"{name}.npz",
                works.TINY_COMPARED if arguments.tiny else work.compared,
                arguments.tiny,
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
                operations = works.operations_per_character(work, size, side, arguments.tiny)
                share = operations * a_second / product_rate
            shown = rounds[0]["shown"]
            figures = rates, compile_seconds, peak_memory, share, shown
            yield Line(name, side, work.unit, *figures, work.shown)


def time_sides(
    tasks: Sequence[Any], num_rounds: int
) -> Iterator[tuple[str, float, list[Mapping[str, float]], float]]:
    """Let the sides of a work take turns; yields side, seconds to compile, rounds, peak memory."""
    processes: list[subprocess.Popen[str]] = []
    prepared, rounds = [], [[] for _ in tasks]  # type: list[float], list[list[Any]]
    with ExitStack() as stack:
        for task in tasks:
            processes.append(stack.enter_context(start_side("bench_sides.process", task._asdict())))
            stack.callback(processes[-1].kill)
            prepared.append(ask(processes[-1], task.side))
        for _ in range(num_rounds):
            for task, process, done in zip(tasks, processes, rounds, strict=True):
                done.append(ask(process, task.side, "again"))
        for task, process, seconds, done in zip(tasks, processes, prepared, rounds, strict=True):
            yield task.side, seconds, done, end_side(process)


def start_side(module: str, given: Any) -> subprocess.Popen[str]:
    """Start one side's process: a module, which is given something as JSON."""
    paths = [str(SCRIPTS), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # Otherwise the first side would take most of the memory of a GPU.
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return subprocess.Popen(
        [sys.executable, "-m", module, json.dumps(given, default=str)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def ask(process: "subprocess.Popen[str]", side: str, line: str = "") -> Any:
    """Send `line`, if there is one, to a side's process; returns its next answer."""
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
    """End a side's process; returns its peak memory in megabytes."""
    assert process.stdin
    process.stdin.close()
    return wait(process)


def wait(process: "subprocess.Popen[str]") -> float:
    """Wait for a process to end; returns its peak memory in megabytes, NaN on Windows."""
    if not hasattr(os, "wait4"):
        process.wait()
        return float("nan")
    # Unlike Popen.wait, os.wait4 returns the resources used by this child.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def time_programs(arguments: Namespace, trained: Path) -> Iterator[Line]:
    """Time whole programs, from the shell prompt to the last line."""
    from tqdm import tqdm

    # On a device the run is only there to sample from: its steps are too small to gain from one.
    is_short = arguments.tiny or arguments.device
    steps = TINY_STEPS if is_short else PRESETS["dinos"].steps
    data = ["--data", str(arguments.data), "--steps", str(steps)]
    train = [str(SCRIPTS / "train.py"), *data, "--out", str(trained), "--overwrite"]
    sample = [str(SCRIPTS / "sample.py"), str(trained), "--num", "1"]
    found = {"train.py, nothing compiled yet": [time_with_empty_cache(train)]}
    programs = {"train.py": train, "sample.py, one name": sample}
    if arguments.device:
        found = {"sample.py, nothing compiled yet": [time_with_empty_cache(sample)]}
        # No program that uses the device starts faster than this one.
        import_jax = ["-c", "import jax; jax.devices()"]
        programs = {"sample.py, one name": sample, "import jax, find devices": import_jax}
    for _ in tqdm(range(arguments.rounds), "programs", leave=False, disable=None):
        for side, program in programs.items():
            found.setdefault(side, []).append(time_program(program))
    for side, figures in found.items():
        seconds, memory = zip(*figures, strict=True)
        yield Line("from shell prompt to end", side, "seconds", seconds, 0.0, max(memory))


def time_with_empty_cache(arguments: Sequence[str]) -> tuple[float, float]:
    """`time_program` where nothing is compiled yet."""
    with TemporaryDirectory() as empty_cache:
        return time_program(arguments, {"XDG_CACHE_HOME": empty_cache})


def time_program(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[float, float]:
    """Run Python with these arguments; returns wall seconds and peak memory in megabytes."""
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


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupt)
    run(Program("bench", __file__), main)
