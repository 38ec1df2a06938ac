"""The order of very many names by code points, without one Python object for each."""

import numpy as np
from numpy.typing import NDArray

KEY_BITS = 64
AT_ONCE = 2**20
"""Number of names whose ids are compared at a time, so that this takes little memory."""


def sort_names(
    ids: NDArray[np.unsignedinteger], starts: NDArray[np.int64], lengths: NDArray[np.integer]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The order of names, and the number of each among the distinct ones in this order, [num].

    A name is `ids[start : start + length - 1]`, and compares as a tuple of ids; equal names keep
    their order. As many of its ids as fit into 64 bits are compared at once, and the next ones for
    the names alone that are equal so far.
    """
    width = ids.dtype.itemsize * 8
    at_once = KEY_BITS // width
    # The first place among all of the names that are equal so far.
    place = np.zeros(len(starts), np.int64)
    tied, depth = np.arange(len(starts), dtype=np.uint32), 0
    while tied.size:
        keys = np.zeros(len(tied), np.uint64)
        for first in range(0, len(tied), AT_ONCE):
            some, key = tied[first : first + AT_ONCE], keys[first : first + AT_ONCE]
            for i in range(depth, depth + at_once):
                is_inside = i < lengths[some] - np.int64(1)
                at = np.where(is_inside, starts[some] + i, 0)
                # Where a name has ended it has zero, so that it comes before longer ones.
                key <<= np.uint64(width)
                key |= np.where(is_inside, ids[at] + np.uint64(1), 0)
        by = np.lexsort((keys, place[tied]))
        tied, keys = tied[by], keys[by]
        is_new_group = np.diff(place[tied], prepend=-1) != 0
        is_new = is_new_group | np.concatenate([[True], keys[1:] != keys[:-1]])
        group_begins, begins = (
            np.maximum.accumulate(np.where(new, np.arange(len(tied)), 0))
            for new in (is_new_group, is_new)
        )
        place[tied] += begins - group_begins
        is_alone = is_new & np.concatenate([is_new[1:], [True]])
        goes_on = keys & np.uint64(2**width - 1) != 0
        tied, depth = tied[~is_alone & goes_on], depth + at_once
    order = np.argsort(place, kind="stable")
    ranks = np.empty(len(place), np.uint32)
    ranks[order] = np.cumsum(np.diff(place[order], prepend=-1) != 0) - 1
    return order.astype(np.uint32), ranks
