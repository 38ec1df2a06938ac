"""Run the parts of a check of a device, each under a time limit; check_device.sh says how."""

import argparse
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from dinojax.data.corpus import bundled_names, read_names
from dinojax.files import write_atomically
from dinojax.presets import PRESETS
from dinojax.startup import num_cores

from bench_sides.work import BATCH_SIZE, WINDOW

ROOT = Path(__file__).resolve().parents[1]
SUBJECTS = (
    "cells", "linear_cells", "recurrence", "fused", "model", "train", "bfloat16", "stack", "sample",
    "stream", "score", "checkpoint",
)  # fmt: skip
"""The tests that say something about a device."""
OF_SEVERAL_DEVICES = "not devices and not as_many_keys"
NUM_CHARACTERS = 1_000_000
"""About the length of the text for text-best where none is given."""
TAIL = 3_000
"""How much of what a part printed is kept, in characters."""
SECONDS = 350
"""Time limit of all parts together; a part that begins late gets what is left."""


class Part(NamedTuple):
    """One command, and what is read from what it printed and wrote."""

    command: Sequence[str]
    seconds: int
    """Its time limit."""
    read: Callable[[str], Any] = str.splitlines
    """The result, from standard output."""
    environment: Mapping[str, str] = {}


def main() -> int:
    """Run the parts that were asked for; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(description="See check_device.sh.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", metavar="PART", default=[])
    parser.add_argument("--text", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        parts = make_parts(Path(folder), arguments.text, arguments.rehearse)
        if unknown := set(arguments.only) - set(parts):
            parser.error(f"unknown part {', '.join(unknown)}; expected some of {', '.join(parts)}")
        chosen = {name: parts[name] for name in arguments.only or parts}
        return run_all(chosen, Path(folder), arguments.out, arguments.rehearse)


def make_parts(folder: Path, text: Path | None, rehearse: bool) -> dict[str, Part]:
    """The parts by name, in the order in which they run, in a `folder` of their own."""
    python, dinojax = sys.executable, [sys.executable, "-m", "dinojax"]
    few = (lambda *flags: flags) if rehearse else (lambda *_: ())
    text = text.resolve() if text else write_text(folder / "text.txt", rehearse)
    bench = [python, str(ROOT / "scripts" / "bench.py"), "--device", "--json", "bench.json"]
    best = [*dinojax, "train", "text-best", "--data", str(text), "--out", "best", "--no-refit"]
    return {
        "doctor": Part([*dinojax, "doctor", "--json"], 60, json.loads),
        "tests": Part(
            [python, "-m", "pytest", *test_arguments(rehearse)],
            100,
            count_tests,
            {"JAX_DEFAULT_MATMUL_PRECISION": "highest"},
        ),
        "train": Part(
            [*dinojax, "train", "--out", "dinos", "--max-minutes", "0.25", *few("--steps", "500")],
            35,
        ),
        "sample": Part([*dinojax, "sample", "dinos", "--num", "5", "--seed", "0"], 15),
        "score": Part([*dinojax, "score", "dinos", "--names", "tyrannosaurus", "xqzw"], 15),
        "bench": Part(
            [*bench, "--rounds", "3", *few("--rounds", "1", "--tiny")],
            170,
            lambda _: figures_of(json.loads((folder / "bench.json").read_text("utf-8"))),
        ),
        "text-best": Part(
            [*best, "--max-minutes", "1.5", *few("--steps", "8", "--hidden-size", "16")],
            120,
            lambda _: course_of(folder / "best" / "metrics.jsonl"),
        ),
    }


def test_arguments(rehearse: bool) -> list[str]:
    """What pytest runs and how: on several processes where pytest-xdist is installed."""
    files = [ROOT / "tests" / f"test_{subject}.py" for subject in SUBJECTS]
    found = [str(file) for file in files if file.exists()]
    workers = max(1, min(8, num_cores() // 2))
    spread = ["-n", str(workers)] if find_spec("xdist") else []
    options = ["--rootdir", str(ROOT), "-o", "addopts=", "-v", "-rfE", "--tb=line", "-W", "default"]
    only = "vanilla and not devices" if rehearse else OF_SEVERAL_DEVICES
    # A file that cannot be imported, for want of a package, does not keep the others from running.
    more = ["-p", "no:cacheprovider", "--continue-on-collection-errors"]
    return [*(found[:1] if rehearse else found), *options, *spread, *more, "-k", only]


def count_tests(output: str) -> dict[str, Any]:
    """How many tests passed and which failed, from what pytest printed until it ended."""
    test = r"(\S*tests/\S+?\.py(?:::\S.*?)?)"
    one = re.compile(rf"^(?:\[gw\d+\].*? (\w+) {test}\s*|{test} (\w+)\b.*)$", re.MULTILINE)
    results = [(a or d, b or c) for a, b, c, d in one.findall(output)]
    not_imported = re.findall(r"^ERROR (\S*tests/\S+?\.py)(?: - .*)?$", output, re.MULTILINE)
    return {
        "passed": sum(result == "PASSED" for result, _ in results),
        "skipped": sum(result == "SKIPPED" for result, _ in results),
        "failed": [test for result, test in results if result in ("FAILED", "ERROR")],
        "not_imported": not_imported,
    }


def figures_of(log: Mapping[str, Any]) -> dict[str, Any]:
    """The lines of the bench, with medians and, for training, milliseconds a step."""
    for line in log["lines"]:
        line["median"] = median(line["rates"])
        if line["unit"] == "characters" and line["work"].startswith("train "):
            line["step_milliseconds"] = 1e3 * BATCH_SIZE * WINDOW / line["median"]
    return {"machine": log["machine"], "lines": log["lines"]}


def course_of(metrics: Path) -> dict[str, Any]:
    """The last metrics of a run of text-best, and about how long all of its steps take."""
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    last = [line for line in lines if "event" not in line][-1]
    steps = PRESETS["text-best"].steps
    return {"last": last, "steps": steps, "seconds": last["seconds"] * steps / last["step"]}


def write_text(file: Path, is_short: bool) -> Path:
    """Names in a random order, as a text to train on, written to a file."""
    num = NUM_CHARACTERS // (20 if is_short else 1)
    names = random.Random(0).choices(read_names(bundled_names()).data, k=num // 10)
    file.write_text("\n".join(names), "utf-8")
    return file


def run_all(parts: Mapping[str, Part], folder: Path, out: Path, is_rehearsal: bool) -> int:
    """Run the parts in turn in `folder`, write the log to `out` after each, and print a line."""
    log: dict[str, Any] = {"rehearsal": is_rehearsal, "python": sys.version, "parts": {}}
    begun = time.monotonic()
    for name, part in parts.items():
        left = max(0, round(begun + SECONDS - time.monotonic()))
        found = run_part(part._replace(seconds=min(part.seconds, left)), folder)
        log["parts"][name] = found
        log["ok"] = all(part["ok"] for part in log["parts"].values())
        log["seconds"] = round(time.monotonic() - begun, 2)
        write_atomically(out, f"{json.dumps(log, indent=1)}\n".encode())
        said = "ok" if found["ok"] else "out of time" if found["timed_out"] else "FAILED"
        print(f"{name:10} {said:12} {found['seconds']:6.1f} s of {found['limit']}", flush=True)
    return 0 if log["ok"] else 1


def run_part(part: Part, folder: Path) -> dict[str, Any]:
    """Run one part; one that is out of time is ended, with all processes that it started."""
    outside = {"XDG_CACHE_HOME": str(folder / "cache"), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    begun, timed_out = time.monotonic(), False
    paths = folder / "stdout", folder / "stderr"
    with paths[0].open("wb") as output, paths[1].open("wb") as errors:
        process = subprocess.Popen(
            part.command,
            cwd=folder,
            env={**os.environ, **outside, **part.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            process.wait(part.seconds)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    said, complained = (path.read_text("utf-8", "replace") for path in paths)
    found = {
        "command": shlex.join(part.command),
        "environment": dict(part.environment),
        "seconds": round(time.monotonic() - begun, 2),
        "limit": part.seconds,
        "timed_out": timed_out,
        "code": process.returncode,
        "ok": process.returncode == 0,
        "errors": complained[-TAIL:],
    }
    try:
        found["result"] = part.read(said)
    # A part that was cut short may have written nothing, or half a line.
    except (OSError, ValueError, LookupError) as error:
        found |= {"ok": False, "unreadable": str(error), "output": said[-TAIL:]}
    if not found["ok"]:
        found["output"] = said[-TAIL:]
    return found


if __name__ == "__main__":
    sys.exit(main())
