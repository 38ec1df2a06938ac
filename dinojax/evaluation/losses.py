"""Exact losses over a whole data set."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from dinojax import parallel
from dinojax.data.batches import Batch
from dinojax.evaluation.score import log_probability
from dinojax.models.cells import Params
from dinojax.models.model import CharModel
from dinojax.training.loss import cross_entropy

BLOCK = 1024
"""Characters of a text read in one piece."""
CHARACTERS_AT_ONCE = 2**15
"""About as many are read side by side: the memory that it takes does not grow with the data."""


class Costs(NamedTuple):
    """What a model pays for a data set, piece by piece: names, or blocks of a text."""

    nats: np.ndarray
    """Minus the log-probability of each piece, [num]."""
    num_characters: np.ndarray
    """Characters in each piece, a name's newline included, [num]."""


def nats_per_column(params: Params, model: CharModel, examples: Batch) -> jax.Array:
    """The cost of each column of `examples` [time, num] in nats, read from a fresh state, [num].

    Minus its log-probability under the model: of a name and its newline, or of a window of a text.
    """

    def nats(example: Batch) -> jax.Array:
        return -jnp.sum(log_probability(params, model, example))

    time, num = examples.weights.shape
    columns = jax.tree.map(lambda x: jnp.asarray(x).T, examples)
    return lax.map(nats, columns, batch_size=max(1, min(num, CHARACTERS_AT_ONCE // time)))


def nats_carried(params: Params, model: CharModel, ids: jax.Array) -> jax.Array:
    """The cost of each character of a text `ids` [num] in nats, read in one pass, [num]."""
    num = ids.shape[0]
    ids = ids.astype(int)
    # What completes the last block comes after all that counts.
    targets = jnp.pad(ids, (0, -num % BLOCK))
    inputs = jnp.concatenate([jnp.full(1, model.vocab_size), targets[:-1]])

    def read(state: Any, block: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        block_inputs, block_targets = block
        state, logits = model.unroll(params, state, block_inputs)
        return state, cross_entropy(logits, block_targets, jnp.ones(BLOCK))

    blocks = inputs.reshape(-1, BLOCK), targets.reshape(-1, BLOCK)
    _, nats = lax.scan(read, model.initial_state(()), blocks)
    return nats.reshape(-1)[:num]


def column_evaluation(
    model: CharModel, examples: Batch, mesh: Mesh | None = None
) -> Callable[[Params], Costs]:
    """A function from parameters to the costs of each column of `examples` [time, num].

    It calls `jax.jit`, once. The devices of `mesh` share the columns.
    """
    num = examples.weights.shape[1]
    # The last column is repeated until all devices have equally many; the copies are cut off again.
    missing = -num % parallel.num_devices(mesh)
    padded = jax.tree.map(
        lambda x: np.pad(np.asarray(x), [(0, 0), (0, missing)], mode="edge"), examples
    )

    def evaluate(params: Params, examples: Batch) -> jax.Array:
        return nats_per_column(params, model, examples)

    compiled = jax.jit(parallel.spread(evaluate, mesh, in_axes=(None, 1), out_axes=0))
    columns = parallel.place(padded, mesh, 1)
    counts = np.asarray(examples.weights).sum(axis=0, dtype=float)
    return lambda params: Costs(np.asarray(compiled(params, columns), float)[:num], counts)


def in_blocks(nats: np.ndarray) -> Costs:
    """The costs of a text, character by character [num], as those of its blocks."""
    starts = np.arange(0, len(nats), BLOCK)
    counts = np.diff([*starts, len(nats)]).astype(float)
    return Costs(np.add.reduceat(nats.astype(float), starts), counts)


def summarize(costs: Costs) -> Mapping[str, float]:
    """The figures that describe costs; standard errors are over its pieces.

    `nats_per_character` is the ratio of two sums, and its standard error that of a ratio estimator
    (Cochran, Sampling Techniques, 1977): sqrt(n / (n - 1) sum_i (nats_i - ratio num_i)^2) / sum_i
    num_i. `perplexity` is exp(nats_per_character), infinite where no float is as large. With a
    single piece the errors are NaN.
    """
    num = len(costs.nats)
    total, characters = costs.nats.sum(), costs.num_characters.sum()
    ratio = total / characters
    if num > 1:
        residuals = costs.nats - ratio * costs.num_characters
        error = np.sqrt(num / (num - 1) * np.sum(residuals**2)) / characters
        error_per_piece = costs.nats.std(ddof=1) / np.sqrt(num)
    else:
        error = error_per_piece = np.nan
    with np.errstate(over="ignore"):
        perplexity = np.exp(ratio)
    figures = {
        "nats_per_character": ratio,
        "standard_error": error,
        "bits_per_character": ratio / np.log(2),
        "perplexity": perplexity,
        "num_characters": characters,
        "nats_per_piece": total / num,
        "standard_error_per_piece": error_per_piece,
        "num_pieces": num,
    }
    return {name: float(value) for name, value in figures.items()}
