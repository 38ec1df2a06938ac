"""The nearest names, against the table that defines the distance."""

import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dinojax.data import distances
from dinojax.data.distances import far_from, nearest


def slow(a, b):
    """Levenshtein's distance by the whole table of those between beginnings."""
    table = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i, j] = min(
                table[i - 1, j] + 1,
                table[i, j - 1] + 1,
                table[i - 1, j - 1] + (a[i - 1] != b[j - 1]),
            )
    return table[len(a), len(b)]


def slow_nearest(names, references):
    tables = [[slow(name, reference) for reference in references] for name in names]
    return [(row.index(min(row)), min(row)) for row in tables]


def found(names, references, **options):
    indices, edits = nearest(names, references, **options)
    assert indices.shape == edits.shape == (len(names),)
    return list(zip(indices.tolist(), edits.tolist(), strict=True))


# Few letters, so that names are near: from all planes, combining, and half a surrogate pair.
LETTERS = st.sampled_from("abc\u0301é日\U0001f995\n\udcff")
LISTS = st.lists(st.text(LETTERS, max_size=7), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(LISTS, LISTS, st.integers(1, 6), st.integers(0, 8))
def test_distances_are_those_of_the_table_whatever_the_chunks(names, references, pairs, distance):
    expected = slow_nearest(names, references)
    for at_once in (distances.PAIRS_AT_ONCE, pairs):
        assert found(names, references, at_once=at_once) == expected
        far = far_from(names, references, distance, at_once=at_once)
        assert far.dtype == bool
        assert far.tolist() == [edits >= distance for _, edits in expected]


def test_long_names_and_any_character():
    generator = random.Random(0)
    strings = ["".join(chr(generator.randrange(0x110000)) for _ in range(150)) for _ in range(3)]
    # Longer than a machine word, and near: with a few edits each.
    near = [string[:70] + "x" + string[72:] + "yz" for string in reversed(strings)]
    expected = slow_nearest(near, strings)
    assert expected == [(2, 4), (1, 4), (0, 4)]
    assert found(near, strings) == expected
    assert far_from(near, strings, 4).all()
    assert not far_from(near, strings, 5).any()


def test_the_first_of_equally_near_names_is_returned():
    references = ["zzzz", "rat", "bat", "cat", "bat"]
    assert found(["hat", "bat", "zzz", ""], references) == [(1, 1), (2, 0), (0, 1), (1, 3)]
    assert found(["hat"], references[::-1]) == [(0, 1)]


def test_few_distances_are_held_at_a_time(monkeypatch):
    sizes = []

    def cdist(names, references, **options):
        sizes.append(len(names) * len(references))
        return original(names, references, **options)

    original = distances.process.cdist
    monkeypatch.setattr(distances.process, "cdist", cdist)
    names = [f"name {i}" for i in range(57)]
    indices, edits = nearest(names, names[:30], at_once=100)
    assert indices[:30].tolist() == list(range(30))
    assert not edits[:30].any()
    assert max(sizes) <= 100
    assert sum(sizes) == 57 * 30
    # One name at least, however many references.
    assert nearest(names[:2], names * 3, at_once=100)[1].tolist() == [0, 0]


def test_distances_do_not_wrap():
    (edits,) = nearest(["a" * 70_000], ["b" * 3])[1]
    assert edits == 70_000
    assert far_from(["a" * 300], ["b"], 300).all()
    assert not far_from(["a" * 300], ["b"], 301).any()


@pytest.mark.parametrize(("names", "references"), [([], ["a"]), (["a"], []), ([], [])])
def test_nothing_to_compare_is_refused(names, references):
    expected = f"got {len(names)} names and {len(references)} references"
    with pytest.raises(ValueError, match=expected):
        nearest(names, references)
    with pytest.raises(ValueError, match=expected):
        far_from(names, references, 2)


def test_it_does_not_import_jax():
    code = "import sys, dinojax.data.distances; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_results_are_numpy_arrays():
    indices, edits = nearest(["a"], ["b"])
    assert indices.dtype == np.intp
    assert edits.dtype == np.int32
