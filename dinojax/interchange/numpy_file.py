"""A model as a short program in plain NumPy, to be read and learned from."""

import io
from string import Template
from typing import Any

import numpy as np

from dinojax.config import TrainConfig
from dinojax.interchange.torch import has_layout, to_state_dict
from dinojax.messages import count
from dinojax.models.trained import Trained

NAME = "model"
LOAD_NPZ = """\
import numpy as np

with np.load(__file__[:-2] + "npz") as file:
    weights = dict(file)
characters = str(weights.pop("characters"))"""
"""Lines that read the weights and the characters from a file beside the program."""

_PROGRAM = Template('''\
"""A character-level language model, $layers. Vectors are columns."""

$load

$sigmoid
def start():
    """The state of each layer before the first step."""
    return [$zeros for _ in range($num_layers)]


def step(state, i):
    """Read character i, changing the state: the logits of the next. At first, i is -1, for none."""
    x = np.arange(len(characters)) == i
    for layer, $state in enumerate(state):
        u = weights[f"rnn.weight_ih_l{layer}"] @ x + weights[f"rnn.bias_ih_l{layer}"]
$cell
        state[layer], x = $state, h
    return weights["readout.weight"] @ x + weights["readout.bias"]


def logits(text):
    """The logits [len(text) + 1, vocab] of each character of the text and of what follows it."""
    state = start()
    return np.array([step(state, i) for i in [-1, *map(characters.index, text)]])


def score(text):
    """The log-probability of the text in nats; a whole name ends with a newline."""
    pairs = zip(logits(text), text)
    return float(sum(y[characters.index(c)] - np.logaddexp.reduce(y) for y, c in pairs))


def sample(seed, length=$length, stop=$stop):
    """A new text of that length, or one that ends before the character `stop`."""
    generator, state, i, text = np.random.default_rng(seed), start(), -1, ""
    while len(text) < length:
        y = step(state, i)
        i = generator.choice(len(y), p=np.exp(y - np.logaddexp.reduce(y)))
        if characters[i] == stop:
            break
        text += characters[i]
    return text


if __name__ == "__main__":
    print(*map(sample, range($num)), sep="\\n")
''')

_GATES = {
    "sigmoid": """
def sigmoid(x):
    return (np.tanh(x / 2) + 1) / 2  # 1 / (1 + exp(-x)) without overflow

""",
    "hard_sigmoid": """
def sigmoid(x):
    return np.clip(0.2 * x + 0.5, 0, 1)  # a hard sigmoid

""",
}

_FROM_STATE = """\
        v = weights[f"rnn.weight_hh_l{layer}"] @ h + weights[f"rnn.bias_hh_l{layer}"]
"""

_CELLS = {
    "vanilla": "        h = np.tanh(u + v)",
    "gru": """\
        (r, z, n), (r_h, z_h, n_h) = np.split(u, 3), np.split(v, 3)
        r, z = sigmoid(r + r_h), sigmoid(z + z_h)
        h = (1 - z) * np.tanh(n + r * n_h) + z * h""",
    "gru_reset_before": """\
        (r, z, n), (r_h, z_h, n_h) = np.split(u, 3), np.split(v, 3)
        r, z = sigmoid(r + r_h), sigmoid(z + z_h)
        n_h = weights[f"rnn.weight_hh_l{layer}"][-len(h) :] @ (r * h)
        h = (1 - z) * np.tanh(n + n_h) + z * h""",
    "lstm": """\
        i, f, g, o = np.split(u + v, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)""",
    "mingru": """\
        z, n = np.split(u, 2)
        h = sigmoid(-z) * h + sigmoid(z) * n""",
    "minlstm": """\
        i, f, n = np.split(u, 3)
        share = sigmoid(np.logaddexp(0, -i) - np.logaddexp(0, -f))  # f / (f + i)
        h = share * h + (1 - share) * n""",
    "rglru": """\
        r, i, n, g = np.split(u, 4)
        a = -8 * np.logaddexp(0, -weights[f"rnn.decay_l{layer}"]) * sigmoid(r)
        c = np.exp(a) * c + np.sqrt(np.maximum(-np.expm1(2 * a), 1e-6)) * sigmoid(i) * n
        h = c * g * sigmoid(np.sqrt(8 / np.pi) * (g + 0.044715 * g**3))  # c * GELU(g)""",
    "lru": """\
        rate, phase, scale = (weights[f"rnn.log_{w}_l{layer}"] for w in ("rate", "phase", "scale"))
        re, im, d = np.split(u, [len(c), 2 * len(c)])
        c = np.exp(-np.exp(rate) + 1j * np.exp(phase)) * c + np.exp(scale) * (re + 1j * im)
        y = weights[f"rnn.output_kernel_l{layer}"] @ np.append(c.real, c.imag) + d
        h = y * sigmoid(np.sqrt(8 / np.pi) * (y + 0.044715 * y**3))  # GELU""",
}
_STATES = {"lstm": "(c, h)", "rglru": "c", "lru": "c"}
"""The variables of a state, where it is not h alone."""


def files(trained: Trained, config: TrainConfig) -> dict[str, bytes]:
    """The program and its weights by name."""
    buffer, characters = io.BytesIO(), np.array(trained.vocab.characters)
    arrays: dict[str, Any] = {"characters": characters, **to_state_dict(trained.params)}
    np.savez(buffer, allow_pickle=False, **arrays)
    return {
        f"{NAME}.npz": buffer.getvalue(),
        f"{NAME}.py": program(config, trained.max_length).encode(),
    }


def describe_layers(config: TrainConfig) -> str:
    """The layers of a model in words, such as "2 GRU layers of 64 units"."""
    names = {
        "gru": "GRU", "gru_reset_before": "GRU (reset before)", "lstm": "LSTM",
        "mingru": "minGRU", "minlstm": "minLSTM", "rglru": "RG-LRU", "lru": "LRU",
    }  # fmt: skip
    cell = names.get(config.cell, config.cell)
    return f"{count(config.num_layers, f'{cell} layer')} of {config.hidden_size:,} units"


def program(config: TrainConfig, max_length: int, load: str = LOAD_NPZ) -> str:
    """A program that scores and samples: start, step, logits, score, sample.

    The lines `load` set `weights`, by the names of `to_state_dict`, and `characters`. Names are cut
    after `max_length` characters. A ValueError is raised if no lines are written for the cell.
    """
    if config.cell not in _CELLS:
        raise ValueError(
            f"{__name__} has no {config.cell} cell; add it there, or export it as stablehlo"
        )
    zeros = f"np.zeros({config.hidden_size})"
    starts = {"lstm": f"({zeros}, {zeros})", "lru": f"np.zeros({-(-config.hidden_size // 2)})"}
    return _PROGRAM.substitute(
        layers=describe_layers(config),
        load=load,
        sigmoid="" if config.cell == "vanilla" else _GATES[config.gate],
        zeros=starts.get(config.cell, zeros),
        num_layers=config.num_layers,
        state=_STATES.get(config.cell, "h"),
        cell=_FROM_STATE * has_layout(config) + _CELLS[config.cell],
        length=400 if config.is_text else max_length,
        stop="None" if config.is_text else '"\\n"',
        num=1 if config.is_text else 10,
    )
