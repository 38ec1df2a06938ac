"""Exact losses: of single characters, and over a whole data set."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from dinojax import parallel
from dinojax.data.batches import Batch, pad_names
from dinojax.data.corpus import longest_usual
from dinojax.data.vocab import Vocab
from dinojax.models.cells import Params, State
from dinojax.models.model import CharModel
from dinojax.training.loss import cross_entropy

BLOCK = 1024
"""Number of characters in a block of a text."""
CHARACTERS_AT_ONCE = 2**15
"""About how many characters are read side by side, so that memory does not grow with the data."""


class Costs(NamedTuple):
    """What a model pays for the pieces of a data set: names, windows or blocks of a text, [num]."""

    nats: np.ndarray
    """Minus the log-probability of each piece."""
    num_characters: np.ndarray
    """Number of characters in each piece, including the newline of a name."""


def log_probability(
    params: Params, model: CharModel, examples: Batch, resets: bool = False
) -> jax.Array:
    """weight_t * log p(target_t | inputs up to t) in nats, for each target of `examples`.

    The model starts from a fresh state and, with `resets`, again at "no character". The result is
    [time, ...] like the targets. Its sum over time is the log-probability of each string; with
    `pad_names`, that of a name and its newline.
    """
    inputs, targets, weights = map(jnp.asarray, examples)
    state = model.initial_state(inputs.shape[1:])
    _, logits = model.unroll(params, state, inputs, resets=resets)
    return -cross_entropy(logits, targets, weights)


def nats_per_column(
    params: Params,
    model: CharModel,
    examples: Batch,
    at_once: int = CHARACTERS_AT_ONCE,
    resets: bool = False,
) -> jax.Array:
    """The cost of each column of `examples` [time, num] in nats, read from a fresh state, [num]."""

    def nats(example: Batch) -> jax.Array:
        return -jnp.sum(log_probability(params, model, example, resets))

    time, num = examples.weights.shape
    columns = jax.tree.map(lambda x: jnp.asarray(x).T, examples)
    return lax.map(nats, columns, batch_size=max(1, min(num, at_once // time)))


def nats_carried(
    params: Params,
    model: CharModel,
    ids: jax.Array,
    block_size: int = BLOCK,
    starts: jax.Array | None = None,
) -> jax.Array:
    """The cost of each character of a text `ids` [num] in nats, read in one pass, [num].

    Where documents begin at `starts` [num_documents], each is read from a fresh state.
    """
    num = ids.shape[0]
    # Padding completes the last block; it comes after every character that counts.
    targets = jnp.pad(ids.astype(int), (0, -num % block_size))
    inputs = jnp.concatenate([jnp.full(1, model.vocab_size), targets[:-1]])
    if starts is not None:
        inputs = inputs.at[starts].set(model.vocab_size)
    resets = starts is not None

    def read(state: State, block: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
        state, logits = model.unroll(params, state, block[0], resets=resets)
        return state, cross_entropy(logits, block[1], jnp.ones(block_size))

    blocks = inputs.reshape(-1, block_size), targets.reshape(-1, block_size)
    _, nats = lax.scan(read, model.initial_state(()), blocks)
    return nats.reshape(-1)[:num]


def column_evaluation(
    model: CharModel,
    examples: Batch,
    mesh: Mesh | None = None,
    at_once: int = CHARACTERS_AT_ONCE,
    resets: bool = False,
) -> Callable[[Params], Costs]:
    """A function from parameters to the costs of the columns of `examples` [time, num].

    With `resets`, each document within a column is read from a fresh state, as is the column. It is
    compiled once. The devices of `mesh` share the columns, and each reads about `at_once`
    characters side by side.
    """
    num = examples.weights.shape[1]
    # Copies of the last column give every device equally many; their costs are dropped.
    missing = -num % parallel.num_devices(mesh)
    padded = Batch(*(np.pad(field, [(0, 0), (0, missing)], mode="edge") for field in examples))

    def evaluate(params: Params, examples: Batch) -> jax.Array:
        return nats_per_column(params, model, examples, at_once, resets)

    compiled = jax.jit(parallel.spread(evaluate, mesh, in_axes=(None, 1), out_axes=0))
    columns = parallel.place(padded, mesh, 1)
    counts = np.asarray(examples.weights).sum(axis=0, dtype=float)

    def costs(params: Params) -> Costs:
        return Costs(parallel.gather(compiled(params, columns)).astype(float)[:num], counts)

    return costs


def name_evaluation(
    model: CharModel, vocab: Vocab, names: Sequence[str], mesh: Mesh | None = None
) -> Callable[[Params], Costs]:
    """A function from parameters to the costs of `names`; see `column_evaluation`.

    Names that are far longer than the others are read apart from them, so that the columns of the
    others are not padded to their length.
    """
    longest = longest_usual(names)
    usual, far_longer = (
        [i for i, name in enumerate(names) if (len(name) > longest) == is_long]
        for is_long in (False, True)
    )
    evaluations = [
        column_evaluation(model, pad_names([names[i] for i in rows], vocab), mesh)
        for rows in (usual, far_longer)
        if rows
    ]
    place = np.argsort(usual + far_longer)

    def evaluate(params: Params) -> Costs:
        costs = zip(*(evaluation(params) for evaluation in evaluations), strict=True)
        return Costs(*(np.concatenate(field)[place] for field in costs))

    return evaluate


def in_blocks(nats: np.ndarray, block_size: int = BLOCK) -> Costs:
    """The costs of the blocks of a text whose characters cost `nats` [num_characters]."""
    return in_pieces(nats, np.arange(0, len(nats), block_size))


def in_pieces(nats: np.ndarray, starts: np.ndarray) -> Costs:
    """The costs of pieces that start at the places `starts` [num] of `nats` [num_characters]."""
    counts = np.diff([*starts, len(nats)]).astype(float)
    return Costs(np.add.reduceat(nats.astype(float), starts), counts)


def summarize(costs: Costs) -> Mapping[str, float]:
    """Totals and means of costs, with standard errors over the pieces; counts are integers.

    `nats_per_character` is a ratio of two sums. `standard_error` is that of a ratio estimator
    (Cochran, Sampling Techniques, 1977): sqrt(n / (n - 1) sum_i (nats_i - ratio num_i)^2) / sum_i
    num_i. `perplexity` is exp(nats_per_character), infinite if that overflows. The standard errors
    of a single piece are NaN.
    """
    num, total, characters = len(costs.nats), costs.nats.sum(), costs.num_characters.sum()
    ratio = total / characters
    error = error_per_piece = np.nan
    if num > 1:
        residuals = costs.nats - ratio * costs.num_characters
        error = np.sqrt(num / (num - 1) * np.sum(residuals**2)) / characters
        error_per_piece = costs.nats.std(ddof=1) / np.sqrt(num)
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
    counts = "num_characters", "num_pieces"
    return {name: int(x) if name in counts else float(x) for name, x in figures.items()}
