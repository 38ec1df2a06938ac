"""The contract of a cell, for every cell there is."""

from functools import partial
from itertools import combinations, pairwise
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from dinojax.config import CellName
from dinojax.data.batches import packed, pad_names
from dinojax.data.corpus import bundled_names, read_names
from dinojax.data.splits import split_names
from dinojax.data.vocab import build_vocab
from dinojax.evaluation import ngram
from dinojax.evaluation.losses import column_evaluation
from dinojax.models import recurrence
from dinojax.models.cells import CELLS, lstm, vanilla
from dinojax.models.gates import GATES, hard_sigmoid, sigmoid
from dinojax.models.layers import make_layer
from dinojax.models.linear_cells import LINEAR_CELLS
from dinojax.models.model import char_model
from dinojax.training import loop
from dinojax.training import step as train
from dinojax.training.loss import mean_cross_entropy

import numpy_reference

INPUT, HIDDEN = 6, 4


@pytest.fixture(params=CELLS)
def cell(request):
    return CELLS[request.param](INPUT, HIDDEN)


@pytest.fixture
def params(cell):
    return random_like(cell.init(jax.random.key(0)))


@pytest.fixture(params=CELLS)
def cell64(request, x64):
    return CELLS[request.param](INPUT, HIDDEN, jnp.float64)


def random_like(tree, seed=0):
    """The same tree with other numbers: none is zero, no two arrays are the same."""
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(generator.normal(size=x.shape), x.dtype), tree)


def random_case(cell, *batch_shape):
    """Parameters, a state, and inputs [*batch_shape, input], all in float64 and none of them zero.

    The state has all batch dimensions but the first, which is time.
    """
    params = random_like(cell.init(jax.random.key(0)))
    state = random_like(cell.initial_state(batch_shape[1:]), seed=1)
    return params, state, random_like(jnp.zeros((*batch_shape, INPUT)), seed=2)


def test_state_keeps_structure_shapes_and_dtypes(cell, params):
    state = cell.initial_state((3,))
    projected = cell.project(params, jnp.array([0, 5, INPUT]))
    shapes = jax.eval_shape(lambda: (state, recurrence.step(cell, params, state, projected)))
    before, after = shapes
    assert after == before
    assert jax.eval_shape(cell.output, after).shape == (3, cell.hidden_size)


def test_batch_equals_a_loop_over_examples(cell, params):
    ids = jnp.array([[0, 3, 2], [INPUT, 1, 5]])
    state = random_like(cell.initial_state((2, 3)), seed=1)
    new = recurrence.step(cell, params, state, cell.project(params, ids))
    for i in np.ndindex(2, 3):
        one = jax.tree.map(lambda x, i=i: x[i], state)
        projected = cell.project(params, ids[i])
        expected = recurrence.step(cell, params, one, projected)
        actual = jax.tree.map(lambda x, i=i: x[i], new)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), actual, expected)


def test_ids_count_as_one_hot_vectors_and_no_character_as_zeros(cell, params):
    ids = jnp.arange(INPUT + 1)
    vectors = jax.nn.one_hot(ids, INPUT)
    state = random_like(cell.initial_state(ids.shape), seed=1)
    by_id, by_vector = (
        recurrence.step(cell, params, state, cell.project(params, x)) for x in (ids, vectors)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), by_id, by_vector)


def test_every_part_of_the_state_matters(cell, params):
    projected = cell.project(params, jnp.array(0))
    zero = cell.initial_state(())
    parts, structure = jax.tree.flatten(zero)
    one = cell.output(recurrence.step(cell, params, zero, projected))
    for i, part in enumerate(parts):
        changed = structure.unflatten([*parts[:i], part + 1, *parts[i + 1 :]])
        other = cell.output(recurrence.step(cell, params, changed, projected))
        assert np.all(one != other)


def test_the_first_state_is_zero(cell):
    # `recurrence.scan` resets states to zero, so it relies on this.
    assert not any(np.any(x) for x in jax.tree.leaves(cell.initial_state((2,))))


def test_a_compiled_step_equals_an_eager_one(cell64):
    params, state, inputs = random_case(cell64, 3, 2)

    def step(params, state, inputs):
        return recurrence.step(cell64, params, state, cell64.project(params, inputs))

    close = partial(np.testing.assert_allclose, rtol=1e-13, atol=1e-14)
    expected = step(params, state, inputs[0])
    jax.tree.map(close, jax.jit(step)(params, state, inputs[0]), expected)


def test_gradients_of_a_step(cell64):
    params, state, inputs = random_case(cell64, 1, 2)

    def step(params, state, inputs):
        return recurrence.step(cell64, params, state, cell64.project(params, inputs))

    check_grads(step, (params, state, inputs[0]), order=1, modes=["rev"])


def test_vanilla_computes_its_equation(x64):
    cell = vanilla(INPUT, HIDDEN, jnp.float64)
    params = cell.init(jax.random.key(0)) | {"bias": jnp.arange(4.0)}
    state = jnp.linspace(-1.0, 1.0, HIDDEN)
    new = recurrence.step(cell, params, state, cell.project(params, jnp.array(2)))
    kernels = np.asarray(params["input_kernel"]), np.asarray(params["recurrent_kernel"])
    expected = np.tanh(kernels[0][2] + np.arange(4) + np.asarray(state) @ kernels[1])
    np.testing.assert_allclose(new, expected, rtol=1e-13)
    np.testing.assert_array_equal(cell.output(new), new)


def gate_by_gate(params, names):
    """The parameters of a cell, split by gate for the oracle."""
    blocks = {
        leaf: np.split(np.asarray(params[leaf]), len(names), axis=-1)
        for leaf in ("input_kernel", "recurrent_kernel", "bias")
    }
    return {name: {leaf: blocks[leaf][i] for leaf in blocks} for i, name in enumerate(names)}


@pytest.mark.parametrize("name", ["gru", "gru_reset_before"])
@pytest.mark.parametrize(
    ("hidden_size", "gate", "tolerance"),
    [(HIDDEN, "sigmoid", 1e-14), (HIDDEN, "hard_sigmoid", 1e-14), (150, "sigmoid", 1e-13)],
)
def test_gru_equals_the_numpy_reference(hidden_size, gate, tolerance, name, x64):
    cell = CELLS[name](INPUT, hidden_size, jnp.float64, gate=GATES[gate])
    params, state, inputs = random_case(cell, 5, 3)
    gates = gate_by_gate(params, "rzn")
    bias = np.asarray(params["candidate_bias"]) if name == "gru" else None
    expected = np.asarray(state)
    for x in inputs:
        state = recurrence.step(cell, params, state, cell.project(params, x))
        own = getattr(numpy_reference, gate)
        expected = numpy_reference.gru_step(gates, bias, expected, np.asarray(x), own)
        np.testing.assert_allclose(state, expected, rtol=1e-12, atol=tolerance)
        np.testing.assert_array_equal(cell.output(state), state)


@pytest.mark.parametrize(
    ("hidden_size", "gate", "tolerance"),
    [(HIDDEN, "sigmoid", 1e-14), (HIDDEN, "hard_sigmoid", 1e-14), (130, "sigmoid", 1e-13)],
)
def test_lstm_equals_the_numpy_reference(hidden_size, gate, tolerance, x64):
    cell = lstm(INPUT, hidden_size, jnp.float64, gate=GATES[gate])
    params, state, inputs = random_case(cell, 5, 3)
    gates = gate_by_gate(params, "ifgo")
    memory, hidden = map(np.asarray, state)
    for x in inputs:
        state = recurrence.step(cell, params, state, cell.project(params, x))
        own = getattr(numpy_reference, gate)
        memory, hidden = numpy_reference.lstm_step(gates, memory, hidden, np.asarray(x), own)
        np.testing.assert_allclose(state[0], memory, rtol=1e-12, atol=tolerance)
        np.testing.assert_allclose(state[1], hidden, rtol=1e-12, atol=tolerance)
        np.testing.assert_array_equal(cell.output(state), state[1])


@pytest.mark.parametrize("name", [name for name in CELLS if name != "vanilla"])
def test_gradients_with_hard_gates(name, x64):
    cell = CELLS[name](INPUT, HIDDEN, jnp.float64, gate=hard_sigmoid)
    params, state, inputs = random_case(cell, 3, 2)

    def three_steps(params, state, inputs):
        return recurrence.loop(cell, params, state, cell.project(params, inputs), 3)

    check_grads(three_steps, (params, state, inputs), order=1, modes=["rev"])


def test_parameters_are_drawn_from_their_key(cell):
    first, again, other = (cell.init(jax.random.key(seed)) for seed in (0, 0, 1))
    for name in ("input_kernel", "recurrent_kernel"):
        np.testing.assert_array_equal(first[name], again[name])
        assert np.all(first[name] != other[name])


@pytest.mark.parametrize(
    ("name", "num_gates"), [("vanilla", 1), ("gru", 3), ("gru_reset_before", 3), ("lstm", 4)]
)
def test_every_gate_is_drawn_on_its_own(name, num_gates):
    num_inputs, num_hidden = 30, 20
    params = CELLS[name](num_inputs, num_hidden).init(jax.random.key(0))
    input_blocks = np.split(params["input_kernel"], num_gates, axis=1)
    recurrent_blocks = np.split(params["recurrent_kernel"], num_gates, axis=1)
    for block in recurrent_blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(num_hidden), atol=2e-6)
    bound = np.sqrt(6 / (num_inputs + num_hidden))
    for block in input_blocks:
        # 600 numbers, so that the largest is close to the bound.
        assert block.shape == (num_inputs, num_hidden)
        assert 0.98 * bound < np.abs(block).max() <= bound
    for blocks in (input_blocks, recurrent_blocks):
        assert all(np.all(one != other) for one, other in combinations(blocks, 2))


@pytest.mark.parametrize(
    ("name", "biases"),
    [
        ("vanilla", {"bias": [0]}),
        ("gru", {"bias": [0, 0, 0], "candidate_bias": [0]}),
        ("gru_reset_before", {"bias": [0, 0, 0]}),
        ("lstm", {"bias": [0, 1, 0, 0]}),
    ],
)
def test_biases_start_from_zero_except_for_the_forget_gate(name, biases):
    params = CELLS[name](INPUT, HIDDEN).init(jax.random.key(0))
    assert {leaf for leaf in params if leaf.endswith("bias")} == set(biases)
    for leaf, gates in biases.items():
        np.testing.assert_array_equal(params[leaf], np.repeat(gates, HIDDEN))


def test_sigmoid(x64):
    x = np.linspace(-40, 40, 1001)
    np.testing.assert_allclose(sigmoid(jnp.asarray(x)), 1 / (1 + np.exp(-x)), rtol=0, atol=1e-15)


@pytest.mark.parametrize("x", [-1000.0, 1000.0])
def test_sigmoid_saturates(x):
    assert sigmoid(jnp.float32(x)) == float(x > 0)
    assert jax.grad(sigmoid)(x) == 0


def test_a_reset_equals_a_fresh_start(cell64):
    marks = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]], bool)
    params, start, inputs = random_case(cell64, *marks.shape)
    resets = jnp.asarray(marks)
    projected = cell64.project(params, inputs)
    last, outputs = recurrence.scan(cell64, params, start, projected, resets)
    close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14)
    for example in range(marks.shape[1]):
        state = jax.tree.map(lambda x, i=example: x[i], start)
        for t, marked in enumerate(marks[:, example]):
            if marked:
                state = cell64.initial_state(())
            x = cell64.project(params, inputs[t, example])
            state = recurrence.step(cell64, params, state, x)
            close(outputs[t, example], cell64.output(state))
        jax.tree.map(close, jax.tree.map(lambda x, i=example: x[i], last), state)


def test_no_gradient_flows_back_across_a_reset(cell64):
    params, start, inputs = random_case(cell64, 5)

    def last_output(resets, start, inputs):
        projected = cell64.project(params, inputs)
        return recurrence.scan(cell64, params, start, projected, resets)[1][-1].sum()

    gradient = jax.grad(last_output, argnums=(1, 2))
    resets = jnp.zeros(5, bool)
    d_start, d_inputs = gradient(resets, start, inputs)
    assert all(np.all(x) for x in jax.tree.leaves((d_start, d_inputs)))
    d_start, d_inputs = gradient(resets.at[3].set(True), start, inputs)
    assert not any(np.any(x) for x in jax.tree.leaves((d_start, d_inputs[:3])))
    assert np.all(d_inputs[3:])


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_with_products_of_bfloat16_keeps_float32_elsewhere(name):
    cell, plain = CELLS[name](INPUT, HIDDEN, product_dtype=jnp.bfloat16), CELLS[name](INPUT, HIDDEN)
    params, state, inputs = (
        jax.tree.map(lambda x: x.astype(jnp.float32), part) for part in random_case(cell, 3, 2)
    )

    def outputs(cell, params):
        return recurrence.scan(cell, params, state, cell.project(params, inputs))

    assert {x.dtype for x in jax.tree.leaves(outputs(cell, params))} == {jnp.dtype("float32")}
    for actual, expected in zip(
        *(jax.tree.leaves(outputs(x, params)) for x in (cell, plain)), strict=True
    ):
        error = np.abs(np.asarray(actual - expected)).max()
        assert 1e-5 < error < 0.1


@pytest.mark.parametrize("name", get_args(CellName))
def test_each_cell_learns_more_than_a_bigram_model_knows(name):
    names = read_names(bundled_names()).data
    learned, held_out, _ = split_names(names, 0.1, 0.0, 0)
    vocab = build_vocab(names)
    # Units of a linear recurrence do not read each other: they need a second layer.
    sizes = [vocab.size, 48, 48][: 3 if name in LINEAR_CELLS else 2]
    model = char_model([make_layer(name, *pair) for pair in pairwise(sizes)], vocab)
    optimizer = optax.adam(1e-2)
    key, key_params = jax.random.split(jax.random.key(0))
    dataset = packed(learned, vocab, 16, 32)
    state = train.init_train_state(key, model.init(key_params), model, optimizer, batch_size=16)
    step = train.make_train_step(model, optimizer, mean_cross_entropy, resets=True)
    with jax.numpy_dtype_promotion("standard"):
        *_, (state, *_) = loop.run(step, state, dataset, steps=300)
    costs = column_evaluation(model, pad_names(held_out, vocab))(state.params)

    def flat(names):
        ids = vocab.encode("".join(f"{name}\n" for name in names))
        return ids, np.concatenate([[True], ids[:-1] == vocab.newline])

    bigram = ngram.nats(ngram.fit_ngrams(*flat(learned), vocab.size, 2), *flat(held_out), 2)
    assert costs.nats.sum() < 0.95 * bigram.sum()
