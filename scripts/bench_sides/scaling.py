"""How training scales over processes and devices of this machine.

As a program, this is one process of a layout. It trains an LSTM on a text, as the works for texts
do, by two kinds of step: one that adds up gradients over all devices, and one that does not. The
second takes the time of computing, and what the first takes more is communication.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, NamedTuple

from dinojax import processes, startup

from bench_sides.work import VOCAB_SIZE, WINDOW

HIDDEN_SIZE, ROWS, STEPS = 256, 64, 12
"""Units of the LSTM, rows of a batch of one device, steps of a round."""
TINY = 16, 8, 2
"""The same in a trial of the bench itself."""


class Layout(NamedTuple):
    """What one process of a layout is told."""

    kind: str
    """ "strong": the rows of one device, shared; "weak": as many rows for each device."""
    num_processes: int
    devices_each: int
    batch_size: int
    steps: int
    hidden_size: int


class Measured(NamedTuple):
    """What a layout did, by medians over rounds."""

    kind: str
    num_processes: int
    devices_each: int
    batch_size: int
    step_ms: float
    compute_ms: float
    communication_ms: float
    efficiency: float
    """Rows a second of each device, as a share of those of one device in one process."""


def num_devices(layout: Layout) -> int:
    """Devices of all processes."""
    return layout.num_processes * layout.devices_each


def layouts(num_cores: int, is_tiny: bool) -> list[Layout]:
    """All ways to lay out as many devices as cores, and fewer by powers of two."""
    hidden_size, rows, steps = TINY if is_tiny else (HIDDEN_SIZE, ROWS, STEPS)
    found = []
    for num in (2**i for i in range(num_cores.bit_length()) if 2**i <= num_cores):
        for num_processes in {1, num}:
            for kind in ("strong", "weak"):
                batch_size = rows if kind == "strong" else rows * num
                each = num // num_processes
                found.append(Layout(kind, num_processes, each, batch_size, steps, hidden_size))
    # One device is the measure of both kinds.
    return [
        each for each in found if each.kind == "strong" or (num_devices(each) > 1 and not is_tiny)
    ]


def measure(
    start: Callable[[str, Any], Any],
    ask: Callable[..., Any],
    end: Callable[[Any], Any],
    num_rounds: int,
    is_tiny: bool,
) -> Iterator[Measured]:
    """Have all layouts take turns for some rounds, by functions of the bench."""
    chosen = layouts(startup.num_cores(), is_tiny)
    with ExitStack() as stack:
        groups = []
        for layout in chosen:
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = server.getsockname()[1]
            group = []
            for number in range(layout.num_processes):
                given = layout, port, number
                group.append(stack.enter_context(start("bench_sides.scaling", given)))
                stack.callback(group[-1].kill)
            for process in group:
                ask(process, layout.kind)
            groups.append(group)
        rounds: list[list[Mapping[str, float]]] = [[] for _ in chosen]
        for _ in range(num_rounds):
            for layout, group, done in zip(chosen, groups, rounds, strict=True):
                for process in group[1:]:
                    process.stdin.write("again\n")
                    process.stdin.flush()
                done.append(ask(group[0], layout.kind, "again"))
                for process in group[1:]:
                    ask(process, layout.kind)
        for group in groups:
            for process in group:
                process.stdin.close()
            for process in group:
                end(process)
    alone = 0.0
    for layout, done in zip(chosen, rounds, strict=True):
        step = median(each["step"] for each in done)
        compute = median(each["compute"] for each in done)
        num = num_devices(layout)
        rows_a_second = layout.batch_size / step / num
        alone = alone or rows_a_second
        if num == 1:
            compute = step
        apart = 1e3 * compute, 1e3 * max(0.0, step - compute)
        yield Measured(*layout[:4], 1e3 * step, *apart, rows_a_second / alone)


def report(measured: Sequence[Measured]) -> str:
    """A table of what was measured."""
    found = [
        f"Measured here: LSTM 1 x {HIDDEN_SIZE}, rows of {WINDOW} characters",
        f"{'':9}{'processes x devices':>20}{'rows a step':>13}{'ms a step':>11}{'computing':>11}"
        f"{'communication':>15}{'efficiency':>12}",
    ]
    for each in measured:
        layout = f"{each.num_processes} x {each.devices_each}"
        found.append(
            f"{each.kind:9}{layout:>20}{each.batch_size:>13}{each.step_ms:>11.1f}"
            f"{each.compute_ms:>11.1f}{each.communication_ms:>15.1f}{each.efficiency:>12.2f}"
        )
    return "\n".join(found)


def prepare(layout: Layout, port: int, number: int) -> Callable[[], Mapping[str, float]]:
    """Start one process of a layout; returns a function for a round."""
    if layout.num_processes > 1:
        cluster = processes.Cluster(f"127.0.0.1:{port}", layout.num_processes, number)
        processes.join(cluster)
    startup.start_jax(layout.devices_each)

    import jax
    import numpy as np
    import optax

    from dinojax import parallel
    from dinojax.config import TrainConfig
    from dinojax.data import batches
    from dinojax.data.vocab import Vocab
    from dinojax.runs.description import build_model
    from dinojax.training import loop, step
    from dinojax.training.loss import mean_cross_entropy

    num = num_devices(layout)
    vocab = Vocab("\n" + "".join(chr(ord("A") + i) for i in range(VOCAB_SIZE - 1)))
    characters = np.array(list(vocab.characters))
    size = layout.batch_size * WINDOW * 4 + 1
    ids = np.random.default_rng(0).choice(VOCAB_SIZE, size)
    dataset = batches.windows("".join(characters[ids]), vocab, layout.batch_size, WINDOW)
    config = TrainConfig(cell="lstm", hidden_size=layout.hidden_size)
    model, optimizer = build_model(config, vocab), optax.adam(1e-3)
    mesh = parallel.make_mesh(num)
    coming = []
    for axis in (parallel.axis_of(mesh), None):
        train_step = step.make_train_step(
            model, optimizer, mean_cross_entropy, carry_state=True, axis=axis
        )
        key = jax.random.key(0)
        state = step.init_train_state(
            key, model.init(key), model, optimizer, batch_size=layout.batch_size
        )
        # Calls of equal size, so that processes need not agree on it.
        run = loop.run(
            train_step,
            state,
            dataset,
            steps=10**9,
            mesh=mesh,
            chunk_size=layout.steps,
            clock=lambda: 0.0,
        )
        while len(next(run).losses) < layout.steps:
            pass
        coming.append(run)

    def do_round() -> Mapping[str, float]:
        found = {}
        for name, run in zip(("step", "compute"), coming, strict=True):
            started = time.perf_counter()
            next(run)
            found[name] = (time.perf_counter() - started) / layout.steps
        return found

    return do_round


def main() -> None:
    """Be the process that the first argument describes, and do a round for each line read."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    layout, port, number = json.loads(sys.argv[1])
    do_round = prepare(Layout(*layout), port, number)
    answer: Any = {}
    while True:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if not sys.stdin.readline():
            break
        answer = do_round()
    if processes.num_processes() > 1:
        processes.leave()


if __name__ == "__main__":
    main()
