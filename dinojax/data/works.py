"""Where the works of a text begin: its documents, and within these plays, found by who speaks."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SPEECH = re.compile(r"(?:\A|(?<=\n\n))([^\n]{1,40}):\n(?=[^\n])")
"""A line before a speech, which names the speaker; a blank line stands before it."""
SPEECHES_AROUND = 250
"""To each side of a border between plays, so many speeches tell one play from the other."""
MOST_SHARED = 0.15
"""Most of the speakers on one side of such a border that speak on the other side, too, as a share:
names such as "Messenger" are in many plays."""
FEWEST_SPEECHES = 100
"""A play has at least as many."""
SPEECHES_EACH = 4
"""A text has plays if its speakers have at least as many speeches each, on average."""


def play_starts(text: str) -> list[int]:
    """The place of the first character of each play of a text; [0] if it has no plays.

    A play begins where the speakers change: where the share of speakers that the speeches before
    and those after have in common, of the fewer speakers of the two, is least.
    """
    speeches = [(found.start(), found[1]) for found in SPEECH.finditer(text)]
    speakers = [speaker for _, speaker in speeches]
    if len(speeches) < max(2 * FEWEST_SPEECHES, SPEECHES_EACH * len(set(speakers))):
        return [0]
    shared = shared_speakers(speakers, SPEECHES_AROUND)
    borders = [0, len(speeches)]
    # The last of several that are as good, as who opens a play soon speaks again.
    for border in np.lexsort((-np.arange(len(shared)), shared)).tolist():
        if shared[border] > MOST_SHARED:
            break
        if all(abs(border - other) >= FEWEST_SPEECHES for other in borders):
            borders.append(border)
    return [0, *(speeches[border][0] for border in sorted(borders)[1:-1])]


def shared_speakers(speakers: Sequence[str], around: int) -> NDArray[np.float64]:
    """The share of speakers that are on both sides of a border before each speech, [num].

    A side is up to `around` speeches; the share is that of the side with fewer speakers, and 1
    where a side has none.
    """
    num = len(speakers)
    changes = np.zeros((3, num + 2))
    last = dict[str, int]()
    far = num + around + 1
    pairs = []
    for i, speaker in enumerate(speakers):
        pairs.append((last.get(speaker, -far), i))
        last[speaker] = i
    pairs += [(i, 2 * far) for i in last.values()]
    # Between two speeches of a speaker that follow each other, at borders from `low` to `high`, the
    # one is near enough before, near enough after, or both.
    for before, after in pairs:
        lows = before + 1, max(before, after - around) + 1, max(before, after - around) + 1
        highs = min(after, before + around), after, min(after, before + around)
        for change, low, high in zip(changes, lows, highs, strict=True):
            low, high = max(low, 0), min(high, num)
            if low <= high:
                change[low] += 1
                change[high + 1] -= 1
    num_before, num_after, num_both = np.cumsum(changes, axis=1)[:, :num]
    fewer = np.minimum(num_before, num_after)
    return np.where(fewer > 0, num_both / np.maximum(fewer, 1), 1.0)
