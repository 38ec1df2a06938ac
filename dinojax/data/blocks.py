"""A text's validation part as blocks spread over the text, some of them works of their own."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from dinojax.data.splits import sizes_of
from dinojax.data.stored import Text, is_prepared, joined_documents
from dinojax.data.vocab import Vocab
from dinojax.data.works import play_starts
from dinojax.messages import count

UNSEEN, LARGEST = 0.5, 0.75
"""The largest share of the validation part that unseen works fill; and one alone, if none fits."""


class Block(NamedTuple):
    """A stretch of a text that is held out for validation."""

    start: int
    """Its first character in the text."""
    length: int
    is_unseen: bool
    """Whether it is of a work of which training reads nothing."""


def split_blocks(
    text: str | Text, vocab: Vocab, num_blocks: int, *fractions: float, seed: int
) -> tuple[Text, Text, Text, list[Block]]:
    """Split a text into training, validation and test parts, validation in `num_blocks` blocks.

    The `fractions` are those of validation and test, as in `split_text`, and so is the test part.
    Up to half of the validation part are whole works, drawn from `seed`: documents, or plays (see
    `works`), of which training then reads nothing. If all are longer, it is the shortest, unless
    that fills more than `LARGEST` of the part; then there is none. A long one has several blocks.
    The other blocks are equally long, and evenly spread over the rest from a place that is drawn,
    too. The training part is what is left. Its pieces, and the blocks, are documents of their own.
    Blocks are in the order of the text.

    Raises:
        ValueError: the text is prepared data, there are more blocks than characters to validate
            by, they leave too little between them, or see `split_text`.
    """
    if is_prepared(text):
        raise ValueError(
            "validation blocks: for texts that fit into memory, got prepared data; expected 0 or 1"
        )
    text = joined_documents([text], vocab) if isinstance(text, str) else text
    num_train, num_held_out, _ = sizes_of(len(text), "character", *fractions)
    if num_blocks > num_held_out:
        raise ValueError(
            f"validation blocks: expected at most {num_held_out:,}, the characters of the "
            f"validation part, got {num_blocks:,}; choose fewer blocks or a larger fraction"
        )
    rest, tested = text[: num_train + num_held_out], text[num_train + num_held_out :]
    generator = np.random.default_rng(seed)
    blocks = unseen_blocks(work_edges(rest), num_held_out, num_blocks, generator)
    num_seen = num_blocks - len(blocks)
    length = num_held_out - sum(block.length for block in blocks)
    blocks += seen_blocks(_between(blocks, len(rest)), length, num_seen, generator)
    blocks.sort()
    held_out = _joined(rest, [(block.start, block.start + block.length) for block in blocks])
    return _joined(rest, _between(blocks, len(rest))), held_out, tested, blocks


def work_edges(text: Text) -> list[int]:
    """Where the works of a text begin, and its end: its documents, or the plays in them."""
    starts = text.starts.tolist()
    within = map(play_starts, text.documents())
    return [start + each for start, plays in zip(starts, within, strict=True) for each in plays] + [
        len(text)
    ]


def unseen_blocks(
    edges: Sequence[int], num_held_out: int, num_blocks: int, generator: np.random.Generator
) -> list[Block]:
    """Blocks that are whole works, or pieces of a work that together are whole.

    Works follow each other with these `edges`. Short ones that do are taken together, so that there
    are up to half of `num_blocks`, and fewer characters than `num_held_out`.
    """
    usual, room = num_held_out / num_blocks, int(UNSEEN * num_held_out)
    groups = list[tuple[int, int]]()
    # An empty document has no place.
    for start, stop in pairwise(sorted(set(edges))):
        if groups and stop - groups[-1][0] <= usual:
            groups[-1] = groups[-1][0], stop
        else:
            groups.append((start, stop))
    smallest = min(stop - start for start, stop in groups)
    if len(groups) == 1 or smallest > LARGEST * num_held_out:
        return []
    room, chosen = max(room, smallest), list[tuple[int, int]]()
    for i in generator.permutation(len(groups)).tolist():
        start, stop = groups[i]
        if stop - start <= room and len(chosen) < num_blocks // 2:
            room -= stop - start
            chosen.append((start, stop))
    cuts = [np.linspace(a, b, max(1, int((b - a) / usual)) + 1).astype(int) for a, b in chosen]
    return [Block(a, b - a, True) for cut in cuts for a, b in pairwise(cut.tolist())]


def seen_blocks(
    stretches: Sequence[tuple[int, int]], length: int, num: int, generator: np.random.Generator
) -> list[Block]:
    """`num` blocks of `length` characters together, spread over stretches that none leaves."""
    longest = -(-length // num)
    # A block may begin where all of it lies in one stretch.
    rooms = np.array([max(0, stop - start - longest + 1) for start, stop in stretches])
    ends = np.cumsum(rooms)
    if ends[-1] < num * longest:
        raise ValueError(
            f"validation blocks: {count(num, 'block')} of {longest:,} characters "
            f"{'leaves' if num == 1 else 'leave'} too little of the text between blocks; "
            "choose fewer blocks or a smaller validation fraction"
        )
    # So far apart that none reaches the next.
    places = ((generator.random() + np.arange(num)) * ends[-1] / num).astype(int)
    which = np.searchsorted(ends, places, "right")
    starts = np.array([start for start, _ in stretches])[which] + places - (ends - rooms)[which]
    lengths = np.diff(np.arange(num + 1) * length // num)
    return [Block(*each, False) for each in zip(starts.tolist(), lengths.tolist(), strict=True)]


def _between(blocks: Sequence[Block], num: int) -> list[tuple[int, int]]:
    """The stretches of a text of `num` characters that are in no block."""
    ends = [0, *(block.start + block.length for block in sorted(blocks))]
    starts = [*(block.start for block in sorted(blocks)), num]
    return [(a, b) for a, b in zip(ends, starts, strict=True) if a < b]


def _joined(text: Text, stretches: Sequence[tuple[int, int]]) -> Text:
    """These stretches of a text in memory, each a document of its own, or several."""
    pieces = [text[start:stop] for start, stop in stretches]
    firsts = np.cumsum([0, *(len(piece) for piece in pieces)])[:-1]
    starts = [piece.starts + first for piece, first in zip(pieces, firsts, strict=True)]
    ids = np.concatenate([piece.ids for piece in pieces])
    return Text(text.vocab, ids, np.concatenate(starts))
