"""Runs whose model is an n-gram model: counted, not trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from dinojax.config import check_range
from dinojax.data.blocks import Block
from dinojax.data.stored import Text
from dinojax.data.vocab import Vocab
from dinojax.evaluation.apart import costs_in_blocks
from dinojax.evaluation.compare import joined, network_costs, ngram_costs
from dinojax.evaluation.losses import Costs, in_blocks, in_pieces, summarize
from dinojax.evaluation.ngram import NgramModel, fit_ngrams, terms
from dinojax.files import digest
from dinojax.models.cells import Params
from dinojax.models.ngram import make_tables
from dinojax.models.trained import Trained
from dinojax.presets import ngram_config
from dinojax.runs import folder as runs
from dinojax.runs.description import Description, Part, Parts, build_model, describe, part_content
from dinojax.runs.given import clean
from dinojax.runs.kinds import MAX_ORDER, Ngram
from dinojax.training.step import TrainState


class NgramRun(NamedTuple):
    """A new run of an n-gram model."""

    description: Description
    parts: Parts
    trained: Trained
    figures: Mapping[str, float] | None
    """Over the validation part; see `losses.summarize`. None if there is no such part."""


def fit_ngram(
    names: Sequence[str] | str,
    order: int = 5,
    *,
    labels: Sequence[str] | None = None,
    folder: Path | str | None = None,
    **settings: Any,
) -> Trained:
    """Count an n-gram model of a list of names, or of a text given as a string.

    Names may have `labels`, one each.
    The `settings` are fields of `TrainConfig` that decide how the data are read and split, such as
    `validation_fraction`; see `presets.ngram_config`. With a `folder`, a run is recorded there.

    Raises:
        OSError: a file cannot be written.
        TypeError: a name is no string.
        ValueError: the order, a setting, the data or the folder is not suitable.
    """
    kinds = {"batches": "windows"} if isinstance(names, str) else {}
    config = ngram_config(kinds | settings)
    data = clean(names, config.lowercase, labels)
    described = describe(config, data, sha256=digest(part_content(data)))
    made = make_ngram_run(*described[:2], order)
    if folder is not None:
        save_untrained(made.trained.params, Path(folder), made.description, made.parts)
    return made.trained


def make_ngram_run(description: Description, parts: Parts, order: int) -> NgramRun:
    """The run of an n-gram model of the training part, as `description.describe` describes one.

    Raises:
        ValueError: the order is out of range, or see `make_tables`.
    """
    fitted = fitted_ngrams(description.vocab, parts["train"], order)
    description = description._replace(model=Ngram(order))
    trained = Trained(
        build_model(description.kind, description.vocab),
        ngram_params(fitted),
        description.vocab,
        description.max_length,
    )
    figures = None
    if part := parts.get("validation"):
        costs = ngram_costs(fitted, description.vocab, part, [order], description.blocks)[0]
        if description.vocab.labels:
            # Of what was counted, a label may also follow a letter, but of the run it may not.
            costs = network_costs(trained, part, None)
        figures = summarize(costs)
    return NgramRun(description, parts, trained, figures)


def fitted_ngrams(vocab: Vocab, part: Part, order: int) -> NgramModel:
    """The n-gram model of a part of a run's data; a ValueError if the order is out of range."""
    check_range("order", order, 1, MAX_ORDER)
    return fit_ngrams(*joined(vocab, part), vocab.size, order)


def ngram_params(fitted: NgramModel) -> Params:
    """The parameters of the character model that an n-gram model is, on the device."""
    return jax.device_put(make_tables(terms(fitted), fitted.vocab_size))


def costs_of(
    character_nats: NDArray[np.float64], part: Part, held_out: Sequence[Block] = ()
) -> Costs:
    """The costs of the names of a part, or of pieces of its text, whose characters cost so much.

    If it is the validation part of a text in the blocks `held_out`, no piece is of two of them.
    """
    if held_out:
        return costs_in_blocks(character_nats, held_out)
    if isinstance(part, str | Text):
        return in_blocks(character_nats)
    lengths = np.array([len(name) + 1 for name in part])
    return in_pieces(character_nats, np.cumsum(lengths) - lengths)


def save_untrained(
    params: Params,
    folder: Path | str,
    description: Description,
    parts: Parts,
    *,
    overwrite: bool = False,
    selection: tuple[Params, Description, Parts] | None = None,
) -> None:
    """Write a run whose model is not trained step by step into a folder, and perhaps its selection.

    That of a mixture of refitted runs mixes their selections.

    Raises:
        OSError: a file cannot be written.
        ValueError: the folder is not suitable; see `folder.take_folder` and `folder.start_run`.
    """

    def begun(params: Params, description: Description, parts: Parts) -> runs.Begun:
        key, step = jax.random.key(description.config.seed), jnp.zeros((), jnp.int32)
        return TrainState(params, (), (), key, step, jnp.zeros(())), description, parts

    runs.take_folder(folder, overwrite)
    with runs.locked(folder):
        whole = begun(params, description, parts)
        runs.start_run(folder, *whole, selection=begun(*selection) if selection else None)
