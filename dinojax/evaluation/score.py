"""Log-probabilities of strings under a model, and ranks among samples."""

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

        weight_t * log p(target_t | inputs up to t)

    The model starts from a fresh state. The result is [time, ...] like the examples: [time] for one
    string, [time, num] for a batch. Its sum over time is the log-probability of each string; with
    examples from `pad_names`, that of a name and its newline.
    """
    inputs, targets, weights = map(jnp.asarray, examples)
    _, logits = model.unroll(params, model.initial_state(inputs.shape[1:]), inputs)
    return -cross_entropy(logits, targets, weights)


def share_below(values: ArrayLike, samples: ArrayLike) -> NDArray[np.float64]:
    """The share of `samples` [m] that are less than each of `values` [num], [num].

    Equal samples count half. The shares of values from the distribution of the samples are uniform
    on [0, 1].
    """
    values, ordered = np.asarray(values), np.sort(samples)
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(ordered))
