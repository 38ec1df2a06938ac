"""Replay the dinosaur-name exercise in float64, number by number; see --help.

The exercise fixes everything that is random: NumPy's legacy generator draws the initial values, the
order of the names and the uniform numbers behind each sampled character. From these and the same
list of names, the library's own model, loss, optimizer, training scan and sampling step must arrive
at the same losses and the same names.
"""

import json
import os
from argparse import ArgumentParser, Namespace
from typing import Any

from dinojax.cli.arguments import Parser, path, whole_number
from dinojax.config import check_range
from dinojax.files import check_writable
from dinojax.startup import start_jax

HIDDEN_SIZE = 50
LEARNING_RATE = 0.01
CLIP_VALUE = 5.0
REPORT_EVERY = 2_000
NAMES_PER_REPORT = 7
MAX_LENGTH = 50


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax reproduce`."""
    from dinojax.data.text import bundled_names

    add = parser.add_argument
    add(
        "--data",
        metavar="FILE",
        type=path,
        default=bundled_names(),
        help="the exercise's list, one name a line",
    )
    add(
        "--steps",
        metavar="N",
        type=whole_number,
        default=12_001,
        help="training steps, one name each",
    )
    add("--json", metavar="FILE", type=path, help="also write the losses and names to this file")


def exercise_params(vocab_size: int) -> dict[str, Any]:
    """The exercise's initial values: N(0, 0.01^2), biases zero. It writes kernels transposed."""
    import numpy as np

    generator = np.random.RandomState(1)
    shapes = (HIDDEN_SIZE, vocab_size), (HIDDEN_SIZE, HIDDEN_SIZE), (vocab_size, HIDDEN_SIZE)
    input_kernel, recurrent_kernel, readout = (0.01 * generator.randn(*shape).T for shape in shapes)
    layer = {
        "input_kernel": input_kernel,
        "recurrent_kernel": recurrent_kernel,
        "bias": np.zeros(HIDDEN_SIZE),
    }
    return {"layers": [layer], "readout": {"kernel": readout, "bias": np.zeros(vocab_size)}}


def exercise_uniforms() -> Any:
    """Uniform numbers [time, names]: the generator is seeded anew, with name + 2 time, for each."""
    import numpy as np

    return np.array(
        [
            [
                np.random.RandomState(name + 2 * t).random_sample()
                for name in range(NAMES_PER_REPORT)
            ]
            for t in range(MAX_LENGTH)
        ]
    )


def main(parser: Parser, arguments: Namespace) -> int:
    """Print the exercise's log; returns the exit code."""
    with parser.reported_errors():
        check_range("--steps", arguments.steps, 1, 10**9)
    # What takes time to import is imported here, where Ctrl-C is one line.
    import numpy as np

    from dinojax.data.batches import pad_names
    from dinojax.data.text import capitalized, read_names
    from dinojax.data.vocab import build_vocab

    with parser.reported_errors():
        names, _ = read_names(arguments.data)
        if arguments.json:
            if arguments.json.resolve() == arguments.data.resolve():
                raise ValueError(f"--json would overwrite {arguments.data}, the list of names")
            check_writable(arguments.json)
    vocab = build_vocab(names)

    os.environ["JAX_ENABLE_X64"] = "1"
    with parser.reported_errors():
        start_jax()
    import jax
    import jax.numpy as jnp

    from dinojax.files import write_atomically
    from dinojax.models.cells import vanilla
    from dinojax.models.layers import from_cell
    from dinojax.models.model import char_model
    from dinojax.sampling.draw import sample_step
    from dinojax.training.optimizers import clipped_sgd
    from dinojax.training.step import init_train_state, make_train_step, train_steps

    np.random.RandomState(0).shuffle(names)
    examples = pad_names(names, vocab)
    model = char_model(
        [from_cell(vanilla(vocab.size, HIDDEN_SIZE, jnp.float64))], vocab, dtype=jnp.float64
    )
    optimizer = clipped_sgd(LEARNING_RATE, CLIP_VALUE)
    params = jax.tree.map(jnp.asarray, exercise_params(vocab.size))
    state = init_train_state(
        jax.random.key(0), params, model, optimizer, smoothed_loss=-np.log(1 / vocab.size) * 7
    )
    train_step = make_train_step(model, optimizer, carry_state=True)

    @jax.jit
    def train(state: Any, order: jax.Array, num_steps: int) -> Any:
        return train_steps(train_step, state, examples, order, num_steps)[0]

    @jax.jit
    def write_names(params: Any) -> jax.Array:
        def write(carry: Any, uniforms: jax.Array) -> Any:
            state, previous = carry
            drawn = sample_step(params, model, state, previous, uniforms)
            return (drawn.state, drawn.ids), drawn.ids

        start = model.initial_state((NAMES_PER_REPORT,)), jnp.full(NAMES_PER_REPORT, vocab.size)
        return jax.lax.scan(write, start, jnp.asarray(exercise_uniforms()))[1].T

    log: dict[str, dict[str, Any]] = {"smooth_loss": {}, "names": {}}
    for step in range(0, arguments.steps, REPORT_EVERY):
        done = int(state.step)
        order = np.arange(done, done + REPORT_EVERY)[:, None] % len(names)
        state = train(state, order, step + 1 - done)
        loss = float(state.smoothed_loss)
        texts = map(vocab.decode, np.asarray(write_names(state.params)))
        written = [capitalized(text.split("\n")[0]) for text in texts]
        print(f"Iteration: {step}, Loss: {loss:f}\n", *written, "", sep="\n", flush=True)
        log["smooth_loss"][str(step)] = loss
        log["names"][str(step)] = written
    if arguments.json:
        content = json.dumps(log, indent=1, ensure_ascii=False) + "\n"
        write_atomically(arguments.json, content.encode())
    return 0
