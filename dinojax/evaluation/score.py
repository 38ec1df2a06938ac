"""What single strings are worth to a model."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dinojax.data.batches import Batch
from dinojax.models.cells import Params
from dinojax.models.model import CharModel
from dinojax.training.loss import cross_entropy


def log_probability(params: Params, model: CharModel, examples: Batch) -> jax.Array:
    """Log-probability of each target of `examples` [time, ...] in nats, times its weight.

        weight_t * log p(target_t | what was read up to t)

    Read from a fresh state; [time, ...] as the examples, so that one string [time] and a batch of
    them [time, num] are the same code. The sum over time is the log-probability of each string: of
    a name and its newline, as `pad_names` writes it.
    """
    inputs, targets, weights = map(jnp.asarray, examples)
    _, logits = model.unroll(params, model.initial_state(inputs.shape[1:]), inputs)
    return -cross_entropy(logits, targets, weights)


def share_below(values: ArrayLike, samples: ArrayLike) -> NDArray[np.float64]:
    """The share of `samples` [m] that are less than each of `values` [num], equal ones half, [num].

    From 0 to 1; of values that follow the same law as the samples, uniform.
    """
    values, ordered = np.asarray(values), np.sort(samples)
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(ordered))
