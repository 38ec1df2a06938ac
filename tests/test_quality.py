"""Figures of sampled names by hand, and draws of n-gram models against their distribution."""

import math
from collections import Counter
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest

from dinojax.data.vocab import build_vocab
from dinojax.evaluation.ngram import draw_names, fit_ngrams, nats
from dinojax.evaluation.quality import (
    describe_names,
    describe_samples,
    divergences,
    halves,
    hits,
    jensen_shannon,
    ngram_divergence,
)

TRAIN = ["rex", "mei", "yi", "rex"]


def lines(names):
    return [f"{name}\n" for name in names]


def chi_squared_limit(degrees):
    """Five standard deviations above the mean of the distribution."""
    return degrees + 5 * math.sqrt(2 * degrees)


# Figures of names.


def test_samples_by_hand():
    samples = ["rex", "aaaaaa", "raxo", "rex", "yi"]
    figures = describe_samples(
        samples, [True, False, True, True, True], TRAIN, ["raxo", "mo", "raxo", "aaaaaa", "ti"]
    )
    assert figures == pytest.approx(
        {
            "validity": 4 / 5,
            # rex, raxo and yi, of four.
            "uniqueness": 3 / 4,
            "novelty": 1 / 3,
            "mean_length": 3,
            # Lengths of 3, 4, 3 and 2.
            "length_deviation": math.sqrt(1 / 2),
            # Only raxo is not there: a for e, and an o.
            "edit_distance": 2 / 3,
            "edit_distance_of_novel": 2,
            "edit_distance_error": 0,
            # raxo, of raxo, mo, aaaaaa, which was cut, and ti.
            "hits": 1 / 4,
        },
        rel=1e-15,
    )
    assert all(type(value) is float for value in figures.values())


def test_figures_do_not_depend_on_the_order_nor_on_copies_of_training_names():
    generator = np.random.default_rng(0)
    samples = ["".join(x) for x in generator.choice(list("remiy"), (60, 3)).tolist()]
    ended = generator.random(60) < 0.8
    expected = describe_samples(samples, ended, TRAIN, ["rem", "yyy"])
    order = generator.permutation(60)
    shuffled = [samples[i] for i in order]
    actual = describe_samples(shuffled, ended[order], [*TRAIN[::-1], "yi"], ["yyy", "rem", "yyy"])
    assert actual == pytest.approx(expected, rel=1e-14)
    # Being cut counts too.
    assert describe_samples(samples, np.ones(60, bool), TRAIN, ["rem"]) != expected


def test_edits_of_many_names_are_those_of_a_sample_with_its_standard_error(monkeypatch):
    names = ["a" * n for n in range(1, 401)]
    whole = describe_names(names, ["", "a"])
    assert (whole["edit_distance_of_novel"], whole["edit_distance_error"]) == (200, 0)
    monkeypatch.setattr("dinojax.evaluation.quality.MOST_COMPARED", 100)
    part = describe_names(names, ["", "a"])
    # The variance of a mean of 100 of the numbers from 1 to 399, drawn without replacement.
    assert part["edit_distance_error"] == pytest.approx(
        math.sqrt((399**2 - 1) / 12 * 399 / 398 / 100 * (1 - 100 / 399)), rel=0.1
    )
    assert 0 < abs(part["edit_distance_of_novel"] - 200) < 3 * part["edit_distance_error"]
    assert part["edit_distance"] == pytest.approx(part["edit_distance_of_novel"] * 399 / 400)
    assert describe_names(names, ["", "a"]) == part


def test_memorised_names_are_not_novel():
    samples = TRAIN * 5
    figures = describe_samples(samples, np.ones(20, bool), TRAIN, ["rax"])
    assert (figures["novelty"], figures["edit_distance"], figures["hits"]) == (0, 0, 0)
    assert (figures["validity"], figures["uniqueness"]) == (1, 3 / 20)
    assert math.isnan(figures["edit_distance_of_novel"])


def test_where_no_sample_is_valid_there_is_no_mean():
    figures = dict(describe_samples(["rex", "yi"], [False, False], TRAIN, ["rex"]))
    assert (figures.pop("validity"), figures.pop("hits")) == (0, 0)
    assert len(figures) == 7
    assert all(map(math.isnan, figures.values()))


def test_without_held_out_names_there_are_no_hits():
    figures = describe_samples(["rex"], [True], TRAIN, [])
    assert figures == {"validity": 1} | describe_names(["rex"], TRAIN) | {
        "edit_distance_of_novel": pytest.approx(math.nan, nan_ok=True)
    }


def test_an_empty_name_counts_as_any_other():
    figures = describe_names(["", "", "rexo"], TRAIN)
    assert (figures["uniqueness"], figures["novelty"], figures["mean_length"]) == (2 / 3, 1, 4 / 3)
    # Two letters make it yi; an o less makes the other rex.
    assert figures["edit_distance"] == figures["edit_distance_of_novel"] == 3 / 2


def test_hits_are_of_the_distinct_held_out_names():
    assert hits(["a", "b", "b", "x"], ["a", "c", "c", "b", "c"]) == 2 / 3
    assert hits([], ["a"]) == 0
    assert hits(["a", "b"], ["b", "a"]) == 1


# Divergences.


def entropy(p):
    return -sum(x * math.log2(x) for x in p if x > 0)


def test_jensen_shannon_is_a_difference_of_entropies():
    generator = np.random.default_rng(0)
    for num in (1, 2, 5, 300):
        for concentration in (0.05, 1.0, 30.0):
            p, q = generator.dirichlet(np.full(num, concentration), 2)
            # Where one never occurs, and where neither does.
            p[: num // 3], q[num // 4 : num // 2] = 0, 0
            p, q = p / p.sum(), q / q.sum()
            expected = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
            assert jensen_shannon(p, q) == pytest.approx(expected, abs=1e-12)
            assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p), rel=1e-14)
            assert 0 <= jensen_shannon(p, q) <= 1
            assert jensen_shannon(p, p) == 0


def test_jensen_shannon_by_hand():
    assert jensen_shannon([0.25, 0.75, 0, 0], [0, 0, 0.5, 0.5]) == 1
    # m = (3/4, 1/4): KL of log2(4/3), and of log2(2/3) / 2 + log2(2) / 2.
    expected = (math.log2(4 / 3) + math.log2(2 / 3) / 2 + 1 / 2) / 2
    assert jensen_shannon([1, 0], [0.5, 0.5]) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("order", "p", "q"),
    [
        # a, b, end.
        (1, [1 / 3, 1 / 3, 1 / 3], [1 / 4, 1 / 4, 1 / 2]),
        # start a, a b, b end, a end, start b.
        (2, [1 / 3, 1 / 3, 1 / 3, 0, 0], [1 / 4, 0, 1 / 4, 1 / 4, 1 / 4]),
        # start start a, start a b, a b end, start a end, start start b, start b end.
        (3, [1 / 3, 1 / 3, 1 / 3, 0, 0, 0], [1 / 4, 0, 0, 1 / 4, 1 / 4, 1 / 4]),
    ],
)
def test_ngrams_of_names_by_hand(order, p, q):
    expected = entropy((np.array(p) + q) / 2) - (entropy(p) + entropy(q)) / 2
    assert ngram_divergence(["ab\n"], ["a\n", "b\n"], order) == pytest.approx(expected, rel=1e-12)


def slow_distribution(names, order):
    """Distribution of n-grams as tuples, with marks for start and end that are no characters."""
    counts = Counter()
    for name in names:
        marked = ["start"] * (order - 1) + ["end" if x == "\n" else x for x in name]
        counts.update(tuple(marked[i - order : i]) for i in range(order, len(marked) + 1))
    return {ngram: count / counts.total() for ngram, count in counts.items()}


@pytest.mark.parametrize("order", range(1, 5))
def test_ngrams_of_names_equal_tuples(order):
    generator = np.random.default_rng(order)
    first, second = (
        ["".join(generator.choice(list("abc"), n)) for n in generator.integers(0, 7, num)]
        for num in (30, 50)
    )
    # Some were cut.
    first = [*lines(first[:20]), *first[20:]]
    second = lines(second)
    p, q = slow_distribution(first, order), slow_distribution(second, order)
    pairs = np.array([(p.get(ngram, 0), q.get(ngram, 0)) for ngram in p.keys() | q.keys()])
    expected = entropy(pairs.mean(axis=1)) - (entropy(pairs[:, 0]) + entropy(pairs[:, 1])) / 2
    assert ngram_divergence(first, second, order) == pytest.approx(expected, abs=1e-12)
    assert ngram_divergence(second, first, order) == pytest.approx(expected, abs=1e-12)
    assert divergences(first, second)[f"divergence_{order}"] == pytest.approx(expected, abs=1e-12)


def test_divergences_of_equal_and_of_disjoint_names():
    names = lines(["rex", "yi", "mei"])
    assert set(divergences(names, names[::-1] * 3).values()) == {0.0}
    apart = divergences(names, lines(["ab", "c", "ddd"]))
    assert list(apart) == [f"divergence_{order}" for order in (1, 2, 3, 4)]
    # The end alone is a 1-gram that all share.
    assert apart["divergence_1"] < 1
    assert [apart[f"divergence_{order}"] for order in (2, 3, 4)] == [1, 1, 1]
    # Where a sample was cut there is no end.
    assert min(divergences(["rex"], ["rex\n"]).values()) > 0


def test_halves_share_no_item():
    names = [str(i) for i in range(41)]
    for size, expected in ((1, 1), (7, 7), (20, 20), (21, 20), (1000, 20)):
        first, second = halves(np.random.default_rng(0), names, size)
        assert len(first) == len(second) == expected
        assert len({*first, *second}) == 2 * expected
        assert {*first, *second} <= set(names)
    # Copies stand in places of their own.
    first, second = halves(np.random.default_rng(0), ["a", "a"], 1)
    assert first == second == ["a"]


def test_every_name_falls_into_either_half_equally_often():
    generator, counts = np.random.default_rng(0), np.zeros((2, 10))
    for _ in range(2_000):
        for half, names in enumerate(halves(generator, list("0123456789"), 3)):
            counts[half, [int(name) for name in names]] += 1
    # A share of 3 in 10 each; five standard deviations.
    assert np.abs(counts / 2_000 - 0.3).max() < 5 * math.sqrt(0.3 * 0.7 / 2_000)


def test_divergence_of_finite_samples_is_biased_upwards():
    generator = np.random.default_rng(0)
    names = lines("".join(x) for x in generator.choice(list("abcdefgh"), (4_000, 5)).tolist())
    small, large = (divergences(*halves(generator, names, size)) for size in (100, 2_000))
    for order in range(1, 5):
        assert 0 < 2 * large[f"divergence_{order}"] < small[f"divergence_{order}"]


# Samples of n-gram models.

VOCAB_SIZE, NEWLINE = 4, 0
"""Of the characters 1, 2 and 3 the last never occurs."""


@cache
def tiny_model():
    generator = np.random.default_rng(0)
    names = [generator.choice([1, 2], n, p=[0.7, 0.3]) for n in generator.integers(1, 6, 12)]
    ids = np.concatenate([[*name, NEWLINE] for name in names])
    return fit_ngrams(ids, np.append(True, ids[:-1] == NEWLINE), VOCAB_SIZE, 4)


def law(model, max_length, order):
    """The probability of every name (characters, ended), the cut ones included."""
    outcomes = {}
    for length in range(max_length + 1):
        for characters in product(range(1, VOCAB_SIZE), repeat=length):
            ids = [*characters, NEWLINE]
            each = nats(model, ids, np.arange(length + 1) == 0, order)
            outcomes[characters, True] = math.exp(-each.sum())
            if length == max_length:
                cut = math.exp(-each[:-1].sum()) * (1 - math.exp(-each[-1]))
                outcomes[characters, False] = cut
    return outcomes


@pytest.mark.parametrize(
    ("order", "max_length"), [(1, 3), (2, 3), (3, 3), (4, 4), (None, 4), (4, 0)]
)
def test_ngram_models_draw_from_their_distribution(order, max_length):
    num, model = 40_000, tiny_model()
    expected = law(model, max_length, order)
    assert math.fsum(expected.values()) == pytest.approx(1, rel=1e-12)
    ids, ended = draw_names(
        np.random.default_rng(1), model, NEWLINE, num, max_length=max_length, order=order
    )
    assert ids.shape == (num, max_length)
    assert ended.shape == (num,)
    lengths = np.sum(ids != NEWLINE, axis=1)
    np.testing.assert_array_equal(ids == NEWLINE, np.arange(max_length) >= lengths[:, None])
    drawn = Counter(
        (tuple(row[:length]), whole)
        for row, length, whole in zip(ids.tolist(), lengths, ended.tolist(), strict=True)
    )
    assert drawn.keys() <= expected.keys()
    often = [name for name, p in expected.items() if p * num >= 5]
    pairs = [(drawn[name], expected[name] * num) for name in often]
    # Rare names are pooled.
    observed, wanted = np.array(
        [*pairs, (num - sum(x for x, _ in pairs), num - sum(x for _, x in pairs))]
    ).T
    statistic = np.sum((observed - wanted) ** 2 / np.maximum(wanted, 1e-9))
    assert statistic < chi_squared_limit(len(often))


def test_distributions_of_orders_differ_by_more_than_the_test_tolerates():
    laws = [law(tiny_model(), 3, order) for order in (1, 2, 3, 4)]
    for p, q in pairwise(laws):
        assert 40_000 * sum((p[name] - q[name]) ** 2 / q[name] for name in q) > 500


def test_the_same_generator_gives_the_same_names():
    first, again, other = (
        draw_names(np.random.default_rng(seed), tiny_model(), NEWLINE, 50, max_length=6)[0]
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("order", [0, 5, -1])
def test_an_order_that_was_not_fitted_is_refused(order):
    with pytest.raises(ValueError, match=f"expected an order from 1 to 4, got {order}"):
        draw_names(np.random.default_rng(0), tiny_model(), NEWLINE, 1, max_length=1, order=order)


def test_a_bigram_model_and_one_that_memorises_look_as_bad_as_they_are():
    """A bigram model knows which characters are adjacent, but not the form: stem, o, ending."""
    generator = np.random.default_rng(0)
    stems = ["".join(x) for x in product("bdgklmt", "aeiu", "drn")]
    endings = ["saurus", "don", "raptor", "ceps", "mimus", "gnathus"]
    language = [f"{stem}o{ending}" for stem, ending in product(stems, endings)]
    held_out, train = halves(generator, language, len(language) // 2)
    vocab = build_vocab(language)
    ids = vocab.encode("".join(lines(train)))
    model = fit_ngrams(ids, np.append(True, ids[:-1] == vocab.newline), vocab.size, 5)
    floor = divergences(held_out, train)
    assert len(held_out) == len(train) == 252
    figures, apart = {}, {}
    for order in (2, 5):
        drawn, ended = draw_names(
            generator, model, vocab.newline, 2_000, max_length=50, order=order
        )
        samples = [vocab.decode(row).rstrip("\n") for row in drawn]
        figures[order] = describe_samples(samples, ended, train, held_out)
        apart[order] = divergences(lines(samples[:252]), lines(held_out))
        # Both know how often each character comes, and each pair.
        assert apart[order]["divergence_1"] < 0.02
        assert apart[order]["divergence_2"] < 0.1
    for long in ("divergence_3", "divergence_4"):
        assert apart[2][long] > 4 * floor[long]
        assert apart[2][long] > 2 * apart[5][long]
    # A model that memorises the training names has n-grams as good as real ones.
    samples = generator.choice(train, 2_000).tolist()
    memorised = describe_samples(samples, np.ones(2_000, bool), train, held_out)
    by_heart = divergences(lines(samples[:252]), lines(held_out))
    assert by_heart["divergence_4"] < apart[5]["divergence_4"]
    assert (memorised["novelty"], memorised["hits"], memorised["edit_distance"]) == (0, 0, 0)
    assert figures[2]["novelty"] > figures[5]["novelty"] > 0.5
    assert figures[5]["edit_distance"] > 0.5
    assert figures[5]["hits"] > 0.4
    assert figures[2]["hits"] < 0.2 * figures[5]["hits"]
    assert figures[2]["edit_distance"] > 2 * figures[5]["edit_distance"]
    assert figures[2]["length_deviation"] > 2 * figures[5]["length_deviation"]
