"""How much of a text is copied, repeats itself, or is varied: for texts that a model wrote.

    longest_copied   length of the longest span of the text that is in the training text
    share_copied     share of the characters that lie in such spans of `LEAST_COPIED` or more
    distinct_n       share of distinct ones among the sequences of n words, split at blanks
                     (Li et al., 2016, divide by the number of words instead)
    share_looped     share of the characters that lie in loops, which are spans of at least
                     `LEAST_LOOPED` characters in which a piece of up to `LONGEST_PIECE` stands
                     three times or more in a row

Any text shares short spans with another of its language, and the longer it is, the longer they are
and the fewer of its words are distinct. So compare with real text of the same length.

References:
    Blumer et al., "The smallest automaton recognizing the subwords of a text", Theoretical Computer
    Science 40 (1985): the automaton by which copies are found.
    Li et al., "A diversity-promoting objective function for neural conversation models", NAACL
    2016: distinct-n.
    Holtzman et al., "The curious case of neural text degeneration", ICLR 2020: texts that end in a
    phrase said three times.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinojax.data.vocab import code_points

LEAST_COPIED = 20
LEAST_LOOPED = 20
LONGEST_PIECE = 1_000


class Copies(NamedTuple):
    """For each character of a text, the longest span that begins there and is in a corpus."""

    lengths: NDArray[np.int64]
    """Their lengths in characters, [len(text)]."""
    places: NDArray[np.int64]
    """Where in the corpus one copy of each begins, [len(text)], counted over all documents."""


class _Automaton(NamedTuple):
    """The suffix automaton of a text: each path from state 0 spells a substring.

    A state stands for the substrings that end at the same places of the text. The longest has
    length `longest`, and all are longer than those of the state `link`, which are their suffixes.
    """

    edges: list[dict[str, int]]
    link: list[int]
    longest: list[int]
    after: list[int]
    """The state of the text up to each of its characters."""


def describe_text(text: str, copies: Copies) -> Mapping[str, float]:
    """The figures of a text, whose `copies` are those in the training text; see above.

    A share of nothing is NaN.
    """
    words = text.split()
    figures: dict[str, float] = {
        "longest_copied": int(copies.lengths.max(initial=0)),
        "share_copied": _mean(in_copies(copies.lengths)),
    }
    for n in 1, 2, 3:
        sequences = list(zip(*(words[start:] for start in range(n)), strict=False))
        figures[f"distinct_{n}"] = len(set(sequences)) / len(sequences) if sequences else np.nan
    return figures | {"share_looped": _mean(in_loops(text))}


def longest_copies(text: str, corpus: Iterable[str]) -> Copies:
    """The longest span that begins at each character of `text` and is in a document of `corpus`.

    It is exact, and takes time in proportion to the characters of both and memory in proportion to
    those of `text` (about 600 bytes each): 0.2 s for a corpus of a million characters.
    """
    automaton = _automaton(text)
    edges, link, longest, after = automaton
    # For each state, the longest of its substrings that the corpus has, and where one ends there.
    matched, ends, read = [0] * len(edges), [0] * len(edges), 0
    for document in corpus:
        state = length = 0
        for place, character in enumerate(document, start=read + 1):
            while state and character not in edges[state]:
                state = link[state]
                length = longest[state]
            if character in edges[state]:
                state = edges[state][character]
                length += 1
                if length > matched[state]:
                    matched[state], ends[state] = length, place
        read += len(document)
    # A corpus that has a substring has its suffixes. The longest states come first, so that each
    # hands on what it has from those that link to it; then shorter ones fill longer ones.
    order = sorted(range(1, len(edges)), key=longest.__getitem__)
    for state in reversed(order):
        if matched[state] and (shorter := link[state]):
            matched[shorter], ends[shorter] = longest[shorter], ends[state]
    for state in order:
        if not matched[state]:
            matched[state], ends[state] = matched[link[state]], ends[link[state]]
    # Of the spans that end at each character. Those that begin at one end with the last character
    # whose span reaches back to it.
    lengths = np.array([matched[state] for state in after], np.int64)
    starts = np.arange(1, len(text) + 1) - lengths
    stops = np.searchsorted(starts, np.arange(len(text)), side="right")
    lengths = stops - np.arange(len(text))
    last = np.array([0, *(ends[state] for state in after)], np.int64)[stops]
    return Copies(lengths, np.where(lengths > 0, last - lengths, 0))


def in_copies(lengths: NDArray[np.int64], least: int = LEAST_COPIED) -> NDArray[np.bool]:
    """Whether each character is in a copied span of `least` or more; `lengths` as in `Copies`."""
    place = np.arange(len(lengths))
    reach = np.where(lengths >= least, place + lengths, 0)
    return np.asarray(place < np.maximum.accumulate(reach))


def in_loops(text: str) -> NDArray[np.bool]:
    """Whether each character of a text is in a loop; see above."""
    points = code_points(text)
    inside = np.zeros(len(points), bool)
    for period in range(1, min(LONGEST_PIECE, len(points) // 3) + 1):
        # A span of this period has as many characters less that equal the one a period later.
        least = max(LEAST_LOOPED, 3 * period) - period
        repeats = np.zeros(len(points) - period + 2, np.int8)
        repeats[1:-1] = points[period:] == points[:-period]
        starts, stops = np.flatnonzero(np.diff(repeats)).reshape(-1, 2).T
        is_long = stops - starts >= least
        for start, stop in zip(starts[is_long], stops[is_long], strict=True):
            inside[start : stop + period] = True
    return inside


def _automaton(text: str) -> _Automaton:
    edges, link, longest, after = [dict[str, int]()], [-1], [0], list[int]()
    last = 0
    for character in text:
        new = len(edges)
        edges.append({})
        link.append(0)
        longest.append(longest[last] + 1)
        state = last
        while state >= 0 and character not in edges[state]:
            edges[state][character] = new
            state = link[state]
        if state >= 0:
            link[new] = target = edges[state][character]
            if longest[target] > longest[state] + 1:
                # Shorter substrings of the target now end in one more place: they get a state.
                link[new] = shorter = len(edges)
                edges.append(edges[target].copy())
                link.append(link[target])
                longest.append(longest[state] + 1)
                link[target] = shorter
                while state >= 0 and edges[state].get(character) == target:
                    edges[state][character] = shorter
                    state = link[state]
        after.append(new)
        last = new
    return _Automaton(edges, link, longest, after)


def _mean(flags: NDArray[np.bool]) -> float:
    return float(flags.mean()) if len(flags) else np.nan
