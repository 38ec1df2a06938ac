"""N-gram models against dictionaries, against cases by hand, and against a known source."""

from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest

from dinojax.data.vocab import build_vocab
from dinojax.evaluation.ngram import fit_ngrams, nats


def joined(sequences):
    """Sequences of ids end to end, and where they begin."""
    starts = [i == 0 for sequence in sequences for i in range(len(sequence))]
    return np.array([i for sequence in sequences for i in sequence]), np.array(starts)


def windows_of(sequences, n, vocab_size):
    """Each n-gram where it occurs, with each sequence padded by "no character" in front."""
    for sequence in sequences:
        filled = [vocab_size] * (n - 1) + [int(i) for i in sequence]
        for end in range(n, len(filled) + 1):
            yield tuple(filled[end - n : end])


def slow_discounts(counts):
    n1, n2, n3, n4 = (sum(count == j for count in counts) for j in (1, 2, 3, 4))
    if n1 > 0 and n2 > 0 and n3 > 0:
        y = Fraction(n1, n1 + 2 * n2)
        discounts = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        if min(discounts) > 0:
            return discounts
    return [Fraction(1, 2), Fraction(1), Fraction(3, 2)]


def slow_model(sequences, vocab_size, order):
    """The probability of a character after a context, by dictionaries and exact fractions."""
    levels = []
    for n in range(1, order + 1):
        counts = Counter(windows_of(sequences, n, vocab_size))
        if n < order:
            before = defaultdict(set)
            for ngram in windows_of(sequences, n + 1, vocab_size):
                before[ngram[1:]].add(ngram[0])
            for ngram in counts:
                if ngram[0] != vocab_size:
                    counts[ngram] = len(before[ngram])
        followers = defaultdict(Counter)
        for ngram in counts:
            followers[ngram[:-1]][counts[ngram]] += 1
        levels.append((counts, followers, slow_discounts(counts.values())))

    def probability(context, character):
        p = Fraction(1, vocab_size)
        for n, (counts, followers, discounts) in enumerate(levels, 1):
            shorter = tuple(context[len(context) - (n - 1) :])
            if shorter not in followers:
                break
            times = followers[shorter]
            total = sum(count * times[count] for count in times)
            freed = sum(discounts[min(count, 3) - 1] * times[count] for count in times)
            count = counts.get((*shorter, character), 0)
            kept = count - discounts[min(count, 3) - 1] if count else 0
            p = (kept + freed * p) / total
        return p

    return probability


def slow_probabilities(sequences, vocab_size, order, evaluated):
    probability = slow_model(sequences, vocab_size, order)
    ngrams = windows_of(evaluated, order, vocab_size)
    return np.array([float(probability(ngram[:-1], ngram[-1])) for ngram in ngrams])


def random_sequences(generator, num, vocab_size, longest):
    """Some characters are frequent, some rare, as in a text."""
    frequencies = generator.dirichlet(np.full(vocab_size, 0.7))
    lengths = generator.integers(1, longest + 1, num)
    return [generator.choice(vocab_size, length, p=frequencies) for length in lengths]


def after(model, context, order=None):
    """Probabilities of every character after a context that begins a sequence, [vocab_size]."""
    sequences = [[*context, character] for character in range(model.vocab_size)]
    return np.exp(-nats(model, *joined(sequences), order)).reshape(model.vocab_size, -1)[:, -1]


def in_nats(fractions):
    return -np.log([float(fraction) for fraction in fractions])


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("seed", "num", "vocab_size", "longest"),
    [(0, 1, 3, 400), (1, 60, 4, 12), (2, 300, 12, 6), (3, 30, 2, 3), (4, 1, 5, 1), (5, 40, 30, 40)],
)
def test_equals_dictionaries(seed, num, vocab_size, longest, order):
    generator = np.random.default_rng(seed)
    sequences = random_sequences(generator, num, vocab_size, longest)
    # Uniform sequences as well, so that many n-grams and contexts are unseen.
    evaluated = [*sequences[:20], *generator.integers(0, vocab_size, (20, 7))]
    model = fit_ngrams(*joined(sequences), vocab_size, 5)
    expected = slow_probabilities(sequences, vocab_size, order, evaluated)
    costs = nats(model, *joined(evaluated), order)
    assert costs.dtype == np.float64
    np.testing.assert_allclose(np.exp(-costs), expected, rtol=1e-12)
    alone = fit_ngrams(*joined(sequences), vocab_size, order)
    np.testing.assert_array_equal(nats(alone, *joined(evaluated)), costs)


def test_these_data_use_both_the_formula_and_the_fallback_below_and_at_the_top():
    fallback = [Fraction(1, 2), Fraction(1), Fraction(3, 2)]
    sequences = random_sequences(np.random.default_rng(5), 40, 30, 40)
    counts = [Counter(windows_of(sequences, n, 30)).values() for n in range(1, 6)]
    used = [slow_discounts(count) == fallback for count in counts]
    assert True in used
    assert False in used


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_sum_to_one_after_any_context(order):
    generator = np.random.default_rng(order)
    vocab_size = 9
    # The last character is never seen in fitting.
    sequences = random_sequences(generator, 50, vocab_size - 1, 20)
    model = fit_ngrams(*joined(sequences), vocab_size, 5)
    seen = [sequence[: generator.integers(len(sequence) + 1)] for sequence in sequences]
    unseen = [generator.integers(0, vocab_size, generator.integers(1, 8)) for _ in range(50)]
    for context in [[], [vocab_size - 1], *seen, *unseen]:
        probabilities = after(model, context, order)
        assert (probabilities > 0).all()
        assert probabilities.sum() == pytest.approx(1, abs=1e-12)


def test_single_characters_by_hand_where_counts_are_few():
    # "aab", 3 characters in the vocabulary. One character occurs once, one twice, none thrice, so
    # the discounts are 1/2 and 1, and 3/2 of 3 is left for all alike.
    ids, starts = joined([[0, 0, 1]])
    model = fit_ngrams(ids, starts, 3, 1)
    a = Fraction(2 - 1, 3) + Fraction(1, 2) * Fraction(1, 3)
    b = (1 - Fraction(1, 2)) / 3 + Fraction(1, 2) * Fraction(1, 3)
    c = Fraction(1, 2) * Fraction(1, 3)
    assert (a, b, c) == (Fraction(1, 2), Fraction(1, 3), Fraction(1, 6))
    np.testing.assert_allclose(nats(model, ids, starts), in_nats([a, a, b]), rtol=1e-14)
    np.testing.assert_allclose(after(model, []), [float(p) for p in (a, b, c)], rtol=1e-14)


def test_single_characters_by_hand_with_the_formula():
    # Four characters occur once, two twice, one three times and one four times; two never.
    # n_1..n_4 = 4, 2, 1, 1, so Y = 4 / (4 + 2*2) = 1/2 and the discounts are
    # 1 - 2/2 * 2/4 = 1/2, 2 - 3/2 * 1/2 = 5/4, 3 - 4/2 * 1/1 = 1.
    occurrences = [1, 1, 1, 1, 2, 2, 3, 4, 0, 0]
    ids = np.repeat(np.arange(10), occurrences)
    model = fit_ngrams(ids, np.arange(15) == 0, 10, 1)
    freed = (4 * Fraction(1, 2) + 2 * Fraction(5, 4) + 2 * 1) / 15
    kept = {1: Fraction(1, 2), 2: Fraction(3, 4), 3: Fraction(2), 4: Fraction(3), 0: Fraction(0)}
    expected = [kept[count] / 15 + freed / 10 for count in occurrences]
    assert sum(expected) == 1
    np.testing.assert_allclose(after(model, []), [float(p) for p in expected], rtol=1e-14)


def test_three_names_by_hand():
    # "ab", "ab", "cb"; before a name stands "^". At no level does anything count three times, so
    # the discounts are 1/2 and 1 everywhere.
    a, b, c = 0, 1, 2
    half = Fraction(1, 2)
    ids, starts = joined([[a, b], [a, b], [c, b]])
    model = fit_ngrams(ids, starts, 3, 3)
    # Before a and before c stands only ^, before b stand a and c: counts 1, 2, 1 of 4.
    single_a = single_c = half / 4 + Fraction(2, 4) * Fraction(1, 3)
    single_b = Fraction(2 - 1, 4) + Fraction(2, 4) * Fraction(1, 3)
    assert single_a + single_b + single_c == 1
    # Order 2: ^a twice, ^c once, ab twice, cb once.
    start_a = Fraction(2 - 1, 3) + (1 + half) / 3 * single_a
    start_c = half / 3 + (1 + half) / 3 * single_c
    a_b = Fraction(2 - 1, 2) + half * single_b
    c_b = half + half * single_b
    expected = [start_a, a_b, start_a, a_b, start_c, c_b]
    np.testing.assert_allclose(nats(model, ids, starts, 2), in_nats(expected), rtol=1e-14)
    np.testing.assert_allclose(after(model, [a], 2)[c], float(half * single_c), rtol=1e-14)
    # Order 3: ^^a twice, ^^c once, ^ab twice, ^cb once. Of order 2 below it, ^a and ^c keep their
    # counts, as their context begins with the start, but ab counts once: only ^ comes before.
    lower_a_b = half + half * single_b
    expected = [
        Fraction(2 - 1, 3) + (1 + half) / 3 * start_a,
        Fraction(2 - 1, 2) + half * lower_a_b,
        Fraction(2 - 1, 3) + (1 + half) / 3 * start_a,
        Fraction(2 - 1, 2) + half * lower_a_b,
        half / 3 + (1 + half) / 3 * start_c,
        half + half * c_b,
    ]
    np.testing.assert_allclose(nats(model, ids, starts), in_nats(expected), rtol=1e-14)
    # The contexts "cc" and "bb" are unseen; of their ends only "c" was ever followed by anything.
    np.testing.assert_allclose(after(model, [c, c])[b], float(c_b), rtol=1e-14)
    np.testing.assert_allclose(after(model, [b, b])[b], float(single_b), rtol=1e-14)


def test_a_start_is_a_context():
    # Names begin with t or r, and neither occurs later in a name.
    names = ["tia\n", "rea\n", "tie\n", "rai\n"] * 5
    vocab = build_vocab(names)
    model = fit_ngrams(*joined([vocab.encode(name) for name in names]), vocab.size, 4)
    letters = vocab.encode("tr")
    assert after(model, [], 1)[letters].sum() < 0.5
    for order in (2, 3, 4):
        assert after(model, [], order)[letters].sum() > 0.85
        assert after(model, vocab.encode("ti"), order)[letters].sum() < 0.15


@pytest.mark.parametrize("order", [2, 3, 5])
def test_no_context_crosses_a_start(order):
    generator = np.random.default_rng(order)
    sequences = random_sequences(generator, 30, 6, 9)
    model = fit_ngrams(*joined(sequences), 6, 5)
    together = nats(model, *joined(sequences), order)
    apart = np.concatenate([nats(model, *joined([sequence]), order) for sequence in sequences])
    np.testing.assert_array_equal(together, apart)
    shuffled = [sequences[i] for i in generator.permutation(len(sequences))]
    other = fit_ngrams(*joined(shuffled), 6, 5)
    np.testing.assert_array_equal(nats(other, *joined(sequences), order), together)
    running = np.arange(len(together)) == 0
    assert not np.array_equal(nats(model, joined(sequences)[0], running, order), together)


def test_a_probability_depends_only_on_the_preceding_characters():
    ids, starts = joined([np.random.default_rng(0).integers(0, 4, 300)])
    model = fit_ngrams(ids, starts, 4, 4)
    changed = ids.copy()
    changed[100] = (changed[100] + 1) % 4
    differ = np.flatnonzero(nats(model, ids, starts) != nats(model, changed, starts))
    assert differ[0] == 100
    assert differ[-1] <= 103


def test_an_unseen_character_is_unlikely_but_possible():
    model = fit_ngrams(np.zeros(10_000, int), np.arange(10_000) == 0, 50_000, 5)
    costs = nats(model, [0, 49_999, 0], [True, False, False])
    assert np.isfinite(costs).all()
    assert costs[1] > np.log(50_000)


@pytest.mark.parametrize(
    "counts",
    [
        # Formula: the discount of 2 is 2 - 3 * 1/2 * 4/2 = -1.
        [1] * 4 + [2] * 2 + [3] * 4,
        # The discount of 2 is 2 - 3 * 1/2 * 8/6 = 0, which leaves nothing for the unseen.
        [1] * 12 + [2] * 6 + [3] * 8,
        # The discount of 3 is 3 - 4 * 1/2 * 3/2 = 0.
        [1] * 4 + [2] * 2 + [3] * 2 + [4] * 3,
        [1] * 5,
        [1, 2, 4],
        [2, 3, 4],
        [1, 3, 4],
    ],
)
def test_discounts_where_the_formula_fails(counts):
    vocab_size = len(counts) + 1
    ids = np.repeat(np.arange(len(counts)), counts)
    model = fit_ngrams(ids, np.arange(len(ids)) == 0, vocab_size, 1)
    discounts = {1: 0.5, 2: 1.0}
    freed = sum(discounts.get(count, 1.5) for count in counts) / len(ids)
    kept = [(count - discounts.get(count, 1.5)) / len(ids) for count in counts]
    expected = np.array([*kept, 0]) + freed / vocab_size
    np.testing.assert_allclose(after(model, []), expected, rtol=1e-13)


def test_a_large_vocabulary_does_not_overflow():
    # N-grams times characters overflow 32 bits, and 50,001 ** 5 overflows 64 bits.
    vocab_size = 50_000
    generator = np.random.default_rng(0)
    ids = np.minimum(generator.zipf(1.2, 100_000) - 1, vocab_size - 1)
    ids = (vocab_size - 1 - ids).astype(np.uint16)
    sequences = np.split(ids, np.flatnonzero(generator.random(len(ids)) < 0.01)[1:])
    model = fit_ngrams(*joined(sequences), vocab_size, 5)
    assert all((keys >= 0).all() and (np.diff(keys) > 0).all() for keys in model.keys)
    assert model.keys[-1].max() > 2**32
    evaluated = [*sequences[:5], generator.integers(0, vocab_size, 50)]
    expected = slow_probabilities(sequences, vocab_size, 5, evaluated)
    np.testing.assert_allclose(np.exp(-nats(model, *joined(evaluated))), expected, rtol=1e-11)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64])
def test_ids_of_any_integer_type_and_lists_give_the_same(dtype):
    text = "to be or not to be, that is the question"
    vocab = build_vocab([text])
    ids, starts = vocab.encode(text), np.arange(len(text)) == 0
    assert ids.dtype == np.uint8
    small = nats(fit_ngrams(ids, starts, vocab.size, 5), ids, starts)
    large = ids.astype(dtype)
    model = fit_ngrams(large, starts, vocab.size, 5)
    np.testing.assert_array_equal(nats(model, large.tolist(), starts.tolist()), small)


def test_the_order_of_the_source_is_found():
    """Each character depends on the two before it: order 3 is right, lower orders fall short."""
    generator = np.random.default_rng(0)
    vocab_size, num, fitted = 6, 120_000, 100_000
    source = generator.dirichlet(np.full(vocab_size, 0.4), (vocab_size, vocab_size))
    thresholds, draws = source.cumsum(-1), generator.random(num)
    ids = [0, 0]
    for draw in draws[2:]:
        character = np.searchsorted(thresholds[ids[-2], ids[-1]], draw)
        ids.append(min(int(character), vocab_size - 1))
    ids = np.array(ids)
    model = fit_ngrams(ids[:fitted], np.arange(fitted) == 0, vocab_size, 5)
    held_out = ids[fitted:]
    starts = np.arange(len(held_out)) == 0
    entropy = -np.log(source[held_out[:-2], held_out[1:-1], held_out[2:]]).mean()
    excess = [nats(model, held_out, starts, n)[2:].mean() - entropy for n in range(1, 6)]
    assert 0 < excess[2] < 0.005
    assert excess[0] > excess[1] > 0.1
    assert excess[2] < excess[3] < excess[4]


IDS, STARTS = [0, 1, 2], [True, False, False]


@pytest.mark.parametrize(
    ("ids", "starts", "message"),
    [
        ([], [], "at least one character, got no ids"),
        (IDS, STARTS[:2], r"ids \[num\] and starts \[num\], got shapes \(3,\) and \(2,\).*end to"),
        ([IDS], [STARTS], r"got shapes \(1, 3\) and \(1, 3\)"),
        ([0, 3, 1], STARTS, "expected ids from 0 to 2, got 3; leave out padding"),
        ([0, -1, 1], STARTS, "expected ids from 0 to 2, got -1"),
        (IDS, [False, True, False], r"starts\[0\] to be True, got False; the first character"),
    ],
)
def test_refuses_what_are_no_sequences(ids, starts, message):
    with pytest.raises(ValueError, match=message):
        fit_ngrams(ids, starts, 3, 2)
    model = fit_ngrams(IDS, STARTS, 3, 2)
    with pytest.raises(ValueError, match=message):
        nats(model, ids, starts)


@pytest.mark.parametrize("order", [0, -1])
def test_refuses_an_order_below_one(order):
    with pytest.raises(ValueError, match=f"order of at least 1, .*got {order}"):
        fit_ngrams(IDS, STARTS, 3, order)


@pytest.mark.parametrize("order", [0, 3])
def test_refuses_an_order_that_was_not_fitted(order):
    model = fit_ngrams(IDS, STARTS, 3, 2)
    with pytest.raises(ValueError, match=f"order from 1 to 2, got {order}; fit a higher order"):
        nats(model, IDS, STARTS, order)
