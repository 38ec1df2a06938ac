"""The dinosaur-name exercise, replayed in float64.

NumPy's legacy generator, with fixed seeds, draws the initial parameters, the order of the names and
the uniform numbers that sample each character. Given these, this library must give the same losses
and names.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dinojax.data.batches import pad_names
from dinojax.data.vocab import build_vocab
from dinojax.models.cells import Params, vanilla
from dinojax.models.layers import from_cell
from dinojax.models.model import char_model
from dinojax.sampling.draw import sample_step
from dinojax.training.optimizers import clipped_sgd
from dinojax.training.step import init_train_state, make_train_step, train_steps

HIDDEN_SIZE = 50
REPORT_EVERY = 2_000
NAMES_PER_REPORT = 7
MAX_LENGTH = 50


class Progress(NamedTuple):
    """What the exercise reports every `REPORT_EVERY` steps."""

    step: int
    """Index of the last training step."""
    smoothed_loss: float
    """Running average of the summed loss, nats per name."""
    names: list[str]


def replay(names: Sequence[str], num_steps: int) -> Iterator[Progress]:
    """Train on one name a step, `num_steps` times, and report as the exercise does.

    Raises:
        ValueError: there is no name, or a name holds a newline.
    """
    names, vocab = list(names), build_vocab(names)
    np.random.RandomState(0).shuffle(names)
    examples = pad_names(names, vocab)
    optimizer = clipped_sgd(learning_rate=0.01, clip_value=5.0)
    with jax.enable_x64(True):
        cell = vanilla(vocab.size, HIDDEN_SIZE, jnp.float64)
        model = char_model([from_cell(cell)], vocab, dtype=jnp.float64)
        params = jax.tree.map(jnp.asarray, _initial_params(vocab.size))
        loss, key = -np.log(1 / vocab.size) * NAMES_PER_REPORT, jax.random.key(0)
        state = init_train_state(key, params, model, optimizer, smoothed_loss=loss)
    train = jax.jit(partial(train_steps, make_train_step(model, optimizer, carry_state=True)))
    # [time, names]; the exercise seeds its generator with name + 2 time.
    seeds = np.arange(NAMES_PER_REPORT) + 2 * np.arange(MAX_LENGTH)[:, None]
    uniforms = np.vectorize(lambda seed: np.random.RandomState(seed).random_sample())(seeds)

    @jax.jit
    def write_names(params: Params) -> jax.Array:
        def write(carry: Any, uniforms: jax.Array) -> Any:
            state, previous = carry
            drawn = sample_step(params, model, state, previous, uniforms)
            return (drawn.state, drawn.ids), drawn.ids

        start = model.initial_state((NAMES_PER_REPORT,)), jnp.full(NAMES_PER_REPORT, vocab.size)
        return lax.scan(write, start, jnp.asarray(uniforms))[1].T

    done = 0
    for step in range(0, num_steps, REPORT_EVERY):
        order = np.arange(done, done + REPORT_EVERY)[:, None] % len(names)
        # Not around `yield`: the caller's own computations keep their type.
        with jax.enable_x64(True):
            state = train(state, examples, order, step + 1 - done).state
            ids = np.asarray(write_names(state.params))
        done = step + 1
        texts = [vocab.decode(row).split("\n")[0] for row in ids]
        yield Progress(step, float(state.smoothed_loss), texts)


def _initial_params(vocab_size: int) -> Params:
    """The exercise's parameters, N(0, 0.01^2), with zero biases. It stores kernels transposed."""
    generator = np.random.RandomState(1)
    shapes = (HIDDEN_SIZE, vocab_size), (HIDDEN_SIZE, HIDDEN_SIZE), (vocab_size, HIDDEN_SIZE)
    inputs, recurrent, readout = (0.01 * generator.randn(*shape).T for shape in shapes)
    layer = {"input_kernel": inputs, "recurrent_kernel": recurrent, "bias": np.zeros(HIDDEN_SIZE)}
    return {"layers": [layer], "readout": {"kernel": readout, "bias": np.zeros(vocab_size)}}
