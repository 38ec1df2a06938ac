"""Cells whose state obeys a linear recurrence: a layer of them needs no loop over time.

    h_t = a_t * h_{t-1} + b_t        for each hidden unit on its own

The decays a_t and the terms b_t depend on the inputs alone, so they are computed for all time steps
at once, and the states by `linear_recurrence`. The units of a layer do not read each other, only
the next layer reads them all: these cells are meant for stacks of two or more layers.

All functions accept any leading batch dimensions, written `...` in shapes. For `dtype` and
`product_dtype` see `cells`; `product_dtype` never rounds decays, terms and states.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from dinojax.models.cells import Init, InitialState, Params
from dinojax.models.gates import affine_gates, sigmoid
from dinojax.models.linear_recurrence import Numbers
from dinojax.models.products import ProductDType, affine, linear

Projected = tuple[jax.Array, ...]
"""What the inputs contribute to each gate, [..., hidden]."""


class LinearCell(NamedTuple):
    """A cell with a linear recurrence. The state is `Numbers` [..., hidden], initially zero."""

    hidden_size: int
    """Features of the output."""
    init: Init
    initial_state: InitialState
    project: Callable[[Params, jax.Array], Projected]
    """The matrix products with the inputs, ids [...] or vectors [..., features]."""
    coefficients: Callable[[Params, Projected], tuple[Numbers, Numbers]]
    """The decay and the term of a step, [..., hidden]."""
    output: Callable[[Params, Numbers, Projected], jax.Array]
    """The outputs [..., hidden], from the state after the step."""


def mingru(
    input_size: int,
    hidden_size: int,
    dtype: DTypeLike = jnp.float32,
    product_dtype: ProductDType = None,
) -> LinearCell:
    """The minimal gated recurrent unit of Feng et al., Were RNNs All We Needed? (2024).

        z_t = sigmoid(x_t W_z + b_z)                  update gate
        n_t = x_t W_n + b_n                           candidate
        h_t = (1 - z_t) * h_{t-1} + z_t * n_t

    This is the paper's first form; its second, for training in log-space, makes n_t positive. The
    output is h. Parameters, with the gates side by side in the order z, n: `input_kernel`
    [input, 2 hidden], uniform as in Glorot & Bengio (2010), and `bias` [2 hidden], zero.
    """

    def init(key: jax.Array) -> Params:
        return _init_gates(key, input_size, (hidden_size,) * 2, dtype)

    def coefficients(params: Params, projected: Projected) -> tuple[Numbers, Numbers]:
        del params
        update, candidate = projected
        return (sigmoid(-update),), (sigmoid(update) * candidate,)

    return _real_cell(hidden_size, init, 2, coefficients, dtype, product_dtype)


def minlstm(
    input_size: int,
    hidden_size: int,
    dtype: DTypeLike = jnp.float32,
    product_dtype: ProductDType = None,
) -> LinearCell:
    """The minimal long short-term memory of Feng et al., Were RNNs All We Needed? (2024).

        i_t = sigmoid(x_t W_i + b_i)                  input gate
        f_t = sigmoid(x_t W_f + b_f)                  forget gate
        n_t = x_t W_n + b_n                           candidate
        h_t = (f_t * h_{t-1} + i_t * n_t) / (f_t + i_t)

    The shares of the two gates are computed as sigmoid(+-(log f_t - log i_t)), which is safe where
    both gates are closed. As in `mingru`, the form is not the paper's second, in log-space. The
    output is h. Parameters, with the gates side by side in the order i, f, n: `input_kernel`
    [input, 3 hidden], uniform as in Glorot & Bengio (2010), and `bias` [3 hidden], zero.
    """

    def init(key: jax.Array) -> Params:
        return _init_gates(key, input_size, (hidden_size,) * 3, dtype)

    def coefficients(params: Params, projected: Projected) -> tuple[Numbers, Numbers]:
        del params
        input_gate, forget_gate, candidate = projected
        # log sigmoid(x) = -softplus(-x)
        ratio = jax.nn.softplus(-input_gate) - jax.nn.softplus(-forget_gate)
        return (sigmoid(ratio),), (sigmoid(-ratio) * candidate,)

    return _real_cell(hidden_size, init, 3, coefficients, dtype, product_dtype)


SHARPNESS = 8.0
"""The c of `rglru`, as in the paper."""
LEAST_SQUARE = 1e-6
"""Least 1 - a^2 of `rglru`: the root of zero has no gradient."""


def rglru(
    input_size: int,
    hidden_size: int,
    dtype: DTypeLike = jnp.float32,
    product_dtype: ProductDType = None,
) -> LinearCell:
    """The real-gated linear recurrent unit of De et al., Griffin (2024), with its gated branch.

        r_t = sigmoid(x_t W_r + b_r)                  recurrence gate
        i_t = sigmoid(x_t W_i + b_i)                  input gate
        n_t = x_t W_n + b_n                           candidate
        a_t = sigmoid(L)^(8 r_t)
        h_t = a_t * h_{t-1} + sqrt(1 - a_t^2) * (i_t * n_t)
        y_t = h_t * gelu(x_t W_g + b_g)

    Without the branch, its memory is so long that it learned the bundled names less well than a
    bigram model. In the paper a convolution stands before the recurrence, whose gates read n_t by
    block-diagonal kernels; here they read x_t by full ones, and the convolution, the last product
    of the block and its residual connection are left out. After a reset the first input has the
    root as its factor too, where the paper's code has one. GELU is approximated by tanh.

    The output is y. Parameters, with the gates side by side in the order r, i, n, g: `input_kernel`
    [input, 4 hidden], uniform as in Glorot & Bengio (2010), `bias` [4 hidden], zero, and `decay` L
    [hidden], such that sigmoid(L)^8 is uniform from 0.9 to 0.999.
    """

    def init(key: jax.Array) -> Params:
        key_gates, key_decay = jax.random.split(key)
        shares = jax.random.uniform(key_decay, (hidden_size,), dtype, 0.9, 0.999)
        decay = -jnp.log(jnp.expm1(-jnp.log(shares) / SHARPNESS))
        gates = _init_gates(key_gates, input_size, (hidden_size,) * 4, dtype)
        return gates | {"decay": decay}

    def coefficients(params: Params, projected: Projected) -> tuple[Numbers, Numbers]:
        recurrence_gate, input_gate, candidate, _ = projected
        rate = SHARPNESS * jax.nn.softplus(-params["decay"])
        logarithm = -sigmoid(recurrence_gate) * jnp.broadcast_to(rate, recurrence_gate.shape)
        root = jnp.sqrt(jnp.maximum(-jnp.expm1(2 * logarithm), LEAST_SQUARE))
        return (jnp.exp(logarithm),), (root * sigmoid(input_gate) * candidate,)

    def output(params: Params, state: Numbers, projected: Projected) -> jax.Array:
        del params
        return state[0] * jax.nn.gelu(projected[3], approximate=True)

    cell = _real_cell(hidden_size, init, 4, coefficients, dtype, product_dtype)
    return cell._replace(output=output)


def lru(
    input_size: int,
    hidden_size: int,
    dtype: DTypeLike = jnp.float32,
    product_dtype: ProductDType = None,
) -> LinearCell:
    """The linear recurrent unit of Orvieto et al. (2023), whose decays are complex and constant.

        a = exp(-exp(nu) + i exp(theta))
        h_t = a * h_{t-1} + exp(gamma) * (x_t B + b)          complex
        y_t = gelu(Re(h_t C) + x_t D + d)

    The unit itself is linear. In the paper a nonlinear network and a residual connection follow it;
    here GELU, approximated by tanh, takes their place. B has a bias. The output is y. There are
    half as many complex numbers h as units, rounded up, so that a state is as large as that of
    another cell: the pair of Re h and Im h, each [..., hidden / 2].

    All parameters are real. `input_kernel` [input, 2 hidden] has Re B, Im B and D side by side,
    `bias` [2 hidden] Re b, Im b and d, `output_kernel` [hidden, hidden] Re C above -Im C. Kernels
    are uniform as in Glorot & Bengio (2010), biases zero. `log_rate` nu and `log_phase` theta
    [hidden / 2] place a uniformly in a disc, of radius 0.999, and `log_scale` gamma [hidden / 2] is
    log sqrt(1 - |a|^2), so that the state is as large as its input.
    """
    num = -(-hidden_size // 2)

    def init(key: jax.Array) -> Params:
        key_input, key_output, key_radius, key_phase = jax.random.split(key, 4)
        squares = jax.random.uniform(key_radius, (num,), dtype, 1e-6, 0.999**2)
        turns = jax.random.uniform(key_phase, (num,), dtype, 1e-6, 1.0)
        glorot = jax.nn.initializers.glorot_uniform()
        return _init_gates(key_input, input_size, (num, num, hidden_size), dtype) | {
            "log_rate": jnp.log(-0.5 * jnp.log(squares)),
            "log_phase": jnp.log(2 * jnp.pi * turns),
            "log_scale": 0.5 * jnp.log1p(-squares),
            "output_kernel": glorot(key_output, (2 * num, hidden_size), dtype),
        }

    def initial_state(batch_shape: tuple[int, ...]) -> Numbers:
        zeros = jnp.zeros((*batch_shape, num), dtype)
        return zeros, zeros

    def project(params: Params, inputs: jax.Array) -> Projected:
        sums = affine(params["input_kernel"], params["bias"], inputs, product_dtype)
        return tuple(jnp.split(sums, [num, 2 * num], axis=-1))

    def coefficients(params: Params, projected: Projected) -> tuple[Numbers, Numbers]:
        real, imaginary, _ = projected
        radius, phase = jnp.exp(-jnp.exp(params["log_rate"])), jnp.exp(params["log_phase"])
        scale = jnp.broadcast_to(jnp.exp(params["log_scale"]), real.shape)
        decay = radius * jnp.cos(phase), radius * jnp.sin(phase)
        decays = tuple(jnp.broadcast_to(x, real.shape) for x in decay)
        return decays, (scale * real, scale * imaginary)

    def output(params: Params, state: Numbers, projected: Projected) -> jax.Array:
        _, _, skipped = projected
        both = jnp.concatenate(state, axis=-1)
        read = linear(params["output_kernel"], both, product_dtype)
        return jax.nn.gelu(read + skipped, approximate=True)

    return LinearCell(hidden_size, init, initial_state, project, coefficients, output)


LINEAR_CELLS: dict[str, Callable[..., LinearCell]] = {
    "mingru": mingru,
    "minlstm": minlstm,
    "rglru": rglru,
    "lru": lru,
}
"""All linear cells by name."""


def _init_gates(
    key: jax.Array, input_size: int, sizes: tuple[int, ...], dtype: DTypeLike
) -> Params:
    """An input kernel and a bias for gates of these sizes side by side, each with its own key."""
    glorot = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(key, len(sizes))
    kernels = [glorot(k, (input_size, size), dtype) for k, size in zip(keys, sizes, strict=True)]
    return {
        "input_kernel": jnp.concatenate(kernels, axis=1),
        "bias": jnp.zeros(sum(sizes), dtype),
    }


def _real_cell(
    hidden_size: int,
    init: Init,
    num_gates: int,
    coefficients: Callable[[Params, Projected], tuple[Numbers, Numbers]],
    dtype: DTypeLike,
    product_dtype: ProductDType,
) -> LinearCell:
    """A cell with a real state, which is its output."""

    def initial_state(batch_shape: tuple[int, ...]) -> Numbers:
        return (jnp.zeros((*batch_shape, hidden_size), dtype),)

    def project(params: Params, inputs: jax.Array) -> Projected:
        return affine_gates(params, inputs, num_gates, product_dtype)

    def output(params: Params, state: Numbers, projected: Projected) -> jax.Array:
        del params, projected
        return state[0]

    return LinearCell(hidden_size, init, initial_state, project, coefficients, output)
