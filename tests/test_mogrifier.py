"""Rounds in which the input and the state of an LSTM gate each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.config import TrainConfig
from dinojax.data.vocab import Vocab
from dinojax.models import recurrence
from dinojax.models.cells import gru, lstm
from dinojax.models.mogrifier import mogrifier
from dinojax.runs.description import build_model

import numpy_reference

INPUT, HIDDEN, RANK = 5, 4, 2


def make_case(rounds):
    """A cell in float64 and its parameters, none of them zero."""
    cell = mogrifier(lstm(INPUT, HIDDEN, jnp.float64), INPUT, rounds=rounds, rank=RANK)
    generator = np.random.default_rng(rounds)
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    return cell, jax.tree.map(lambda x: generator.normal(size=x.shape), shapes)


def gated(own, read, values):
    return 2 * numpy_reference.sigmoid(read @ own["down"] @ own["up"] + own["bias"]) * values


@pytest.mark.parametrize("rounds", [1, 4])
def test_a_step_equals_the_numpy_reference(rounds, x64):
    cell, params = make_case(rounds)
    blocks = {x: np.split(params[x], 4, -1) for x in ("input_kernel", "recurrent_kernel", "bias")}
    gates = {name: {leaf: blocks[leaf][i] for leaf in blocks} for i, name in enumerate("ifgo")}
    ids = jnp.array([[2, INPUT], [0, 4], [1, 1]])
    vectors = jax.random.normal(jax.random.key(1), (3, 2, INPUT))
    for inputs, in_numpy in (ids, np.eye(INPUT + 1, INPUT)[ids]), (vectors, np.asarray(vectors)):
        state = cell.initial_state((2,))
        expected = memory, hidden = (np.zeros((2, HIDDEN)),) * 2
        for t, x in enumerate(in_numpy):
            for i, own in enumerate(params["rounds"]):
                if i % 2 == 0:
                    x = gated(own, hidden, x)
                else:
                    hidden = gated(own, x, hidden)
            expected = memory, hidden = numpy_reference.lstm_step(gates, memory, hidden, x)
            state = recurrence.step(cell, params, state, cell.project(params, inputs[t]))
            jax.tree.map(
                partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14), state, expected
            )


def test_rounds_add_their_parameters():
    params = mogrifier(lstm(INPUT, HIDDEN), INPUT, rounds=3, rank=RANK).init(jax.random.key(0))
    rounds = params.pop("rounds")
    assert params.keys() == lstm(INPUT, HIDDEN).init(jax.random.key(0)).keys()
    # Round 1 and 3 gate the input, round 2 the output.
    assert [jax.tree.map(jnp.shape, own) for own in rounds] == [
        {"down": (HIDDEN, RANK), "up": (RANK, INPUT), "bias": (INPUT,)},
        {"down": (INPUT, RANK), "up": (RANK, HIDDEN), "bias": (HIDDEN,)},
        {"down": (HIDDEN, RANK), "up": (RANK, INPUT), "bias": (INPUT,)},
    ]
    first, _, third = rounds
    assert np.all(first["down"] != third["down"])


def test_the_gradient_computes_each_product_once():
    time, batch, rounds = 6, 3, 2
    cell = mogrifier(lstm(INPUT, HIDDEN), INPUT, rounds=rounds, rank=RANK)
    params, inputs = cell.init(jax.random.key(0)), jnp.ones((time, batch, INPUT))

    def count_operations(cell):
        def loss(params, inputs):
            state = cell.initial_state((batch,))
            return recurrence.loop(cell, params, state, inputs, time)[1].sum()

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, inputs).compile()
        return compiled.cost_analysis()["flops"]

    # Without parts, the gradients of both factors of both large products, over all time steps.
    again = 2 * time * batch * (INPUT + HIDDEN) * 4 * HIDDEN
    assert count_operations(cell._replace(parts=())) - count_operations(cell) > again


def test_rounds_of_all_layers_are_a_setting():
    config = TrainConfig(cell="lstm", num_layers=2, hidden_size=HIDDEN, mogrifier_rounds=2)
    params = build_model(config, Vocab("\nabcd")).init(jax.random.key(0))
    assert [x["rounds"][1]["down"].shape for x in params["layers"]] == [(INPUT, 24), (HIDDEN, 24)]
    with pytest.raises(ValueError, match=r"^mogrifier rounds: expected the cell lstm, got gru"):
        TrainConfig(cell="gru", mogrifier_rounds=1)
    with pytest.raises(ValueError, match=r"^mogrifier rank: expected mogrifier rounds above 0"):
        TrainConfig(cell="lstm", mogrifier_rank=8)
    with pytest.raises(ValueError, match=r"^recurrence: the fused kernel has no Mogrifier rounds"):
        TrainConfig(cell="lstm", mogrifier_rounds=1, recurrence="fused")
    with pytest.raises(ValueError, match="expected a cell with the state of an LSTM"):
        mogrifier(gru(INPUT, HIDDEN), INPUT, rounds=1, rank=RANK)
