"""A network beside n-gram models: what they pay for data, and how good their samples are."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from dinojax.config import check_range
from dinojax.data.batches import cut_text
from dinojax.data.blocks import Block
from dinojax.data.labels import without_labels
from dinojax.data.stored import NameList, Text, excerpt, has_borders, in_vocab
from dinojax.data.vocab import Vocab
from dinojax.evaluation.apart import (
    costs_apart,
    costs_in_blocks,
    cut_blocks,
    with_labels_apart,
)
from dinojax.evaluation.copying import describe_text, longest_copies
from dinojax.evaluation.losses import (
    Costs,
    column_evaluation,
    in_blocks,
    in_pieces,
    name_evaluation,
    summarize,
)
from dinojax.evaluation.ngram import NgramModel, draw_names, fit_ngrams, nats
from dinojax.evaluation.prepared import blocks, carried_costs, num_stretches, piece_costs
from dinojax.evaluation.quality import describe_names, describe_samples, divergences, halves
from dinojax.evaluation.strings import text_nats
from dinojax.models.trained import Trained
from dinojax.sampling.stream import stream_names
from dinojax.sampling.strings import begin, composed_names, num_to_draw, stream_text

Part = Sequence[str] | str
MOST_COUNTED = 2**23
"""About the most characters of prepared data that n-gram models count."""
CONTEXTS: tuple[int | str, ...] = ("carry", 256)


class ModelFigures(NamedTuple):
    """Figures of a model; `order` is that of an n-gram model."""

    model: str
    """"network", "ngram", or "held-out" for real names in place of samples."""
    figures: Mapping[str, float]
    context: int | str | None = None
    """How a network reads a text; see `compare`. "dynamic" if its weights follow it."""
    order: int | None = None
    apart: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    """The figures of seen and of unseen blocks; see `costs_apart`."""


class SampleComparison(NamedTuple):
    """How good `num` samples of each of several models are; see `compare_samples`."""

    num: int
    seed: int
    max_length: int
    num_held_out: int
    num_floor: int | None
    """Number of names in each of the two sets whose divergences are those of "held-out"."""
    models: list[ModelFigures]


class CopiedSpan(NamedTuple):
    """The longest span of a text that is in the training text."""

    text: str
    place: int
    """Where it begins in the text."""
    training_place: int
    """Where it begins in the training text, at one place of perhaps several."""


class TextComparison(NamedTuple):
    """How much a text of `num` characters copies and repeats; see `compare_text`."""

    num: int
    seed: int
    num_held_out: int
    models: list[ModelFigures]
    longest_copies: list[CopiedSpan]
    """Of the text of each model."""


def compare(
    trained: Trained,
    train: Part | None,
    part: Part,
    *,
    contexts: Sequence[int | str] = CONTEXTS,
    max_order: int = 5,
    held_out: Sequence[Block] = (),
) -> list[ModelFigures]:
    """The costs of `part` under a network and under n-gram models of orders 1 to `max_order`.

    The n-gram models are fitted to `train`, the names or the text that the network learned from;
    there are none if it is None. The network reads a text in each of `contexts`: "carry" carries
    its state from beginning to end (of prepared data, see `carried_costs`); a number cuts the text
    into windows of that length, each read from a fresh state. See `summarize` for the figures. Of
    prepared data, all of `part` is read, and about `MOST_COUNTED` characters of `train` are
    counted; see `excerpt`. Costs of names with labels are those of both; the network's are also
    given apart, as `nats_per_label` and `nats_per_piece_given_label`. If `part` is the validation
    part of a text in the blocks `held_out`, no window or piece has characters of two of them, and
    the costs of seen and unseen ones are given apart, too.

    Raises:
        ValueError: `train` or `part` is empty or holds an unknown character, only one of them is a
            text, or a context or `max_order` is below 1.
    """
    if train is not None and isinstance(train, str | Text) != isinstance(part, str | Text):
        raise ValueError("expected names twice or a text twice, got names and a text")
    is_text = isinstance(part, str | Text)
    found = [
        _figures("network", network_costs(trained, part, context, held_out), held_out)._replace(
            context=context
        )
        for context in (contexts if is_text else [None])
    ]
    if trained.vocab.labels:
        found = [
            each._replace(figures=with_labels_apart(each.figures, trained, part)) for each in found
        ]
    if train is None:
        return found
    orders = range(1, max_order + 1)
    ngrams = fit_ngrams(*joined(trained.vocab, train), trained.vocab.size, max_order)
    costs = ngram_costs(ngrams, trained.vocab, part, orders, held_out)
    return found + [
        _figures("ngram", each, held_out)._replace(order=order)
        for each, order in zip(costs, orders, strict=True)
    ]


def _figures(model: str, costs: Costs, held_out: Sequence[Block]) -> ModelFigures:
    apart = costs_apart(costs, held_out) if held_out else {}
    return ModelFigures(model, summarize(costs), apart=apart)


def network_costs(
    trained: Trained, part: Part, context: int | str | None, held_out: Sequence[Block] = ()
) -> Costs:
    """The costs of a part under a network, which reads a text in a context; see `compare`."""
    model, params, vocab, _ = trained
    if context not in (None, "carry"):
        check_range("context", int(context or 0), 1, 10**9)
    if isinstance(part, NameList):
        return piece_costs(trained, part)
    if not isinstance(part, str | Text):
        return name_evaluation(model, vocab, part)(params)
    if context == "carry":
        if isinstance(part, Text) and part.store:
            return carried_costs(trained, part, num_stretches(len(part)))
        return _in_blocks(text_nats(trained, part), held_out)
    window = min(int(context or 0), len(part))
    if isinstance(part, Text) and part.store:
        return piece_costs(trained, part, window)
    cut = partial(cut_blocks, blocks=held_out) if held_out else cut_text
    columns = cut(part, vocab, window)
    return column_evaluation(model, columns, resets=has_borders(part))(params)


def _in_blocks(nats: NDArray[Any], held_out: Sequence[Block]) -> Costs:
    return costs_in_blocks(nats, held_out) if held_out else in_blocks(nats)


def ngram_costs(
    ngrams: NgramModel,
    vocab: Vocab,
    part: Part,
    orders: Sequence[int],
    held_out: Sequence[Block] = (),
) -> list[Costs]:
    """The costs of the names, or of the blocks of the text, of a part under n-gram models."""
    found: list[list[Costs]] = [[] for _ in orders]
    is_text = isinstance(part, str | Text)
    in_turn: Iterable[tuple[NDArray[Any], NDArray[np.bool], int]]
    if isinstance(part, NameList) or (isinstance(part, Text) and part.store):
        in_turn = blocks(vocab, part, max(orders) - 1)
    else:
        in_turn = [(*joined(vocab, part), 0)]
    for ids, starts, num_before in in_turn:
        for costs, order in zip(found, orders, strict=True):
            each = nats(ngrams, ids, starts, order)[num_before:]
            costs.append(
                _in_blocks(each, held_out) if is_text else in_pieces(each, np.flatnonzero(starts))
            )
    return [Costs(*map(np.concatenate, zip(*costs, strict=True))) for costs in found]


def compare_samples(
    trained: Trained,
    train: Sequence[str],
    held_out: Sequence[str],
    num: int,
    *,
    seed: int = 0,
    max_length: int | None = None,
    orders: Sequence[int] = (2, 5),
) -> SampleComparison:
    """How good samples of a network and of n-gram models of some `orders` are, beside real names.

    The n-gram models are fitted to `train`, the names that the network learned from. Samples are
    cut after `max_length` characters (default: `trained.max_length`). See `describe_samples` and
    `divergences` for the figures. As many samples as there are `held_out` names, drawn beyond `num`
    if necessary, enter divergences; other figures describe the first `num`. Without held-out names,
    there are no hits, no divergences and no figures of real names. All figures are about names
    without their labels.

    Raises:
        ValueError: `train` is empty or holds an unknown character, or `num` or an order is below 1.
    """
    check_range("num", num, 1, 10**9)
    model, params, vocab, limit = trained
    max_length = limit if max_length is None else max_length
    ngrams = fit_ngrams(*joined(vocab, train), vocab.size, max(orders))
    train, held_out = (without_labels(part, vocab.labels) for part in (train, held_out))
    num_held_out, held_out_lines = len(held_out), [f"{name}\n" for name in held_out]

    def figures(ids: NDArray[np.integer], ended: NDArray[np.bool]) -> Mapping[str, float]:
        lengths = np.sum(ids != vocab.newline, axis=1)
        drawn_as = [vocab.decode(row[:length]) for row, length in zip(ids, lengths, strict=True)]
        names = composed_names(vocab, list(without_labels(drawn_as, vocab.labels)))
        lines = [name + "\n" * whole for name, whole in zip(names, ended.tolist(), strict=True)]
        apart = divergences(lines[:num_held_out], held_out_lines) if held_out else {}
        return {**describe_samples(names[:num], ended[:num], train, held_out), **apart}

    sizes: dict[str, Any] = {"num": max(num, num_held_out)}
    sizes["max_length"] = max_length + num_to_draw(vocab, None)
    write = jax.jit(partial(stream_names, model=model, **sizes))
    samples = jax.device_get(write(jax.random.key(seed), params))
    models = [ModelFigures("network", figures(samples.ids, samples.ended))]
    for order in orders:
        generator = np.random.default_rng([seed, order])
        drawn = draw_names(generator, ngrams, vocab.newline, order=order, **sizes)
        models.append(ModelFigures("ngram", figures(*drawn), order=order))
    if not held_out:
        return SampleComparison(num, seed, max_length, 0, None, models)
    real_lines = [*(f"{name}\n" for name in train), *held_out_lines]
    floor = halves(np.random.default_rng(seed), real_lines, num_held_out)
    real = {**describe_names(held_out, train), **divergences(*floor)}
    models.append(ModelFigures("held-out", real))
    return SampleComparison(num, seed, max_length, num_held_out, len(floor[0]), models)


def compare_text(
    trained: Trained, train: str | Text, held_out: str | Text, num: int, *, seed: int = 0
) -> TextComparison:
    """How much a text that a network draws copies and repeats, beside held-out text.

    The network draws `num` characters from a fresh state. Beside them are as many from the
    beginning of `held_out`, or all if there are fewer; none if it is empty. Copies are looked for
    in each document of `train`. See `describe_text` for the figures.

    Raises:
        ValueError: `num` is below 1 or above 100,000, which take about 100 MB of memory.
    """
    check_range("num", num, 1, 100_000)
    pieces = stream_text(jax.random.key(seed), trained, begin(trained, ""), num)
    texts = {"network": "".join(pieces)}
    if len(held_out):
        texts["held-out"] = str(held_out[:num])
    models, spans = [], []
    for model, text in texts.items():
        copies = longest_copies(text, [train] if isinstance(train, str) else train.documents())
        models.append(ModelFigures(model, describe_text(text, copies)))
        start = int(copies.lengths.argmax())
        span = text[start : start + int(copies.lengths[start])]
        spans.append(CopiedSpan(span, start, int(copies.places[start])))
    return TextComparison(num, seed, len(texts.get("held-out", "")), models, spans)


def joined(vocab: Vocab, part: Part) -> tuple[NDArray[Any], NDArray[np.bool]]:
    """The ids of a part end to end, [num], and whether a name or a document begins at each.

    Of prepared data, there are about `MOST_COUNTED`.
    """
    part = excerpt(part, MOST_COUNTED)
    if isinstance(part, Text):
        starts = np.zeros(len(part), bool)
        starts[part.starts] = True
        return in_vocab(part, vocab).ids, starts
    if isinstance(part, str):
        return vocab.encode(part), np.arange(len(part)) == 0
    ids = vocab.encode("".join(f"{name}\n" for name in part))
    # A name begins after each newline, and the first, as the array is rolled, after the last.
    return ids, np.roll(ids == vocab.newline, 1)
