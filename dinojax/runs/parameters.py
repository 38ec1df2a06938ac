"""The parameters of a model in a checkpoint, whatever its kind."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dinojax.data.vocab import Vocab
from dinojax.models.cells import Params
from dinojax.models.ngram import Tables, check_tables
from dinojax.runs.description import build_model
from dinojax.runs.kinds import Kind, Mixture, Ngram


def stored_params(
    kind: Kind, vocab: Vocab, arrays: Mapping[str, np.ndarray], name: str = "params"
) -> Params:
    """A pytree with the structure, shapes and types of the parameters of a model of this kind.

    The sizes of the tables of an n-gram model are those of the `arrays` of a checkpoint, in which
    the parameters go by `name`.

    Raises:
        ValueError: these are not the tables of such a model.
    """
    if isinstance(kind, Mixture):
        members = enumerate(kind.members)
        return tuple(stored_params(x, vocab, arrays, f"{name}/{i}") for i, x in members)
    if isinstance(kind, Ngram):
        try:
            fields: list[Any] = [arrays[f"{name}/{field}"] for field in Tables._fields]
        except KeyError as error:
            raise ValueError(f"{error} is missing") from None
        tables = Tables(*fields)
        check_tables(tables, vocab.size, kind.order)
        return tables
    model = build_model(kind, vocab)
    return jax.eval_shape(lambda: model.init(jax.random.key(0)))
