"""N-gram models of several orders: their losses on held-out data, and those from half the data."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dinojax.data.splits import split_names
from dinojax.data.stored import Text, excerpt, num_characters
from dinojax.data.vocab import Vocab
from dinojax.evaluation.compare import Part, joined, ngram_costs
from dinojax.evaluation.losses import summarize
from dinojax.evaluation.ngram import fit_ngrams

MAX_ORDER = 6
BLOCK = 1_000
"""Length, in characters, of the pieces of a text, of which every other one is in each half."""
MOST_READ = 2**20
"""About the most characters that are counted; the loss is measured on up to an eighth as many."""


class Baseline(NamedTuple):
    """The losses of n-gram models of orders 1, 2, .. over held-out data."""

    nats_per_character: tuple[float, ...]
    """Of each order."""
    nats_per_name: tuple[float, ...]
    """Of each order; of a text, empty."""
    order: int
    """The order with the lowest loss."""
    standard_error: float
    """Of its loss, in nats per character; NaN where it cannot be estimated."""
    from_half: float
    """The lowest loss of models that counted half of the data, in nats per character: the mean of
    the two halves. NaN where the data cannot be halved."""
    num_counted: int
    """Number of names, or of characters of a text, that were counted."""
    num_held_out: int
    """Number of names, or of characters of a text, that the losses were measured on."""

    @property
    def loss(self) -> float:
        """The lowest loss, in nats per character."""
        return self.nats_per_character[self.order - 1]


def measure_ngrams(
    vocab: Vocab, train: Part, held_out: Part, *, max_order: int = MAX_ORDER
) -> Baseline:
    """Fit n-gram models of orders 1 to `max_order` to `train` and measure them on `held_out`.

    Of more than `MOST_READ` characters, those at the beginning of a text are read, or names
    spread evenly over a list.

    Raises:
        ValueError: a part is empty or holds an unknown character, or `max_order` is below 1.
    """
    train, held_out = sampled(train, MOST_READ), sampled(held_out, MOST_READ // 8)
    figures = _figures(vocab, train, held_out, max_order)
    losses = [each["nats_per_character"] for each in figures]
    best = int(np.argmin(losses))
    halves = [
        min(each["nats_per_character"] for each in _figures(vocab, half, held_out, max_order))
        for half in _halves(train)
    ]
    is_text = isinstance(train, str | Text)
    return Baseline(
        nats_per_character=tuple(losses),
        nats_per_name=() if is_text else tuple(each["nats_per_piece"] for each in figures),
        order=best + 1,
        standard_error=figures[best]["standard_error"],
        from_half=float(np.mean(halves)) if halves else np.nan,
        num_counted=len(train),
        num_held_out=len(held_out),
    )


def sampled(part: Part, most: int) -> Part:
    """About `most` characters of a part, in memory.

    They are the beginning of a text, or names spread evenly over a list.
    """
    is_text = isinstance(part, str | Text)
    chosen: Any = part[:most] if is_text else part[:: -(-num_characters(part) // most)]
    return excerpt(chosen, most)


def _figures(
    vocab: Vocab, train: Part, held_out: Part, max_order: int
) -> list[Mapping[str, float]]:
    """The losses on one part of models of another, for each order; see `summarize`."""
    ngrams = fit_ngrams(*joined(vocab, train), vocab.size, max_order)
    costs = ngram_costs(ngrams, vocab, held_out, range(1, max_order + 1))
    return [summarize(each) for each in costs]


def _halves(part: Part) -> Sequence[Part]:
    """Two halves, or nothing if there is too little.

    All copies of a name are in the same half. Blocks of a text go to one and the other in turn, as
    neighbours are alike.
    """
    if isinstance(part, str | Text):
        text = str(part)
        blocks = [text[i : i + BLOCK] for i in range(0, len(text), BLOCK)]
        return ["".join(blocks[i::2]) for i in range(2)] if len(blocks) > 1 else ()
    return split_names(part, 0.5, 0, seed=0)[:2] if len(set(part)) > 1 else ()
