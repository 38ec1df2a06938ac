"""Exact losses over a data set: three ways to read it, and the figures that describe them."""

import math
from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.data.batches import cut_text, pad_names
from dinojax.data.vocab import build_vocab
from dinojax.evaluation.losses import (
    BLOCK,
    Costs,
    column_evaluation,
    in_blocks,
    in_pieces,
    name_evaluation,
    nats_carried,
    summarize,
)
from dinojax.models.cells import lstm, vanilla
from dinojax.models.layers import from_cell
from dinojax.models.model import char_model

NAMES = ["rex", "triceratops", "yi", "mei", "iguanodon"]
LETTERS = "ab cde\n"
TEXT = "".join(np.random.default_rng(0).choice(list(LETTERS), 300).tolist())
VOCAB = build_vocab([*NAMES, LETTERS])
RTOL = {"float32": 1e-6, "float64": 1e-12}


@pytest.fixture(params=list(RTOL))
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@cache
def make_model(dtype="float32"):
    return char_model([from_cell(vanilla(VOCAB.size, 8, dtype))], VOCAB, dtype=dtype)


@cache
def make_deep_model(dtype):
    # Dropout is for training alone: no figure may know of it.
    layers = [from_cell(lstm(VOCAB.size, 7, dtype)), from_cell(lstm(7, 6, dtype))]
    return char_model(layers, VOCAB, dtype=dtype, dropout=0.5)


@pytest.fixture
def model(dtype):
    return make_model(dtype)


@pytest.fixture
def deep_model(dtype):
    return make_deep_model(dtype)


def make_params(model, seed=0):
    """Parameters large enough that a state matters to all that follows."""
    params = model.init(jax.random.key(seed))
    return jax.tree.map(lambda x: 2 * x + 0.1, params)


@cache
def compiled_step(model):
    return jax.jit(model.step)


def slow(model, params, ids, before=None):
    """The cost of each character, one step of the model at a time."""
    step, state = compiled_step(model), model.initial_state(())
    previous = VOCAB.no_character if before is None else before
    nats = []
    for target in map(int, ids):
        state, logits = step(params, state, previous)
        logits = np.asarray(logits, float)
        largest = logits.max()
        nats.append(largest + np.log(np.exp(logits - largest).sum()) - logits[target])
        previous = target
    return np.array(nats)


def slow_windows(model, params, ids, window):
    starts = range(0, len(ids), window)
    befores = [None, *(int(ids[start - 1]) for start in starts[1:])]
    return np.array(
        [
            slow(model, params, ids[start : start + window], before).sum()
            for start, before in zip(starts, befores, strict=True)
        ]
    )


def two_devices():
    return jax.make_mesh((2,), ("rows",), (jax.sharding.AxisType.Auto,))


def carried(model, params, text, block_size=BLOCK):
    ids = jnp.asarray(VOCAB.encode(text))
    read = jax.jit(lambda params: nats_carried(params, model, ids, block_size))
    return np.asarray(read(params), float)


# Against a loop.


def test_costs_of_names_equal_a_slow_loop_of_steps(deep_model, dtype):
    params = make_params(deep_model)
    costs = column_evaluation(deep_model, pad_names(NAMES, VOCAB))(params)
    ids = [[*VOCAB.encode(name), VOCAB.newline] for name in NAMES]
    expected = [slow(deep_model, params, each).sum() for each in ids]
    np.testing.assert_allclose(costs.nats, expected, rtol=RTOL[dtype])
    np.testing.assert_array_equal(costs.num_characters, [len(each) for each in ids])
    assert costs.nats.dtype == costs.num_characters.dtype == np.float64


@pytest.mark.parametrize("window", [7, 400])
def test_costs_of_windows_equal_a_slow_loop_of_steps(window, deep_model, dtype):
    params, ids = make_params(deep_model), VOCAB.encode(TEXT)
    costs = column_evaluation(deep_model, cut_text(TEXT, VOCAB, window))(params)
    expected = slow_windows(deep_model, params, ids, window)
    np.testing.assert_allclose(costs.nats, expected, rtol=RTOL[dtype])
    ends = [*range(0, len(TEXT), window), len(TEXT)]
    np.testing.assert_array_equal(costs.num_characters, np.diff(ends))


@pytest.mark.parametrize("num", [1, 64, 150])
def test_costs_of_a_carried_text_equal_a_slow_loop_of_steps(num, deep_model, dtype):
    params, text = make_params(deep_model), TEXT[:num]
    nats = carried(deep_model, params, text, block_size=64)
    assert nats.shape == (num,)
    # The low cost of a likely character is a difference of larger numbers.
    atol = 1e-6 if dtype == "float32" else 0
    expected = slow(deep_model, params, VOCAB.encode(text))
    np.testing.assert_allclose(nats, expected, rtol=RTOL[dtype], atol=atol)
    np.testing.assert_allclose(nats.sum(), expected.sum(), rtol=RTOL[dtype])


def test_the_state_is_carried_across_blocks_of_the_default_size(x64):
    model = make_model("float64")
    params, text = make_params(model), (TEXT * 8)[: 2 * BLOCK + 100]
    expected = slow(model, params, VOCAB.encode(text))
    np.testing.assert_allclose(carried(model, params, text), expected, rtol=1e-12)


# What figures must not depend on.


def test_costs_do_not_depend_on_the_batch_size(model, dtype):
    params = make_params(model)
    # No multiple of these batches.
    for columns in pad_names(NAMES * 7, VOCAB), cut_text(TEXT, VOCAB, 8):
        expected = column_evaluation(model, columns)(params)
        for at_once in 1, 50:
            actual = column_evaluation(model, columns, at_once=at_once)(params)
            np.testing.assert_allclose(actual.nats, expected.nats, rtol=RTOL[dtype])


def watched(model):
    """The model, and a list to which it appends how many sequences it reads at once."""
    sizes = []

    @jax.custom_batching.custom_vmap
    def watch(inputs):
        return inputs

    @watch.def_vmap
    def rule(axis_size, in_batched, inputs):
        sizes.append(axis_size)
        return inputs, *in_batched

    def unroll(params, state, inputs, **options):
        return model.unroll(params, state, watch(inputs), **options)

    return model._replace(unroll=unroll), sizes


def test_characters_at_once_bound_the_sequences_read_together():
    model, sizes = watched(make_model())
    # Of 12 characters each.
    column_evaluation(model, pad_names(NAMES * 7, VOCAB), at_once=60)(make_params(model))
    assert max(sizes) == 5


@pytest.mark.parametrize("block", [1, 7, 300])
def test_a_carried_text_does_not_depend_on_the_blocks(block, model, dtype):
    params = make_params(model)
    expected = carried(model, params, TEXT)
    actual = carried(model, params, TEXT, block)
    atol = 1e-6 if dtype == "float32" else 0
    np.testing.assert_allclose(actual, expected, rtol=RTOL[dtype], atol=atol)
    costs = in_blocks(actual, block)
    assert len(costs.nats) == -(-len(TEXT) // block)
    np.testing.assert_allclose(costs.nats.sum(), expected.sum(), rtol=RTOL[dtype])
    assert costs.num_characters.sum() == len(TEXT)


@pytest.mark.parametrize("num", [1, 34, 35])
def test_costs_do_not_depend_on_the_number_of_devices(num, model, dtype):
    params, columns = make_params(model), pad_names((NAMES * 7)[:num], VOCAB)
    alone = column_evaluation(model, columns)(params)
    shared = column_evaluation(model, columns, two_devices())(params)
    assert alone.nats.shape == shared.nats.shape == (num,)
    np.testing.assert_allclose(shared.nats, alone.nats, rtol=RTOL[dtype])
    np.testing.assert_array_equal(shared.num_characters, alone.num_characters)


def test_devices_share_the_work():
    model, sizes = watched(make_model())
    column_evaluation(model, pad_names(NAMES, VOCAB), two_devices())(make_params(model))
    assert set(sizes) == {3}


def test_costs_do_not_depend_on_the_names_beside_them(model, dtype):
    params = make_params(model)
    many = column_evaluation(model, pad_names([*NAMES, "i" * 40] * 3, VOCAB))(params)
    for i, name in enumerate(NAMES[:2]):
        alone = column_evaluation(model, pad_names([name], VOCAB))(params)
        np.testing.assert_allclose(many.nats[i::6], np.full(3, alone.nats), rtol=RTOL[dtype])


def test_padding_does_not_matter(model, dtype):
    params, columns = make_params(model), pad_names(NAMES, VOCAB)
    expected = column_evaluation(model, columns)(params)
    is_padding = columns.weights == 0
    columns.inputs[is_padding] = 3
    columns.targets[is_padding] = 2
    np.testing.assert_array_equal(column_evaluation(model, columns)(params).nats, expected.nats)


def test_names_far_longer_than_the_others_are_read_apart_from_them():
    names = ["rex" * 20, *NAMES, "yi" * 30, *NAMES * 8, "mei" * 20]
    model, params = make_model(), make_params(make_model())
    shapes = set()

    def unroll(params, state, inputs, **options):
        shapes.add(inputs.shape)
        return model.unroll(params, state, inputs, **options)

    apart = name_evaluation(model._replace(unroll=unroll), VOCAB, names)(params)
    # Whole in its figures, though no other column is as long.
    together = column_evaluation(model, pad_names(names, VOCAB))(params)
    np.testing.assert_allclose(apart.nats, together.nats, rtol=RTOL["float32"])
    np.testing.assert_array_equal(apart.num_characters, together.num_characters)
    assert {time for time, *_ in shapes} == {12, 61}
    shapes.clear()
    name_evaluation(model._replace(unroll=unroll), VOCAB, NAMES)(params)
    assert {time for time, *_ in shapes} == {12}


# Identities.


def test_window_and_carry_agree_when_the_window_is_the_whole_text(model, dtype):
    params = make_params(model)
    (whole,) = column_evaluation(model, cut_text(TEXT, VOCAB, len(TEXT)))(params).nats
    np.testing.assert_allclose(whole, carried(model, params, TEXT).sum(), rtol=RTOL[dtype])
    # With shorter windows they differ, as the state matters here.
    windows = column_evaluation(model, cut_text(TEXT, VOCAB, 50))(params).nats
    assert abs(windows.sum() - whole) > 1e-3 * whole


def test_a_model_that_knows_nothing_costs_log_vocab_a_character(model, dtype):
    zeros = jax.tree.map(jnp.zeros_like, make_params(model))
    every = [
        column_evaluation(model, pad_names(NAMES, VOCAB))(zeros),
        column_evaluation(model, cut_text(TEXT, VOCAB, 8))(zeros),
        in_blocks(carried(model, zeros, TEXT)),
    ]
    rtol = 1e-6 if dtype == "float32" else 1e-14
    for costs in every:
        expected = costs.num_characters * math.log(VOCAB.size)
        np.testing.assert_allclose(costs.nats, expected, rtol=rtol)
        figures = summarize(costs)
        assert figures["nats_per_character"] == pytest.approx(math.log(VOCAB.size), rel=rtol)
        assert figures["perplexity"] == pytest.approx(VOCAB.size, rel=4 * rtol)
        assert len(costs.nats) == 1 or figures["standard_error"] < 1e-6


@pytest.mark.parametrize("devices", [1, 2])
def test_one_compilation_for_all_parameters(devices):
    model = make_model()
    traces = []

    def unroll(*arguments, **options):
        traces.append(None)
        return model.unroll(*arguments, **options)

    counted = model._replace(unroll=unroll)
    mesh = two_devices() if devices == 2 else None
    measure = column_evaluation(counted, pad_names(NAMES, VOCAB), mesh)
    totals, before = [measure(make_params(model)).nats.sum()], len(traces)
    assert before > 0
    totals += [measure(make_params(model, seed)).nats.sum() for seed in (1, 2)]
    assert len(traces) == before
    assert len(set(totals)) == 3


# Pieces and figures.


@pytest.mark.parametrize("num", [1, 9, 10, 11, 20, 35])
def test_in_blocks_counts_every_character_once(num):
    # Powers of two, so that a sum tells which characters it includes.
    nats = 2.0 ** np.arange(num)
    costs = in_blocks(nats, 10)
    edges = [*range(0, num, 10), num]
    expected = [sum(2**i for i in range(first, last)) for first, last in pairwise(edges)]
    np.testing.assert_array_equal(costs.nats, expected)
    np.testing.assert_array_equal(costs.num_characters, np.diff(edges))


def test_in_blocks_adds_in_float64():
    nats = np.full(BLOCK, 0.1, np.float32)
    (total,) = in_blocks(nats).nats
    assert total == pytest.approx(BLOCK * float(np.float32(0.1)), rel=1e-14)


def test_pieces_begin_at_the_given_starts():
    costs = in_pieces(np.array([1, 2, 4, 8, 16], np.float32), np.array([0, 1, 4]))
    np.testing.assert_array_equal(costs.nats, [1, 14, 16])
    np.testing.assert_array_equal(costs.num_characters, [1, 3, 1])


def synthetic(generator, num):
    """Pieces of several lengths; the costs of characters within a piece are correlated."""
    counts = generator.integers(3, 20, num).astype(float)
    easy = generator.normal(2.0, 0.4, num) + 0.03 * counts
    return Costs(counts * easy + generator.normal(0, 1, num) * np.sqrt(counts), counts)


def test_figures_equal_a_direct_computation():
    costs = synthetic(np.random.default_rng(0), 50)
    figures = summarize(costs)
    pieces = list(zip(costs.nats.tolist(), costs.num_characters.tolist(), strict=True))
    total, characters = math.fsum(n for n, _ in pieces), math.fsum(c for _, c in pieces)
    ratio, mean = total / characters, total / 50
    residual = math.fsum((n - ratio * c) ** 2 for n, c in pieces)
    variance = math.fsum((n - mean) ** 2 for n, _ in pieces) / 49
    assert figures == pytest.approx(
        {
            "nats_per_character": ratio,
            "standard_error": math.sqrt(50 / 49 * residual) / characters,
            "bits_per_character": math.log2(math.e) * ratio,
            "perplexity": math.exp(ratio),
            "num_characters": characters,
            "nats_per_piece": mean,
            "standard_error_per_piece": math.sqrt(variance / 50),
            "num_pieces": 50,
        },
        rel=1e-12,
    )
    for name, value in figures.items():
        assert type(value) is (int if name.startswith("num_") else float)


def test_three_pieces_by_hand():
    figures = summarize(Costs(np.array([1.0, 2.0, 6.0]), np.array([1.0, 2.0, 3.0])))
    # A ratio of 9 / 6; residuals of -0.5, -1 and 1.5, whose squares sum to 3.5.
    assert figures["nats_per_character"] == 1.5
    assert figures["standard_error"] == pytest.approx(math.sqrt(3 / 2 * 3.5) / 6, rel=1e-15)
    assert figures["nats_per_piece"] == 3
    # Deviations of -2, -1 and 3, whose squares sum to 14.
    assert figures["standard_error_per_piece"] == pytest.approx(math.sqrt(7 / 3), rel=1e-15)
    assert (figures["num_characters"], figures["num_pieces"]) == (6, 3)


def test_equal_pieces_give_the_standard_error_of_a_mean():
    nats = np.random.default_rng(0).normal(30, 4, 40)
    figures = summarize(Costs(nats, np.full(40, 10.0)))
    assert figures["standard_error"] == pytest.approx(nats.std(ddof=1) / math.sqrt(40) / 10)


def test_standard_errors_equal_the_spread_of_estimates():
    """Over 4,000 draws a standard deviation is known to about 1 percent."""
    generator = np.random.default_rng(0)
    draws = [summarize(synthetic(generator, 100)) for _ in range(4_000)]
    for estimate, error in (
        ("nats_per_character", "standard_error"),
        ("nats_per_piece", "standard_error_per_piece"),
    ):
        values, errors = (np.array([draw[name] for draw in draws]) for name in (estimate, error))
        assert errors.mean() == pytest.approx(values.std(), rel=0.05)
        covered = np.abs(values - values.mean()) < 2 * errors
        # Two standard errors cover 95.4 percent of a normal distribution.
        assert covered.mean() == pytest.approx(0.954, abs=0.015)


def test_a_single_piece_has_no_standard_error():
    figures = summarize(Costs(np.array([6.0]), np.array([4.0])))
    assert math.isnan(figures["standard_error"])
    assert math.isnan(figures["standard_error_per_piece"])
    assert (figures["nats_per_character"], figures["nats_per_piece"]) == (1.5, 6.0)
    assert (figures["num_pieces"], figures["num_characters"]) == (1, 4)


def test_a_perplexity_that_overflows_is_infinite_without_a_warning():
    figures = summarize(Costs(np.array([8000.0, 4000.0]), np.array([4.0, 4.0])))
    assert figures["nats_per_character"] == 1500
    assert figures["perplexity"] == math.inf
