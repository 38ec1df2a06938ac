from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sample import MAX_LENGTH, NEWLINE, VOCAB, model, params, write

from dinojax.parallel import make_mesh
from dinojax.sampling.controls import Controls
from dinojax.sampling.draw import read_prompt, sample_names, sample_step
from dinojax.sampling.stream import STEPS, draw_ahead, on_each_device, stream_names

__all__ = ["model", "params"]


def test_stream_writes_full_rows_first(params, model):
    """With as many rows as names, the stream is the plain sampler."""
    key = jax.random.key(8)
    plain = write(sample_names, key, params, model, 500)
    stream = write(stream_names, key, params, model, 500)
    np.testing.assert_array_equal(stream.ids, plain.ids)
    np.testing.assert_array_equal(stream.ended, plain.ended)
    np.testing.assert_allclose(stream.log_probabilities, plain.log_probabilities, rtol=1e-5)


def test_a_name_of_a_stream_does_not_depend_on_how_many_are_drawn(params, model):
    stream = partial(stream_names, rows=64)
    many = write(stream, jax.random.key(6), params, model, 500)
    few = write(stream, jax.random.key(6), params, model, 150)
    for x, y in zip(many, few, strict=True):
        np.testing.assert_allclose(x[:150], y, rtol=1e-6)


def test_a_row_of_a_stream_continues_with_the_next_unwritten_name(params, model):
    """The same names from a Python loop that hands out their numbers, row by row, step by step."""
    key, num, rows = jax.random.key(4), 40, 3
    stream = write(partial(stream_names, rows=rows), key, params, model, num)
    numbers = iter(range(num + 1_000))
    step = jax.jit(partial(sample_step, params, model))
    start = model.initial_state((rows,)), jnp.full(rows, VOCAB.no_character)
    state, previous = start
    writing, found = [next(numbers) for _ in range(rows)], {}
    drawn = [[] for _ in range(rows)]
    while min(writing) < num:
        key, blocks = draw_ahead(key, STEPS, rows, jnp.float32)
        for uniforms in blocks:
            state, previous, *_ = step(state, previous, uniforms)
            for row, character in enumerate(previous.tolist()):
                drawn[row].append(character)
                if character == NEWLINE or len(drawn[row]) > MAX_LENGTH:
                    found[writing[row]] = drawn[row]
                    writing[row], drawn[row] = next(numbers), []
            fresh = jnp.array([not ids for ids in drawn])
            state, previous = jax.tree.map(
                lambda new, old, fresh=fresh: jnp.where(
                    fresh.reshape(rows, *[1] * (old.ndim - 1)), old, new
                ),
                (state, previous),
                start,
            )
    for i, (ids, length) in enumerate(zip(stream.ids, stream.lengths, strict=True)):
        assert ids[:length].tolist() == [x for x in found[i][:MAX_LENGTH] if x != NEWLINE]
    assert stream.ended.tolist() == [found[i][-1] == NEWLINE for i in range(num)]


@pytest.mark.parametrize("num", [1, 511, 513, 1200])
def test_stream_of_any_number_of_names(num, params, model):
    samples = write(partial(stream_names, rows=512), jax.random.key(9), params, model, num)
    assert samples.ids.shape == (num, MAX_LENGTH)
    assert np.all(samples.log_probabilities < 0)
    assert np.all(samples.ended | (samples.lengths == MAX_LENGTH))


@pytest.mark.parametrize("num_devices", [1, 2])
def test_streams_on_several_devices_are_those_of_their_keys(num_devices, params, model):
    """Whatever the number of devices, with a beginning and controls."""
    keys, num = jax.random.split(jax.random.key(10), 4), 90
    beginning = read_prompt(params, model, jnp.array([1, 2]))
    inputs = params, Controls(0.8, top_p=0.95), beginning

    def one(key, params, controls, beginning):
        options = {"controls": controls, "rows": 16, "beginning": beginning}
        return stream_names(key, params, model, num, MAX_LENGTH, **options)

    expected = [jax.jit(one)(key, *inputs) for key in keys]
    several = jax.jit(
        lambda keys, *inputs: on_each_device(keys, one, make_mesh(num_devices), *inputs)
    )
    found = [several(keys[i : i + num_devices], *inputs) for i in range(0, 4, num_devices)]
    for name in expected[0]._fields:
        np.testing.assert_array_equal(
            *(np.concatenate([getattr(x, name) for x in each]) for each in (found, expected)),
            err_msg=name,
        )


def test_as_many_keys_as_devices():
    keys = jax.random.split(jax.random.key(11), 3)
    with pytest.raises(ValueError, match="expected a key for each of 2 devices, got 3"):
        on_each_device(keys, stream_names, make_mesh(2))
