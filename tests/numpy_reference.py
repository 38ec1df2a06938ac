"""The dinosaur-name exercise in plain NumPy: oracle of the tests, rival in the benchmark.

A one-layer vanilla recurrent network with hand-written back-propagation through time. Nothing here
imports JAX or dinojax, so agreement with them is evidence. Row vectors throughout (the exercise
uses columns: its `Waa` is our `recurrent_kernel` transposed), and the library's parameter tree:

    {"layers": [{"input_kernel": [vocab, hidden], "recurrent_kernel": [hidden, hidden],
                 "bias": [hidden]}],
     "readout": {"kernel": [hidden, vocab], "bias": [vocab]}}

Ids are 0 .. vocab-1, newline is 0, and the id `vocab` means "no character": an input of zeros.
All arithmetic is in the dtype of the parameters.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Leaves = dict[str, Array]


class Params(TypedDict):
    """Parameters, or their gradients, as the library nests them; `layers` has one entry here."""

    layers: list[Leaves]
    readout: Leaves


NEWLINE = 0


def exercise_params(vocab_size: int, hidden_size: int, seed: int = 1) -> Params:
    """Draw the initial values of the exercise: kernels N(0, 0.01^2), biases zero, in float64.

    Drawn in its order (Wax, Waa, Wya) and in its orientation [to, from], then transposed.
    """
    generator = np.random.RandomState(seed)

    def kernel(size_in: int, size_out: int) -> Array:
        return np.ascontiguousarray(0.01 * generator.randn(size_out, size_in).T)

    layer: Leaves = {
        "input_kernel": kernel(vocab_size, hidden_size),
        "recurrent_kernel": kernel(hidden_size, hidden_size),
        "bias": np.zeros(hidden_size),
    }
    readout: Leaves = {"kernel": kernel(hidden_size, vocab_size), "bias": np.zeros(vocab_size)}
    return {"layers": [layer], "readout": readout}


class LossAndGradients(Protocol):
    """Loss of one name, gradients, last hidden state; arguments as in `loss_and_gradients`."""

    def __call__(
        self, params: Params, inputs: Sequence[int], targets: Sequence[int], initial_hidden: Array
    ) -> tuple[float, Params, Array]: ...


def loss_and_gradients(
    params: Params, inputs: Sequence[int], targets: Sequence[int], initial_hidden: Array
) -> tuple[float, Params, Array]:
    """Cross-entropy of one name, summed over time, in nats; its gradients; the last state.

        h_t = tanh(x_t W_xh + h_{t-1} W_hh + b_h)        x_t one-hot [vocab] or zero, h_t [hidden]
        loss = -sum_t log softmax(h_t W_hy + b_y)[target_t]

    One character after the other, forward and then backward, as the exercise does it. Backward,
    with a_t the argument of tanh and g_t = dloss/da_t (g is zero after the last step):

        dloss/dy_t = softmax(y_t) - onehot(target_t)
        g_t = (dloss/dy_t W_hy^T + g_{t+1} W_hh^T) * (1 - h_t^2)

    `initial_hidden` [hidden] counts as a constant: nothing flows back into earlier names.
    """
    (layer,), readout = params["layers"], params["readout"]
    vocab_size = layer["input_kernel"].shape[0]

    loss, hidden, probabilities = 0.0, [initial_hidden], []
    for x, target in zip(inputs, targets, strict=True):
        argument = hidden[-1] @ layer["recurrent_kernel"] + layer["bias"]
        if x != vocab_size:
            argument += layer["input_kernel"][x]
        hidden.append(np.tanh(argument))
        logits = hidden[-1] @ readout["kernel"] + readout["bias"]
        exponentials = np.exp(logits - logits.max())
        probabilities.append(exponentials / exponentials.sum())
        loss -= float(np.log(probabilities[-1][target]))

    gradients = _map_leaves(np.zeros_like, params)
    (d_layer,), d_readout = gradients["layers"], gradients["readout"]
    g = np.zeros_like(layer["bias"])
    for t in reversed(range(len(inputs))):
        d_logits = probabilities[t].copy()
        d_logits[targets[t]] -= 1
        d_readout["kernel"] += np.outer(hidden[t + 1], d_logits)
        d_readout["bias"] += d_logits
        d_hidden = readout["kernel"] @ d_logits + layer["recurrent_kernel"] @ g
        g = d_hidden * (1 - hidden[t + 1] ** 2)
        if inputs[t] != vocab_size:
            d_layer["input_kernel"][inputs[t]] += g
        d_layer["recurrent_kernel"] += np.outer(hidden[t], g)
        d_layer["bias"] += g
    return loss, gradients, hidden[-1]


def tuned_loss_and_gradients(
    params: Params, inputs: Sequence[int], targets: Sequence[int], initial_hidden: Array
) -> tuple[float, Params, Array]:
    """The same as `loss_and_gradients`, with fewer operations: a rival for the benchmark.

    Only the two recurrences loop over time; the rest is one matrix product over all steps.
    """
    (layer,), readout = params["layers"], params["readout"]
    recurrent_kernel = layer["recurrent_kernel"]
    vocab_size, hidden_size = layer["input_kernel"].shape
    dtype, length = recurrent_kernel.dtype, len(inputs)
    steps = np.arange(length)

    # The last of the vocab + 1 rows is all zeros, which is what "no character" must contribute.
    one_hot = np.eye(vocab_size + 1, vocab_size, dtype=dtype)[inputs]  # [time, vocab]
    projected = one_hot @ layer["input_kernel"] + layer["bias"]  # [time, hidden]
    states = np.empty((length + 1, hidden_size), dtype)  # h_0 (given), h_1, .., h_time
    states[0] = initial_hidden
    h = states[0]
    for t in range(length):
        # `dot` has less overhead than `@` for a vector this small.
        states[t + 1] = h = np.tanh(projected[t] + h.dot(recurrent_kernel))
    hidden = states[1:]

    logits = hidden @ readout["kernel"] + readout["bias"]  # [time, vocab]
    logits -= logits.max(axis=1, keepdims=True)
    exponentials = np.exp(logits)
    totals = exponentials.sum(axis=1, keepdims=True)
    loss = float(np.log(totals).sum() - logits[steps, targets].sum())

    d_logits = exponentials / totals
    d_logits[steps, targets] -= 1
    d_hidden = d_logits @ readout["kernel"].T
    slopes = 1 - hidden * hidden
    d_arguments = np.empty_like(hidden)  # g_1, .., g_time
    g = np.zeros(hidden_size, dtype)
    for t in reversed(range(length)):
        d_arguments[t] = g = (d_hidden[t] + recurrent_kernel.dot(g)) * slopes[t]

    d_layer: Leaves = {
        "input_kernel": one_hot.T @ d_arguments,
        "recurrent_kernel": states[:-1].T @ d_arguments,
        "bias": d_arguments.sum(axis=0),
    }
    d_readout: Leaves = {"kernel": hidden.T @ d_logits, "bias": d_logits.sum(axis=0)}
    return loss, {"layers": [d_layer], "readout": d_readout}, states[-1]


def _map_leaves(function: Callable[..., Array], *trees: Params) -> Params:
    """Apply `function` to corresponding leaves of equally shaped trees."""

    def combine(*groups: Leaves) -> Leaves:
        return {name: function(*(group[name] for group in groups)) for name in groups[0]}

    layers = zip(*(tree["layers"] for tree in trees), strict=True)
    readouts = (tree["readout"] for tree in trees)
    return {"layers": [combine(*groups) for groups in layers], "readout": combine(*readouts)}


def clip(gradients: Params, clip_value: float) -> Params:
    """Clip every element to [-clip_value, clip_value]."""
    return _map_leaves(lambda g: g.clip(-clip_value, clip_value), gradients)


def sgd(params: Params, gradients: Params, learning_rate: float) -> Params:
    """One step of plain gradient descent, as new arrays: p - learning_rate * g."""
    return _map_leaves(lambda p, g: p - learning_rate * g, params, gradients)


def train(
    params: Params,
    names_ids: Sequence[Sequence[int]],
    order: Iterable[int],
    learning_rate: float,
    clip_value: float,
    carry_state: bool,
    smoothed_loss: float,
    hidden: Array | None = None,
    gradients_of: LossAndGradients = loss_and_gradients,
) -> tuple[Params, Array, list[float], float]:
    """Train on one name a step, for the examples of `order`, as the exercise does.

    `names_ids` are the examples, each without its newline. With `carry_state` a name starts from
    the last state of the one before it (the exercise's way), and the first from `hidden` [hidden]
    (None: zeros); without, every name starts from zeros. The smoothed loss becomes 0.999 of itself
    plus 0.001 of each loss. Returns what is needed to continue, and the loss of every step.
    """
    input_kernel = params["layers"][0]["input_kernel"]
    no_character, hidden_size = input_kernel.shape
    zeros = np.zeros(hidden_size, input_kernel.dtype)
    hidden = zeros if hidden is None else hidden
    losses: list[float] = []
    for index in order:
        name = names_ids[index]
        loss, gradients, hidden = gradients_of(
            params, [no_character, *name], [*name, NEWLINE], hidden if carry_state else zeros
        )
        params = sgd(params, clip(gradients, clip_value), learning_rate)
        losses.append(loss)
        smoothed_loss = 0.999 * smoothed_loss + 0.001 * loss
    return params, hidden, losses, smoothed_loss


def draw(probabilities: Array, uniform: float) -> int:
    """Index that `np.random.choice(len(p), p=p)` returns if its generator yields `uniform`.

    That is the first index whose cumulative probability, in float64, exceeds `uniform` in [0, 1).
    """
    cumulative = probabilities.cumsum(dtype=np.float64)
    cumulative /= cumulative[-1]
    return int(cumulative.searchsorted(uniform, side="right"))


def sample_name(params: Params, uniforms: Iterable[float], max_length: int) -> list[int]:
    """Write one name from a zero state: its ids, without the newline.

    Takes one uniform a character, the newline's included, and stops at the newline, after
    `max_length` characters, or when `uniforms` runs out.
    """
    (layer,), readout = params["layers"], params["readout"]
    input_kernel, recurrent_kernel = layer["input_kernel"], layer["recurrent_kernel"]
    bias, kernel, readout_bias = layer["bias"], readout["kernel"], readout["bias"]
    hidden = np.zeros_like(bias)
    projected = bias  # the first input is "no character"
    name: list[int] = []
    for uniform in islice(uniforms, max_length):
        hidden = np.tanh(projected + hidden.dot(recurrent_kernel))
        logits = hidden.dot(kernel) + readout_bias
        exponentials = np.exp(logits - logits.max())
        index = draw(exponentials / exponentials.sum(), uniform)
        if index == NEWLINE:
            break
        name.append(index)
        projected = input_kernel[index] + bias
    return name


def sample_names(
    params: Params, generator: np.random.Generator, num: int, max_length: int
) -> list[list[int]]:
    """Write `num` names one after another, each from `max_length` uniforms of its own."""
    return [sample_name(params, generator.random(max_length), max_length) for _ in range(num)]


def sigmoid(x: Array) -> Array:
    """The function of gates."""
    return 1 / (1 + np.exp(-x))


def hard_sigmoid(x: Array) -> Array:
    """Three straight lines in its place, as Keras 2 draws them: they meet at -2.5 and 2.5."""
    return np.where(x < -2.5, 0, np.where(x > 2.5, 1, 0.2 * x + 0.5))


def gru_step(
    gates: dict[str, Leaves],
    candidate_bias: Array | None,
    hidden: Array,
    x: Array,
    gate: Callable[[Array], Array] = sigmoid,
) -> Array:
    """One step of the gated recurrent unit of Cho et al. (2014), in cuDNN's form: the next state.

    Each of the gates "r", "z" and "n" has `input_kernel` [input, hidden], `recurrent_kernel`
    [hidden, hidden] and `bias` [hidden]. `candidate_bias` [hidden] joins what the state adds to
    the candidate n, before the reset gate r multiplies it; without one, the gate multiplies the
    state instead, as in the paper. `hidden` is [..., hidden], `x` is [..., input].
    """
    r, z, n = gates["r"], gates["z"], gates["n"]
    reset = gate(x @ r["input_kernel"] + hidden @ r["recurrent_kernel"] + r["bias"])
    update = gate(x @ z["input_kernel"] + hidden @ z["recurrent_kernel"] + z["bias"])
    if candidate_bias is None:
        recurrent = (reset * hidden) @ n["recurrent_kernel"]
    else:
        recurrent = reset * (hidden @ n["recurrent_kernel"] + candidate_bias)
    candidate = np.tanh(x @ n["input_kernel"] + n["bias"] + recurrent)
    return (1 - update) * candidate + update * hidden


def lstm_step(
    gates: dict[str, Leaves],
    memory: Array,
    hidden: Array,
    x: Array,
    gate: Callable[[Array], Array] = sigmoid,
) -> tuple[Array, Array]:
    """One step of the LSTM of Hochreiter & Schmidhuber (1997): the next memory and hidden state.

    With the forget gate of Gers et al. (2000), without peepholes. The gates "i", "f", "g" and "o"
    have the parameters that those of `gru_step` have. `memory` and `hidden` are [..., hidden], `x`
    is [..., input].
    """
    i, f, g, o = gates["i"], gates["f"], gates["g"], gates["o"]
    input_gate = gate(x @ i["input_kernel"] + hidden @ i["recurrent_kernel"] + i["bias"])
    forget_gate = gate(x @ f["input_kernel"] + hidden @ f["recurrent_kernel"] + f["bias"])
    candidate = np.tanh(x @ g["input_kernel"] + hidden @ g["recurrent_kernel"] + g["bias"])
    output_gate = gate(x @ o["input_kernel"] + hidden @ o["recurrent_kernel"] + o["bias"])
    memory = forget_gate * memory + input_gate * candidate
    return memory, output_gate * np.tanh(memory)
