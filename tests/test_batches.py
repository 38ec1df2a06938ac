"""Names padded, names packed and windows of a text: three ways to the same three arrays."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dinojax.data.batches import cut_text, packed, pad_names, padded, windows
from dinojax.data.corpus import bundled_names, read_names
from dinojax.data.vocab import build_vocab

seeded = settings(derandomize=True, deadline=None)
NAMES = ["rex", "triceratops", "yi", "mei", "iguanodon", "yi", "x"]
VOCAB = build_vocab(NAMES)
LETTERS = "abcdefghijk"


def read(dataset, seed=0):
    """What the steps of an epoch read: a batch for each, of arrays [time, batch]."""
    permutation = np.random.default_rng(seed).permutation(dataset.num_shuffled)
    order = dataset.arrange(permutation)
    assert len(order) == dataset.steps_per_epoch
    return [jax.tree.map(lambda a, i=i: a[..., i], dataset.examples) for i in order]


def names_in(batches, vocab=VOCAB):
    """All names that count, found by walking along each row."""
    names = []
    for batch in batches:
        inputs, targets, weights = (np.asarray(field).T for field in batch)
        for row in zip(inputs, targets, weights, strict=True):
            previous = None
            for i, target, weight in zip(*row, strict=True):
                if not weight:
                    continue
                if i == vocab.no_character:
                    names.append("")
                else:
                    assert i == previous
                previous = target
                if target != vocab.newline:
                    names[-1] += vocab.characters[target]
    return names


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 10])
def test_padded_reads_every_name_once_an_epoch(batch_size):
    dataset = padded(NAMES, VOCAB, batch_size)
    assert dataset.steps_per_epoch == -(-len(NAMES) // batch_size)
    first, second = (names_in(read(dataset, seed)) for seed in (1, 2))
    assert sorted(first) == sorted(second) == sorted(NAMES)
    assert first != second
    assert all(batch.inputs.shape == (12, batch_size) for batch in read(dataset))


@seeded
@given(
    st.lists(st.text(st.sampled_from("abc"), min_size=1, max_size=9), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(10, 25),
    st.integers(0, 5),
)
def test_packed_reads_every_name_once_an_epoch_and_cuts_none(names, batch_size, window, seed):
    vocab = build_vocab(names)
    dataset = packed(names, vocab, batch_size, window)
    batches = read(dataset, seed)
    assert sorted(names_in(batches, vocab)) == sorted(names)
    assert dataset.examples.inputs.dtype == dataset.examples.targets.dtype == vocab.dtype
    for batch in batches:
        assert batch.inputs.shape == (window, batch_size)
        assert (batch.targets[batch.weights == 0] == vocab.newline).all()
        assert (batch.inputs[batch.weights == 0] == vocab.no_character).all()


@pytest.mark.parametrize("window", [48, 64, 100])
def test_packed_names_of_dinosaurs_leave_hardly_any_room(window):
    names = read_names(bundled_names()).data
    names *= 10
    batches = read(packed(names, build_vocab(names), 1, window))
    assert np.mean([batch.weights.mean() for batch in batches]) > 0.995


def test_packed_wastes_little_and_shuffles_rows_and_names():
    generator = np.random.default_rng(0)
    names = ["x" * n for n in generator.integers(2, 14, 3_000)]
    dataset = packed(names, build_vocab(names), batch_size=4, window=64)
    batches = read(dataset)
    assert np.mean([batch.weights.mean() for batch in batches]) > 0.97
    lengths = [names_in([batch], build_vocab(names)) for batch in batches[:10]]
    assert len({max(map(len, batch)) for batch in lengths}) == 1
    assert not np.array_equal(read(dataset, 1)[0].inputs, read(dataset, 2)[0].inputs)


def test_packed_needs_room_for_the_longest_name():
    assert packed(NAMES, VOCAB, 1, window=12).steps_per_epoch > 0
    with pytest.raises(ValueError, match=r"up to 10 characters.*window of 11, got one of 11"):
        packed(NAMES, VOCAB, 1, window=11)


ALPHABET = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
"""A name far longer than the others, in which no letter comes twice."""


@pytest.mark.parametrize("position", [0, 5, 10])
@pytest.mark.parametrize("make", [padded, partial(packed, window=12), partial(packed, window=30)])
def test_a_name_far_longer_than_the_others_is_read_in_pieces(make, position):
    others = [*NAMES, "abc", "triceratop", "rexrex"]
    names = [*others[:position], ALPHABET, *others[position:]]
    vocab = build_vocab(names)
    dataset = make(names, vocab, batch_size=2)
    found, read_by = [], set()
    for step, batch in enumerate(read(dataset)):
        # No longer than without it.
        assert len(batch.inputs) == make.keywords["window"] if make is not padded else 12
        for row in zip(*(field.T for field in batch), strict=True):
            inputs, targets, weights = row
            piece = vocab.decode(targets[weights == 1])
            if not set(piece) & set(ALPHABET):
                continue
            # In a row of its own, from the character before, without a gap.
            start = ALPHABET.index(piece[0])
            assert piece in f"{ALPHABET}\n"
            before = vocab.encode(ALPHABET[start - 1])[0] if start else vocab.no_character
            assert inputs[0] == before
            np.testing.assert_array_equal(inputs[1 : len(piece)], targets[: len(piece) - 1])
            found.append((start, piece))
            read_by.add(step)
    assert "".join(piece for _, piece in sorted(found)) == f"{ALPHABET}\n"
    sizes = [len(piece) for _, piece in found]
    assert max(sizes) <= min(sizes) + 1
    assert len(read_by) > 5
    assert sorted(names_in(read(make(others, vocab, batch_size=2)), vocab)) == sorted(others)


def test_a_long_name_is_whole_where_it_fits_or_others_are_like_it():
    names = [*NAMES, ALPHABET]
    vocab = build_vocab(names)
    assert sorted(names_in(read(packed(names, vocab, 2, window=301)), vocab)) == sorted(names)
    assert len(padded([*NAMES, ALPHABET, ALPHABET[1:]], vocab).examples.inputs) == 301
    assert len(padded([*NAMES, "x" * 32], vocab).examples.inputs) == 33
    assert len(padded([ALPHABET], vocab).examples.inputs) == 301


@seeded
@given(
    st.text(st.sampled_from("ab\n"), min_size=1, max_size=80), st.integers(1, 4), st.integers(1, 9)
)
@example("ab" * 5 + "a", 2, 5)
def test_windows_give_each_character_once_with_the_one_before_it(text, rows, window):
    vocab = build_vocab([text])
    if len(text) < rows * window:
        with pytest.raises(ValueError, match=r"to learn from, one window .* smaller batch size"):
            windows(text, vocab, rows, window)
        return
    dataset = windows(text, vocab, rows, window)
    assert dataset.examples.inputs.dtype == dataset.examples.targets.dtype == vocab.dtype
    batches = read(dataset)
    inputs, targets, weights = (np.concatenate([batch[i] for batch in batches]).T for i in range(3))
    read_text = ""
    for row in range(rows):
        counts = weights[row].astype(bool)
        characters = vocab.decode(targets[row][counts])
        expected = [vocab.no_character, *vocab.encode(characters)[:-1]] if characters else []
        np.testing.assert_array_equal(inputs[row][counts], expected)
        read_text += characters
    assert read_text == text
    read_in_a_step = [batch.weights.sum(axis=0) for batch in batches]
    assert len(batches) == -(-int(np.sum(read_in_a_step, axis=0).max()) // window)
    # No step is spent on a few characters, and no row ends before the others.
    assert np.max(read_in_a_step) <= min(window, np.min(read_in_a_step) + 1)


def test_windows_by_hand():
    """Rows of five and six characters, each in two steps of two or three."""
    _, targets, weights = zip(*read(windows(LETTERS, build_vocab([LETTERS]), 2, 4)), strict=True)
    np.testing.assert_array_equal(targets[0].T, [[1, 2, 3], [6, 7, 8]])
    np.testing.assert_array_equal(targets[1].T, [[4, 5, 0], [9, 10, 11]])
    np.testing.assert_array_equal(np.stack(weights)[:, 2].T, [[1, 0], [1, 1]])


def test_windows_are_the_same_every_epoch():
    dataset = windows("to be or not to be", build_vocab(["to be or n"]), 2, 4)
    for first, second in zip(read(dataset, 1), read(dataset, 2), strict=True):
        jax.tree.map(np.testing.assert_array_equal, first, second)


def slow_pad_names(names, vocab):
    inputs, targets, weights = [], [], []
    for t in range(max(len(name) for name in names) + 1):
        inputs.append([])
        targets.append([])
        weights.append([])
        for name in names:
            starts, counts = t == 0 or t > len(name), t <= len(name)
            next_character = name[t] if t < len(name) else "\n"
            inputs[t].append(vocab.size if starts else vocab.characters.index(name[t - 1]))
            targets[t].append(vocab.characters.index(next_character))
            weights[t].append(1.0 if counts else 0.0)
    return inputs, targets, weights


@seeded
@given(st.lists(st.text(st.sampled_from("\tab é\u2028\U0001f995"), max_size=6), min_size=1))
@example(["", "abba", "a"])
def test_pad_names_equals_a_loop_over_time_and_names(names):
    vocab = build_vocab(names)
    batch = pad_names(names, vocab)
    for array, expected in zip(batch, slow_pad_names(names, vocab), strict=True):
        assert array.shape == (max(map(len, names)) + 1, len(names))
        np.testing.assert_array_equal(array, expected)
    assert batch.inputs.dtype == batch.targets.dtype == vocab.dtype
    assert batch.weights.dtype == np.float32


def test_a_padded_name_by_hand():
    inputs, targets, weights = pad_names(["ab", "b"], build_vocab(["ab"]))
    np.testing.assert_array_equal(inputs, [[3, 3], [1, 2], [2, 3]])
    np.testing.assert_array_equal(targets, [[1, 2], [2, 0], [0, 0]])
    np.testing.assert_array_equal(weights, [[1, 1], [1, 1], [1, 0]])


@seeded
@given(st.lists(st.text(st.sampled_from("\tabc"), max_size=9), min_size=1))
def test_every_name_counts_its_characters_and_one_newline(names):
    vocab = build_vocab(names)
    batch = pad_names(names, vocab)
    for name, column, weights in zip(names, batch.targets.T, batch.weights.T, strict=True):
        assert vocab.decode(column[weights == 1]) == name + "\n"
        assert weights.sum() == len(name) + 1


def test_many_symbols_widen_the_ids():
    name = "".join(map(chr, range(0x100, 0x1FF)))
    batch = pad_names([name], build_vocab([name]))
    assert batch.inputs.dtype == batch.targets.dtype == np.uint16
    assert batch.inputs[0, 0] == 256


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one name"),
        (["a", "a\na"], r"without newlines, got 'a\\na'"),
        (["\n"], r"without newlines, got '\\n'"),
        (["a", "axa"], "'x' at position 1 "),
    ],
)
def test_pad_names_refuses(names, message):
    with pytest.raises(ValueError, match=message):
        pad_names(names, build_vocab(["a"]))


# A text cut into columns.


@seeded
@given(st.text(st.sampled_from("ab\n\u2028"), min_size=1, max_size=60), st.integers(1, 70))
@example("abab", 4)
@example("ababa", 4)
def test_cut_text_gives_each_character_once_with_the_one_before_it(text, window):
    vocab = build_vocab([text])
    batch = cut_text(text, vocab, window)
    assert batch.inputs.shape == (window, -(-len(text) // window))
    assert batch.inputs.dtype == batch.targets.dtype == vocab.dtype
    assert batch.weights.dtype == np.float32
    inputs, targets, weights = (field.T.reshape(-1).tolist() for field in batch)
    ids = [vocab.characters.index(character) for character in text]
    assert weights == [1] * len(text) + [0] * (len(weights) - len(text))
    assert targets[: len(text)] == ids
    assert inputs[: len(text)] == [vocab.no_character, *ids[:-1]]
    # Padding too has ids that a model can read.
    assert max(targets) < vocab.size
    assert vocab.no_character not in inputs[1:]


def test_a_cut_text_by_hand():
    inputs, targets, weights = cut_text("abbab", build_vocab(["ab"]), 2)
    np.testing.assert_array_equal(inputs, [[3, 2, 1], [1, 2, 2]])
    np.testing.assert_array_equal(targets, [[1, 2, 2], [2, 1, 0]])
    np.testing.assert_array_equal(weights, [[1, 1, 1], [1, 1, 0]])


def test_cut_text_refuses_what_it_cannot_read():
    with pytest.raises(ValueError, match="expected a text, got an empty one"):
        cut_text("", VOCAB, 3)
    with pytest.raises(ValueError, match="'!' at position 3 "):
        cut_text("rex!", VOCAB, 3)
