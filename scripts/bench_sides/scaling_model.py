"""How training scales beyond this machine: computed for many accelerators, from assumptions."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench_sides.work import VOCAB_SIZE, WINDOW

WIDTHS, COUNTS = (256, 1024, 4096), (8, 64, 512)
"""What is computed: hidden units, and numbers of accelerators."""


class Accelerator(NamedTuple):
    """What a step on many accelerators is computed from. These are assumptions, not measured."""

    operations: float = 100e12
    """Floating-point operations a second that products of matrices reach."""
    time_step_seconds: float = 16e-6
    """Least time for one character of all rows, forward and backward: launches of kernels."""
    bandwidth_within: float = 300e9
    """Bytes a second between accelerators of one host, each way."""
    bandwidth_between: float = 50e9
    """Bytes a second of each accelerator between hosts, each way."""
    latency_within: float = 5e-6
    """Seconds of one message within a host."""
    latency_between: float = 20e-6
    """Seconds of one message between hosts."""
    per_host: int = 8
    """Accelerators of one host."""


class Computed(NamedTuple):
    """A step of an LSTM on many accelerators, by `step_costs`."""

    accelerators: int
    hidden_size: int
    megabytes: float
    """Of the gradients that are added up once a step."""
    communication_ms: float
    shortest_ms: float
    """The time that computing takes with one row on each accelerator."""
    rows_to_hide: int
    """Rows on each accelerator from which computing takes longer than communication."""


def num_parameters(hidden_size: int, vocab_size: int = VOCAB_SIZE) -> int:
    """Parameters of an LSTM with one layer and its readout."""
    gates = 4 * hidden_size * (vocab_size + hidden_size + 1)
    return gates + vocab_size * (hidden_size + 1)


def step_costs(
    num: int, hidden_size: int, rows: int, machine: Accelerator, window: int = WINDOW
) -> tuple[float, float]:
    """Seconds of computing and of communication of a step, with `rows` on each of `num` devices.

    Computing is `window` times the longer of a time step's launches and its operations, six for
    each parameter and row. Gradients are added up first within each host, then between hosts by a
    ring, then spread within: 2 (n - 1) / n of their bytes pass each link, in log2(n) messages there
    and back.
    """
    num_params = num_parameters(hidden_size)
    compute = window * max(machine.time_step_seconds, 6 * num_params * rows / machine.operations)
    within, between = min(num, machine.per_host), max(1, num // machine.per_host)
    seconds = 0.0
    size = 4.0 * num_params
    for count, bandwidth, latency in (
        (within, machine.bandwidth_within, machine.latency_within),
        (between, machine.bandwidth_between, machine.latency_between),
    ):
        seconds += 2 * (count - 1) / count * size / bandwidth
        seconds += 2 * math.ceil(math.log2(count)) * latency
        # Each accelerator of a host sends its own share to the other hosts.
        size /= count
    return compute, seconds


def compute_all(machine: Accelerator) -> Iterator[Computed]:
    """A step of each width on each number of accelerators."""
    for num in COUNTS:
        for hidden_size in WIDTHS:
            shortest, communication = step_costs(num, hidden_size, 1, machine)
            rows = 1
            while step_costs(num, hidden_size, rows, machine)[0] < communication:
                rows += 1
            size = 4e-6 * num_parameters(hidden_size)
            yield Computed(num, hidden_size, size, 1e3 * communication, 1e3 * shortest, rows)


def report(computed: Sequence[Computed], machine: Accelerator) -> str:
    """A table of what was computed, and of what it assumes."""
    assumed = ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in machine._asdict().items())
    found = [
        f"Computed, not measured, for accelerators with {assumed} (per second, seconds, bytes)",
        f"{'accelerators':>12}{'units':>8}{'MB a step':>11}{'communication ms':>18}"
        f"{'computing ms, 1 row':>21}{'bound by communication':>24}",
    ]
    for line in computed:
        bound = f"below {line.rows_to_hide:,} rows each" if line.rows_to_hide > 1 else "never"
        found.append(
            f"{line.accelerators:>12}{line.hidden_size:>8,}{line.megabytes:>11.1f}"
            f"{line.communication_ms:>18.2f}{line.shortest_ms:>21.2f}{bound:>24}"
        )
    return "\n".join(found)
