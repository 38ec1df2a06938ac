"""The character model: recurrent layers in a stack, and a readout of the next character."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.data.vocab import Vocab
from dinojax.models.cells import Init, InitialState, Params, State
from dinojax.models.layers import Layer, Step
from dinojax.models.products import ProductDType, affine


class ModelUnroll(Protocol):
    """Repeats `step` over ids `inputs` [time, ...]: the last state, the logits [time, ..., vocab].

    With a `length` from 0 to time, only so many steps run: the state is the one after them, and
    later logits mean nothing. With `resets` the state is reset wherever "no character" is read.
    With `dropout_keys` [...], one for each row, dropout is applied, as it should be in training
    alone.
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

    Each step predicts the character that follows the one it reads. `unroll` is `step` repeated.
    """

    vocab_size: int
    """Number of characters. As an input, this id means "no character"."""
    newline: int
    """Id of the character that ends a name."""
    init: Init
    initial_state: InitialState
    step: Step
    """Reads one character, ids [...]: the new state and the logits [..., vocab] of the next."""
    unroll: ModelUnroll
    layer_outputs: Callable[[Params, State, jax.Array], tuple[State, tuple[jax.Array, ...]]]
    """Reads one character like `step`: the new state and each layer's outputs [..., hidden]."""


def char_model(
    layers: Sequence[Layer],
    vocab: Vocab,
    *,
    dtype: DTypeLike = jnp.float32,
    dropout: float = 0.0,
    product_dtype: ProductDType = None,
) -> CharModel:
    """A model whose first layer reads ids, and each further layer the outputs of the one below.

        logits_t = h_t W + b        h_t the output of the last layer

    With `dropout`, each output of each layer is zero with that probability, and otherwise divided
    by one minus it, before the next layer or the readout reads it (Srivastava et al., 2014; on
    these connections only, as in Zaremba et al., 2014). The readout's product multiplies numbers
    of `product_dtype`, as in `products.linear`.

    Parameters: `layers`, a list with those of each layer; `readout` with `kernel` W
    [hidden, vocab], uniform as in Glorot & Bengio (2010), and `bias` b [vocab], zero. The state is
    a tuple with that of each layer.

    Raises:
        ValueError: there is no layer, or `dropout` is not in [0, 1).
    """
    if not layers:
        raise ValueError("expected at least one layer, got none")
    if not 0 <= dropout < 1:
        raise ValueError(f"expected a dropout from 0 to less than 1, got {dropout}")

    def init(key: jax.Array) -> Params:
        key_readout, *key_layers = jax.random.split(key, len(layers) + 1)
        glorot = jax.nn.initializers.glorot_uniform()
        return {
            "layers": [layer.init(key) for layer, key in zip(layers, key_layers, strict=True)],
            "readout": {
                "kernel": glorot(key_readout, (layers[-1].output_size, vocab.size), dtype),
                "bias": jnp.zeros(vocab.size, dtype),
            },
        }

    def initial_state(batch_shape: tuple[int, ...]) -> State:
        return tuple(layer.initial_state(batch_shape) for layer in layers)

    def readout(params: Params, outputs: jax.Array) -> jax.Array:
        kernel, bias = params["readout"]["kernel"], params["readout"]["bias"]
        return affine(kernel, bias, outputs, product_dtype)

    def layer_outputs(
        params: Params, state: State, inputs: jax.Array
    ) -> tuple[State, tuple[jax.Array, ...]]:
        states, outputs = [], [inputs]
        for layer, own, below in zip(layers, params["layers"], state, strict=True):
            new_state, new_outputs = layer.step(own, below, outputs[-1])
            states.append(new_state)
            outputs.append(new_outputs)
        return tuple(states), tuple(outputs[1:])

    def step(params: Params, state: State, inputs: jax.Array) -> tuple[State, jax.Array]:
        state, outputs = layer_outputs(params, state, inputs)
        return state, readout(params, outputs[-1])

    def unroll(
        params: Params,
        state: State,
        inputs: jax.Array,
        length: jax.Array | None = None,
        resets: bool = False,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[State, jax.Array]:
        states, outputs = [], inputs
        starts = inputs == vocab.no_character if resets else None
        for i, (layer, own, first) in enumerate(zip(layers, params["layers"], state, strict=True)):
            last, outputs = layer.unroll(own, first, outputs, length, starts)
            states.append(last)
            if dropout and dropout_keys is not None:
                outputs = drop(dropout_keys, i, outputs, dropout)
        return tuple(states), readout(params, outputs)

    return CharModel(vocab.size, vocab.newline, init, initial_state, step, unroll, layer_outputs)


def drop(keys: jax.Array, layer: int, values: jax.Array, rate: float) -> jax.Array:
    """Dropout: each of `values` [time, ..., features] is zero with probability `rate`.

    The others are divided by 1 - rate. Each row [...] has a key, so that its draws do not depend on
    the device that holds it.
    """

    def draw(key: jax.Array) -> jax.Array:
        # Half as many random bits as uniform numbers take; rates are rounded to 2^-16.
        return jax.random.bits(
            jax.random.fold_in(key, layer), (values.shape[0], values.shape[-1]), jnp.uint16
        )

    threshold = min(round(rate * 2**16), 2**16 - 1)
    bits = jax.vmap(draw, out_axes=1)(keys.reshape(-1)).reshape(values.shape)
    scale = jnp.asarray(2**16 / (2**16 - threshold), values.dtype)
    return jnp.where(bits >= threshold, values * scale, 0)
