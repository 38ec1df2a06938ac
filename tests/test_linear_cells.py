"""Cells with a linear recurrence, however they run along time, against loops and NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dinojax.cli.terminal import Program
from dinojax.config import TrainConfig
from dinojax.models import linear_recurrence
from dinojax.models.layers import from_linear_cell, make_layer
from dinojax.models.linear_cells import LINEAR_CELLS, lru, minlstm, rglru
from dinojax.models.linear_recurrence import associative, sequential
from dinojax.models.recurrence import reset
from dinojax.runs import folder as runs

from in_process import call_here

TIME, INPUT, HIDDEN = 7, 6, 5
RUNS = {"sequential": sequential, "associative": associative}
close = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-13)


def random_like(tree, seed):
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(generator.normal(size=x.shape), x.dtype), tree)


def make_case(name, run=sequential, batch_shape=(3,), dtype=jnp.float64):
    """A layer, parameters, a state, inputs [time, *batch_shape, input] and resets; none is zero."""
    layer = from_linear_cell(LINEAR_CELLS[name](INPUT, HIDDEN, dtype), run)
    params = random_like(layer.init(jax.random.key(0)), 0)
    state = random_like(layer.initial_state(batch_shape), 1)
    inputs = random_like(jnp.zeros((TIME, *batch_shape, INPUT), dtype), 2)
    resets = jnp.asarray(np.random.default_rng(3).random((TIME, *batch_shape)) < 0.3)
    return layer, params, state, inputs, resets


def loop(layer, params, state, inputs, resets, length=TIME):
    """`layer.unroll` as a Python loop of `layer.step`."""
    outputs = []
    for t in range(length):
        state = reset(layer.initial_state, state, resets[t])
        state, output = layer.step(params, state, inputs[t])
        outputs.append(output)
    return state, jnp.stack(outputs)


def value(unroll, length):
    """A number that depends on the last state and on every output before `length`."""

    def compute(*arguments):
        last, outputs = unroll(*arguments)
        weights = jnp.cos(jnp.arange(outputs[:length].size, dtype=outputs.dtype))
        of_outputs = weights.reshape(outputs[:length].shape) * outputs[:length]
        return jnp.sum(of_outputs) + sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(last))

    return compute


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def numpy_step(name, params, state, x):
    """The equations of each cell as the papers have them, with complex numbers where they do."""
    sums = x @ params["input_kernel"] + params["bias"]
    if name == "lru":
        num = len(params["log_rate"])
        decay = np.exp(-np.exp(params["log_rate"]) + 1j * np.exp(params["log_phase"]))
        drive = sums[..., :num] + 1j * sums[..., num : 2 * num]
        h = decay * (state[0] + 1j * state[1]) + np.exp(params["log_scale"]) * drive
        kernel = params["output_kernel"][:num] - 1j * params["output_kernel"][num:]
        return (h.real, h.imag), gelu((h @ kernel).real + sums[..., 2 * num :])
    gates = np.split(sums, sums.shape[-1] // HIDDEN, axis=-1)
    (old,) = state
    if name == "mingru":
        z, n = gates
        h = (1 - sigmoid(z)) * old + sigmoid(z) * n
        return (h,), h
    if name == "minlstm":
        i, f, n = gates
        h = (sigmoid(f) * old + sigmoid(i) * n) / (sigmoid(f) + sigmoid(i))
        return (h,), h
    r, i, n, g = gates
    a = sigmoid(params["decay"]) ** (8 * sigmoid(r))
    h = a * old + np.sqrt(1 - a**2) * sigmoid(i) * n
    return (h,), h * gelu(g)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_unroll_computes_the_equations(name, run, x64):
    layer, params, state, inputs, resets = make_case(name, RUNS[run])
    last, outputs = jax.jit(layer.unroll)(params, state, inputs, None, resets)
    params, state = jax.tree.map(np.asarray, (params, state))
    for t in range(TIME):
        state = tuple(np.where(resets[t][:, None], 0, part) for part in state)
        state, expected = numpy_step(name, params, state, np.asarray(inputs[t]))
        close(outputs[t], expected)
    jax.tree.map(close, last, state)


@pytest.mark.parametrize(
    ("run", "batch_shape", "length"), [("sequential", (), 1), ("associative", (2, 2), 5)]
)
@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_unroll_equals_a_python_loop_of_steps(name, run, batch_shape, length, x64):
    layer, params, state, inputs, resets = make_case(name, RUNS[run], batch_shape)
    expected = loop(layer, params, state, inputs, resets, length)

    @jax.jit
    def compute(length, *arguments):
        return layer.unroll(*arguments, length, resets)

    last, outputs = compute(length, params, state, inputs)
    jax.tree.map(close, (last, outputs[:length]), expected)

    def gradients(unroll):
        return jax.jit(jax.grad(value(unroll, length), (0, 1, 2)))(params, state, inputs)

    actual = gradients(lambda *arguments: layer.unroll(*arguments, length, resets))
    oracle = gradients(lambda *arguments: loop(layer, *arguments, resets, length))
    jax.tree.map(partial(close, rtol=1e-9, atol=1e-11), actual, oracle)


@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_gradients_pass_a_numerical_check_forwards_and_backwards_in_time(name, x64):
    cell = LINEAR_CELLS[name](INPUT, HIDDEN, jnp.float64)
    _, params, state, inputs, _ = make_case(name)
    for run, reverse in (sequential, False), (associative, True):

        def compute(params, state, inputs, run=run, reverse=reverse):
            decays, terms = cell.coefficients(params, cell.project(params, inputs))
            return linear_recurrence.unroll(run, decays, terms, state, reverse)

        check_grads(jax.jit(compute), (params, state, inputs), order=1, modes=["rev"])


def test_gradients_of_gradients(x64):
    layer, params, state, inputs, resets = make_case("lru", associative)

    def second(unroll):
        first = jax.grad(value(partial(unroll, params), TIME))
        return jax.jit(jax.jacrev(first))(state, inputs)

    actual = second(lambda *arguments: layer.unroll(*arguments, None, resets))
    expected = second(lambda *arguments: loop(layer, *arguments, resets))
    jax.tree.map(partial(close, rtol=1e-9, atol=1e-11), actual, expected)


@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_ids_count_as_one_hot_vectors_and_no_character_as_zeros(name, x64):
    layer, params, state, _, _ = make_case(name, batch_shape=())
    ids = jnp.arange(INPUT + 1)
    by_id = layer.unroll(params, state, ids)
    jax.tree.map(close, by_id, layer.unroll(params, state, jax.nn.one_hot(ids, INPUT)))


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_neither_nan_nor_a_gradient_passes_a_reset_or_the_length(name, run):
    layer, params, state, inputs, _ = make_case(name, RUNS[run], dtype=jnp.float32)
    resets, length = jnp.zeros((TIME, 3), bool).at[2].set(True), 5
    spoiled_state = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state)
    spoiled = inputs.at[length:].set(jnp.nan)

    @jax.jit
    def compute(params, state, inputs):
        last, outputs = layer.unroll(params, state, inputs, length, resets)
        return outputs[2:length], last

    fresh = layer.initial_state((3,))
    _, expected = layer.unroll(params, fresh, inputs[2:length])
    actual, _ = compute(params, spoiled_state, spoiled)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

    def total(*arguments):
        outputs, last = compute(*arguments)
        return jnp.sum(outputs) + sum(map(jnp.sum, last))

    gradient = jax.jit(jax.grad(total, (0, 1, 2)))
    d_params, d_state, d_inputs = gradient(params, state, spoiled)
    assert not any(np.any(x) for x in d_state)
    plain, *_ = gradient(params, state, inputs)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), d_params, plain)
    assert not np.any(d_inputs[:2])
    assert not np.any(d_inputs[length:])
    assert np.all(d_inputs[2:length])


@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_no_steps_leave_the_state(name):
    layer, params, state, inputs, resets = make_case(name, dtype=jnp.float32)
    for last, _ in (
        layer.unroll(params, state, inputs, 0, resets),
        layer.unroll(params, state, inputs[:0]),
    ):
        jax.tree.map(np.testing.assert_array_equal, last, state)


@pytest.mark.parametrize("run", RUNS)
def test_lengths_may_differ_between_rows_under_vmap(run, x64):
    layer, params, state, inputs, resets = make_case("rglru", RUNS[run])
    lengths = jnp.array([2, TIME, 0])
    unroll = jax.jit(jax.vmap(partial(layer.unroll, params), in_axes=(0, 1, 0, 1)))
    last, _ = unroll(state, inputs, lengths, resets)
    for i, length in enumerate(lengths.tolist()):
        one = jax.tree.map(lambda x, i=i: x[i], state)
        if length:
            one, _ = loop(layer, params, one, inputs[:, i], resets[:, i], length)
        jax.tree.map(close, jax.tree.map(lambda x, i=i: x[i], last), one)


@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_many_steps_in_float32_are_close_to_float64(name, x64):
    ids = jnp.asarray(np.random.default_rng(0).integers(0, INPUT + 1, (100, 2)))
    exact = from_linear_cell(LINEAR_CELLS[name](INPUT, 32, jnp.float64), sequential)
    params = exact.init(jax.random.key(0))
    _, expected = jax.jit(exact.unroll)(params, exact.initial_state((2,)), ids)
    assert np.abs(expected).max() > 0.1
    for run in RUNS.values():
        layer = from_linear_cell(LINEAR_CELLS[name](INPUT, 32), run)
        rounded = jax.tree.map(jnp.float32, params)
        _, outputs = jax.jit(layer.unroll)(rounded, layer.initial_state((2,)), ids)
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_products_of_bfloat16_keep_float32_elsewhere(name):
    _, params, state, inputs, _ = make_case(name, dtype=jnp.float32)
    plain, rounding = (
        make_layer(name, INPUT, HIDDEN, product_dtype=dtype).unroll(params, state, inputs)
        for dtype in (None, jnp.bfloat16)
    )
    assert {x.dtype for x in jax.tree.leaves(rounding)} == {jnp.dtype("float32")}
    for expected, actual in zip(*map(jax.tree.leaves, (plain, rounding)), strict=True):
        error = np.abs(np.asarray(actual - expected)).max()
        assert 1e-5 < error < 0.1 * max(1, np.abs(expected).max())


def test_the_way_along_time_is_chosen_for_the_platform():
    layer = make_layer("mingru", INPUT, HIDDEN)
    params, state = layer.init(jax.random.key(0)), layer.initial_state((3,))
    traced = jax.jit(layer.unroll).trace(params, state, jnp.zeros((TIME, 3, INPUT)))
    # Only `lax.scan` is a loop.
    for platform, num in ("cpu", 1), ("cuda", 0), ("tpu", 0):
        program = traced.lower(lowering_platforms=(platform,)).as_text()
        assert program.count("stablehlo.while") == num


@pytest.mark.parametrize("gate", [-200.0, 200.0])
@pytest.mark.parametrize("make", [minlstm, rglru])
def test_open_and_closed_gates_have_finite_values_and_gradients(make, gate):
    layer = from_linear_cell(make(INPUT, HIDDEN))
    params = layer.init(jax.random.key(0))
    params |= {"bias": params["bias"].at[: 2 * HIDDEN].set(gate)}
    ids = jnp.array([1, 2, 3])

    def total(params):
        return jnp.sum(layer.unroll(params, layer.initial_state(()), ids)[1])

    results = jax.tree.leaves(jax.value_and_grad(total)(params))
    assert all(np.isfinite(x).all() for x in results)


@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_initial_parameters(name):
    cell = LINEAR_CELLS[name](30, 400)
    first, again, other = (cell.init(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.any(first["bias"])
    assert all(np.all(first[leaf] != other[leaf]) for leaf in first if leaf != "bias")
    gates = np.split(first["input_kernel"], np.arange(400, first["input_kernel"].shape[1], 400), 1)
    for gate in gates if name != "lru" else ():
        # 12,000 numbers, so that the largest is close to the bound.
        assert 0.99 * np.sqrt(6 / 430) < np.abs(gate).max() <= np.sqrt(6 / 430)
    if name == "rglru":
        shares = sigmoid(np.float64(first["decay"])) ** 8
        assert 0.9 <= shares.min() < 0.905
        assert 0.995 < shares.max() <= 0.9991
    if name == "lru":
        radius = np.exp(-np.exp(np.float64(first["log_rate"])))
        assert radius.max() < 0.9991
        # Uniform in a disc: a quarter of the decays lie within half of its radius.
        assert abs(np.mean(radius < 0.5) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 200)
        np.testing.assert_allclose(np.exp(first["log_scale"]), np.sqrt(1 - radius**2), rtol=1e-3)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_an_lru_has_as_many_real_numbers_of_state_as_units_or_one_more(size):
    layer = from_linear_cell(lru(INPUT, size))
    params, state = (jax.eval_shape(layer.init, jax.random.key(0)), layer.initial_state((2,)))
    _, output = jax.eval_shape(layer.step, params, state, jnp.ones((2, INPUT)))
    assert sum(x.shape[-1] for x in state) == size + size % 2
    assert output.shape == (2, size)


def test_only_cells_with_a_choice_of_gates_have_one():
    for name in LINEAR_CELLS:
        with pytest.raises(ValueError, match=f"gate: a {name} cell has no choice of gates; "):
            TrainConfig(cell=name, gate="hard_sigmoid")


def test_commands_work_on_a_cell_with_complex_numbers(tmp_path):
    words = ["rex", "yi", "mei", "iguanodon", "triceratops", "diplodocus", "zoe"]
    (tmp_path / "data.txt").write_text("\n".join(words * 30) + "\n", "utf-8")

    def here(command, *arguments, code=0):
        result = call_here(Program(command, f"{command}.py"), *arguments, cwd=tmp_path)
        assert result.code == code, result.err
        return result.out or result.err

    flags = "names", "--data=data.txt", "--batch-size=4", "--schedule=constant", "--warmup=0"
    model = "--cell=lru", "--num-layers=2", "--hidden-size=5", "--average-share=0"
    here("train", *flags, *model, "--steps=12", "--out=whole")
    here("train", *flags, *model, "--steps=7", "--out=parts")
    here("train", "--resume=parts", "--steps=12")
    whole, parts = (runs.load_run(tmp_path / folder) for folder in ("whole", "parts"))
    assert whole.step == parts.step == 12
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)
    assert len(here("sample", "whole", "--num=40", "--seed=0").splitlines()) == 40
    assert len(here("sample", "whole", "--best=2").splitlines()) == 2
    assert "rex" in here("score", "whole", "--names", "rex", "mei")
    assert "nats a character" in here("evaluate", "whole")
    here("plot", "whole", "--text=rex")
    assert list((tmp_path / "whole").glob("*.png"))
    here("page", "whole", "--out=page.html")
    here("train", *flags, "--init-from=whole", "--steps=2", "--out=more")
    assert runs.load_run(tmp_path / "more").config.cell == "lru"
    for form in "torch", "safetensors":
        says = here("export", "whole", f"--format={form}", "--out=out", code=2)
        assert "has no lru cell" in says
