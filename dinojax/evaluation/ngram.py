"""N-gram language models of characters: a baseline that a network should beat.

The models use interpolated modified Kneser-Ney smoothing, at every order up to the one fitted:

    P_n(character | context) = (count - D(count)) / total
                             + freed(context) * P_{n-1}(character | shorter context)

where total is the sum of the counts, and freed(context) the sum of D(count) / total, over all
characters seen after the context. The discounts D take probability away, and the shorter context,
without its first character, distributes it. For a context never seen, freed is 1. P_0 = 1 /
vocab_size, so that no character is impossible.

At the highest order, the count is how often the n-gram occurs. At lower orders, it is how many
distinct characters precede the n-gram, which measures how readily it follows a new context. Nothing
precedes an n-gram whose context begins at the start of a sequence: its count is how often it
occurs. "No character", which is never predicted, fills up contexts that reach back over the start.

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
Flags = NDArray[np.bool]


class Smoothed(NamedTuple):
    """Term of the interpolation for n-grams of one length."""

    kept: Floats
    """(count - D(count)) / total of each n-gram, [num_ngrams]."""
    freed: Floats
    """What each context leaves to the next shorter one, [num_contexts]; 1 if nothing follows it."""
    counts: Integers
    """The count of each n-gram, [num_ngrams]."""
    discounts: Floats
    """D of the counts 1, 2, and 3 or more, [3]."""


class NgramModel(NamedTuple):
    """Models of every order from 1 to the one fitted, with one table for each length of n-gram.

    The number of an n-gram is its place in the table. Its key is context * vocab_size + character,
    where the context is the number of an n-gram one shorter, so that keys stay small for any
    vocabulary and order. The number after the last n-gram is a context of only "no character".
    """

    vocab_size: int
    keys: tuple[Integers, ...]
    """Sorted keys of the n-grams seen, [num_ngrams] each."""
    highest: tuple[Smoothed, ...]
    """Terms for the model whose order is the length, from how often each n-gram occurs."""
    lower: tuple[Smoothed, ...]
    """Terms for models of higher order, from how many characters precede it; one length fewer."""


def fit_ngrams(ids: ArrayLike, starts: ArrayLike, vocab_size: int, order: int) -> NgramModel:
    """Count and smooth the n-grams of up to `order` characters, of which the last is predicted.

    `ids` [num] are the characters of all sequences end to end: names, each with its newline, or a
    text; all are below `vocab_size`. `starts` [num] says whether a sequence begins at each of them,
    as one must at the first; no context reaches back over a start.

    Raises:
        ValueError: `order` is below 1, or `ids` or `starts` are empty or not as described.
    """
    if order < 1:
        raise ValueError(f"expected an order of at least 1, got {order}")
    ids, starts = _checked(ids, starts, vocab_size)
    places = np.arange(len(ids))
    distances = places - np.maximum.accumulate(np.where(starts, places, 0))
    keys: list[Integers] = []
    highest: list[Smoothed] = []
    lower: list[Smoothed] = []
    # The number of the n-gram that ends at each place, at first of length 0.
    ngrams, num_contexts = np.zeros(len(ids), np.int64), 1
    last_first = last_count = ngrams
    for n in range(1, order + 1):
        contexts = _contexts(ngrams, starts, num_contexts)
        found, first, longer, count = np.unique(
            contexts * vocab_size + ids, return_index=True, return_inverse=True, return_counts=True
        )
        if keys:
            # Each n-gram puts one distinct character before the shorter n-gram that it ends in.
            preceding = np.bincount(ngrams[first])
            adjusted = np.where(distances[last_first] < n - 2, last_count, preceding)
            lower.append(_smooth(keys[-1] // vocab_size, adjusted, len(highest[-1].freed)))
        keys.append(found)
        highest.append(_smooth(found // vocab_size, count, num_contexts))
        last_first, last_count = first, count
        ngrams, num_contexts = longer, len(found) + 1
    return NgramModel(vocab_size, tuple(keys), tuple(highest), tuple(lower))


def terms(model: NgramModel, order: int | None = None) -> list[tuple[Integers, Smoothed]]:
    """The keys of each length up to `order`, and the terms of the interpolation of that order.

    Raises:
        ValueError: `order`, by default the highest that was fitted, was not fitted.
    """
    most = len(model.keys)
    order = most if order is None else order
    if not 1 <= order <= most:
        raise ValueError(f"expected an order from 1 to {most}, got {order}; fit a higher order")
    used = (*model.lower[: order - 1], model.highest[order - 1])
    return list(zip(model.keys[:order], used, strict=True))


def nats(model: NgramModel, ids: ArrayLike, starts: ArrayLike, order: int | None = None) -> Floats:
    """Minus the log-probability of each character, conditioned on those before it, in nats, [num].

    `ids` and `starts` are as in `fit_ngrams`. By default, `order` is the highest that was fitted.

    Raises:
        ValueError: `order` was not fitted, or `ids` or `starts` are not as in `fit_ngrams`.
    """
    tables = terms(model, order)
    ids, starts = _checked(ids, starts, model.vocab_size)
    probabilities = np.full(len(ids), 1 / model.vocab_size)
    ngrams = np.zeros(len(ids), np.int64)
    for keys, term in tables:
        contexts = _contexts(ngrams, starts, len(term.freed))
        ngrams = _find(keys, contexts * model.vocab_size + ids)
        probabilities *= np.where(contexts >= 0, term.freed[contexts], 1)
        probabilities += np.where(ngrams >= 0, term.kept[ngrams], 0)
    return -np.log(probabilities)


def draw_names(
    generator: np.random.Generator,
    model: NgramModel,
    newline: int,
    num: int,
    *,
    max_length: int,
    order: int | None = None,
) -> tuple[Integers, Flags]:
    """Draw `num` names, each until newline or for `max_length` characters.

    The interpolation is a mixture. After a context comes one of the characters seen there, each
    with the probability that its discount kept, or else, with probability freed(context), what the
    next shorter context draws. P_0 draws all characters with equal probability.

    It returns the characters [num, max_length], newline from the end of a name on, and whether each
    name ended by itself, [num]; otherwise it was cut.

    Raises:
        ValueError: `order`, by default the highest that was fitted, was not fitted.
    """
    tables = []
    for keys, term in terms(model, order):
        # Where the n-grams of each context begin, and the sum of `kept` before each n-gram.
        first = np.searchsorted(keys, np.arange(len(term.freed) + 1) * model.vocab_size)
        tables.append((keys, first, np.concatenate([[0], np.cumsum(term.kept)])))
    ids, unfinished = np.full((num, max_length + 1), newline, np.int64), np.arange(num)
    contexts = [np.full(num, len(first) - 2) for _, first, _ in tables]
    for position in range(max_length + 1):
        drawn = generator.integers(model.vocab_size, size=len(unfinished))
        # From the shortest context to the longest: the longest that draws decides.
        for (keys, first, before), context in zip(tables, contexts, strict=True):
            passed = before[first[context]] + generator.random(len(unfinished))
            ngrams = np.searchsorted(before, passed, side="right") - 1
            draws = (context >= 0) & (ngrams < first[context + 1])
            drawn = np.where(draws, keys[np.minimum(ngrams, len(keys) - 1)], drawn)
            drawn %= model.vocab_size
        ids[unfinished, position] = drawn
        goes_on = drawn != newline
        unfinished, wanted = unfinished[goes_on], drawn[goes_on]
        pairs = zip(tables, contexts[:-1], strict=False)
        longer = [_find(keys, x[goes_on] * model.vocab_size + wanted) for (keys, *_), x in pairs]
        contexts = [np.zeros_like(wanted), *longer]
    return ids[:, :max_length], ids[:, max_length] == newline


def _find(keys: Integers, wanted: Integers) -> Integers:
    """The number of the n-gram of each key, [num]; -1 if it was never seen."""
    # With -1 as its context, a key is negative, which no table contains.
    ngrams = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[ngrams] == wanted, ngrams, -1)


def _contexts(ngrams: Integers, starts: Flags, num_contexts: int) -> Integers:
    """The number of the n-gram before each place; at a start, that of the last context."""
    # The first place is a start, so the n-gram that np.roll moves there is not used.
    return np.where(starts, num_contexts - 1, np.roll(ngrams, 1))


def _smooth(contexts: Integers, counts: Integers, num_contexts: int) -> Smoothed:
    """The term of n-grams with these contexts and counts, [num_ngrams]."""
    by_count = _discounts(counts)
    discounts = by_count[np.minimum(counts, 3) - 1]
    totals = np.bincount(contexts, counts, num_contexts)
    freed = np.bincount(contexts, discounts, num_contexts)
    # Nothing follows a context that occurs only at the end of a sequence.
    shares = np.divide(freed, totals, out=np.ones(num_contexts), where=totals > 0)
    return Smoothed((counts - discounts) / totals[contexts], shares, counts, by_count)


def _discounts(counts: Integers) -> Floats:
    """Discounts of the counts 1, 2, and 3 or more, [3], from the counts of n-grams [num_ngrams].

        D_j = j - (j + 1) * Y * n_{j+1} / n_j    where Y = n_1 / (n_1 + 2 * n_2)

    and n_j is how many n-grams have a count of j. If n_1, n_2 or n_3 is zero, or a D_j is not
    positive (it is never above j), they are 0.5, 1 and 1.5, as in KenLM. This happens on small
    data, and for the single characters of a large text, none of which may be rare.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=5)[1:5].astype(np.float64)
    if n[:3].all():
        j = np.arange(1, 4)
        discounts: Floats = j - (j + 1) * n[0] / (n[0] + 2 * n[1]) * n[1:] / n[:3]
        if (discounts > 0).all():
            return discounts
    return np.array([0.5, 1.0, 1.5])


def _checked(ids: ArrayLike, starts: ArrayLike, vocab_size: int) -> tuple[Integers, Flags]:
    ids, starts = np.asarray(ids), np.asarray(starts)
    if not ids.size:
        raise ValueError("expected at least one character, got no ids")
    if ids.ndim != 1 or starts.shape != ids.shape:
        got = f"got shapes {ids.shape} and {starts.shape}; put the sequences end to end"
        raise ValueError(f"expected ids [num] and starts [num], {got}")
    invalid = ids[(ids < 0) | (ids >= vocab_size)]
    if invalid.size:
        got = f'got {invalid[0]}; leave out padding and "no character"'
        raise ValueError(f"expected ids from 0 to {vocab_size - 1}, {got}")
    if not starts[0]:
        got = "got False; the first character begins a sequence"
        raise ValueError(f"expected starts[0] to be True, {got}")
    return ids.astype(np.int64), starts.astype(np.bool)
