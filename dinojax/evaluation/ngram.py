"""N-gram language models of characters: what a network should beat.

Interpolated modified Kneser-Ney smoothing, for every order up to the one fitted. With c the n-gram
"context, character" and the shorter context being the same without its first character,

    P_n(character | context) = (count - D(count)) / total
                             + freed(context) * P_{n-1}(character | shorter context)

where total is the sum of the counts, and freed(context) the sum of D(count) / total, over all
characters seen after the context: what the discounts D take away is what the shorter context
shares out. A context never seen hands over all, and P_0 = 1 / vocab_size, so no character is
impossible.

At the highest order a count is how often the n-gram occurs; below, how many distinct characters
come before it, as what matters there is how readily it follows something new. N-grams whose
context begins with the start of a sequence have nothing else before them and keep the former.

A start is a context of its own: before a sequence stands "no character", as often as a context
needs it. It is never predicted.

References:
    Kneser and Ney, "Improved backing-off for M-gram language modeling", ICASSP 1995.
    Chen and Goodman, "An empirical study of smoothing techniques for language modeling", Computer
    Speech & Language 13 (1999): interpolation, and three discounts for each order.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

SMALL_DATA_DISCOUNTS = 0.5, 1.0, 1.5


class Smoothed(NamedTuple):
    """One term of the interpolation, for n-grams of one length."""

    kept: Floats
    """(count - D(count)) / total of each n-gram, [num_ngrams]."""
    freed: Floats
    """What each context hands to the next shorter one, [num_contexts]; 1 if nothing follows it."""


class NgramModel(NamedTuple):
    """Models of every order from 1 to the one fitted; the tables are by length of n-gram.

    An n-gram is numbered by its place in the table of its length. Its key there is made of two
    numbers, context * vocab_size + character, where the context is the number of an n-gram one
    shorter: so keys stay small for any vocabulary and order. The number after the last n-gram's
    stands for a context of nothing but "no character".
    """

    vocab_size: int
    keys: tuple[Integers, ...]
    """The n-grams seen, sorted, [num_ngrams] each."""
    highest: tuple[Smoothed, ...]
    """For the order which is the n-gram's length, from how often each n-gram occurs."""
    lower: tuple[Smoothed, ...]
    """For higher orders, from how many distinct characters come before; none for the longest."""


def fit_ngrams(ids: ArrayLike, starts: ArrayLike, vocab_size: int, order: int) -> NgramModel:
    """Counts the n-grams of up to `order` characters, and smooths them.

    Args:
        ids: characters of all sequences end to end, [num]: names, each with its newline, or a text.
        starts: whether a sequence begins here, [num]; no context reaches back over a start.
        vocab_size: number of characters; ids are below it.
        order: length of the longest n-gram, its last character being the one predicted.

    Raises:
        ValueError: `order` is below 1, there are no ids, an id is out of range, or `starts` has
            another shape or does not begin with True.
    """
    if order < 1:
        raise ValueError(f"expected an order of at least 1, which needs no context, got {order}")
    ids, starts = _checked(ids, starts, vocab_size)
    places = np.arange(len(ids))
    distances = places - np.maximum.accumulate(np.where(starts, places, 0))
    keys: list[Integers] = []
    counts: list[Integers] = []
    firsts: list[Integers] = []
    highest: list[Smoothed] = []
    lower: list[Smoothed] = []
    # Of the n-gram that ends at each place; to begin with that of no length.
    ngrams, num_contexts = np.zeros(len(ids), np.int64), 1
    for n in range(1, order + 1):
        contexts = _contexts(ngrams, starts, num_contexts)
        found, first, longer, count = np.unique(
            contexts * vocab_size + ids, return_index=True, return_inverse=True, return_counts=True
        )
        if n > 1:
            # Each n-gram is one distinct character before the shorter one that it ends in.
            preceding = np.bincount(ngrams[first])
            adjusted = np.where(distances[firsts[-1]] < n - 2, counts[-1], preceding)
            lower.append(_smooth(keys[-1] // vocab_size, adjusted, len(highest[-1].freed)))
        keys.append(found)
        counts.append(count)
        firsts.append(first)
        highest.append(_smooth(found // vocab_size, count, num_contexts))
        ngrams, num_contexts = longer, len(found) + 1
    return NgramModel(vocab_size, tuple(keys), tuple(highest), tuple(lower))


def nats(model: NgramModel, ids: ArrayLike, starts: ArrayLike, order: int | None = None) -> Floats:
    """Minus the log-probability of each character in nats, [num].

    Args:
        model: of `fit_ngrams`.
        ids: characters to predict, each from those before it, [num], as for `fit_ngrams`.
        starts: whether a sequence begins here, [num].
        order: that of the model asked, up to the one fitted, which is the default.

    Raises:
        ValueError: `order` is not one of the model's, there are no ids, an id is out of range, or
            `starts` has another shape or does not begin with True.
    """
    terms = _terms(model, order)
    ids, starts = _checked(ids, starts, model.vocab_size)
    probabilities = np.full(len(ids), 1 / model.vocab_size)
    ngrams = np.zeros(len(ids), np.int64)
    for keys, (kept, freed) in terms:
        contexts = _contexts(ngrams, starts, len(freed))
        ngrams = _find(keys, contexts * model.vocab_size + ids)
        probabilities *= np.where(contexts >= 0, freed[contexts], 1)
        probabilities += np.where(ngrams >= 0, kept[ngrams], 0)
    costs: Floats = -np.log(probabilities)
    return costs


def draw_names(
    generator: np.random.Generator,
    model: NgramModel,
    newline: int,
    num: int,
    max_length: int,
    order: int | None = None,
) -> tuple[Integers, NDArray[np.bool]]:
    """`num` names, each from its start until newline or for `max_length` characters.

    The interpolation is read as a mixture: after a context comes one of the characters seen there,
    each with the probability that its discount kept, or else, with probability freed(context), what
    the next shorter context draws; no context draws all characters alike.

    Args:
        generator: of the random numbers.
        model: of `fit_ngrams`, from names each with its newline.
        newline: id that ends a name.
        num: how many names.
        max_length: the most characters of one, its newline not counted.
        order: that of the model asked, up to the one fitted, which is the default.

    Returns:
        ids: characters [num, max_length]; newline from where the name has ended.
        ended: whether it ended by itself, [num]. A name of full length does so if what is drawn
            next is newline; if not, it was cut.

    Raises:
        ValueError: `order` is not one of the model's.
    """
    terms = _terms(model, order)
    # Of each table: where the n-grams of each context begin, and what was kept before each n-gram.
    tables = [
        (
            keys,
            np.searchsorted(keys, np.arange(len(freed) + 1) * model.vocab_size),
            np.concatenate([[0], np.cumsum(kept)]),
        )
        for keys, (kept, freed) in terms
    ]
    ids = np.full((num, max_length + 1), newline, np.int64)
    unfinished = np.arange(num)
    contexts = [np.full(num, len(freed) - 1) for _, (_, freed) in terms]
    for position in range(max_length + 1):
        drawn = generator.integers(model.vocab_size, size=len(unfinished))
        # From the shortest context to the longest: each that draws takes the place of what did.
        for (keys, first, before), context in zip(tables, contexts, strict=True):
            passed = before[first[context]] + generator.random(len(unfinished))
            ngrams = np.searchsorted(before, passed, side="right") - 1
            draws = (context >= 0) & (ngrams < first[context + 1])
            drawn = np.where(draws, keys[np.minimum(ngrams, len(keys) - 1)], drawn)
            drawn %= model.vocab_size
        ids[unfinished, position] = drawn
        goes_on = drawn != newline
        longer = [
            _find(keys, context * model.vocab_size + drawn)
            for (keys, _), context in zip(terms, contexts, strict=True)
        ]
        contexts = [x[goes_on] for x in (np.zeros_like(drawn), *longer[:-1])]
        unfinished = unfinished[goes_on]
    return ids[:, :max_length], ids[:, max_length] == newline


def _terms(model: NgramModel, order: int | None) -> list[tuple[Integers, Smoothed]]:
    """The n-grams of each length up to `order`, and their terms of its interpolation."""
    order = len(model.keys) if order is None else order
    if not 1 <= order <= len(model.keys):
        raise ValueError(
            f"expected an order from 1 to {len(model.keys)}, got {order}; fit a higher order"
        )
    terms = (*model.lower[: order - 1], model.highest[order - 1])
    return list(zip(model.keys[:order], terms, strict=True))


def _find(keys: Integers, wanted: Integers) -> Integers:
    """The number of each n-gram by its key, [num]; -1 for one never seen."""
    # As a context, -1 makes a negative key, which is in no table.
    ngrams = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[ngrams] == wanted, ngrams, -1)


def _contexts(ngrams: Integers, starts: NDArray[np.bool], num_contexts: int) -> Integers:
    """The n-gram that ends just before each place, or the last context, which is for a start."""
    # The first place is a start, so the n-gram which is rolled round to it is not read.
    return np.where(starts, num_contexts - 1, np.roll(ngrams, 1))


def _smooth(contexts: Integers, counts: Integers, num_contexts: int) -> Smoothed:
    """From the context and the count of each n-gram, [num_ngrams]."""
    discounts = _discounts(counts)[np.minimum(counts, 3) - 1]
    totals = np.bincount(contexts, counts, num_contexts)
    freed = np.bincount(contexts, discounts, num_contexts)
    # The last n-gram of a sequence may occur nowhere else: nothing follows it.
    return Smoothed(
        (counts - discounts) / totals[contexts],
        np.divide(freed, totals, out=np.ones(num_contexts), where=totals > 0),
    )


def _discounts(counts: Integers) -> Floats:
    """Discounts of the counts 1, 2, and 3 or more, [3], from the n-grams' counts, [num_ngrams].

        D_j = j - (j + 1) * Y * n_{j+1} / n_j    where Y = n_1 / (n_1 + 2 * n_2)

    n_j being how many n-grams have a count of j. Where n_1, n_2 or n_3 is zero, or a D_j is not
    positive (it is never above j), all three are 0.5, 1 and 1.5, the fallback of KenLM: so it is on
    small data, and for single characters of a large text, of which none may be rare.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=5)[1:5].astype(np.float64)
    if n[:3].all():
        j = np.arange(1, 4)
        discounts: Floats = j - (j + 1) * n[0] / (n[0] + 2 * n[1]) * n[1:] / n[:3]
        if (discounts > 0).all():
            return discounts
    return np.array(SMALL_DATA_DISCOUNTS)


def _checked(
    ids: ArrayLike, starts: ArrayLike, vocab_size: int
) -> tuple[Integers, NDArray[np.bool]]:
    ids, starts = np.asarray(ids), np.asarray(starts)
    if not ids.size:
        raise ValueError("expected at least one character, got no ids")
    if ids.ndim != 1 or starts.shape != ids.shape:
        raise ValueError(
            f"expected ids [num] and starts [num], got shapes {ids.shape} and {starts.shape}; "
            "put the sequences end to end"
        )
    invalid = ids[(ids < 0) | (ids >= vocab_size)]
    if invalid.size:
        raise ValueError(
            f"expected ids from 0 to {vocab_size - 1}, got {invalid[0]}; "
            'leave out padding and "no character"'
        )
    if not starts[0]:
        raise ValueError(
            "expected starts[0] to be True, got False; the first character begins a sequence"
        )
    return ids.astype(np.int64), starts.astype(np.bool)
