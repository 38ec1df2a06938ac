"""A network beside n-gram models: what they pay for data, and how good their samples are."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from dinojax.config import check_range
from dinojax.data.batches import cut_text, pad_names
from dinojax.data.vocab import Vocab
from dinojax.evaluation.losses import column_evaluation, in_blocks, in_pieces, summarize
from dinojax.evaluation.ngram import draw_names, fit_ngrams, nats
from dinojax.evaluation.quality import describe_names, describe_samples, divergences, halves
from dinojax.evaluation.strings import text_nats
from dinojax.models.trained import Trained
from dinojax.sampling.stream import stream_names

CONTEXTS: tuple[int | str, ...] = ("carry", 256)


class ModelFigures(NamedTuple):
    """Figures of a model."""

    model: str
    """"network", "ngram", or "held-out" for real names in the place of samples."""
    figures: Mapping[str, float]
    context: int | str | None = None
    """How a network reads a text; see `compare`."""
    order: int | None = None
    """Order of an n-gram model."""


class SampleComparison(NamedTuple):
    """How good the samples of several models are; see `compare_samples`."""

    num: int
    """Number of samples of each model."""
    seed: int
    max_length: int
    num_held_out: int
    num_floor: int | None
    """Number of real names in each of two sets whose divergences are those of "held-out"."""
    models: list[ModelFigures]


def compare(
    trained: Trained,
    train: Sequence[str] | str,
    part: Sequence[str] | str,
    *,
    contexts: Sequence[int | str] = CONTEXTS,
    max_order: int = 5,
) -> list[ModelFigures]:
    """What a network, and n-gram models of all orders up to `max_order`, pay for `part`.

    The n-gram models are fitted to `train`, the names or the text that the network has learned
    from. The network reads a text in each of `contexts`: "carry" carries its state from beginning
    to end; a number cuts the text into windows of so many characters, each read from a fresh state.
    See `summarize` for the figures.

    Raises:
        ValueError: `train` or `part` is empty or holds an unknown character, only one of them is a
            text, or a context or `max_order` is below 1.
    """
    if isinstance(train, str) != isinstance(part, str):
        raise ValueError("expected names twice or a text twice, got names and a text")
    ngrams = fit_ngrams(*_end_to_end(trained.vocab, train), trained.vocab.size, max_order)
    ids, starts = _end_to_end(trained.vocab, part)
    first, found = np.flatnonzero(starts), []
    if not isinstance(part, str):
        costs = column_evaluation(trained.model, pad_names(part, trained.vocab))(trained.params)
        found.append(ModelFigures("network", summarize(costs)))
    else:
        for context in contexts:
            if context == "carry":
                costs = in_blocks(text_nats(trained, part))
            else:
                check_range("context", int(context), 1, 10**9)
                columns = cut_text(part, trained.vocab, min(int(context), len(part)))
                costs = column_evaluation(trained.model, columns)(trained.params)
            found.append(ModelFigures("network", summarize(costs), context=context))
    for order in range(1, max_order + 1):
        each = nats(ngrams, ids, starts, order)
        costs = in_blocks(each) if isinstance(part, str) else in_pieces(each, first)
        found.append(ModelFigures("ngram", summarize(costs), order=order))
    return found


def compare_samples(
    trained: Trained,
    train: Sequence[str],
    held_out: Sequence[str],
    num: int,
    *,
    seed: int = 0,
    max_length: int = 50,
    orders: Sequence[int] = (2, 5),
) -> SampleComparison:
    """How good samples of a network and of n-gram models of some `orders` are, beside real names.

    The n-gram models are fitted to `train`, the names that the network has learned from. Samples
    are cut after `max_length` characters. See `describe_samples` and `divergences` for the figures.
    Divergences compare as many samples as there are `held_out` names, drawing more than `num` if
    necessary; all other figures describe the first `num` samples. Without held-out names, there are
    no hits, no divergences and no figures of real names.

    Raises:
        ValueError: `train` is empty or holds an unknown character, or `num` or an order is below 1.
    """
    check_range("num", num, 1, 10**9)
    vocab, num_held_out = trained.vocab, len(held_out)
    held_out_lines = [f"{name}\n" for name in held_out]

    def figures(ids: NDArray[np.integer], ended: NDArray[np.bool]) -> Mapping[str, float]:
        lengths = np.sum(ids != vocab.newline, axis=1)
        names = [vocab.decode(row[:length]) for row, length in zip(ids, lengths, strict=True)]
        found = describe_samples(names[:num], ended[:num], train, held_out)
        if not held_out:
            return found
        lines = [name + "\n" * whole for name, whole in zip(names, ended.tolist(), strict=True)]
        return {**found, **divergences(lines[:num_held_out], held_out_lines)}

    sizes: dict[str, Any] = {"num": max(num, num_held_out), "max_length": max_length}
    write = jax.jit(partial(stream_names, model=trained.model, **sizes))
    samples = jax.device_get(write(jax.random.key(seed), trained.params))
    models = [ModelFigures("network", figures(samples.ids, samples.ended))]
    ngrams = fit_ngrams(*_end_to_end(vocab, train), vocab.size, max(orders))
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


def _end_to_end(
    vocab: Vocab, part: Sequence[str] | str
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.bool]]:
    """The characters of a part, [num], and whether a name or the text begins at each of them."""
    ids = vocab.encode(part if isinstance(part, str) else "".join(f"{name}\n" for name in part))
    # A name begins after each newline, and the first, as the array is rolled, after the last.
    starts = np.roll(ids == vocab.newline, 1)
    return ids, np.arange(len(ids)) == 0 if isinstance(part, str) else starts
