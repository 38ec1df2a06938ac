"""A mixture of character models: a weighted mean of the probabilities that they give."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dinojax.messages import count
from dinojax.models.cells import Params, State
from dinojax.models.model import CharModel
from dinojax.models.trained import Trained


def mixture(models: Sequence[CharModel], weights: Sequence[float]) -> CharModel:
    """The model that mixes `models`, of one vocabulary, by fixed `weights`.

        p(character) = sum_k weights_k p_k(character)

    The weights are divided by their sum. Logits are the logarithms of these probabilities.
    Parameters, state and layer outputs are tuples with those of each model; the layers of one model
    follow those of another. With equal weights for networks trained from different seeds, this is
    an ensemble.

    Raises:
        ValueError: there is no model, models differ in vocabulary, or there is not one weight for
            each, finite, not negative, and above zero for one of them.
    """
    if not models:
        raise ValueError("expected at least one model, got none")
    sizes = [(model.vocab_size, model.newline) for model in models]
    if len(set(sizes)) > 1:
        shown = " and ".join(sorted({f"{size:,}" for size, _ in sizes}))
        raise ValueError(f"expected models of one vocabulary, got sizes {shown}, or other newlines")
    with np.errstate(divide="ignore"):
        log_weights = np.log(normalized(weights, len(models))).tolist()

    def mixed(logits: Sequence[jax.Array]) -> jax.Array:
        pairs = zip(log_weights, logits, strict=True)
        return jax.nn.logsumexp(jnp.stack([w + jax.nn.log_softmax(x) for w, x in pairs]), axis=0)

    def init(key: jax.Array) -> Params:
        keys = jax.random.split(key, len(models))
        return tuple(model.init(key) for model, key in zip(models, keys, strict=True))

    def initial_state(batch_shape: tuple[int, ...]) -> State:
        return tuple(model.initial_state(batch_shape) for model in models)

    def step(params: Params, state: State, inputs: jax.Array) -> tuple[State, jax.Array]:
        parts = zip(models, params, state, strict=True)
        states, logits = zip(*(x.step(own, s, inputs) for x, own, s in parts), strict=True)
        return states, mixed(logits)

    def unroll(
        params: Params,
        state: State,
        inputs: jax.Array,
        length: jax.Array | None = None,
        resets: bool = False,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[State, jax.Array]:
        states, logits = [], []
        for i, (model, own, first) in enumerate(zip(models, params, state, strict=True)):
            keys = dropout_keys
            if keys is not None:
                flat = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys.reshape(-1))
                keys = flat.reshape(keys.shape)
            last, each = model.unroll(own, first, inputs, length, resets, keys)
            states.append(last)
            logits.append(each)
        return tuple(states), mixed(logits)

    def layer_outputs(
        params: Params, state: State, inputs: jax.Array
    ) -> tuple[State, tuple[jax.Array, ...]]:
        parts = zip(models, params, state, strict=True)
        states, outputs = zip(
            *(x.layer_outputs(own, s, inputs) for x, own, s in parts), strict=True
        )
        return states, tuple(layer for each in outputs for layer in each)

    return CharModel(*sizes[0], init, initial_state, step, unroll, layer_outputs)


def combined(members: Sequence[Trained], weights: Sequence[float]) -> Trained:
    """The mixture of trained models; see `mixture`. Samples are cut where the longest limit is.

    Raises:
        ValueError: the models have different vocabularies, or see `mixture`.
    """
    if len({member.vocab for member in members}) > 1:
        raise ValueError("expected models of the same characters, in the same order")
    model = mixture([member.model for member in members], weights)
    limit = max(member.max_length for member in members)
    return Trained(model, tuple(member.params for member in members), members[0].vocab, limit)


def normalized(weights: Sequence[float], num: int) -> NDArray[np.float64]:
    """The `weights` of `num` models divided by their sum; for the errors see `mixture`."""
    given = np.asarray(weights, float)
    if given.shape != (num,):
        raise ValueError(f"expected a weight for each of {count(num, 'model')}, got {given.size}")
    if not (np.isfinite(given).all() and (given >= 0).all() and given.any()):
        shown = ", ".join(f"{weight:g}" for weight in given)
        raise ValueError(f"expected weights of 0 or more, one of them above 0, got {shown}")
    return given / given.sum()


class LearnedWeights(NamedTuple):
    """What `learn_weights` found."""

    weights: NDArray[np.float64]
    """The weight of each model, [num]; they sum to one."""
    nats: NDArray[np.float64]
    """Mean cost of a character before each iteration and after the last; it never rises."""


def learn_weights(
    nats: ArrayLike, *, tolerance: float = 1e-9, max_iterations: int = 10_000
) -> LearnedWeights:
    """The weights with which a mixture has the lowest cost, by what characters cost its models.

    `nats` [num, characters] is minus the log-probability of each character for each model. Each
    iteration of the EM algorithm (Dempster, Laird and Rubin, 1977) sets a weight to the mean
    probability that its model drew a character:

        weights_k <- mean_t weights_k p_k(t) / sum_j weights_j p_j(t)

    The cost never rises, and as it is a convex function of the weights, there are no other minima
    to be caught in. It starts from equal weights and stops when an iteration lowers the mean cost
    of a character by no more than `tolerance`, or after `max_iterations`.

    Raises:
        ValueError: `nats` is no such array, is empty, or holds a NaN, or a character is impossible
            to all models.
    """
    costs = np.asarray(nats, float)
    if costs.ndim != 2 or not costs.size:
        raise ValueError(f"expected nats [num, characters], got the shape {costs.shape}")
    least = costs.min(axis=0)
    if not np.isfinite(least).all():
        raise ValueError("expected characters that some model holds possible, got one that none do")
    # Relative to the best model of each character, so that nothing underflows.
    relative = np.exp(least - costs)
    weights = np.full(len(costs), 1 / len(costs))
    found: list[Any] = []
    while True:
        joint = weights[:, None] * relative
        total = joint.sum(axis=0)
        found.append(float(np.mean(least - np.log(total))))
        if len(found) > max_iterations or (len(found) > 1 and found[-2] - found[-1] <= tolerance):
            return LearnedWeights(weights, np.array(found))
        weights = np.mean(joint / total, axis=1)
