"""Small models that are no single network, for tests that hold for every model."""

import jax
import numpy as np

from dinojax.evaluation.compare import joined
from dinojax.evaluation.ngram import fit_ngrams, terms
from dinojax.models.cache import cached
from dinojax.models.cells import CELLS
from dinojax.models.layers import from_cell
from dinojax.models.mixture import mixture
from dinojax.models.model import char_model
from dinojax.models.ngram import make_tables, ngram_model

KINDS = "ngram", "mixture", "cached"


def random_names(vocab, num=60, longest=5, seed=0):
    """Names in which some characters are more frequent than others."""
    generator = np.random.default_rng(seed)
    letters = [character for character in vocab.characters if character != "\n"]
    shares = generator.dirichlet(np.full(len(letters), 2.0))
    lengths = generator.integers(0, longest + 1, num)
    return ["".join(generator.choice(letters, length, p=shares)) for length in lengths]


def ngram(vocab, part, order, dtype=np.float32):
    """An n-gram model of names or a text, and its parameters."""
    fitted = fit_ngrams(*joined(vocab, part), vocab.size, order)
    tables = make_tables(terms(fitted), vocab.size, dtype)
    return ngram_model(vocab, order, dtype), jax.device_put(tables)


def network(vocab, cell="gru", seed=0):
    """A network with large random parameters."""
    model = char_model([from_cell(CELLS[cell](vocab.size, 5))], vocab)
    key = jax.random.key(seed)
    noise = jax.random.normal
    return model, jax.tree.map(lambda x: x + noise(key, x.shape), model.init(key))


def build(kind, vocab):
    """A model of a kind and its parameters: a 3-gram model, alone or with two networks.

    Or all of them with a cache.
    """
    counted = ngram(vocab, random_names(vocab), 3)
    if kind == "ngram":
        return counted
    members = [network(vocab), counted, network(vocab, "lstm", 1)]
    models, params = zip(*members, strict=True)
    model = mixture(models, [0.5, 0.3, 0.2])
    return (cached(model, 6) if kind == "cached" else model), params
