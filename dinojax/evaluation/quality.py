"""How good sampled names are: whether they end, repeat, are new, and look real.

The figures follow those of benchmarks for molecule generators:

    validity      share of the samples that end by themselves
    uniqueness    share of the valid samples that are distinct
    novelty       share of the distinct samples that are not training names
    hits          share of the distinct held-out names that are among the samples
    divergence    between the character n-grams of samples and of held-out names
    edit distance from each distinct sample to the nearest training name

Uniqueness falls and hits rise with the number of samples, so compare equal numbers.

Differences from GuacaMol and MOSES:
    GuacaMol draws until it has enough valid samples (for uniqueness) or distinct ones (for
    novelty), and counts missing ones as failures; here, as in MOSES, all figures describe one set
    of samples. MOSES computes uniqueness on the first 1,000 and 10,000 valid samples, here it is on
    all. A chemistry parser decides which molecules are valid; here a name is valid unless it was
    cut, even an empty one. Neither has hits. Instead of the divergence, GuacaMol has Kullback-
    Leibler divergences between descriptors of distinct samples and training data, and MOSES has
    cosines between frequencies of fragments; here repeated samples count. Instead of the edit
    distance, MOSES has the mean similarity to the nearest held-out molecule.

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

MOST_COMPARED = 1_000
"""Number of names whose edit distances are computed, each to all training names."""


def describe_samples(
    samples: Sequence[str], ended: ArrayLike, train: Sequence[str], held_out: Sequence[str]
) -> Mapping[str, float]:
    """The validity of samples, and the figures of `describe_names` and the hits of the valid ones.

    `ended` [num] says whether each sample ended by itself; otherwise it was cut. The model learned
    from `train` and not from `held_out`; if that is empty, `hits` is left out.
    """
    ended = np.asarray(ended)
    valid = [sample for sample, whole in zip(samples, ended.tolist(), strict=True) if whole]
    figures = {"validity": float(ended.mean()), **describe_names(valid, train)}
    return figures | {"hits": hits(valid, held_out)} if held_out else figures


def describe_names(names: Sequence[str], train: Sequence[str]) -> Mapping[str, float]:
    """The figures of whole names, sampled or real.

    `mean_length` and `length_deviation`, the standard deviation with divisor num, are in characters
    without newlines, over all names. `edit_distance` is the mean Levenshtein distance from each
    distinct name to the nearest training name. `edit_distance_of_novel` is that of the names that
    are not training names. It is the mean of up to `MOST_COMPARED` of them, chosen at random, and
    `edit_distance_error` its standard error: 0 if all were compared. The mean of no names is NaN.
    """
    distinct, known = sorted(set(names)), set(train)
    novel = [name for name in distinct if name not in known]
    order = np.random.default_rng(0).permutation(len(novel))[:MOST_COMPARED]
    compared = [novel[i] for i in order.tolist()]
    edits = nearest(compared, sorted(known))[1].astype(float) if compared else np.zeros(0)
    of_novel, error = _ratio(float(edits.sum()), len(edits)), 0.0 if novel else np.nan
    if len(edits) < len(novel):
        error = float(edits.std(ddof=1)) * (1 / len(edits) - 1 / len(novel)) ** 0.5
    lengths = np.array([len(name) for name in names], float)
    return {
        "uniqueness": _ratio(len(distinct), len(names)),
        "novelty": _ratio(len(novel), len(distinct)),
        "mean_length": float(lengths.mean()) if names else np.nan,
        "length_deviation": float(lengths.std()) if names else np.nan,
        "edit_distance": _ratio(of_novel * len(novel) if novel else 0.0, len(distinct)),
        "edit_distance_of_novel": of_novel,
        "edit_distance_error": error,
    }


def hits(names: Sequence[str], held_out: Sequence[str]) -> float:
    """The share of the distinct held-out names that are among `names`."""
    wanted = set(held_out)
    return len(wanted.intersection(names)) / len(wanted)


def divergences(first: Sequence[str], second: Sequence[str]) -> Mapping[str, float]:
    """The `ngram_divergence` of each order from 1 to 4."""
    return {f"divergence_{order}": ngram_divergence(first, second, order) for order in range(1, 5)}


def ngram_divergence(first: Sequence[str], second: Sequence[str], order: int) -> float:
    """Jensen-Shannon divergence between the character n-grams of two sets of names, in bits.

    Each character of a name, its newline included, completes one n-gram; newlines fill up those
    that reach back over the start. The names must include their newlines, except for samples that
    were cut, which have no end.

    Two finite samples of one distribution differ, so the divergence is biased upwards, and nearly
    all of it is bias if most n-grams occur once. Compare sets of equal size, and compare their
    divergence with a floor from sets of the same size; see `halves`.
    """
    counts = []
    for names in first, second:
        framed = ["\n" * (order - 1) + name for name in names]
        places = ((name, i) for name in framed for i in range(len(name) - order + 1))
        counts.append(Counter(name[i : i + order] for name, i in places))
    ngrams = sorted(counts[0].keys() | counts[1].keys())
    p, q = (np.array([count[ngram] for ngram in ngrams], float) for count in counts)
    return jensen_shannon(p / p.sum(), q / q.sum())


def jensen_shannon(p: ArrayLike, q: ArrayLike) -> float:
    """The Jensen-Shannon divergence of two distributions [num] in bits: 0 if equal, at most 1.

    (KL(p, m) + KL(q, m)) / 2    where m = (p + q) / 2 and KL(p, m) = sum_i p_i log2(p_i / m_i)
    """
    p, q = np.asarray(p, float), np.asarray(q, float)
    middle = (p + q) / 2
    # x log x tends to 0, so n-grams that never occur add nothing.
    pairs = ((x[x > 0], middle[x > 0]) for x in (p, q))
    total = sum(float(np.sum(x * np.log2(x / m))) for x, m in pairs)
    # Rounding can make it negative.
    return max(0.0, total / 2)


def halves(
    generator: np.random.Generator, names: Sequence[str], size: int
) -> tuple[list[str], list[str]]:
    """Two random disjoint sets of `size` entries of `names`, or of half of them if there are fewer.

    The divergence between two sets of real names is the floor for that of samples: names as good as
    real ones reach it. Copies of a name can fall into both sets, as a model may write a held-out
    name. Real held-out names differ slightly more from the training names, as they share none.
    """
    size = min(size, len(names) // 2)
    chosen = [names[i] for i in generator.permutation(len(names))[: 2 * size].tolist()]
    return chosen[:size], chosen[size:]


def _ratio(part: float, whole: int) -> float:
    return part / whole if whole else np.nan
