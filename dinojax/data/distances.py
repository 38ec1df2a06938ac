"""Edit distances between names.

The Levenshtein distance (1966) is the smallest number of characters that must be inserted, deleted
or replaced to turn one string into another. Characters are Unicode code points.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance.Levenshtein import distance as levenshtein

PAIRS_AT_ONCE = 2**22
"""Approximate number of distances in memory at a time, however many names there are."""


def nearest(
    names: Sequence[str], references: Sequence[str], *, at_once: int = PAIRS_AT_ONCE
) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Index in `references` of the nearest one to each name, and its distance, [num] each.

    Among equally near references, the first counts. About `at_once` distances are held at a time.

    Raises:
        ValueError: there are no names or no references.
    """
    chunks = _in_chunks(names, references, at_once)
    found = [(chunk.argmin(axis=1), chunk.min(axis=1)) for chunk in chunks]
    indices, distances = map(np.concatenate, zip(*found, strict=True))
    return indices, distances


def far_from(
    names: Sequence[str],
    references: Sequence[str],
    distance: int,
    *,
    at_once: int = PAIRS_AT_ONCE,
) -> NDArray[np.bool_]:
    """Whether each name is at least `distance` edits from all references, [num]; see `nearest`."""
    # Distances above the cutoff are given as cutoff + 1, which is quicker to compute.
    chunks = _in_chunks(names, references, at_once, cutoff=max(0, distance - 1))
    return np.concatenate([(chunk >= distance).all(axis=1) for chunk in chunks])


def _in_chunks(
    names: Sequence[str], references: Sequence[str], at_once: int, cutoff: int | None = None
) -> Iterator[NDArray[np.int32]]:
    """Distances [chunk, references] of a few names at a time, about `at_once` in all."""
    if not names or not references:
        raise ValueError(
            f"expected names and references, got {len(names):,} names and {len(references):,} "
            "references"
        )
    size = max(1, at_once // len(references))
    for start in range(0, len(names), size):
        chunk = names[start : start + size]
        yield process.cdist(
            chunk, references, scorer=levenshtein, score_cutoff=cutoff, dtype=np.int32, workers=-1
        )
