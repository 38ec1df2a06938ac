"""PyTorch's side of the bench: PyTorch's layers on all cores, as its tutorials use them.

Characters are one-hot vectors, so each network equals dinojax's, except for a second bias. Where
PyTorch sees a GPU, it computes there, by cuDNN; its calls return before they have computed, so each
round ends by waiting for them.
"""

import time
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy, one_hot

from dinojax.data.batches import pad_names
from dinojax.presets import PRESETS

from bench_sides import work as works
from bench_sides.work import (
    BATCH_SIZE,
    LEARNING_RATE,
    MAX_LENGTH,
    WINDOW,
    WORKS,
    Prepared,
    Round,
    Task,
    mean_of,
    nested,
    read_data,
    repeated,
    trained_params,
)

LAYERS = {"vanilla": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}
SCORED_AT_ONCE = 4096
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Wait until the device has computed all that it was given."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


class CharNetwork(NamedTuple):
    """Recurrent layers and a readout."""

    layers: Any
    readout: Any

    @property
    def parameters(self) -> list[Any]:
        """All parameters, for an optimizer."""
        return [*self.layers.parameters(), *self.readout.parameters()]


def make_network(network: works.Network, params: Any) -> CharNetwork:
    """A network of PyTorch's layers with the parameters of ours."""
    vocab_size = len(params["readout"]["bias"])
    layers = LAYERS[network.cell](vocab_size, network.hidden_size, network.num_layers)
    readout = torch.nn.Linear(network.hidden_size, vocab_size)
    with torch.no_grad():
        for i, layer in enumerate(params["layers"]):
            set_layer(layers, i, layer, network.hidden_size)
        readout.weight.copy_(torch.from_numpy(params["readout"]["kernel"].T.copy()))
        readout.bias.copy_(torch.from_numpy(params["readout"]["bias"]))
    return CharNetwork(layers.to(DEVICE), readout.to(DEVICE))


def unroll(network: CharNetwork, ids: Any, state: Any = None) -> tuple[Any, Any]:
    """The logits [time, batch, vocab] after `ids` [time, batch], and the state."""
    # The last class, "no character", is the zero vector.
    vectors = one_hot(ids, network.readout.out_features + 1)[..., :-1].float()
    outputs, state = network.layers(vectors, state)
    return network.readout(outputs), state


def set_layer(layers: Any, i: int, params: Any, hidden_size: int) -> None:
    """Copy the parameters of our layer `i` to PyTorch's."""
    for ours, theirs in (("input_kernel", "weight_ih"), ("recurrent_kernel", "weight_hh")):
        getattr(layers, f"{theirs}_l{i}").copy_(torch.from_numpy(params[ours].T.copy()))
    getattr(layers, f"bias_ih_l{i}").copy_(torch.from_numpy(params["bias"]))
    second = getattr(layers, f"bias_hh_l{i}")
    second.zero_()
    if "candidate_bias" in params:
        second[2 * hidden_size :].copy_(torch.from_numpy(params["candidate_bias"]))


def prepare(task: Task) -> Prepared:
    """Read the data of a work; nothing is compiled."""
    kind = task.work.split()[0]
    if kind == "train":
        exercise = WORKS[task.work].unit == "steps"
        return 0.0, (train_exercise if exercise else train_batches)(task)
    return 0.0, {"sample": sampling, "score": scoring}[kind](task)


def first_params(task: Task) -> tuple[Any, Any]:
    """The initial parameters, and the order of the names."""
    with np.load(task.handed_over, allow_pickle=False) as arrays:
        return nested({name: arrays[name] for name in arrays.files}), arrays["order"].tolist()


def train_exercise(task: Task) -> Any:
    """Train on one name per step."""
    names, vocab = read_data(task)
    params, order = first_params(task)
    network, recipe = make_network(WORKS[task.work].network, params), PRESETS["dinos"]
    optimizer = torch.optim.SGD(network.parameters, recipe.learning_rate)
    none, newline = vocab.no_character, vocab.newline
    encoded = [vocab.encode(name).tolist() for name in names]
    examples = [
        (
            torch.tensor([none, *ids], device=DEVICE)[:, None],
            torch.tensor([*ids, newline], device=DEVICE),
        )
        for ids in encoded
    ]
    indices, losses = cycle(order), []

    def do_round() -> Round:
        started, characters = time.perf_counter(), 0.0
        for _ in range(task.amount):
            inputs, targets = examples[next(indices)]
            logits, _ = unroll(network, inputs)
            loss = cross_entropy(logits[:, 0], targets, reduction="sum")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_value_(network.parameters, recipe.clip_value)
            optimizer.step()
            losses.append(loss.detach())
            characters += len(targets)
        wait()
        seconds = time.perf_counter() - started
        return Round(seconds, task.amount, characters, mean_of(values(losses), task.compared))

    return do_round


def train_batches(task: Task) -> Any:
    """Train on windows of the text, with a carried state, or on batches of padded names."""
    work = WORKS[task.work]
    batches = text_batches() if work.is_text else name_batches(task)
    # The number of characters is known without asking the device, which would wait for it.
    batches = [
        (*(field.to(DEVICE) for field in fields), is_first, float(fields[2].sum()))
        for *fields, is_first in batches
    ]
    params, _ = first_params(task)
    network = make_network(works.network_of(work, task.side, task.is_tiny), params)
    optimizer = torch.optim.Adam(network.parameters, LEARNING_RATE)
    losses: list[Any] = []
    source, state = cycle(batches), None

    def step() -> float:
        nonlocal state
        inputs, targets, weights, is_first, num_characters = next(source)
        logits, new = unroll(network, inputs, None if is_first else state)
        nats = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        loss = (nats * weights.flatten()).sum() / num_characters
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if work.is_text:
            state = tuple(x.detach() for x in new) if isinstance(new, tuple) else new.detach()
        losses.append(loss.detach())
        return num_characters

    for _ in range(2):
        step()
    wait()

    def do_round() -> Round:
        started = time.perf_counter()
        characters = sum(step() for _ in range(task.amount))
        wait()
        seconds = time.perf_counter() - started
        return Round(seconds, characters, characters, mean_of(values(losses), task.compared))

    return do_round


def values(losses: list[Any]) -> list[float]:
    """The losses of all steps, fetched from the device."""
    return torch.stack(losses).tolist()


def text_batches() -> list[Any]:
    """Windows of the text, [time, batch], as dinojax cuts them."""
    ids, vocab = works.text()
    targets = torch.from_numpy(ids.reshape(BATCH_SIZE, -1).T.copy())
    inputs = targets.roll(1, 0)
    inputs[0] = vocab.no_character
    weights = torch.ones(targets.shape)
    return [
        (*(x[first : first + WINDOW] for x in (inputs, targets, weights)), first == 0)
        for first in range(0, len(targets), WINDOW)
    ]


def name_batches(task: Task) -> list[Any]:
    """Padded names, [time, batch], each batch as long as its longest name."""
    names, vocab = read_data(task)
    names = repeated(names, works.NUM_NAMES)
    found = []
    order = np.random.default_rng(0).permutation(len(names))
    for first in range(0, len(names) - BATCH_SIZE + 1, BATCH_SIZE):
        batch = pad_names([names[i] for i in order[first : first + BATCH_SIZE]], vocab)
        inputs, targets = (torch.from_numpy(x.astype(np.int64)) for x in batch[:2])
        found.append((inputs, targets, torch.from_numpy(batch.weights), True))
    return found


def sampling(task: Task) -> Any:
    """Sample names in batches, each until its last name has ended."""
    names, vocab = read_data(task)
    del names
    network = make_network(WORKS[task.work].network, trained_params(task))
    torch.manual_seed(0)
    num = {"sample one name": 1, "sample 1,000 names": 1_000}.get(task.work, 4_096)
    num = min(num, task.amount)

    def write() -> Any:
        previous = torch.full((1, num), vocab.no_character, device=DEVICE)
        lengths, state = torch.zeros(num, device=DEVICE), None
        ended = torch.zeros(num, dtype=torch.bool, device=DEVICE)
        for _ in range(MAX_LENGTH):
            logits, state = unroll(network, previous, state)
            ids = torch.multinomial(torch.softmax(logits[0], dim=-1), 1)[:, 0]
            ended |= ids == vocab.newline
            if ended.all():
                break
            lengths += ~ended
            previous = ids[None]
        return lengths

    with torch.no_grad():
        write()

    def do_round() -> Round:
        started = time.perf_counter()
        with torch.no_grad():
            lengths = torch.cat([write() for _ in range(task.amount // num)]).cpu()
        seconds = time.perf_counter() - started
        characters = float(lengths.sum()) + len(lengths)
        is_stream = WORKS[task.work].unit == "characters"
        amount = characters if is_stream else float(len(lengths))
        return Round(seconds, amount, characters, float(lengths.mean()))

    return do_round


def scoring(task: Task) -> Any:
    """Compute the log-probability of names, in batches of equal size."""
    names, vocab = read_data(task)
    network = make_network(WORKS[task.work].network, trained_params(task))
    batch = pad_names(repeated(names, task.amount), vocab)
    inputs, targets = (torch.from_numpy(x.astype(np.int64)).to(DEVICE) for x in batch[:2])
    weights = torch.from_numpy(batch.weights).to(DEVICE)

    def nats(part: slice) -> Any:
        logits, _ = unroll(network, inputs[:, part])
        each = cross_entropy(logits.flatten(0, 1), targets[:, part].flatten(), reduction="none")
        return (each.view_as(weights[:, part]) * weights[:, part]).sum(0)

    parts = [slice(i, i + SCORED_AT_ONCE) for i in range(0, task.amount, SCORED_AT_ONCE)]

    def do_round() -> Round:
        started = time.perf_counter()
        with torch.no_grad():
            total = torch.cat([nats(part) for part in parts]).cpu()
        seconds = time.perf_counter() - started
        return Round(seconds, task.amount, float(weights.sum()), float(total.mean()))

    return do_round
