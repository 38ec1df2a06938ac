"""A cell, a loss and an optimizer as users write them in a file of their own: these equal ours."""

import jax.numpy as jnp
import optax

from dinojax.models.cells import Cell
from dinojax.models.gates import init_gates
from dinojax.models.linear_cells import mingru


def elman(input_size, hidden_size):
    def init(key):
        return init_gates(key, input_size, hidden_size, 1, jnp.float32)

    def initial_state(batch_shape):
        return jnp.zeros((*batch_shape, hidden_size))

    def project(params, inputs):
        if not jnp.issubdtype(inputs.dtype, jnp.integer):
            # A further layer reads the outputs of the one below.
            return inputs @ params["input_kernel"] + params["bias"]
        # The first layer reads ids; the last, "no character", stands at the start.
        rows = jnp.concatenate([params["input_kernel"], jnp.zeros((1, hidden_size))])
        return (rows + params["bias"])[inputs]

    def preactivate(params, state, projected):
        return projected + state @ params["recurrent_kernel"]

    def update(state, preactivations):
        return jnp.tanh(preactivations)

    def output(state):
        return state

    return Cell(hidden_size, init, initial_state, project, preactivate, update, output)


def minimal(input_size, hidden_size):
    return mingru(input_size, hidden_size)


def mean(logits, targets, weights):
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return (nats * weights).sum(), weights.sum()


def descent(learning_rate):
    return optax.sgd(learning_rate)
