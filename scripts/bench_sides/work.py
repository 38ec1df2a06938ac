"""The works of the bench, and how much of each a side does."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinojax.config import CellName
from dinojax.data.corpus import read_names
from dinojax.data.vocab import Vocab, build_vocab

OURS, PADDED, LSTM, BFLOAT16, NUMPY, NUMPY_TUNED, PYTORCH = (
    "dinojax",
    "dinojax, padded",
    "dinojax, LSTM",
    "dinojax, bfloat16",
    "NumPy",
    "NumPy, batched over time",
    "PyTorch",
)
BESIDE = "dinojax, a process a core"
STACKS = {"dinojax, 64 stacked": 64, "dinojax, 1,024 stacked": 1_024}
"""Sides that train replicas, and how many at once."""
BATCH_SIZE, WINDOW, LONG_WINDOW, VOCAB_SIZE = 64, 64, 1024, 65
NUM_WINDOWS = 16
"""Number of windows in each row of the text, which is then read again."""
LEARNING_RATE = 1e-3
"""Learning rate of Adam. The exercise has its own."""
NUM_NAMES = 20_000
"""Length of the list for training in batches, in which the names are repeated."""
MAX_LENGTH = 50
"""Longest sampled name, in characters."""
PRODUCT_SIZE = 2048
"""Rows and columns of the matrices in the large product."""


class Network(NamedTuple):
    """A stack of equal layers."""

    cell: CellName
    num_layers: int
    hidden_size: int


class Work(NamedTuple):
    """A task on which sides are compared."""

    unit: str
    """Unit of the amount of work done, such as steps or names."""
    shown: str
    """Unit of the loss or length that shows whether the sides do equal work."""
    amounts: Mapping[str, int]
    """Steps or names in a round of each side. A slow side gets fewer."""
    network: Network
    compared: tuple[int, int] = (0, 0)
    """In training, the range of steps whose mean loss is shown, all in the first round."""
    is_text: bool = False
    """Whether the data are the text, not the names."""
    products: int = 1
    """Matrix products per kernel and character: one forward, and two more for gradients."""
    window: int = WINDOW
    """Characters of each row of a step, in training on the text."""


EXERCISE = Network("vanilla", 1, 50)


def _training(cell: CellName, num_layers: int, hidden_size: int) -> Work:
    network = Network(cell, num_layers, hidden_size)
    amounts = {OURS: 16, PYTORCH: 12}
    return Work(
        "characters", "nats a character", amounts, network, (8, 12), is_text=True, products=3
    )


LARGE_PRODUCT = "multiply large matrices"
WORKS = {
    LARGE_PRODUCT: Work("operations", "rows", {OURS: 10}, EXERCISE),
    "train the exercise": Work(
        "steps",
        "nats a name",
        {OURS: 20_000, NUMPY: 2_000, NUMPY_TUNED: 4_000, PYTORCH: 1_000},
        EXERCISE,
        (500, 1_000),
        products=3,
    ),
    "train replicas of the exercise": Work(
        "replica-steps",
        "nats a name",
        {OURS: 20_000, BESIDE: 400_000, **{side: 100 * num for side, num in STACKS.items()}},
        EXERCISE,
        (50, 100),
        products=3,
    ),
    "train LSTM 1 x 256": _training("lstm", 1, 256),
    "train LSTM 2 x 128": _training("lstm", 2, 128),
    "train GRU 1 x 256": _training("gru", 1, 256),
    "train GRU 2 x 128": _training("gru", 2, 128),
    "train vanilla 1 x 256": _training("vanilla", 1, 256),
    "train vanilla 2 x 128": _training("vanilla", 2, 128),
    "train minGRU 2 x 256, window 1,024": Work(
        "characters",
        "nats a character",
        {OURS: 3, LSTM: 1},
        Network("mingru", 2, 256),
        (0, 1),
        is_text=True,
        products=3,
        window=LONG_WINDOW,
    ),
    "train on names": Work(
        "characters",
        "nats a character",
        {OURS: 16, PADDED: 40, PYTORCH: 30},
        Network("lstm", 1, 256),
        (8, 16),
        products=3,
    ),
    "sample one name": Work(
        "names", "characters a name", {OURS: 2_000, NUMPY: 1_000, PYTORCH: 200}, EXERCISE
    ),
    "sample 1,000 names": Work(
        "names", "characters a name", {OURS: 20_000, NUMPY: 2_000, PYTORCH: 10_000}, EXERCISE
    ),
    "sample many names": Work(
        "characters",
        "characters a name",
        {OURS: 200_000, NUMPY: 2_000, PYTORCH: 20_000},
        EXERCISE,
    ),
    "score 100,000 names": Work(
        "names", "nats a name", {OURS: 100_000, NUMPY: 4_000, PYTORCH: 100_000}, EXERCISE
    ),
}
"""All works by name."""
ON_DEVICES = (
    LARGE_PRODUCT,
    "train LSTM 1 x 256",
    "train GRU 1 x 256",
    "train vanilla 1 x 256",
    "train minGRU 2 x 256, window 1,024",
    "train replicas of the exercise",
    "sample many names",
)
"""The works that show what an accelerator gives."""
TINY, TINY_COMPARED, TINY_HIDDEN_SIZE = 50, (0, 3), 16
"""In a trial of the bench itself, the divisor of all amounts, the steps compared, and the units of
each layer where they are not those of the exercise."""


class Round(NamedTuple):
    """The result of one round of one side."""

    seconds: float
    amount: float
    """Amount of work done, in the unit of the work."""
    characters: float
    """Number of characters read or written, including newlines."""
    shown: float | None
    """A loss or a length, by which to see that the sides did equal work; None for no figure."""


class Task(NamedTuple):
    """The task of one side."""

    side: str
    work: str
    amount: int
    data: Path
    """File of names."""
    run: Path
    """Folder of a run that has learned these names, for sampling and scoring."""
    handed_over: Path
    """File of the initial parameters for all sides, written by dinojax, which comes first."""
    compared: tuple[int, int]
    """In training, the range of steps whose mean loss is shown."""
    is_tiny: bool = False
    """Whether this is a trial of the bench itself."""


Prepared = tuple[float, Callable[[], Round]]
"""Seconds to compile, and a function that does a round."""


def amount_of(work: str, side: str, is_tiny: bool, on_device: bool = False) -> int:
    """Steps or names in a round of a side."""
    amounts = WORKS[work].amounts
    amount = amounts.get(side, amounts[OURS])
    if on_device and side == OURS and work.startswith("train replicas"):
        # One name a step is what an accelerator is slowest at.
        amount //= 10
    return max(1, amount // TINY) if is_tiny else amount


def sides_of(work: str, on_device: bool) -> list[str]:
    """The sides that do a work; on a device also one in bfloat16, and none that needs CPU cores."""
    sides = list(WORKS[work].amounts)
    if on_device:
        in_bfloat16 = [BFLOAT16] if WORKS[work].is_text else []
        sides = [side for side in sides if side not in (NUMPY, NUMPY_TUNED, BESIDE)] + in_bfloat16
    return sides


def read_data(task: Task) -> tuple[list[str], Vocab]:
    """The names and their vocabulary."""
    names = read_names(task.data).data
    return names, build_vocab(names)


def text() -> tuple[NDArray[np.int64], Vocab]:
    """Ids of a text to train on, whose characters follow Zipf's law, and its vocabulary."""
    shares = 1 / np.arange(1, VOCAB_SIZE + 1)
    num = BATCH_SIZE * WINDOW * NUM_WINDOWS
    ids = np.random.default_rng(0).choice(VOCAB_SIZE, num, p=shares / shares.sum())
    return ids, Vocab("\n" + "".join(chr(ord("A") + i) for i in range(VOCAB_SIZE - 1)))


def nested(arrays: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Parameters in the library's structure, from arrays by path such as "layers/0/bias"."""
    tree: dict[str, Any] = {"layers": [], "readout": {}}
    for path in sorted(arrays):
        if path.startswith((f"{prefix}layers/", f"{prefix}readout/")):
            kind, *place, name = path.removeprefix(prefix).split("/")
            if kind == "layers":
                layers = tree["layers"]
                if int(place[0]) == len(layers):
                    layers.append({})
                layers[int(place[0])][name] = arrays[path]
            else:
                tree["readout"][name] = arrays[path]
    return tree


def trained_params(task: Task) -> dict[str, Any]:
    """The parameters of the run, read without JAX."""
    newest = max(task.run.glob("checkpoint-*.npz"))
    with np.load(newest, allow_pickle=False) as arrays:
        return nested({name: arrays[name] for name in arrays.files}, "params/")


def network_of(work: Work, side: str, is_tiny: bool) -> Network:
    """The network that a side trains."""
    network = work.network._replace(cell="lstm") if side == LSTM else work.network
    if is_tiny and network != EXERCISE:
        return network._replace(hidden_size=TINY_HIDDEN_SIZE)
    return network


def operations_per_character(
    work: Work, vocab_size: int, side: str = OURS, is_tiny: bool = False
) -> float:
    """Floating-point operations in the matrix products of one character.

    There are two for each entry of the readout, the recurrent kernels and the input kernels, except
    the first of these, whose rows are looked up.
    """
    cell, num_layers, size = network_of(work, side, is_tiny)
    gates = {"vanilla": 1, "gru": 3, "lstm": 4, "mingru": 2}[cell]
    num_kernels = num_layers - 1 if cell == "mingru" else 2 * num_layers - 1
    entries = gates * size * size * num_kernels + size * vocab_size
    return 2 * work.products * entries


def repeated(names: Sequence[str], num: int) -> list[str]:
    """`num` names: the given ones, repeated."""
    return [names[i % len(names)] for i in range(num)]


def mean_of(losses: Sequence[float], compared: tuple[int, int]) -> float:
    """Mean loss of the range `compared` of steps."""
    return float(np.mean(losses[slice(*compared)]))
