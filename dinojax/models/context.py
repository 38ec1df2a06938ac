"""A model that reads no more than the last characters, again for each new one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dinojax.models.cells import Params, State
from dinojax.models.model import CharModel


def in_context(model: CharModel, size: int) -> CharModel:
    """`model` with a memory of `size` characters.

    Each step reads the last `size` characters, the new one included, from a fresh state of `model`:
    p(next | last characters). Before the start of a text stands "no character", which `model` reads
    like any other, as a vector of zeros that leaves the state to the biases. The state is the ids
    [..., size]. A step takes as long as `size` steps of `model`. Not for training: `unroll` knows
    neither a length, nor resets, nor dropout.

    Raises:
        ValueError: `size` is less than 1.
    """
    if size < 1:
        raise ValueError(f"expected a context of at least 1 character, got {size}")

    def initial_state(batch_shape: tuple[int, ...]) -> State:
        return jnp.full((*batch_shape, size), model.vocab_size)

    def read(recent: State, inputs: jax.Array) -> State:
        return jnp.concatenate([recent[..., 1:], inputs[..., None].astype(recent.dtype)], axis=-1)

    def before_last(params: Params, recent: State) -> State:
        fresh = model.initial_state(recent.shape[:-1])
        return model.unroll(params, fresh, jnp.moveaxis(recent[..., :-1], -1, 0))[0]

    def step(params: Params, recent: State, inputs: jax.Array) -> tuple[State, jax.Array]:
        recent = read(recent, inputs)
        return recent, model.step(params, before_last(params, recent), recent[..., -1])[1]

    def layer_outputs(params: Params, recent: State, inputs: jax.Array) -> tuple[State, Any]:
        recent = read(recent, inputs)
        return recent, model.layer_outputs(params, before_last(params, recent), recent[..., -1])[1]

    def unroll(
        params: Params,
        state: State,
        inputs: jax.Array,
        length: jax.Array | None = None,
        resets: bool = False,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[State, jax.Array]:
        if length is not None or resets or dropout_keys is not None:
            raise ValueError("expected no length, resets or dropout; train the model itself")
        return lax.scan(partial(step, params), state, inputs)

    return CharModel(
        model.vocab_size, model.newline, model.init, initial_state, step, unroll, layer_outputs
    )
