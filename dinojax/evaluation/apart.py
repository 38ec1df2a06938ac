"""Costs that are given apart: of labels and names, of seen and of unseen blocks of a text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.data.batches import Batch, cut_text
from dinojax.data.blocks import Block
from dinojax.data.labels import labels_of
from dinojax.data.stored import Text
from dinojax.data.vocab import Vocab
from dinojax.evaluation.losses import BLOCK, Costs, in_pieces, summarize
from dinojax.models.trained import Trained


def edges(blocks: Sequence[Block]) -> list[int]:
    """Where each block begins in the validation part, and the end of the last one."""
    return np.cumsum([0, *(block.length for block in blocks)]).tolist()


def cut_blocks(text: str | Text, vocab: Vocab, window: int, blocks: Sequence[Block]) -> Batch:
    """The blocks of a validation part as columns [window, num]; none has characters of two.

    See `cut_text`.
    """
    cut = [cut_text(text[start:stop], vocab, window) for start, stop in pairwise(edges(blocks))]
    return Batch(*(np.concatenate(field, axis=1) for field in zip(*cut, strict=True)))


def costs_in_blocks(nats: np.ndarray, blocks: Sequence[Block]) -> Costs:
    """The costs of pieces of up to `BLOCK` characters of a validation part; none is of two blocks.

    Its characters cost `nats` [num_characters].
    """
    pieces = [np.arange(*pair, BLOCK) for pair in pairwise(edges(blocks))]
    return in_pieces(nats, np.concatenate(pieces))


def costs_apart(costs: Costs, blocks: Sequence[Block]) -> Mapping[str, Mapping[str, float]]:
    """The figures of `seen` and of `unseen` blocks, whose standard errors are over the blocks.

    `costs` are those of pieces of the validation part, none of them of two blocks. For the figures
    see `summarize`; there are none of a kind that has no block.
    """
    firsts = np.cumsum(costs.num_characters) - costs.num_characters
    of_blocks = np.searchsorted(firsts, edges(blocks)[:-1])
    whole = Costs(*(np.add.reduceat(field, of_blocks) for field in costs))
    is_unseen = np.array([block.is_unseen for block in blocks])
    kinds = {"seen": ~is_unseen, "unseen": is_unseen}
    return {
        kind: summarize(Costs(*(field[chosen] for field in whole)))
        for kind, chosen in kinds.items()
        if chosen.any()
    }


def with_labels_apart(
    figures: Mapping[str, float], trained: Trained, part: Sequence[str]
) -> Mapping[str, float]:
    """The figures of a model over names with labels, and what a label and a name cost apart."""
    model, vocab = trained.model, trained.vocab
    start = model.initial_state(()), jnp.asarray(vocab.no_character)
    logits = jax.jit(model.step)(trained.params, *start)[1]
    # All names begin alike, so a label always has the same probability.
    nats = -np.asarray(jax.nn.log_softmax(logits[vocab.plain.size :]), float)
    counts = Counter(labels_of(part, vocab.labels))
    total = sum(counts[label] * cost for label, cost in zip(vocab.labels, nats, strict=True))
    per_label = float(total) / len(part)
    rest = figures["nats_per_piece"] - per_label
    apart = {"nats_per_label": per_label, "nats_per_piece_given_label": rest}
    return {**figures, **apart}
