"""Figures of texts that a model wrote, against direct searches and definitions."""

import numpy as np
import pytest

from dinojax.evaluation import copying
from dinojax.evaluation.copying import Copies, describe_text, in_copies, in_loops, longest_copies


def searched(text, corpus):
    """The lengths of `longest_copies`, by Python's search."""
    lengths = []
    for start in range(len(text)):
        stop = start
        while stop < len(text) and any(text[start : stop + 1] in each for each in corpus):
            stop += 1
        lengths.append(stop - start)
    return lengths


def assert_found(text, corpus):
    lengths, places = longest_copies(text, corpus)
    assert lengths.tolist() == searched(text, corpus)
    whole = "".join(corpus)
    for start, (length, place) in enumerate(zip(lengths, places, strict=True)):
        assert whole[place : place + length] == text[start : start + length]


@pytest.mark.parametrize("letters", ["a", "ab", "abc", "abcdé\n日\U0001f995"])
def test_copies_are_those_of_a_direct_search(letters):
    generator = np.random.default_rng(len(letters))

    def draw(num):
        return "".join(generator.choice(list(letters), num))

    for _ in range(40):
        corpus = [draw(generator.integers(0, 40)) for _ in range(generator.integers(0, 4))]
        text = draw(generator.integers(0, 30))
        assert_found(text, corpus)
        # With a long copy, and a corpus that repeats itself.
        whole = "".join(corpus)
        assert_found(f"{text}{whole[3:25]}{text}", [whole, whole * 2])


def test_a_copy_lies_within_one_document():
    assert longest_copies("abcd", ["xab", "cdx"]).lengths.tolist() == [2, 1, 2, 1]
    assert longest_copies("abcd", ["xabcdx"]) == Copies(
        pytest.approx([4, 3, 2, 1]), pytest.approx([1, 2, 3, 4])
    )
    assert longest_copies("ab", []).lengths.tolist() == [0, 0]
    assert len(longest_copies("", ["ab"]).lengths) == 0


def test_copied_characters_are_those_inside_long_copies():
    generator = np.random.default_rng(0)
    for _ in range(50):
        corpus = "".join(generator.choice(list("ab"), 60))
        text = "".join(generator.choice(list("ab"), 40))
        lengths = longest_copies(text, [corpus]).lengths
        for least in 1, 4, 6:
            spans = [range(i, i + least) for i in range(len(text) - least + 1)]
            copied = {i for span in spans for i in span if text[span[0] :][:least] in corpus}
            assert set(np.flatnonzero(in_copies(lengths, least))) == copied


def looped(text, least, longest):
    """The characters in loops, by their definition: spans that a piece fills three times."""
    inside = set()
    for start in range(len(text)):
        for stop in range(start + least, len(text) + 1):
            span = text[start:stop]
            for period in range(1, min(longest, len(span) // 3) + 1):
                if (span[:period] * len(span))[: len(span)] == span:
                    inside |= set(range(start, stop))
    return inside


@pytest.mark.parametrize("longest", [2, 1_000])
def test_loops_are_those_of_the_definition(longest, monkeypatch):
    monkeypatch.setattr(copying, "LEAST_LOOPED", 7)
    monkeypatch.setattr(copying, "LONGEST_PIECE", longest)
    generator, num_found = np.random.default_rng(1), 0
    for _ in range(60):
        text = "".join(generator.choice(list("ab"), 24)) + "abc" * int(generator.integers(0, 4))
        expected = looped(text, 7, longest)
        assert set(np.flatnonzero(in_loops(text))) == expected
        num_found += bool(expected)
    assert num_found > 10


def test_what_is_a_loop_and_what_is_not():
    assert in_loops("x" * 20).all()
    assert not in_loops("x" * 19).any()
    assert in_loops("to be or not " * 3).all()
    assert not in_loops("to be or not to be, or not to be. " * 2).any()
    # The blank before the first "and" belongs to it.
    assert in_loops("first, " + "and then " * 4 + "the end").sum() == 37


def test_the_figures_of_a_text():
    text = "the cat and the dog and the cow"
    corpus = ["a cat and the dog", "the cow"]
    figures = describe_text(text, longest_copies(text, corpus))
    assert figures == pytest.approx({
        "longest_copied": len(" cat and the dog"), "share_copied": 0.0,
        # Only "and the" comes twice among the pairs, and no triple does.
        "distinct_1": 5 / 8, "distinct_2": 6 / 7, "distinct_3": 6 / 6, "share_looped": 0.0,
    })  # fmt: skip
    copied = describe_text(text, longest_copies(text, [text]))
    assert (copied["longest_copied"], copied["share_copied"]) == (len(text), 1.0)
    assert np.isnan([*describe_text("", longest_copies("", corpus)).values()][1:]).all()
    assert np.isnan(describe_text("one two", longest_copies("one two", []))["distinct_3"])
