"""What the model of a run is: a network, an n-gram model or a mixture."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from dinojax.config import TrainConfig, check_range, config_from
from dinojax.messages import count, quoted

MAX_ORDER = 50
"""Highest order of an n-gram model. Contexts of a text that are so long rarely occur twice."""
MAX_MEMBERS, MAX_DEPTH = 1_000, 8
"""Most members of a mixture, and how often mixtures may be members of mixtures."""
MAX_CACHE = 2**16
"""Most characters that a cache holds."""


class Ngram(NamedTuple):
    """An n-gram model."""

    order: int


class Mixture(NamedTuple):
    """A mixture of models, each a network of a configuration, an n-gram model or a mixture."""

    members: tuple["Kind", ...]
    weights: tuple[float, ...]
    """Of each member; they sum to one."""
    cache: int = 0
    """How many characters a cache of the whole holds, 0 for none; see `models.cache`."""


Kind = TrainConfig | Ngram | Mixture


def kind_name(kind: Kind) -> str:
    """A kind of model in words, such as "6-gram model"."""
    if isinstance(kind, Mixture):
        cache = f" with a cache of {count(kind.cache, 'character')}" if kind.cache else ""
        return f"mixture of {count(len(kind.members), 'model')}{cache}"
    return f"{kind.order}-gram model" if isinstance(kind, Ngram) else "network"


def kind_to_json(kind: Kind) -> dict[str, Any]:
    """A kind of model as JSON-like data; see `kind_from_json`."""
    if isinstance(kind, Mixture):
        pairs = zip(kind.members, kind.weights, strict=True)
        members = [kind_to_json(member) | {"weight": weight} for member, weight in pairs]
        return {"mixture": members} | ({"cache": kind.cache} if kind.cache else {})
    return {"ngram": kind.order} if isinstance(kind, Ngram) else {"network": asdict(kind)}


def kind_from_json(value: Any, depth: int = 0) -> Kind:
    """The kind of model in JSON-like data.

    Raises:
        ValueError: they describe no model that there can be.
    """
    if isinstance(value, Mapping) and depth <= MAX_DEPTH:
        if isinstance(settings := value.get("network"), Mapping):
            return config_from(settings)
        order, members = value.get("ngram"), value.get("mixture")
        if type(order) is int:
            check_range("order", order, 1, MAX_ORDER)
            return Ngram(order)
        if isinstance(members, list) and 0 < len(members) <= MAX_MEMBERS:
            kinds = tuple(kind_from_json(member, depth + 1) for member in members)
            weights = tuple(member.get("weight") for member in members)
            are_numbers = all(type(x) is float and 0 <= x <= 1 for x in weights)
            cache = value.get("cache", 0)
            is_cache = type(cache) is int and 0 <= cache <= MAX_CACHE
            if are_numbers and abs(sum(weights) - 1) < 1e-6 and is_cache:
                return Mixture(kinds, weights, cache)
    raise ValueError(f"expected a network, an n-gram model or a mixture, got {quoted(value)}")
