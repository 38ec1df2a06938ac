"""The character model: recurrent layers in a stack, and a readout of the next character."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax import recurrence
from dinojax.cells import Cell, Params, State
from dinojax.products import affine


class ModelInit(Protocol):
    """Draws initial parameters."""

    def __call__(self, key: jax.Array) -> Params: ...


class ModelInitialState(Protocol):
    """The state of all layers before the first character, for a batch of the given shape."""

    def __call__(self, batch_shape: tuple[int, ...]) -> State: ...


class ModelStep(Protocol):
    """Reads one character, ids [...]: the new state and the logits [..., vocab] of the next."""

    def __call__(
        self, params: Params, state: State, inputs: jax.Array
    ) -> tuple[State, jax.Array]: ...


class ModelUnroll(Protocol):
    """Reads `inputs` [time, ...]: the last state and the logits [time, ..., vocab].

    With a `length`, from 0 to time, only the first so many steps are run and paid for: the state is
    that after them and the logits from there on mean nothing (see `recurrence.loop`). With `resets`
    the state is set back wherever "no character" is read. With `dropout_keys` [...], one for
    each row, the model's dropout is at work, as it should be in training alone.
    """

    def __call__(
        self,
        params: Params,
        state: State,
        inputs: jax.Array,
        length: jax.Array | None = None,
        resets: bool = False,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[State, jax.Array]: ...


class CharModel(NamedTuple):
    """A language model over characters, as pure functions.

    Each step predicts the character that follows the one it reads; `unroll` is `step` repeated.
    """

    vocab_size: int
    """Size of the vocabulary; as an input, this id means "no character"."""
    init: ModelInit
    initial_state: ModelInitialState
    step: ModelStep
    unroll: ModelUnroll


def char_model(
    cells: Sequence[Cell],
    vocab_size: int,
    dtype: DTypeLike = jnp.float32,
    dropout: float = 0.0,
    product_dtype: DTypeLike | None = None,
) -> CharModel:
    """A model whose first layer reads characters' ids, each further one the outputs below it.

        logits_t = h_t W + b        h_t the output of the last layer

    With `dropout`, each output of each layer is zero with that probability, and divided by one
    minus it otherwise, as the next layer or the readout sees it (Srivastava et al., 2014; on these
    connections alone, as in Zaremba et al., 2014). The readout's product multiplies numbers of
    `product_dtype`, as a cell's do; see `products.linear`.

    Parameters: `layers`, a list with those of each cell; `readout` with `kernel` W [hidden, vocab],
    uniform as in Glorot & Bengio (2010), and `bias` b [vocab], zero. The state is a tuple with that
    of each cell.

    Raises:
        ValueError: there is no cell, or `dropout` is not in [0, 1).
    """
    if not cells:
        raise ValueError("expected at least one cell, got none")
    if not 0 <= dropout < 1:
        raise ValueError(f"expected a dropout from 0 to less than 1, got {dropout}")

    def init(key: jax.Array) -> Params:
        key_readout, *key_cells = jax.random.split(key, len(cells) + 1)
        glorot = jax.nn.initializers.glorot_uniform()
        return {
            "layers": [cell.init(key) for cell, key in zip(cells, key_cells, strict=True)],
            "readout": {
                "kernel": glorot(key_readout, (cells[-1].hidden_size, vocab_size), dtype),
                "bias": jnp.zeros(vocab_size, dtype),
            },
        }

    def initial_state(batch_shape: tuple[int, ...]) -> State:
        return tuple(cell.initial_state(batch_shape) for cell in cells)

    def readout(params: Params, outputs: jax.Array) -> jax.Array:
        kernel, bias = params["readout"]["kernel"], params["readout"]["bias"]
        return affine(kernel, bias, outputs, product_dtype)

    def step(params: Params, state: State, inputs: jax.Array) -> tuple[State, jax.Array]:
        states, outputs = [], inputs
        for cell, layer, below in zip(cells, params["layers"], state, strict=True):
            states.append(recurrence.step(cell, layer, below, cell.project(layer, outputs)))
            outputs = cell.output(states[-1])
        return tuple(states), readout(params, outputs)

    def unroll(
        params: Params,
        state: State,
        inputs: jax.Array,
        length: jax.Array | None = None,
        resets: bool = False,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[State, jax.Array]:
        states, outputs = [], inputs
        keep = (inputs != vocab_size).astype(dtype) if resets else None
        for i, (cell, layer, first) in enumerate(zip(cells, params["layers"], state, strict=True)):
            projected = cell.project(layer, outputs)
            if length is None:
                last, outputs = recurrence.scan(cell, layer, first, projected, keep)
            else:
                last, outputs = recurrence.loop(cell, layer, first, projected, length, keep)
            states.append(last)
            if dropout and dropout_keys is not None:
                outputs = drop(dropout_keys, i, outputs, dropout)
        return tuple(states), readout(params, outputs)

    return CharModel(vocab_size, init, initial_state, step, unroll)


def drop(keys: jax.Array, layer: int, values: jax.Array, rate: float) -> jax.Array:
    """`values` [time, ..., features], each zero with probability `rate`, else divided by 1 - rate.

    Each row [...] has a key, so that its draws do not depend on which device holds it.
    """

    def draw(key: jax.Array) -> jax.Array:
        # In steps of 2^-16: half as many random bits as a uniform number takes.
        return jax.random.bits(
            jax.random.fold_in(key, layer), (values.shape[0], values.shape[-1]), jnp.uint16
        )

    threshold = min(round(rate * 2**16), 2**16 - 1)
    bits = jax.vmap(draw, out_axes=1)(keys.reshape(-1)).reshape(values.shape)
    scale = jnp.asarray(2**16 / (2**16 - threshold), values.dtype)
    return jnp.where(bits >= threshold, values * scale, 0)
