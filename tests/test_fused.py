"""The fused kernel, interpreted except on a GPU, against the definition of a cell along time."""

import re
import subprocess
import sys
from functools import partial

import bench_recurrence
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dinojax import parallel, platforms
from dinojax.cli.terminal import Program
from dinojax.config import TrainConfig, config_from
from dinojax.contradictions import MAX_FUSED
from dinojax.data.batches import Batch
from dinojax.data.vocab import Vocab
from dinojax.models import recurrence
from dinojax.models.cells import CELLS
from dinojax.models.fused import fused
from dinojax.models.gates import hard_sigmoid
from dinojax.models.layers import from_cell
from dinojax.models.model import char_model
from dinojax.presets import PRESETS, resolve
from dinojax.runs.description import build_model, describe
from dinojax.runs.experiment import make_experiment
from dinojax.training.loss import mean_cross_entropy
from dinojax.training.step import init_train_state, make_train_step

from in_process import call_here

TIME, INPUT = 5, 3
WITH_KERNEL = {
    "vanilla": CELLS["vanilla"],
    "gru": CELLS["gru"],
    "gru, hard": partial(CELLS["gru"], gate=hard_sigmoid),
    "lstm": CELLS["lstm"],
    "lstm, hard": partial(CELLS["lstm"], gate=hard_sigmoid),
}
HAS_GPU = jax.default_backend() == "gpu"
kernel = partial(fused, interpret=not HAS_GPU)


@pytest.fixture(autouse=True)
def precise_products():
    """Float32 products of full precision, on devices that have others."""
    with jax.default_matmul_precision("highest"):
        yield


def at(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def assert_close(actual, expected, tolerance):
    close = partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(close, actual, expected)


def make_case(name, hidden, batch_shape, product_dtype=None, dtype=jnp.float32):
    """A cell, its parameters, a state, projected inputs, resets and cotangents, all of them random.

    The state carries on from earlier inputs: it is not zero.
    """
    cell = WITH_KERNEL[name](INPUT, hidden, dtype, product_dtype)
    generator = np.random.default_rng(hidden)

    def random(tree, scale=1.0):
        return jax.tree.map(
            lambda x: jnp.asarray(scale * generator.normal(size=x.shape), x.dtype), tree
        )

    params = random(cell.init(jax.random.key(0)), hidden**-0.5)
    state = random(cell.initial_state(batch_shape))
    inputs = random(jnp.zeros((TIME, *batch_shape, INPUT), dtype))
    resets = jnp.asarray(generator.random((TIME, *batch_shape)) < 0.3)
    cotangents = random(state), random(jnp.zeros((TIME, *batch_shape, hidden), dtype))
    return cell, (params, state, cell.project(params, inputs)), resets, cotangents


def values_and_gradients(run, arguments, cotangents):
    results, pull = jax.vjp(run, *arguments)
    return results, pull(cotangents)


def compare_with_scan(case, lengths, tolerance):
    cell, arguments, resets, (d_last, d_outputs) = case

    @jax.jit
    def by_kernel(length):
        def run(*arguments):
            return kernel(cell, *arguments, length, resets)

        return values_and_gradients(run, arguments, (d_last, d_outputs))

    @partial(jax.jit, static_argnums=0)
    def by_scan(length):
        params, state, projected = arguments

        def run(params, state, projected):
            return recurrence.scan(cell, params, state, projected, resets[:length])

        cut = params, state, at(projected, np.s_[:length])
        return values_and_gradients(run, cut, (d_last, d_outputs[:length]))

    for length in lengths:
        (last, outputs), (d_params, d_state, d_projected) = by_kernel(length)
        actual = (last, outputs[:length]), (d_params, d_state, at(d_projected, np.s_[:length]))
        assert_close(actual, by_scan(length), tolerance)
        for x in (outputs, *jax.tree.leaves(d_projected)):
            assert not np.any(x[length:])


@pytest.mark.parametrize("name", WITH_KERNEL)
def test_weights_that_stay_on_the_chip(name):
    compare_with_scan(make_case(name, 5, (3,)), (0, 1, 3, TIME), 1e-5)


# Two blocks of rows, the second not full, and tiles of weights, the last of them not full.
@pytest.mark.parametrize(
    ("name", "hidden"), [("vanilla", 140), ("gru", 90), ("lstm", 70), ("lstm, hard", 70)]
)
def test_weights_that_are_read_tile_by_tile(name, hidden):
    compare_with_scan(make_case(name, hidden, (2, 9)), (4,), 1e-5)


@pytest.mark.parametrize("name", ["vanilla", "gru", "lstm"])
@pytest.mark.parametrize("hidden", [16, 140])
def test_bfloat16_products_round_as_those_of_the_scan(name, hidden):
    # Sums in another order may round to the next number of eight bits at the next step.
    compare_with_scan(make_case(name, hidden, (16,), jnp.bfloat16), (TIME,), 2e-2)


def test_float64_and_a_single_row(x64):
    compare_with_scan(make_case("gru", 6, (), dtype=jnp.float64), (4,), 1e-12)


@pytest.mark.parametrize("name", ["vanilla", "gru", "lstm"])
def test_ids_without_resets(name):
    cell, (params, state, _), _, cotangents = make_case(name, 6, (4,))
    # "No character" among them.
    ids = jnp.asarray(np.random.default_rng(0).integers(0, INPUT + 1, (TIME, 4)))

    @partial(jax.jit, static_argnums=0)
    def of(run):
        def run_on_ids(params, state):
            return run(cell, params, state, cell.project(params, ids), TIME)

        return values_and_gradients(run_on_ids, (params, state), cotangents)

    assert_close(of(kernel), of(recurrence.loop), 1e-5)


def test_neither_nan_past_the_length_nor_before_a_reset_has_an_effect():
    cell, (params, state, projected), _, cotangents = make_case("lstm", 5, (3,))
    resets = jnp.zeros((TIME, 3), bool).at[1].set(True)

    @jax.jit
    def gradients(state, projected):
        def run(params, state, projected):
            last, outputs = kernel(cell, params, state, projected, 4, resets)
            return last, outputs[1:]

        of_last, of_outputs = cotangents
        return values_and_gradients(run, (params, state, projected), (of_last, of_outputs[1:]))

    spoiled = jax.tree.map(lambda x: x.at[4:].set(jnp.nan), projected)
    expected = gradients(state, projected)
    jax.tree.map(np.testing.assert_array_equal, gradients(state, spoiled), expected)
    _, (_, d_state, _) = expected
    assert not any(np.any(x) for x in jax.tree.leaves(d_state))
    no_state = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state)
    jax.tree.map(np.testing.assert_array_equal, gradients(no_state, projected)[0], expected[0])


def test_rows_with_lengths_of_their_own_under_vmap():
    cell, (params, state, projected), resets, _ = make_case("gru", 5, (3,))
    lengths = jnp.array([2, 0, TIME])

    def value(run, state, projected, resets, length):
        last, outputs = run(cell, params, state, projected, length, resets)
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(last)

    @partial(jax.jit, static_argnums=0)
    def of(run):
        each = jax.value_and_grad(partial(value, run), argnums=(0, 1))
        return jax.vmap(each, (0, 1, 1, 0))(state, projected, resets, lengths)

    assert_close(of(kernel), of(recurrence.loop), 1e-5)


VOCAB = Vocab("\nabcde")


def make_training(name, run, axis=None):
    cells = [CELLS[name](VOCAB.size, 6), CELLS[name](6, 5)]
    model = char_model([from_cell(cell, run) for cell in cells], VOCAB, dropout=0.2)
    optimizer = optax.adam(0.05)
    options = {"carry_state": True, "resets": True, "axis": axis}
    step = make_train_step(model, optimizer, mean_cross_entropy, **options)
    params = model.init(jax.random.key(0))
    return step, init_train_state(jax.random.key(1), params, model, optimizer, batch_size=4)


def random_batch():
    generator = np.random.default_rng(3)
    ids = generator.integers(0, VOCAB.size + 1, (TIME, 4)).astype(np.int32)
    weights = np.ones((TIME, 4), np.float32)
    weights[-1] = 0
    return Batch(ids, ids % VOCAB.size, weights)


@pytest.mark.skipif(jax.device_count() < 2, reason="it takes two devices")
def test_two_layers_on_two_devices_train_as_by_the_loop():
    mesh, batch = parallel.make_mesh(2), random_batch()

    def train(run):
        step, state = make_training("gru", run, parallel.axis_of(mesh))
        axes = jax.tree.map(lambda _: None, state)._replace(recurrent_state=(0, 0))
        one_step = jax.jit(
            parallel.spread(lambda *each: step(*each)[0], mesh, (axes, Batch(1, 1, 1)), axes)
        )
        for _ in range(5):
            state = one_step(state, batch)
        return state.params, state.recurrent_state, state.smoothed_loss

    with jax.numpy_dtype_promotion("standard"):
        assert_close(train(kernel), train(recurrence.loop), 1e-5)


KERNEL_CALL = re.compile(r"custom_call @(__gpu\$xla\.gpu\.triton|triton_kernel_call)")
"""In the program for a GPU, by the name that JAX 0.10 or later versions give it."""


def lower_for_cuda(function, *arguments):
    """The program for a GPU, which JAX makes without one, though jaxlib may lack the compiler."""
    pytest.importorskip("jaxlib.triton")
    try:
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    except RuntimeError as error:
        if "Triton compilation handler" not in str(error):
            raise
        return pytest.skip(f"{error}")


# By JAX 0.12, which still has it.
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "hidden", "product_dtype"),
    [
        ("vanilla", 50, None),
        ("gru, hard", 64, jnp.bfloat16),
        ("gru", 100, None),
        ("lstm", 256, None),
        ("lstm", 256, jnp.bfloat16),
        ("lstm", 384, None),
    ],
)
def test_the_kernels_can_be_lowered_for_a_gpu(name, hidden, product_dtype):
    cell, arguments, resets, cotangents = make_case(name, hidden, (20,), product_dtype)

    def of(length):
        return values_and_gradients(
            lambda *arguments: fused(cell, *arguments, length, resets), arguments, cotangents
        )

    try:
        program = lower_for_cuda(of, 4)
    except RuntimeError as error:
        if "No supported GPU devices found" in str(error):
            pytest.skip("from 0.12 on, JAX lowers kernels for a GPU only where one is")
        raise
    assert len(KERNEL_CALL.findall(program)) == 2
    # Nothing is left of the loops over time.
    assert "stablehlo.while" not in program


def test_a_run_trains_by_the_kernel_and_is_read_without(monkeypatch):
    settings = {"cell": "lstm", "num_layers": 2, "hidden_size": 16, "window": 8, "batch_size": 4}
    settings |= {"recurrence": "fused", "dtype": "bfloat16", "devices": 1}
    config = resolve("names", given={**settings, "mogrifier_rounds": 0})
    described = describe(config, ["rex", "dino", "raptor", "tyranno"] * 9)
    # As on a machine with a GPU.
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    with jax.numpy_dtype_promotion("standard"):
        experiment = make_experiment(*described)
        state = jax.eval_shape(experiment.initial_state, None)
        step = experiment.train_step
        program = lower_for_cuda(lambda *each: step(*each)[0], state, random_batch())
    assert len(KERNEL_CALL.findall(program)) == 4
    ids = jnp.zeros((8, 4), int)
    model = build_model(config, described[0].vocab)
    read = lower_for_cuda(
        lambda params: model.unroll(params, model.initial_state((4,)), ids, 3), state.params
    )
    assert not KERNEL_CALL.search(read)


def test_the_loop_is_chosen_where_nothing_else_is_asked_for():
    for platform in ("cpu", "gpu", "tpu"):
        assert platforms.recurrence("auto", platform) == "loop"
        assert platforms.recurrence("loop", platform) == "loop"
    assert platforms.recurrence("fused", "gpu") == "fused"
    for platform in ("cpu", "tpu"):
        with pytest.raises(ValueError, match=f"^recurrence: .* computes on a {platform}; choose"):
            platforms.recurrence("fused", platform)
    assert config_from({}).recurrence == "auto"
    assert {preset.recurrence for preset in PRESETS.values()} == {"auto"}


@pytest.mark.parametrize(
    ("name", "hidden"),
    [*((name, MAX_FUSED) for name in CELLS), ("lstm", MAX_FUSED + 1)],
)
def test_the_configuration_refuses_what_the_kernel_does(name, hidden):
    cell = CELLS[name](INPUT, hidden)

    def unroll(key, inputs):
        params = cell.init(key)
        projected = cell.project(params, inputs)
        return kernel(cell, params, cell.initial_state((2,)), projected, 4)

    def configure():
        return TrainConfig(cell=name, hidden_size=hidden, recurrence="fused")

    arguments = unroll, jax.random.key(0), jnp.zeros((4, 2), int)
    if name == "gru_reset_before" or hidden > MAX_FUSED:
        with pytest.raises(
            ValueError, match=rf"^recurrence: the fused kernel .* {name} of {hidden}"
        ):
            configure()
        with pytest.raises(ValueError, match="up to 512 hidden units; run this one by the loop"):
            jax.eval_shape(*arguments)
    else:
        configure()
        assert jax.eval_shape(*arguments)[1].shape == (4, 2, hidden)


@pytest.mark.skipif(HAS_GPU, reason="a GPU can run the kernel")
def test_training_by_the_kernel_is_refused_on_a_cpu_in_one_line(tmp_path):
    flags = "--recurrence=fused", "--steps=1", "--out=run"
    said = call_here(Program("train", "dinojax"), *flags, cwd=tmp_path)
    assert said.code == 2
    assert said.err.splitlines()[-1].endswith("computes on a cpu; choose auto or loop")
    assert "--recurrence: the fused kernel needs an NVIDIA GPU" in said.err
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_bench_gives_all_ways_equal_work():
    found = bench_recurrence.ways("cpu", 4) | {"fused": kernel}
    with jax.numpy_dtype_promotion("standard"):
        lines = bench_recurrence.measure("gru", "float32", found, **bench_recurrence.TINY)
    assert [line.way for line in lines] == ["loop", "scan", "scan, 8 steps at once", "fused"]
    assert set(bench_recurrence.ways("gpu", 4)) == {line.way for line in lines}
    for line in lines:
        assert len(line.milliseconds) == 2
        assert line.loss == pytest.approx(lines[0].loss, rel=1e-5)


def test_training_imports_neither_pallas_nor_cudnn():
    code = (
        "import sys; from dinojax.runs import session; "
        "session.train(['rex', 'dino'] * 9, cell='lstm', steps=2, devices=1); "
        "found = {'jax.experimental.pallas', 'jax.experimental.rnn', 'dinojax.models.fused'}; "
        "assert not found & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
