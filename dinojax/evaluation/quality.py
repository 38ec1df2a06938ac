"""How good names are that a model has written: whether they end, repeat, are new, and look real.

The figures are those that molecule generators are compared by:

    validity      share of the samples that end by themselves
    uniqueness    distinct / all, of the valid
    novelty       share of the distinct that are not among the training names
    hits          share of the distinct held-out names that are among the samples
    divergence    between the character n-grams of samples and of held-out names
    edit distance from each distinct sample to the nearest training name

Uniqueness falls and hits rise with the number of samples: compare equal numbers.

Where this departs from GuacaMol and MOSES:
    GuacaMol draws until there are so many valid (for uniqueness) or distinct (for novelty) ones,
    and counts those that are missing as failures. Here, as in MOSES, all is of one set of samples;
    MOSES takes uniqueness of the first 1,000 and 10,000 valid ones, here it is of all. What is
    valid chemistry is for a parser to say; here every name is valid that is not cut, even an empty
    one. Neither has hits. The divergence stands where GuacaMol has Kullback-Leibler divergences
    between molecular descriptors of distinct samples and training data, and MOSES cosines between
    frequencies of fragments; here repeated samples count as often as they occur, as real names do.
    The edit distance stands where MOSES has the mean similarity to the nearest held-out molecule:
    here the nearest is a training name, to show what is copied with a change or two.

References:
    Brown et al., "GuacaMol: benchmarking models for de novo molecular design", Journal of Chemical
    Information and Modeling 59 (2019), 1096.
    Polykovskiy et al., "Molecular Sets (MOSES): a benchmarking platform for molecular generation
    models", Frontiers in Pharmacology 11 (2020), 565644.
    Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on Information
    Theory 37 (1991): the Jensen-Shannon divergence.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from dinojax.data.distances import nearest

ORDERS = 1, 2, 3, 4
"""Lengths of the n-grams whose distributions are compared."""


def describe_samples(
    samples: Sequence[str], ended: ArrayLike, train: Sequence[str], held_out: Sequence[str]
) -> Mapping[str, float]:
    """Validity of the samples, and of the valid the figures of `describe_names`, and hits.

    Args:
        samples: at least one, in any order.
        ended: whether each ended by itself, [num]; if not, it was cut.
        train: the names that the model has learned from.
        held_out: those that it was kept from; with none there are no hits.
    """
    ended = np.asarray(ended)
    valid = [sample for sample, whole in zip(samples, ended.tolist(), strict=True) if whole]
    figures = {"validity": float(ended.mean()), **describe_names(valid, train)}
    return figures | {"hits": hits(valid, held_out)} if held_out else figures


def describe_names(names: Sequence[str], train: Sequence[str]) -> Mapping[str, float]:
    """The figures of whole names, sampled or real.

    `mean_length` and `length_deviation`, the standard deviation with divisor num, are in
    characters, newlines not counted, over all names. `edit_distance` is the mean of the Levenshtein
    distances from each distinct name to the nearest training name, where a name learned by heart
    counts 0. `edit_distance_of_novel` is that of the names alone which are not among them: held-out
    names never are, so this is what compares with theirs. A mean of nothing is NaN.
    """
    distinct, known = sorted(set(names)), set(train)
    novel = [name for name in distinct if name not in known]
    edits = float(nearest(novel, sorted(known))[1].sum()) if novel else 0.0
    lengths = np.array([len(name) for name in names], float)
    return {
        "uniqueness": _ratio(len(distinct), len(names)),
        "novelty": _ratio(len(novel), len(distinct)),
        "mean_length": float(lengths.mean()) if names else np.nan,
        "length_deviation": float(lengths.std()) if names else np.nan,
        "edit_distance": _ratio(edits, len(distinct)),
        "edit_distance_of_novel": _ratio(edits, len(novel)),
    }


def hits(names: Sequence[str], held_out: Sequence[str]) -> float:
    """The share of the distinct held-out names that are among `names`."""
    wanted = set(held_out)
    return len(wanted.intersection(names)) / len(wanted)


def divergences(first: Sequence[str], second: Sequence[str]) -> Mapping[str, float]:
    """The `ngram_divergence` of each of the `ORDERS`."""
    return {f"divergence_{order}": ngram_divergence(first, second, order) for order in ORDERS}


def ngram_divergence(first: Sequence[str], second: Sequence[str], order: int) -> float:
    """Jensen-Shannon divergence between the character n-grams of two sets of names, in bits.

    Each name stands between marks, as an n-gram model reads it: every character, and the end,
    completes one n-gram, which reaches back over the start where it must. So each order has as many
    n-grams, and the start alone is none. A newline is the mark: the names must have theirs, but for
    samples that were cut, which have no end.

    Two finite samples of one law differ, so this is biased upwards: nearly all of it is bias where
    most n-grams occur once. Compare sets of equal size with a floor of the same size; see `halves`.
    """
    counts = [
        Counter(
            framed[i : i + order]
            for framed in ("\n" * (order - 1) + name for name in names)
            for i in range(len(framed) - order + 1)
        )
        for names in (first, second)
    ]
    ngrams = sorted(counts[0].keys() | counts[1].keys())
    p, q = (np.array([count[ngram] for ngram in ngrams], float) for count in counts)
    return jensen_shannon(p / p.sum(), q / q.sum())


def jensen_shannon(p: ArrayLike, q: ArrayLike) -> float:
    """The Jensen-Shannon divergence of two distributions [num] in bits: 0 if equal, at most 1.

    (KL(p, m) + KL(q, m)) / 2    where m = (p + q) / 2 and KL(p, m) = sum_i p_i log2(p_i / m_i)
    """
    p, q = np.asarray(p, float), np.asarray(q, float)
    middle = (p + q) / 2
    total = 0.0
    for each in (p, q):
        # What never occurs adds nothing, as x log x goes to 0.
        occurs = each > 0
        total += float(np.sum(each[occurs] * np.log2(each[occurs] / middle[occurs])))
    # Rounding may make it negative.
    return max(0.0, total / 2)


def halves(
    generator: np.random.Generator, names: Sequence[str], size: int
) -> tuple[list[str], list[str]]:
    """Two random sets of `size` names without a common place; of half the names if there are fewer.

    The divergence between halves of real names is the floor for that of samples: names as good as
    real ones have it. Here copies of a name can fall into both halves, as a model may write a name
    that was held out; real held-out names differ a little more from the training names, with which
    they share none.
    """
    size = min(size, len(names) // 2)
    chosen = [names[i] for i in generator.permutation(len(names))[: 2 * size].tolist()]
    return chosen[:size], chosen[size:]


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else np.nan
