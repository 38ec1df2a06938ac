"""Compare the ways in which a cell can run along time, by whole training steps on this device.

The ways take turns: in every round each trains for some steps while the others wait. XLA's flags
hold for all of them. To see what command buffers give on a GPU, run this again with
XLA_FLAGS=--xla_gpu_enable_command_buffer=+WHILE in the environment.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

from dinojax.cli.arguments import Parser, output_file, path, whole_number
from dinojax.cli.terminal import Program, json_encoder, run
from dinojax.config import check_range
from dinojax.contradictions import MAX_FUSED
from dinojax.files import write_atomically
from dinojax.startup import start_jax

VOCAB_SIZE = 65
LEARNING_RATE = 1e-3
UNROLLED = 8
CELLS = "vanilla", "gru", "lstm"
DTYPES = "float32", "bfloat16"
SIZES = {"hidden_size": 256, "batch_size": 64, "window": 64, "rounds": 7, "steps": 50}
"""Default sizes; `steps` are those of each round."""
TINY = {"hidden_size": 4, "batch_size": 2, "window": 3, "rounds": 2, "steps": 2}


class Line(NamedTuple):
    """What was measured of one way."""

    cell: str
    dtype: str
    way: str
    milliseconds: list[float]
    """Of a training step, one for each round."""
    compile_seconds: float
    loss: float
    """Mean of the last round, in nats a character: equal work has equal losses."""


def main() -> int:
    """Measure and print a line for each cell, type and way; returns the exit code."""
    parser = Parser(
        Program("bench_recurrence", __file__),
        "Compare the ways in which cells run along time, by whole training steps on this device.",
    )
    for name, default in SIZES.items():
        parser.add_argument(
            flag_of(name), type=whole_number, metavar="N", default=default,
            help=f"{name.replace('_', ' ')} (default: %(default)s)",
        )  # fmt: skip
    add = parser.add_argument
    add("--json", type=path, metavar="FILE", help="also write all figures to this file")
    add("--tiny", action="store_true", help="little work, only to see that all of it runs")
    arguments = parser.parse_args(sys.argv[1:])
    sizes = TINY if arguments.tiny else {name: getattr(arguments, name) for name in SIZES}
    with parser.reported_errors():
        for name, size in sizes.items():
            check_range(flag_of(name), size, 1, 10_000)
        if arguments.json:
            arguments.json = output_file("--json", arguments.json)
        start_jax()
    import jax

    device, flags = jax.devices()[0], os.environ.get("XLA_FLAGS", "")
    print(f"{device.device_kind}, JAX {jax.__version__}, XLA_FLAGS={flags}")
    if device.platform != "gpu":
        print("The fused kernel is for NVIDIA GPUs: there is no row for it")
    print(f"{'cell':8} {'type':8} {'way':24} ms a step  min .. max  compile s  nats a character")
    lines: list[Line] = []
    for cell in CELLS:
        for dtype in DTYPES:
            for line in measure(cell, dtype, ways(device.platform, sizes["hidden_size"]), **sizes):
                lines.append(line)
                each = line.milliseconds
                print(
                    f"{cell:8} {dtype:8} {line.way:24} {median(each):9.3f}  {min(each):.3f} .. "
                    f"{max(each):.3f}  {line.compile_seconds:.1f}  {line.loss:.5f}",
                    flush=True,
                )
            if arguments.json:
                # At once, so that what was measured outlives an interrupt.
                log: dict[str, Any] = {"device": device.device_kind, "xla_flags": flags, **sizes}
                log["lines"] = [line._asdict() for line in lines]
                write_atomically(arguments.json, f"{json_encoder(indent=1)(log)}\n".encode())
    return 0


def flag_of(name: str) -> str:
    """The flag of a size."""
    return f"--{name.replace('_', '-')}"


def ways(platform: str, hidden_size: int) -> dict[str, Any]:
    """The functions that run a cell along time, by name; each is a `layers.Run`."""
    from dinojax.models import recurrence

    def by_scan(unroll: int) -> Any:
        def run(
            cell: Any, params: Any, state: Any, projected: Any, length: Any, resets: Any
        ) -> Any:
            return recurrence.scan(cell, params, state, projected, resets, unroll)

        return run

    found = {
        "loop": recurrence.loop,
        "scan": by_scan(1),
        f"scan, {UNROLLED} steps at once": by_scan(UNROLLED),
    }
    if platform == "gpu" and hidden_size <= MAX_FUSED:
        from dinojax.models.fused import fused

        found["fused"] = fused
    return found


def measure(
    cell: str,
    dtype: str,
    found: Mapping[str, Any],
    *,
    hidden_size: int,
    batch_size: int,
    window: int,
    rounds: int,
    steps: int,
) -> list[Line]:
    """Train a layer and its readout on random windows in each of the ways, in turn."""
    tasks = {
        way: prepare(cell, dtype, run, hidden_size, batch_size, window, steps)
        for way, run in found.items()
    }
    compile_seconds = {way: task()[0] for way, task in tasks.items()}
    done = [{way: task() for way, task in tasks.items()} for _ in range(rounds)]
    return [
        Line(
            cell, dtype, way, [1e3 * each[way][0] / steps for each in done],
            compile_seconds[way], done[-1][way][1],
        )
        for way in found
    ]  # fmt: skip


def prepare(
    cell: str, dtype: str, run: Any, hidden_size: int, batch_size: int, window: int, steps: int
) -> Callable[[], tuple[float, float]]:
    """A function that trains for `steps` steps; returns its seconds and the mean loss.

    Its first call compiles.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dinojax.data.batches import windows
    from dinojax.data.vocab import Vocab
    from dinojax.models.cells import CELLS
    from dinojax.models.layers import from_cell
    from dinojax.models.model import char_model
    from dinojax.training.loss import mean_cross_entropy
    from dinojax.training.step import init_train_state, make_train_step, train_steps

    product_dtype = None if dtype == "float32" else jnp.bfloat16
    vocab = Vocab("\n" + "".join(chr(ord("A") + i) for i in range(VOCAB_SIZE - 1)))
    layer = from_cell(CELLS[cell](VOCAB_SIZE, hidden_size, product_dtype=product_dtype), run)
    model = char_model([layer], vocab, product_dtype=product_dtype)
    optimizer = optax.adam(LEARNING_RATE)
    train_step = make_train_step(
        model, optimizer, mean_cross_entropy, carry_state=True, resets=True
    )
    ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, 4 * batch_size * window)
    dataset = windows("".join(vocab.characters[i] for i in ids), vocab, batch_size, window)
    examples, epoch = dataset.examples, dataset.arrange(np.arange(dataset.num_shuffled))
    assert examples is not None
    order = jnp.asarray(np.resize(epoch[:], (steps, *dataset.step_shape)))
    params = model.init(jax.random.key(0))
    state = init_train_state(jax.random.key(1), params, model, optimizer, batch_size=batch_size)
    train = jax.jit(lambda state: train_steps(train_step, state, examples, order)[:2])

    def again() -> tuple[float, float]:
        nonlocal state
        started = time.perf_counter()
        state, losses = jax.block_until_ready(train(state))
        return time.perf_counter() - started, float(losses.mean())

    return again


if __name__ == "__main__":
    run(Program("bench_recurrence", __file__), main)
