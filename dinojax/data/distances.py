"""How many edits names are from others: Levenshtein's distance.

The fewest characters that must be inserted, deleted or replaced to make one string of another
(Levenshtein, 1966); characters are Unicode code points.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

PAIRS_AT_ONCE = 2**22
"""About as many distances are held at a time: the memory does not grow with the names."""


def nearest(
    names: Sequence[str], references: Sequence[str]
) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """The place in `references` of the nearest to each name, and its distance, [num] each.

    Of those that are equally near, the first.

    Raises:
        ValueError: there is no name, or no reference.
    """
    indices, distances = [], []
    for chunk in _in_chunks(names, references):
        first = chunk.argmin(axis=1)
        indices.append(first)
        distances.append(chunk[np.arange(len(chunk)), first])
    return np.concatenate(indices), np.concatenate(distances)


def far_from(names: Sequence[str], references: Sequence[str], distance: int) -> NDArray[np.bool_]:
    """Whether each name is at least `distance` edits away from every reference, [num].

    Raises:
        ValueError: there is no name, or no reference.
    """
    # What is farther than the cutoff counts as one more than it, and is found sooner.
    chunks = _in_chunks(names, references, cutoff=max(0, distance - 1))
    return np.concatenate([(chunk >= distance).all(axis=1) for chunk in chunks])


def _in_chunks(
    names: Sequence[str], references: Sequence[str], cutoff: int | None = None
) -> Iterator[NDArray[np.int32]]:
    """Distances [some names, references], of as many names at a time as memory is meant for."""
    if not names or not references:
        raise ValueError(
            f"expected names and references, got {len(names):,} names and {len(references):,} "
            "references"
        )
    size = max(1, PAIRS_AT_ONCE // len(references))
    for start in range(0, len(names), size):
        yield process.cdist(
            names[start : start + size],
            references,
            scorer=Levenshtein.distance,
            score_cutoff=cutoff,
            dtype=np.int32,
            workers=-1,
        )
