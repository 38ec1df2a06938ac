import os
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from dinojax.config import CellName, OptimizerName, ScheduleName, TrainConfig
from dinojax.data.batches import Batch, packed, pad_names, padded, windows
from dinojax.data.vocab import build_vocab
from dinojax.models.cells import CELLS, vanilla
from dinojax.models.layers import from_cell, make_layer
from dinojax.models.model import char_model
from dinojax.parallel import ROWS, axis_of, make_mesh
from dinojax.training import fetch, loop, optimizers
from dinojax.training import step as train
from dinojax.training.loss import cross_entropy, mean_cross_entropy, summed_cross_entropy

import numpy_reference
from conftest import ROOT

NAMES = ["rex", "triceratops", "yi", "mei", "iguanodon"]
VOCAB = build_vocab(NAMES)
LETTERS = build_vocab(["abcdefghijklmnopqrstuvwxyz"])
HIDDEN = 9
EXAMPLES = pad_names(NAMES, VOCAB)
DATASET = padded(NAMES, VOCAB)


def make_model(dtype=jnp.float32):
    return char_model([from_cell(vanilla(VOCAB.size, HIDDEN, dtype))], VOCAB, dtype=dtype)


def make_stack(cell, vocab=VOCAB, dtype=jnp.float64, **options):
    layers = [make_layer(cell, vocab.size, 6, dtype), make_layer(cell, 6, 5, dtype)]
    return char_model(layers, vocab, dtype=dtype, **options)


def make_state(model, optimizer, batch_size=1):
    params = model.init(jax.random.key(0))
    return train.init_train_state(
        jax.random.key(1), params, model, optimizer, batch_size=batch_size, smoothed_loss=3.0
    )


def column(name):
    return jax.tree.map(jnp.asarray, pad_names([name], VOCAB))


def loss_of(params, model, batch, length=None):
    state = model.initial_state(batch.inputs.shape[1:])
    _, logits = model.unroll(params, state, batch.inputs, length)
    return quotient(*summed_cross_entropy(logits, batch.targets, batch.weights))


def quotient(total, num):
    return total / num


def assert_trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, *map(without_keys, (actual, expected)))


def without_keys(state):
    return state._replace(key=jax.random.key_data(state.key))


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_every_gradient_equal_the_numpy_reference(name, x64):
    model = make_model(jnp.float64)
    params = model.init(jax.random.key(0))
    batch = column(name)
    ids = VOCAB.encode(name).tolist()
    value, gradients = jax.value_and_grad(loss_of)(params, model, batch, len(name) + 1)
    expected, expected_gradients, _ = numpy_reference.loss_and_gradients(
        jax.tree.map(np.asarray, params),
        [VOCAB.no_character, *ids],
        [*ids, VOCAB.newline],
        np.zeros(HIDDEN),
    )
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
    jax.tree.map(close, gradients, expected_gradients)


def test_the_two_numpy_references_agree():
    params = numpy_reference.exercise_params(VOCAB.size, HIDDEN)
    ids = VOCAB.encode("triceratops").tolist()
    arguments = (
        params,
        [VOCAB.no_character, *ids],
        [*ids, VOCAB.newline],
        np.linspace(-1, 1, HIDDEN),
    )
    close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15)
    jax.tree.map(
        close,
        numpy_reference.loss_and_gradients(*arguments),
        numpy_reference.tuned_loss_and_gradients(*arguments),
    )


@pytest.mark.parametrize("cell", get_args(CellName))
def test_gradients_pass_a_numerical_check(cell, x64):
    model = make_stack(cell, dropout=0.3)
    batch = jax.tree.map(jnp.asarray, EXAMPLES)
    keys = jax.random.split(jax.random.key(1), len(NAMES))

    def loss(params):
        first = model.initial_state((len(NAMES),))
        _, logits = model.unroll(params, first, batch.inputs, 12, True, keys)
        return quotient(*summed_cross_entropy(logits, batch.targets, batch.weights))

    check_grads(jax.jit(loss), (model.init(jax.random.key(0)),), order=1, modes=["rev"])


@pytest.mark.parametrize("carry_state", [False, True])
def test_many_steps_equal_the_numpy_reference(carry_state, x64):
    model, optimizer = make_model(jnp.float64), optimizers.clipped_sgd(0.05, 0.3)
    state = make_state(model, optimizer)
    step = train.make_train_step(model, optimizer, carry_state=carry_state)
    order = np.arange(40) * 3 % len(NAMES)
    params, hidden, losses, smoothed = numpy_reference.train(
        jax.tree.map(np.asarray, state.params),
        [VOCAB.encode(name).tolist() for name in NAMES],
        order,
        0.05,
        0.3,
        carry_state,
        3.0,
    )
    state, actual, _ = jax.jit(partial(train.train_steps, step))(
        state, EXAMPLES, order[:, None], 40
    )
    np.testing.assert_allclose(actual, losses, rtol=1e-10)
    np.testing.assert_allclose(state.smoothed_loss, smoothed, rtol=1e-10)
    np.testing.assert_allclose(state.recurrent_state[0][0], hidden, rtol=1e-9)
    close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    jax.tree.map(close, state.params, params)
    assert state.step == 40


def test_figures_of_the_exercise_for_one_step(x64):
    generator = np.random.RandomState(1)
    draw = generator.randn
    previous = draw(100, 1)
    wax, waa, wya, b, by = draw(100, 27), draw(100, 100), draw(27, 100), draw(100, 1), draw(27, 1)
    layer = {"input_kernel": wax.T, "recurrent_kernel": waa.T, "bias": b[:, 0]}
    params = jax.tree.map(
        jnp.asarray, {"layers": [layer], "readout": {"kernel": wya.T, "bias": by[:, 0]}}
    )
    model = char_model([from_cell(vanilla(27, 100, jnp.float64))], LETTERS, dtype=jnp.float64)
    batch = Batch(
        inputs=jnp.array([[12], [3], [5], [11], [22], [3]]),
        targets=jnp.array([[4], [14], [11], [22], [25], [26]]),
        weights=jnp.ones((6, 1)),
    )

    optimizer = optimizers.clipped_sgd(0.01, 5.0)
    state = train.init_train_state(jax.random.key(0), params, model, optimizer)
    state = state._replace(recurrent_state=(jnp.asarray(previous.T),))
    step = jax.jit(train.make_train_step(model, optimizer, carry_state=True))
    new, (loss, _) = step(state, batch)
    moved = jax.tree.map(lambda a, b: np.asarray(a - b) / 0.01, params, new.params)
    (hidden,) = new.recurrent_state
    np.testing.assert_allclose(loss, 126.503975722, rtol=1e-10)
    np.testing.assert_allclose(hidden[0, 4], -1, rtol=1e-6)
    close = partial(np.testing.assert_allclose, rtol=1e-6)
    close(moved["layers"][0]["recurrent_kernel"][2, 1], 0.194709315347)
    close(moved["readout"]["kernel"][2, 1], -0.007773876032)
    close(moved["layers"][0]["bias"][4], -0.06809825)
    close(moved["readout"]["bias"][1], 0.01538192)
    # Several entries are clipped to the bound; the exercise quotes the first of them.
    assert np.argmax(np.round(moved["layers"][0]["input_kernel"].T, 6)) == 93


def test_clipping_bounds_every_update():
    model, optimizer = make_model(), optimizers.clipped_sgd(0.1, 0.01)
    state = make_state(model, optimizer)

    def huge(logits, targets, weights):
        total, num = summed_cross_entropy(logits, targets, weights)
        return 1e6 * total, num

    new, _ = train.make_train_step(model, optimizer, huge)(state, column("triceratops"))
    moves = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, new.params)
    bound = 0.1 * 0.01
    assert all(0 < move <= bound * 1.001 for move in jax.tree.leaves(moves))
    assert max(jax.tree.leaves(moves)) > bound * 0.999


def test_what_is_in_the_padding_changes_nothing():
    model, optimizer = make_model(), optimizers.clipped_sgd(0.1, 5.0)
    batch = jax.tree.map(jnp.asarray, EXAMPLES)
    padding = batch.weights == 0
    spoiled = batch._replace(
        inputs=jnp.where(padding, VOCAB.newline, batch.inputs),
        targets=jnp.where(padding, VOCAB.size - 1, batch.targets),
    )
    step = jax.jit(train.make_train_step(model, optimizer))
    state = make_state(model, optimizer, len(NAMES))
    (new, (loss, _)), (other, (other_loss, _)) = step(state, batch), step(state, spoiled)
    assert loss == other_loss
    jax.tree.map(np.testing.assert_array_equal, new.params, other.params)


def test_the_state_is_reset_unless_it_is_carried():
    model, optimizer = make_model(), optimizers.clipped_sgd(0.1, 5.0)
    state = make_state(model, optimizer)
    elsewhere = state._replace(recurrent_state=(jnp.ones((1, HIDDEN)),))
    for carry_state in (False, True):
        step = train.make_train_step(model, optimizer, carry_state=carry_state)
        (_, (loss, _)), (_, (other, _)) = (step(x, column("rex")) for x in (state, elsewhere))
        assert (loss != other) == carry_state


def test_a_handful_of_names_can_be_memorised():
    model = char_model([from_cell(vanilla(VOCAB.size, 32))], VOCAB)
    optimizer = optax.adam(0.01)
    state = make_state(model, optimizer)
    step = train.make_train_step(model, optimizer)
    # Optax's Adam raises a float to the power of an integer.
    with jax.numpy_dtype_promotion("standard"):
        *_, (state, *_) = loop.run(step, state, DATASET, steps=1_500)
    batch = jax.tree.map(jnp.asarray, EXAMPLES)
    _, logits = model.unroll(state.params, model.initial_state((len(NAMES),)), batch.inputs)
    nats = cross_entropy(logits, batch.targets, batch.weights).sum(axis=0)
    # Five equally likely names cost at least log(5) nats each.
    np.testing.assert_allclose(nats.mean(), np.log(5), atol=0.1)


def test_a_custom_loss_is_minimised():
    model, optimizer = make_model(), optimizers.clipped_sgd(0.1, 5.0)
    state = make_state(model, optimizer)

    def small_logits(logits, targets, weights):
        return jnp.sum(logits**2), 1

    step = jax.jit(train.make_train_step(model, optimizer, small_logits))
    _, (first, _) = step(state, column("rex"))
    for _ in range(100):
        state, (loss, _) = step(state, column("rex"))
    assert loss < first / 10


@pytest.mark.parametrize("loss", [summed_cross_entropy, mean_cross_entropy])
def test_a_batch_of_padding_alone_costs_nothing_and_changes_nothing(loss):
    model, optimizer = make_model(), optax.sgd(0.1)
    state, batch = make_state(model, optimizer), column("rex")
    padding = batch._replace(weights=jnp.zeros_like(batch.weights))
    new, (value, _) = train.make_train_step(model, optimizer, loss)(state, padding)
    assert value == 0
    jax.tree.map(np.testing.assert_array_equal, new.params, state.params)


def test_every_epoch_has_an_order_of_its_own():
    epochs = [train.epoch_order(jax.random.key(0), epoch, 7) for epoch in range(5)]
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(7), (5, 1)))
    assert len(np.unique(epochs, axis=0)) > 3


def test_a_run_reads_epoch_after_epoch():
    model, optimizer = make_model(), optimizers.clipped_sgd(0.1, 5.0)
    read = []

    def recording_step(state, batch):
        jax.debug.callback(lambda ids: read.append(ids.tolist()), batch.targets, ordered=True)
        info = train.StepInfo(jnp.zeros(()), state.params)
        return state._replace(step=state.step + 1), info

    start = make_state(model, optimizer, 2)
    dataset = padded(NAMES, VOCAB, batch_size=2)
    *_, (state, *_) = loop.run(recording_step, start, dataset, steps=3 * 3, chunk_size=4)
    jax.effects_barrier()
    assert state.step == 9
    columns = [list(column) for step in read for column in zip(*step, strict=True)]
    names = [VOCAB.decode(column).split("\n")[0] for column in columns]
    for epoch in range(3):
        order = train.epoch_order(start.key, epoch, len(NAMES))
        expected = [NAMES[i] for i in order] + [""]
        assert names[6 * epoch : 6 * epoch + 6] == expected


def test_cutting_a_run_into_pieces_changes_no_bit():
    model, optimizer = make_model(), optimizers.clipped_sgd(0.1, 5.0)
    state = make_state(model, optimizer)
    steps = jax.jit(partial(train.train_steps, train.make_train_step(model, optimizer)))
    order = np.random.default_rng(0).integers(0, len(NAMES), (60, 1))
    whole, losses, _ = steps(state, EXAMPLES, order, 60)
    pieces, done = state, 0
    for size in (1, 7, 20, 32):
        rows = np.roll(order, -done, axis=0)
        pieces, new, _ = steps(pieces, EXAMPLES, rows, size)
        np.testing.assert_array_equal(new[:size], losses[done : done + size])
        assert np.isnan(new[size:]).all()
        done += size
    assert_trees_equal(pieces, whole)
    assert steps._cache_size() == 1


def test_a_resumed_run_equals_an_uninterrupted_one():
    model, optimizer = make_model(), optax.sgd(0.02, momentum=0.9)
    step = train.make_train_step(model, optimizer)
    start = make_state(model, optimizer, 2)
    dataset = padded(NAMES, VOCAB, batch_size=2)
    *_, (whole, *_) = loop.run(step, start, dataset, steps=50, chunk_size=16)
    for state, *_ in loop.run(step, start, dataset, steps=50, chunk_size=16):
        if state.step >= 20:
            break
    *_, (resumed, *_) = loop.run(step, state, dataset, steps=50, chunk_size=16)
    assert whole.step == 50
    assert_trees_equal(resumed, whole)


def test_run_yields_every_loss_once():
    model, optimizer = make_model(), optimizers.clipped_sgd(0.1, 5.0)
    step = train.make_train_step(model, optimizer)
    yields = list(loop.run(step, make_state(model, optimizer), DATASET, steps=50, chunk_size=16))
    losses = np.concatenate([x.losses for x in yields])
    assert losses.shape == (50,)
    assert np.isfinite(losses).all()
    assert np.cumsum([len(x.losses) for x in yields]).tolist() == [x.state.step for x in yields]


def test_run_of_a_single_name():
    model, optimizer = make_model(), optimizers.clipped_sgd(0.1, 5.0)
    dataset = padded(["y"], VOCAB)
    step = train.make_train_step(model, optimizer)
    *_, (state, *_) = loop.run(step, make_state(model, optimizer), dataset, steps=20)
    assert state.step == 20


@pytest.mark.parametrize(
    ("blow_up_at", "where"), [(30, "loss is nan in step 32"), (49, "after step 50")]
)
def test_run_stops_where_something_is_not_finite(blow_up_at, where):
    model, optimizer = make_model(), optimizers.clipped_sgd(0.1, 5.0)
    step = train.make_train_step(model, optimizer)

    def breaking_step(state, batch):
        new, loss = step(state, batch)
        factor = jnp.where(state.step == blow_up_at, jnp.nan, 1.0)
        return new._replace(params=jax.tree.map(lambda x: x * factor, new.params)), loss

    seen = []
    run = loop.run(breaking_step, make_state(model, optimizer), DATASET, steps=50, chunk_size=16)
    with pytest.raises(FloatingPointError, match=where):
        seen.extend(state for state, *_ in run)
    assert 0 < seen[-1].step < blow_up_at
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(seen[-1].params))


def test_a_run_shuffles_a_list_once_an_epoch(monkeypatch):
    drawn = []

    def epoch_order(key, epoch, num):
        jax.debug.callback(lambda epoch: drawn.append(int(epoch)), epoch)
        return jnp.arange(num)

    monkeypatch.setattr(fetch, "epoch_order", epoch_order)
    model, optimizer = make_model(), optimizers.clipped_sgd(0.1, 5.0)
    step = train.make_train_step(model, optimizer)
    steps = 3 * len(NAMES) - 1
    *_, (state, *_) = loop.run(
        step, make_state(model, optimizer), DATASET, steps=steps, chunk_size=2
    )
    assert state.step == steps
    assert sorted(set(drawn)) == drawn[: len(set(drawn))]
    assert len(drawn) == len(set(drawn))


def gradients(model, batch, resets):
    def total(params):
        first = model.initial_state(batch.inputs.shape[1:])
        length = batch.inputs.shape[0]
        _, logits = model.unroll(params, first, batch.inputs, length, resets)
        return cross_entropy(logits, batch.targets, batch.weights).sum()

    return jax.jit(jax.value_and_grad(total))(model.init(jax.random.key(0)))


def epoch(dataset):
    order = dataset.arrange(np.arange(dataset.num_shuffled))
    return [jax.tree.map(lambda a, i=i: jnp.asarray(a[..., i]), dataset.examples) for i in order]


@pytest.mark.parametrize("cell", get_args(CellName))
def test_packed_names_have_the_loss_and_the_gradients_of_padded_ones(cell, x64):
    model = make_stack(cell)
    (plain,) = epoch(padded(NAMES, VOCAB, len(NAMES)))
    expected = gradients(model, plain, resets=False)
    for rows, window in ((1, 40), (2, 12)):
        parts = [gradients(model, b, True) for b in epoch(packed(NAMES, VOCAB, rows, window))]
        actual = jax.tree.map(lambda *parts: sum(parts), *parts)
        close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-13)
        jax.tree.map(close, actual, expected)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("cell", get_args(CellName))
def test_carried_windows_have_the_loss_of_one_long_window(cell, rows, x64):
    text = "to be, or not to be, that is the question:"
    vocab = build_vocab([text])
    model = make_stack(cell, vocab)
    (whole,) = epoch(windows(text, vocab, rows, -(-len(text) // rows)))
    expected, _ = gradients(model, whole, resets=True)
    # The learning rate is zero: nothing but the carried state joins one step to the next.
    train_step = train.make_train_step(
        model,
        optax.sgd(0.0),
        lambda *args: (cross_entropy(*args).sum(), 1),
        carry_state=True,
        resets=True,
    )
    state = train.init_train_state(
        jax.random.key(1), model.init(jax.random.key(0)), model, optax.sgd(0.0), batch_size=rows
    )
    dataset = windows(text, vocab, rows, 4)
    # Two epochs: the second starts from a fresh state, like the first.
    steps = dataset.steps_per_epoch
    losses = np.concatenate(
        [x.losses for x in loop.run(train_step, state, dataset, steps=2 * steps)]
    )
    np.testing.assert_allclose(losses.reshape(2, steps).sum(axis=1), expected, rtol=1e-12)


@pytest.mark.parametrize("cell", get_args(CellName))
def test_carried_windows_have_the_logits_of_one_long_window(cell, x64):
    text = "to be, or not to be, that is the question:"
    vocab = build_vocab([text])
    model = make_stack(cell, vocab)
    params = model.init(jax.random.key(0))
    (whole,) = epoch(windows(text, vocab, 3, 14))
    _, expected = model.unroll(params, model.initial_state((3,)), whole.inputs, 14, True)
    state, parts = model.initial_state((3,)), []
    for batch in epoch(windows(text, vocab, 3, 4)):
        length = int(batch.weights.sum(axis=0).max())
        state, logits = model.unroll(params, state, batch.inputs, length, True)
        parts.append(logits[:length])
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-12, atol=1e-14)


def test_training_in_products_of_bfloat16_keeps_float32_elsewhere():
    cells = [
        CELLS[name](below, 16, product_dtype=jnp.bfloat16)
        for name, below in (("gru", VOCAB.size), ("lstm", 16))
    ]
    model = char_model([*map(from_cell, cells)], VOCAB, product_dtype=jnp.bfloat16)
    optimizer = optax.adam(0.02)
    step = train.make_train_step(model, optimizer, mean_cross_entropy)
    start = make_state(model, optimizer, len(NAMES))
    with jax.numpy_dtype_promotion("standard"):
        reports = list(loop.run(step, start, padded(NAMES, VOCAB, len(NAMES)), steps=60))
    end = reports[-1].state
    jax.tree.map(lambda old, new: np.testing.assert_equal(new.dtype, old.dtype), start, end)
    kept = end.params, end.recurrent_state, end.smoothed_loss
    assert {x.dtype for x in jax.tree.leaves(kept)} == {np.dtype("float32")}
    losses = np.concatenate([x.losses for x in reports])
    assert losses[-1] < 0.5 * losses[0]


def test_reset_rate_resets_that_share_of_the_rows():
    model = make_model()
    rows = 2_000
    batch = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (2, rows)), Batch(jnp.uint8(1), jnp.uint8(2), jnp.float32(1))
    )
    start = make_state(model, optax.sgd(0.0), rows)
    start = start._replace(recurrent_state=jax.tree.map(jnp.ones_like, start.recurrent_state))

    def last(carry_state, **options):
        step = train.make_train_step(
            model, optax.sgd(0.0), carry_state=carry_state, resets=True, **options
        )
        return step(start, batch)[0].recurrent_state[0]

    actual, fresh, carried = last(True, reset_rate=0.3), last(False), last(True)
    is_fresh = np.isclose(actual, fresh, atol=1e-6).all(axis=1)
    assert (is_fresh | np.isclose(actual, carried, atol=1e-6).all(axis=1)).all()
    # Five standard deviations of a binomial share.
    assert abs(is_fresh.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / rows)


def test_each_step_draws_its_own_dropout_from_the_key_of_the_run():
    model = char_model([from_cell(vanilla(VOCAB.size, HIDDEN))], VOCAB, dropout=0.5)
    optimizer = optax.sgd(0.0)
    train_step = jax.jit(train.make_train_step(model, optimizer))
    start = make_state(model, optimizer)
    after, (first, _) = train_step(start, column("rex"))
    _, (again, _) = train_step(start, column("rex"))
    _, (second, _) = train_step(after, column("rex"))
    assert first == again
    assert first != second


@pytest.mark.parametrize(
    ("cell", "kind"),
    [("vanilla", "padded"), ("gru", "packed"), ("lstm", "windows"), ("lru", "windows")],
)
def test_two_devices_learn_what_one_learns(cell, kind, x64):
    sizes = VOCAB.size, 8, 8
    layers = [make_layer(cell, below, size, jnp.float64) for below, size in pairwise(sizes)]
    model = char_model(layers, VOCAB, dtype=jnp.float64, dropout=0.3)
    dataset = {
        "padded": padded(NAMES, VOCAB, 4),
        "packed": packed(NAMES, VOCAB, 4, 12),
        "windows": windows("rex\ntriceratops\nyi\nmei\niguanodon\n" * 3, VOCAB, 4, 5),
    }[kind]

    # Neither a mean over rows nor over characters, and the counts differ between devices.
    def loss(logits, targets, weights):
        nats = cross_entropy(logits, targets, weights)
        return jnp.square(nats).sum(), weights[7:].any(axis=0).sum()

    optimizer = optimizers.clipped_sgd(0.1, 5.0)
    state = train.init_train_state(
        jax.random.key(1), model.init(jax.random.key(0)), model, optimizer, batch_size=4
    )
    ends = []
    for mesh in None, make_mesh(2):
        step = train.make_train_step(
            model,
            optimizer,
            loss,
            carry_state=kind == "windows",
            resets=kind != "padded",
            reset_rate=0.3,
            axis=axis_of(mesh),
        )
        summarize = partial(optimizers.describe_gradients, clip_value=0.01)
        reports = list(loop.run(step, state, dataset, steps=7, mesh=mesh, summarize=summarize))
        losses = np.concatenate([x.losses for x in reports])
        ends.append((without_keys(reports[-1].state), losses, reports[-1].summary))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), *ends)


def test_devices_that_cannot_share_the_rows_evenly_are_refused():
    model, mesh = make_model(), make_mesh(2)
    optimizer = optax.sgd(0.1)
    step = train.make_train_step(model, optimizer, axis=ROWS)
    state = make_state(model, optimizer, 3)
    with pytest.raises(ValueError, match="a multiple of 2, the number of devices, got 3"):
        next(loop.run(step, state, padded(NAMES, VOCAB, 3), steps=1, mesh=mesh))


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_every_optimizer_and_schedule_lowers_the_loss(name):
    rate = {"sgd": 0.3, "momentum": 0.3}.get(name, 0.01)
    for schedule in ["constant"] if name == "schedule_free" else get_args(ScheduleName):
        config = TrainConfig(
            optimizer=name,
            schedule=schedule,
            learning_rate=rate,
            warmup=0.1,
            clip_norm=1.0,
            steps=60,
        )
        model, optimizer = make_model(), optimizers.make_optimizer(config)
        step = train.make_train_step(model, optimizer, mean_cross_entropy)
        with jax.numpy_dtype_promotion("standard"):
            start = make_state(model, optimizer, 5)
            losses = [x.losses for x in loop.run(step, start, padded(NAMES, VOCAB, 5), steps=60)]
        assert np.concatenate(losses)[-5:].mean() < 0.8 * np.log(VOCAB.size)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells memory as Linux does")
@pytest.mark.parametrize("devices", [1, 2])
def test_memory_stays_as_it_is_once_training_has_begun(devices):
    # Two hundred calls of one step, so that a leak in each call is visible.
    program = f"""
import jax, os
jax.config.update("jax_num_cpu_devices", {devices})
from dinojax.data import batches, vocab
from dinojax import parallel
from dinojax.models import cells, layers, model
from dinojax.training import loop, optimizers, step as train

names = ["rex", "triceratops", "yi", "mei"] * 200
letters = vocab.build_vocab(names)
layer = layers.from_cell(cells.lstm(letters.size, 64))
network = model.char_model([layer], letters)
optimizer = optimizers.clipped_sgd(0.01, 5.0)
state = train.init_train_state(
    jax.random.key(1), network.init(jax.random.key(0)), network, optimizer, batch_size=8
)
mesh = parallel.make_mesh({devices})
step = train.make_train_step(network, optimizer, axis=parallel.axis_of(mesh))
megabytes = {{}}
dataset = batches.padded(names, letters, 8)
for progress in loop.run(step, state, dataset, steps=200, mesh=mesh, stops=[1]):
    pages = int(open("/proc/self/statm").read().split()[1])
    megabytes[int(progress.state.step)] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
print(megabytes[200] - megabytes[20])
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    # A state of this network is 0.1 MB: one kept at each call would be 20 MB.
    assert float(result.stdout) < 8
