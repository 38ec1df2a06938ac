"""Exact losses over a whole data set."""

import jax
import jax.numpy as jnp
from jax import lax

from dinojax.batches import Batch
from dinojax.cells import Params
from dinojax.loss import cross_entropy
from dinojax.model import CharModel


def nats_per_name(params: Params, model: CharModel, examples: Batch) -> jax.Array:
    """The cost of each name in nats, its newline included, each from its own start, [num_examples].

    Minus its log-probability under the model. `examples` is [time, num_examples].
    """

    def nats(example: Batch) -> jax.Array:
        _, logits = model.unroll(params, model.initial_state(()), example.inputs)
        return jnp.sum(cross_entropy(logits, example.targets, example.weights))

    columns = jax.tree.map(lambda x: jnp.asarray(x).T, examples)
    return lax.map(nats, columns, batch_size=1024)
