"""Dynamic evaluation: what a text costs a network whose weights follow it as it is read.

The text is read window by window, with its state carried. Each window is scored, and only then does
the gradient g of its cost move the weights:

    theta <- theta - learning_rate g / (r + 0.01 mean(r)) + decay (theta_0 - theta)

theta_0 are the trained weights, and r is the root mean square of such gradients along a sample of
the training text, weight by weight (Krause, Kahembwe, Murray and Renals, Dynamic evaluation of
neural sequence models, 2018). Two departures: the decay is the same for all weights, not in
proportion to r; and the small number in the denominator is relative to the mean of r over all
weights, so that a learning rate means the same for every model. There is no dropout.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from dinojax.data.batches import Batch, cut_text
from dinojax.data.prepared import Progress, finished
from dinojax.data.stored import Text, has_borders, in_vocab
from dinojax.evaluation.strings import text_nats
from dinojax.models.cells import Params, State
from dinojax.models.model import CharModel
from dinojax.models.ngram import Tables
from dinojax.models.trained import Trained
from dinojax.training.loss import cross_entropy

SAMPLE = 2**14
"""Most characters of the training text whose gradients are measured."""
MOST_TRIED = 2**15
"""Most characters of the validation text that each setting reads."""
AT_ONCE = 2**12
"""About how many characters are read between two reports of progress."""

Floats = NDArray[np.float64]
Weights = list[jax.Array]


class Settings(NamedTuple):
    """How weights follow a text."""

    learning_rate: float
    decay: float
    """Share of the way back to the trained weights after each window."""
    window: int = 20
    """Number of characters."""


GRID = tuple(Settings(rate, decay) for rate in (2e-4, 5e-4, 1e-3) for decay in (0.0, 1e-3))
"""The settings among which `dynamic` chooses."""


class Reader(NamedTuple):
    """What changes while a text is read."""

    weights: Weights
    """Of the networks; see `networks`."""
    state: State


class Followed(NamedTuple):
    """What `dynamic` found."""

    static: Floats
    """The cost of each character in nats under the trained weights, state carried, [num]."""
    dynamic: Floats
    """The same under weights that follow the text."""
    settings: Settings
    tried: Sequence[float]
    """Mean cost of a character of the validation text with each setting of the grid, in nats."""


def networks(params: Params) -> tuple[Weights, Callable[[Sequence[jax.Array]], Params]]:
    """The weights of all networks in a model, and a function that puts others in their place.

    The tables of n-gram models in a mixture stay as they are.

    Raises:
        ValueError: there is no network.
    """
    leaves, structure = jax.tree.flatten(params, is_leaf=lambda x: isinstance(x, Tables))
    weights = [x for x in leaves if not isinstance(x, Tables)]
    if not weights:
        raise ValueError(
            "only the weights of a network can follow a text, and an n-gram model has none; mix it "
            "with a network"
        )

    def with_weights(others: Sequence[jax.Array]) -> Params:
        rest = iter(others)
        own = [x if isinstance(x, Tables) else next(rest) for x in leaves]
        return jax.tree.unflatten(structure, own)

    return weights, with_weights


def window_gradient(
    params: Params, model: CharModel, resets: bool
) -> Callable[[Reader, Batch], tuple[State, jax.Array, Weights]]:
    """A function that reads a window [time]: the state, the nats [time], the gradient of their sum.

    No gradient flows into the state with which it begins.
    """
    _, with_weights = networks(params)

    def cost(
        weights: Weights, state: State, window: Batch
    ) -> tuple[jax.Array, tuple[State, jax.Array]]:
        params = with_weights(weights)
        state, logits = model.unroll(params, state, window.inputs, resets=resets)
        nats = cross_entropy(logits, window.targets, window.weights)
        return nats.sum(), (state, nats)

    def read(reader: Reader, window: Batch) -> tuple[State, jax.Array, Weights]:
        gradients, (state, nats) = jax.grad(cost, has_aux=True)(*reader, window)
        return state, nats, gradients

    return read


def gradient_scales(
    params: Params, model: CharModel, windows: Batch, *, resets: bool = False
) -> Weights:
    """What gradients are divided by: r + 0.01 mean(r), for each weight of `networks`.

    r is the root mean square of the gradients of `windows` [num, time] of a text, one after the
    other, of which none learns from another.
    """
    read, (weights, _) = window_gradient(params, model, resets), networks(params)

    def add(carry: tuple[State, Weights], window: Batch) -> tuple[tuple[State, Weights], None]:
        state, _, gradients = read(Reader(weights, carry[0]), window)
        return (state, [x + g * g for x, g in zip(carry[1], gradients, strict=True)]), None

    zeros = [jnp.zeros_like(x) for x in weights]
    (_, squares), _ = lax.scan(add, (model.initial_state(()), zeros), windows)
    roots = [jnp.sqrt(x / len(windows.weights)) for x in squares]
    mean = sum(x.sum() for x in roots) / sum(x.size for x in roots)
    # A network of weight zero in a mixture has no gradients, and 0 / 0 would be NaN.
    return [x + 0.01 * mean + np.finfo(x.dtype).tiny for x in roots]


def follow(
    params: Params,
    model: CharModel,
    reader: Reader,
    windows: Batch,
    *,
    scales: Weights,
    learning_rate: float | jax.Array,
    decay: float | jax.Array,
    resets: bool = False,
) -> tuple[Reader, jax.Array]:
    """Read `windows` [num, time] of a text with weights that follow it: the nats [num, time].

    Each window is scored with the weights as they are before they learn from it. `params` are the
    trained ones, and `scales` is what gradients are divided by. A text that is read in several
    calls, each from the reader that the last one returned, costs the same.
    """
    read, (origin, _) = window_gradient(params, model, resets), networks(params)

    def learn(reader: Reader, window: Batch) -> tuple[Reader, jax.Array]:
        state, nats, gradients = read(reader, window)
        weights = [
            x - learning_rate * g / scale + decay * (first - x)
            for x, g, scale, first in zip(reader.weights, gradients, scales, origin, strict=True)
        ]
        return Reader(weights, state), nats

    return lax.scan(learn, reader, windows)


class Selecting(NamedTuple):
    """A model in whose place another one learned the validation text, too."""

    trained: Trained
    train: str | Text
    """The text that it learned from."""


def dynamic(
    trained: Trained,
    text: str | Text,
    *,
    train: str | Text,
    validation: str | Text,
    grid: Sequence[Settings] = GRID,
    selecting: Selecting | None = None,
) -> Followed:
    """The cost of a text for a model whose weights follow it, with settings chosen elsewhere.

    Of the `grid`, the setting with the lowest cost of `validation` is chosen, of which each reads
    the first `MOST_TRIED` characters. Gradients are measured on the first `SAMPLE` characters of
    `train`, the text that the model learned from. All networks of a mixture follow the text, by the
    gradient of the cost of the mixture; its weights and its n-gram models stay. The state is reset
    at each document, while the weights follow from one to the next. If the model learned
    `validation`, too, as one that is refitted did, the setting is chosen for that of `selecting`.

    Raises:
        ValueError: there is no network, a text is empty or holds an unknown character, or there is
            no setting, or one with a bad value.
    """
    texts = {"train": train, "validation": validation}
    return finished(following(trained, text, **texts, grid=grid, selecting=selecting))


def following(
    trained: Trained,
    text: str | Text,
    *,
    train: str | Text,
    validation: str | Text,
    grid: Sequence[Settings] = GRID,
    selecting: Selecting | None = None,
) -> Generator[Progress, None, Followed]:
    """What `dynamic` returns; yields how many characters were read for it so far."""
    if not grid:
        raise ValueError("expected at least one setting, got none")
    for each in grid:
        if not (each.learning_rate >= 0 and 0 <= each.decay <= 1 and each.window >= 1):
            raise ValueError(
                "expected a learning rate of at least 0, a decay from 0 to 1 and a window of at "
                f"least 1, got {each.learning_rate:g}, {each.decay:g} and {each.window}"
            )
    static, read = text_nats(trained, text), reading(trained, train)
    try_out = reading(*selecting) if selecting else read
    part, tried, done = validation[:MOST_TRIED], list[float](), 0
    for each in grid:
        found = list[Floats]()
        for nats in try_out(part, each):
            found.append(nats)
            done += len(nats)
            yield Progress("settings", done, len(grid) * len(part))
        tried.append(float(np.concatenate(found).mean()))
    settings, found = grid[int(np.argmin(np.where(np.isfinite(tried), tried, np.inf)))], []
    for nats in read(text, settings):
        found.append(nats)
        yield Progress("text", sum(map(len, found)), len(text))
    return Followed(static, np.concatenate(found), settings, tried)


def reading(
    trained: Trained, train: str | Text
) -> Callable[[str | Text, Settings], Iterator[Floats]]:
    """A function that reads a text with weights that follow it: its nats, some at a time.

    Gradients are measured on the first `SAMPLE` characters of `train`.
    """
    params, model = trained.params, trained.model
    scales_of = jax.jit(partial(gradient_scales, model=model), static_argnames="resets")
    read = jax.jit(partial(follow, model=model), static_argnames="resets")
    first, sample = Reader(networks(params)[0], model.initial_state(())), train[:SAMPLE]

    @cache
    def scales(window: int) -> Weights:
        windows = windows_of(trained, sample, window)
        return scales_of(params, windows=windows, resets=has_borders(sample))

    def costs(text: str | Text, settings: Settings) -> Iterator[Floats]:
        reader, (learning_rate, decay, window) = first, settings
        windows = windows_of(trained, text, window)
        num = len(windows.weights)
        size = min(num, max(1, AT_ONCE // window))
        # Windows of padding make all calls read equally many, so that one program serves all.
        windows = Batch(*(np.pad(field, [(0, -num % size), (0, 0)]) for field in windows))
        rest = len(text)
        for start in range(0, num, size):
            some = Batch(*(field[start : start + size] for field in windows))
            reader, nats = read(
                params,
                reader=reader,
                windows=some,
                scales=scales(window),
                learning_rate=learning_rate,
                decay=decay,
                resets=has_borders(text),
            )
            yield np.asarray(nats, float).reshape(-1)[:rest]
            rest -= size * window

    return costs


def windows_of(trained: Trained, text: str | Text, window: int) -> Batch:
    """A text as windows [num, time], one after the other; see `cut_text`."""
    text = text if isinstance(text, str) else in_vocab(text, trained.vocab)
    return Batch(*(field.T for field in cut_text(text, trained.vocab, window)))
