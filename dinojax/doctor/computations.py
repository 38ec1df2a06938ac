"""Whether this machine repeats what it computed, samples what it should, and keeps checkpoints."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.config import TrainConfig
from dinojax.data.batches import pad_names
from dinojax.data.corpus import bundled_names, read_names
from dinojax.data.vocab import Vocab, build_vocab
from dinojax.doctor.gradients import HIDDEN_SIZE
from dinojax.doctor.machine import Finding
from dinojax.evaluation.losses import log_probability
from dinojax.models.cells import Params
from dinojax.models.model import CharModel
from dinojax.runs import checkpoint
from dinojax.runs.description import build_model, make_dataset
from dinojax.sampling.draw import Samples, sample_names
from dinojax.sampling.stream import stream_names
from dinojax.training.loss import mean_cross_entropy
from dinojax.training.optimizers import make_optimizer
from dinojax.training.step import init_train_state, make_train_step, train_steps

NUM_NAMES, LENGTH = 20_000, 3
"""How many names are drawn to check the law of sampling, and where they are cut, in characters."""
REPEATED_STEPS = 4
"""How many training steps are done twice."""


def check_repeats(train: Callable[[], Any]) -> Finding:
    """Whether `train` gives the same bits, leaf by leaf, when it is called twice."""
    first, second = jax.device_get((train(), train()))
    differing = [
        name
        for (name, one), two in zip(
            checkpoint.named_leaves(first).items(), jax.tree.leaves(second), strict=True
        )
        if np.asarray(one).tobytes() != np.asarray(two).tobytes()
    ]
    figures = {"differing": differing}
    if not differing:
        return Finding("same seed twice", "ok", "the same bits", figures)
    remedy = "runs cannot be repeated exactly here"
    if jax.default_backend() == "gpu":
        remedy += "; set XLA_FLAGS=--xla_gpu_exclude_nondeterministic_ops=true, which is slower"
    said = f"other bits in {', '.join(differing[:3])}{', ..' if len(differing) > 3 else ''}"
    return Finding("same seed twice", "fault", f"{said}; {remedy}", figures)


def training_twice(vocab: Vocab, names: Sequence[str]) -> Callable[[], Any]:
    """A function that trains for a few steps and returns parameters, always from the same seed.

    It has all that draws random numbers or adds in an order of its own: packed names, dropout,
    resets, and an optimizer with moments.
    """
    config = TrainConfig(
        "packed", cell="lstm", hidden_size=HIDDEN_SIZE, dropout=0.5, batch_size=16, loss="mean",
        optimizer="adamw", window=32,
    )  # fmt: skip
    model, optimizer = build_model(config, vocab), make_optimizer(config)
    dataset = make_dataset(config, vocab, names)
    train_step = make_train_step(model, optimizer, mean_cross_entropy, resets=True)
    train = jax.jit(partial(train_steps, train_step))
    order = dataset.arrange(np.arange(dataset.num_shuffled))
    order = order[:][np.arange(REPEATED_STEPS) % len(order)]
    params = model.init(jax.random.key(0))

    def from_the_start() -> Any:
        key = jax.random.key(1)
        state = init_train_state(key, params, model, optimizer, batch_size=config.batch_size)
        return train(state, dataset.examples, order).state.params

    return from_the_start


Write = Callable[[jax.Array], Samples]
"""Draws `NUM_NAMES` names of up to `LENGTH` characters, by a key."""


def check_sampling(
    params: Params, name: str, model: CharModel, vocab: Vocab, write: Write
) -> Finding:
    """Whether names that `write` draws are as frequent as the model says.

    Pearson's chi-squared statistic compares the counts of all names up to `LENGTH` characters with
    their exact probabilities. It must be below what chance exceeds once in a million, by the
    approximation of Wilson & Hilferty (1931). The key is fixed, so the same device always gives the
    same answer.
    """
    letters = vocab.characters.replace("\n", "")
    texts = ["".join(each) for num in range(LENGTH + 1) for each in product(letters, repeat=num)]
    columns = pad_names(texts, vocab)
    # A name of full length counts whether it ends there or is cut.
    columns.weights[LENGTH:] = 0
    read = jax.jit(lambda params: log_probability(params, model, columns))
    with jax.default_matmul_precision("highest"):
        nats = np.asarray(read(params), float)
    expected = NUM_NAMES * np.exp(nats.sum(axis=0))
    samples = jax.device_get(write(jax.random.key(2)))
    drawn = ["".join(vocab.decode(row[:num])) for row, num in zip(*samples[:2], strict=True)]
    counts = np.array([drawn.count(text) for text in texts])
    statistic, freedom = float(np.sum((counts - expected) ** 2 / expected)), len(texts) - 1
    part = 2 / (9 * freedom)
    bound = freedom * (1 - part + 4.753 * part**0.5) ** 3
    figures = {"chi_squared": statistic, "bound": bound, "degrees_of_freedom": freedom}
    said = f"{NUM_NAMES:,} of {len(texts)} kinds, chi-squared {statistic:.1f}"
    if statistic <= bound:
        return Finding(name, "ok", f"{said}, by chance up to {bound:.1f}", figures)
    said += f", more than the {bound:.1f} that chance explains"
    remedy = "do not trust samples of this device; try another version of jaxlib"
    return Finding(name, "fault", f"{said}; {remedy}", figures)


def check_samplings() -> Iterator[Finding]:
    """`check_sampling` of names drawn side by side, and of names drawn as a stream."""
    vocab = Vocab("\nab")
    model = build_model(TrainConfig(hidden_size=8), vocab)
    params = drawn_params(model, 0.7)
    for name, function in (("names drawn", sample_names), ("names in a stream", stream_names)):
        write = partial(function, params=params, model=model, num=NUM_NAMES, max_length=LENGTH)
        yield check_sampling(params, name, model, vocab, jax.jit(write))


def check_checkpoint(
    folder: Path,
    save: Callable[[Path, Any, Any], None] = checkpoint.save,
    load: Callable[[Path], Any] = checkpoint.load,
) -> Finding:
    """Whether a checkpoint, written into `folder`, reads back, and a flipped byte is noticed."""
    path = folder / "checkpoint.npz"
    values = np.random.default_rng(3).normal(size=(64, 16)).astype(np.float32)
    state = {"params": values, "key": jax.random.key(4)}
    figures: dict[str, Any] = {}
    try:
        save(path, state, {"step": 1})
        metadata, arrays = load(path)
        read = checkpoint.restore(arrays, state)
        said = "" if metadata["step"] == 1 else "other metadata were read than written"
        for name, written in checkpoint.named_leaves(state).items():
            if not np.array_equal(_plain(written), _plain(read[name])):
                said = f"{name} was read otherwise than written"
    except (OSError, ValueError) as error:
        said = f"it cannot be written and read: {error}"
    if not said:
        content = bytearray(path.read_bytes())
        figures["bytes"] = len(content)
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        try:
            load(path)
            said = "a flipped byte was not noticed"
        except ValueError:
            return Finding(
                "checkpoint", "ok", "read as written; a flipped byte is noticed", figures
            )
    remedy = "check the disk and its free space before you train"
    return Finding("checkpoint", "fault", f"{said}; {remedy}", figures)


def some_names(num: int = 24) -> tuple[list[str], Vocab]:
    """The first `num` of the bundled names, and their vocabulary."""
    names = read_names(bundled_names()).data[:num]
    return names, build_vocab(names)


def drawn_params(model: CharModel, scale: float) -> Params:
    """Parameters from N(0, scale^2), by NumPy: nothing is compiled, as it would be by `init`."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    generator = np.random.default_rng(0)

    def draw(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        return (scale * generator.normal(size=shape.shape)).astype(np.float32)

    return jax.tree.map(draw, shapes)


def _plain(leaf: Any) -> np.ndarray:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)
