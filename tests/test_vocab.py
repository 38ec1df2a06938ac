import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dinojax.data.vocab import Vocab, build_vocab

seeded = settings(derandomize=True, deadline=None)
any_text = st.text(st.characters())


def numbered_vocab(size):
    return Vocab("".join(map(chr, range(size))))


@seeded
@given(any_text)
@example("")
@example("tyrannosaurus\nrex")
@example("\U0001f995\U0001f996\U0010ffff\uffff")
@example("e\u0301é\u0308\u0308")
@example("a\u2028b\u2029c\x85d\x0b\x00\r")
@example("\ud800\udc00")
def test_decode_inverts_encode(text):
    vocab = build_vocab([text])
    ids = vocab.encode(text)
    assert ids.shape == (len(text),)
    assert vocab.decode(ids) == text


@seeded
@given(any_text)
@example("\t\n \uffff\U00010000")
def test_ids_are_in_order_of_code_point_and_newline_has_one(text):
    vocab = build_vocab([text])
    assert set(vocab.characters) == set(text) | {"\n"}
    assert vocab.size == len(set(text) | {"\n"})
    assert vocab.encode(vocab.characters).tolist() == list(range(vocab.size))
    assert list(map(ord, vocab.characters)) == sorted(map(ord, vocab.characters))


@seeded
@given(st.lists(any_text), st.randoms(use_true_random=False))
def test_a_vocabulary_does_not_depend_on_the_order_of_texts(texts, random):
    shuffled = random.sample(texts, len(texts))
    assert build_vocab(texts) == build_vocab(shuffled) == build_vocab("".join(texts))


def test_newline_is_there_without_any_text():
    assert build_vocab([]) == Vocab("\n")


def test_tab_comes_before_newline():
    vocab = build_vocab(["a\tb"])
    assert vocab.characters == "\t\nab"
    assert vocab.newline == 1
    assert vocab.encode("b\n\ta").tolist() == [3, 1, 0, 2]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        (11, np.uint8),
        (255, np.uint8),
        (256, np.uint16),
        (65_535, np.uint16),
        (65_536, np.uint32),
    ],
)
def test_ids_have_the_smallest_type_that_holds_no_character(size, dtype):
    vocab = numbered_vocab(size)
    ids = vocab.encode(vocab.characters)
    assert vocab.dtype == ids.dtype == dtype
    assert vocab.no_character == vocab.size == size
    assert np.array(vocab.no_character).astype(vocab.dtype) == size
    assert ids[-1] == size - 1


@pytest.mark.parametrize(
    ("text", "character", "position"),
    [
        ("!aa", "!", 0),
        ("acxa", "x", 2),
        ("ab", "b", 1),
        ("\U0001f995ad", "d", 2),
        ("a\U0001f996", "\U0001f996", 1),
        ("e\u0301", "\u0301", 1),
        ("a\u2028z", "\u2028", 1),
        ("a\ud800", "\ud800", 1),
        ("zyx", "z", 0),
    ],
)
def test_an_unknown_character_is_named_with_its_position(text, character, position):
    vocab = build_vocab(["ace\U0001f995"])
    with pytest.raises(ValueError, match=re.escape(f"{character!r} at position {position} ")):
        vocab.encode(text)


@pytest.mark.parametrize(
    ("characters", "name", "spelled"),
    [
        ("e\u0301", "\u00e9e", "e\u0301e"),
        ("e\u00e9\u0301", "\u00e9", "\u00e9"),
        ("e\u1eb9\u0302", "\u1ec7", "\u1eb9\u0302"),
        ("e\u0302\u0323", "\u1ec7", "e\u0323\u0302"),
        ("e", "\u00e9x", "\u00e9x"),
        ("e", "\ud800", "\ud800"),
    ],
)
def test_a_name_is_spelled_in_known_characters_where_it_can_be(characters, name, spelled):
    assert build_vocab([characters]).spell([name, "e"]) == [spelled, "e"]


@pytest.mark.parametrize("bad", [-1, 4, 5, 255, 2**40, -(2**40)])
def test_an_id_without_a_character_is_not_decoded(bad):
    vocab = build_vocab(["abc"])
    with pytest.raises(ValueError, match=rf"expected ids from 0 to 3, got {bad}$"):
        vocab.decode([0, 3, bad])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint32, np.int64])
def test_ids_of_any_integer_type_are_decoded(dtype):
    assert build_vocab(["abc"]).decode(np.array([3, 0, 1], dtype)) == "c\na"


def test_no_ids_decode_to_an_empty_text():
    assert build_vocab(["abc"]).decode([]) == ""


@pytest.mark.parametrize("characters", ["\nba", "ab\n", "\naa", "\n\na", "\n\U00010000\uffff"])
def test_a_vocabulary_must_be_unique_and_sorted(characters):
    with pytest.raises(ValueError, match="unique characters in order"):
        Vocab(characters)


@pytest.mark.parametrize("characters", ["", "a", "\tabc", "\r\x85\u2028"])
def test_a_vocabulary_must_hold_newline(characters):
    with pytest.raises(ValueError, match="expected newline"):
        Vocab(characters)
