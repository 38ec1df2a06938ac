"""An n-gram model as a character model, whose parameters are tables.

    p_n(character | context)
        = kept(context, character) + freed(context) p_{n-1}(character | shorter context)

for n from 1 to the order, where p_0 is uniform, the context is the last n - 1 characters, and the
shorter one lacks the first of these; see `evaluation.ngram`, which counts and smooths.

The n-grams of all lengths are the nodes of one tree: a node is a context, and its children are the
n-grams that add a character to it. Nodes are numbered so that the children of one stand side by
side, in the order of their characters. One bit for each character says whether
there is a child for it, so a child is found by counting the bits before its own, without a search.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from numpy.typing import NDArray

from dinojax.data.vocab import Vocab
from dinojax.models.cells import State
from dinojax.models.model import CharModel

BITS = 32
"""Characters to a word of bits."""
UNSEEN, ROOT = 0, 1
"""Numbers of the context that was never seen, which has no children, and of the empty context."""


class Tables(NamedTuple):
    """The parameters: rows of contexts, which come first among the nodes, and of all nodes.

    Node n + 1 is the context of n times "no character", for n from 0 to the order minus 1. The
    n-grams of length 1 follow, then those of length 2, and so on.
    """

    seen: jax.Array
    """Bits: which characters follow each context, uint32 [contexts, ceil(vocab / 32)]."""
    first: jax.Array
    """Node of the first child within each word of `seen`, int32, of the same shape."""
    freed: jax.Array
    """What each context leaves to the next shorter one, [contexts]; 1 if it was never seen."""
    kept: jax.Array
    """Probability of each n-gram's last character that is its own, [nodes]."""


class Term(Protocol):
    """What the interpolation takes from the n-grams of one length; see `evaluation.ngram`."""

    @property
    def kept(self) -> NDArray[np.float64]: ...

    @property
    def freed(self) -> NDArray[np.float64]: ...


def make_tables(
    terms: Sequence[tuple[NDArray[np.int64], Term]],
    vocab_size: int,
    dtype: DTypeLike = np.float32,
) -> Tables:
    """The tables of an n-gram model from its `terms`, as `evaluation.ngram.terms` gives them.

    They are the sorted keys of the n-grams of each length and the terms of these; the number of
    lengths is the order. The tables are NumPy arrays.

    Raises:
        ValueError: there are 2^31 n-grams or more.
    """
    order, words = len(terms), -(-vocab_size // BITS)
    sizes = [len(keys) for keys, _ in terms]
    # Where the n-grams of each length begin, from length 0, which has none, to the end.
    begins = order + 1 + np.concatenate([[0, 0], np.cumsum(sizes)])
    num_contexts, num_nodes = int(begins[order]), int(begins[-1])
    if num_nodes >= 2**31:
        raise ValueError(f"expected fewer than 2^31 n-grams, got {num_nodes:,}; lower the order")
    seen = np.zeros(num_contexts * words, np.uint32)
    first = np.zeros(num_contexts * words, np.int32)
    freed, kept = np.ones(num_contexts, dtype), np.zeros(num_nodes, dtype)
    for length, (keys, term) in enumerate(terms, start=1):
        shorter, own, end = begins[length - 1 : length + 2]
        contexts = np.append(np.arange(shorter, own), length)
        freed[contexts] = term.freed
        kept[own:end] = term.kept
        characters = keys % vocab_size
        places = contexts[keys // vocab_size] * words + characters // BITS
        # Keys are sorted, so those of one word stand side by side.
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        first[places[starts]] = own + starts
        bits = np.left_shift(np.uint32(1), (characters % BITS).astype(np.uint32))
        seen[places[starts]] = np.bitwise_or.reduceat(bits, starts)
    shape = num_contexts, words
    return Tables(seen.reshape(shape), first.reshape(shape), freed, kept)  # type: ignore[arg-type]  # NumPy's


def check_tables(tables: Tables, vocab_size: int, order: int) -> None:
    """Raise a ValueError unless NumPy arrays are the tables of some model of this order."""
    seen, first, freed, kept = map(np.asarray, tables)
    words = freed.size, -(-vocab_size // BITS)
    expected = [(words, np.uint32), (words, np.int32), ((freed.size,), freed.dtype)]
    expected.append(((kept.size,), freed.dtype))
    fits = [(x.shape, x.dtype) for x in (seen, first, freed, kept)] == expected
    if fits and (fits := order < freed.size <= kept.size):
        last = first.astype(np.int64) + np.bitwise_count(seen)
        fits = bool(first.min() >= 0 and last.max() <= kept.size)
    if not fits:
        raise ValueError(f"expected the tables of an n-gram model of order {order}, got others")


def ngram_model(vocab: Vocab, order: int, dtype: DTypeLike = jnp.float32) -> CharModel:
    """The model of an `order`; its parameters are `Tables`, and its logits log-probabilities.

    The state is the node of the last 0, 1, .. order - 1 characters, int32 [..., order]; that of
    characters which were never seen together is `UNSEEN`. "No character" begins a new name or
    text, whether resets are asked for or not, and so does a fresh state. `unroll` reads all time
    steps side by side. `init` gives the model that has seen nothing, which holds all characters
    equally probable. There are no layers and no dropout.

    Raises:
        ValueError: `order` is below 1.
    """
    if order < 1:
        raise ValueError(f"expected an order of at least 1, got {order}")

    def init(key: jax.Array) -> Tables:
        shape = order + 1, -(-vocab.size // BITS)
        seen, first = jnp.zeros(shape, jnp.uint32), jnp.zeros(shape, jnp.int32)
        return Tables(seen, first, jnp.ones(order + 1, dtype), jnp.zeros(order + 1, dtype))

    def initial_state(batch_shape: tuple[int, ...]) -> State:
        starts = jnp.arange(ROOT, ROOT + order, dtype=jnp.int32)
        return jnp.broadcast_to(starts, (*batch_shape, order))

    def follow(params: Tables, context: jax.Array, ids: jax.Array) -> jax.Array:
        """The nodes that characters `ids` add to contexts of the same shape."""
        ids = ids.astype(jnp.int32)
        word, bit = ids // BITS, (ids % BITS).astype(jnp.uint32)
        seen, first = jnp.asarray(params.seen), jnp.asarray(params.first)
        return child(seen[context, word], first[context, word], bit)

    def log_probabilities(params: Tables, state: State) -> jax.Array:
        seen, first, freed, kept = map(jnp.asarray, params)
        bits = jnp.arange(vocab.size, dtype=jnp.uint32) % BITS
        shape = (*state.shape[:-1], vocab.size)
        bits = jnp.broadcast_to(bits, shape)

        def spread(words: jax.Array) -> jax.Array:
            return jnp.repeat(words, BITS, axis=-1)[..., : vocab.size]

        probabilities = jnp.full(shape, 1 / vocab.size, kept.dtype)
        for n in range(order):
            context = state[..., n]
            nodes = child(spread(seen[context]), spread(first[context]), bits)
            left = jnp.broadcast_to(freed[context][..., None], shape)
            probabilities = kept[nodes] + left * probabilities
        return jnp.log(probabilities)

    def step(params: Tables, state: State, inputs: jax.Array) -> tuple[State, jax.Array]:
        is_start = jnp.broadcast_to((inputs == vocab.no_character)[..., None], state.shape)
        shorter = state[..., :-1]
        longer = follow(params, shorter, jnp.broadcast_to(inputs[..., None], shorter.shape))
        state = jnp.concatenate([state[..., :1], longer], axis=-1)
        state = jnp.where(is_start, initial_state(inputs.shape), state)
        return state, log_probabilities(params, state)

    def unroll(
        params: Tables,
        state: State,
        inputs: jax.Array,
        length: jax.Array | None = None,
        resets: bool = False,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[State, jax.Array]:
        starts, is_start = initial_state(()), inputs == vocab.no_character
        # Nodes of n characters before each step, and after the last, [time + 1, ...].
        nodes = [jnp.broadcast_to(state[None, ..., 0], (len(inputs) + 1, *inputs.shape[1:]))]
        for n in range(1, order):
            longer = jnp.where(is_start, starts[n], follow(params, nodes[-1][:-1], inputs))
            nodes.append(jnp.concatenate([state[None, ..., n], longer]))
        states = jnp.stack(nodes, axis=-1)
        last = states[len(inputs) if length is None else length]
        return last, log_probabilities(params, states[1:])

    def layer_outputs(params: Tables, state: State, inputs: jax.Array) -> tuple[State, tuple[()]]:
        return step(params, state, inputs)[0], ()

    return CharModel(vocab.size, vocab.newline, init, initial_state, step, unroll, layer_outputs)


def child(seen: jax.Array, first: jax.Array, bit: jax.Array) -> jax.Array:
    """The node at a `bit` of a word `seen` whose first child is `first`, `UNSEEN` if it is not set.

    All three have the same shape.
    """
    before = lax.population_count(seen & ((jnp.uint32(1) << bit) - jnp.uint32(1)))
    is_set = (seen >> bit) & jnp.uint32(1) != 0
    return jnp.where(is_set, first + before.astype(jnp.int32), UNSEEN)
