"""Names of many lengths in rows of one length: pieces of long ones, and places for all."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer]
MOST_PLACED = 2**21
"""Of lists of as many names or more, the places of a share are repeated; see `places_in_rows`."""
SHARES = 16
"""Number of shares of a list of so many names."""


def pieces_of(lengths: Integers, longest: int) -> tuple[Integers, NDArray[np.bool]]:
    """The fewest pieces of up to `longest`: their lengths, and whether each is a mere part, [num].

    The parts of one length differ by up to one.
    """
    if lengths.max() <= longest:
        return lengths, np.zeros(len(lengths), bool)
    counts = -(-lengths.astype(np.int64) // longest)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    whole, count = np.repeat(lengths.astype(np.int64), counts), np.repeat(counts, counts)
    return (number + 1) * whole // count - number * whole // count, count > 1


def places_in_rows(
    sorted_lengths: Integers, window: int, most_placed: int = MOST_PLACED
) -> Integers:
    """Start positions for names of these lengths, in rows of `window` that stand end to end.

    Of a list of `most_placed` names or more, which would take half a minute for ten million, the
    rows for an n-th of the names of each length come n times, then those for the names that are
    left. A longer list has more shares, of equal size.
    """
    lengths, counts = np.unique(sorted_lengths, return_counts=True)
    is_long = len(sorted_lengths) >= most_placed
    num = SHARES * len(sorted_lengths) // most_placed if is_long else 1
    places, end = _fill(lengths, counts // num, window)
    rest, _ = _fill(lengths, counts % num, window)
    shifts = np.arange(num)[:, None] * end
    return np.concatenate(
        [
            np.concatenate([(shifts + each).reshape(-1), num * end + left])
            for each, left in zip(places, rest, strict=True)
        ]
    )


def _fill(lengths: Integers, counts: Integers, window: int) -> tuple[list[Integers], int]:
    """Start positions for so many names of each length, and where the last row ends.

    Each row is filled with the lengths of which most are left, provided that the rest of the row
    can still be filled completely. With 20,000 dinosaur names in rows of 64 characters, this leaves
    one place in 10,000 empty; worst-fit decreasing leaves one in 20.
    """
    pairs = zip(lengths.tolist(), counts.tolist(), strict=True)
    left = {length: count for length, count in pairs if count}
    places: dict[int, list[int]] = {length: [] for length in lengths.tolist()}
    sums = _sums(left, window)
    end = 0
    while left:
        room = window
        while fitting := [length for length in left if length <= room]:
            filling = [length for length in fitting if sums >> (room - length) & 1]
            length = max(filling, key=left.__getitem__) if filling else fitting[-1]
            places[length].append(end + window - room)
            room -= length
            left[length] -= 1
            if not left[length]:
                del left[length]
                sums = _sums(left, window)
        end += window
    return [np.array(each, np.int64) for each in places.values()], end


def _sums(lengths: Iterable[int], window: int) -> int:
    """An integer whose bit n is set if lengths, repeats allowed, can add up to n."""
    sums, mask = 1, (1 << window + 1) - 1
    for length in lengths:
        multiple = length
        while multiple <= window:
            sums |= sums << multiple & mask
            multiple *= 2
    return sums
