"""A model with its parameters and its vocabulary: all that it takes to use one."""

from typing import NamedTuple

from dinojax.data.corpus import MIN_LIMIT
from dinojax.data.vocab import Vocab
from dinojax.models.cells import Params
from dinojax.models.model import CharModel


class Trained(NamedTuple):
    """What sampling, search, scoring, comparison and pictures need."""

    model: CharModel
    params: Params
    vocab: Vocab
    max_length: int = MIN_LIMIT
    """Where samples of names are cut, in characters; see `data.corpus.length_limit`."""
