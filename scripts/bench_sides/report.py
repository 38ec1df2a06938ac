"""What the bench prints: the machine, and a table of all measurements."""

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import NamedTuple


class Line(NamedTuple):
    """The measurements of one side at one work."""

    work: str
    side: str
    unit: str
    rates: Sequence[float]
    """One for each round, in units per second; for whole programs, seconds."""
    compile_seconds: float
    peak_memory: float
    """Peak memory of the process, in megabytes."""
    share: float | None = None
    """Floating-point operations per second, as a share of those of a large matrix product."""
    shown: float | None = None
    """A loss or a length, by which to see that the sides did equal work."""
    shown_as: str = ""
    """Unit of `shown`."""


def describe_machine() -> str:
    """The processor, and the versions of the libraries, in one line."""
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
    """A table with a line for each side of each work, and the ratio of dinojax's rate to its."""
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
    """A number with four digits, or a whole number if it is 1,000 or more."""
    return f"{value:,.0f}" if value >= 1_000 else f"{value:#.4g}"
