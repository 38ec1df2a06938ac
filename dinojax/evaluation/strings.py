"""Scores of names and texts: what their characters cost, and how a name ranks among new ones."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dinojax.data.batches import Batch, pad_names
from dinojax.data.corpus import MAX_NAME_LENGTH
from dinojax.data.distances import nearest
from dinojax.data.labels import label_character, number_of, without_labels
from dinojax.data.stored import Text, in_vocab, lookup
from dinojax.evaluation import losses
from dinojax.messages import about, quoted
from dinojax.models.trained import Trained
from dinojax.sampling.stream import stream_names
from dinojax.sampling.strings import begin, check_types, num_to_draw

Floats = NDArray[np.float64]
JUDGED_AT_ONCE = 2**16
"""About how many pairs of a name and a label are read at once."""

_read = jax.jit(losses.log_probability, static_argnames="model")


class NameScores(NamedTuple):
    """Scores of names, [num]; the last three fields are empty without training names."""

    names: Sequence[str]
    """As the model can spell them; see `Vocab.spell`."""
    character_nats: list[Floats]
    """Cost of each character of a name and of its newline in nats, [len(name) + 1] each."""
    log_probabilities: Floats
    """Log-probability of each name and its newline in nats."""
    bits_per_character: Floats
    """Mean cost of the characters of each name, newline included, in bits."""
    ranks: Floats
    """Share of new names that are less probable than each name; ties count half."""
    in_training_data: NDArray[np.bool]
    nearest: list[str]
    """Training name that is the fewest edits away from each name."""
    distances: NDArray[np.int32]
    """Number of these edits."""
    labels: list[str]
    """The likeliest label of each name, or the one given; empty for a model without labels."""
    label_probabilities: Floats
    """The probability of that label, given the name; empty for a model without labels."""


class TextScore(NamedTuple):
    """Score of a text: minus its log-probability in `nats`, and figures from `summarize`."""

    num_characters: int
    nats: float
    nats_per_character: float
    bits_per_character: float
    perplexity: float
    character_nats: Floats
    """Cost of each character in nats, [num_characters]."""


def score(
    trained: Trained,
    names: Sequence[str],
    *,
    label: str | None = None,
    learned: Sequence[str] = (),
    seed: int = 0,
    num_samples: int = 10_000,
) -> NameScores:
    """Score names, rank them among `num_samples` new names, and find the nearest `learned` names.

    `learned` are the training names of the model, and `seed` is that of the new names. The standard
    error of a rank is at most 0.5 / sqrt(num_samples). If the model has labels, see `judged`.

    Raises:
        TypeError: see `check_types`.
        ValueError: `names` is a string, or see `judged`.
    """
    check_types(trained)
    if isinstance(names, str):
        raise ValueError(f"expected a list of names, got the string {quoted(names)}; put it in one")
    names = trained.vocab.plain.spell(names)
    character_nats, labels, label_probabilities = judged(trained, names, label)
    totals = {x: -float(nats.sum()) for x, nats in zip(names, character_nats, strict=True)}
    log_probabilities = np.array([totals[name] for name in names])
    lengths = np.array([len(nats) for nats in character_nats])
    places, distances = nearest(names, learned) if learned else np.zeros((2, 0), np.int32)
    known = lookup(learned)
    drawn = _drawn(trained, totals, num_samples, seed, label)
    return NameScores(
        names=names,
        character_nats=character_nats,
        log_probabilities=log_probabilities,
        bits_per_character=-log_probabilities / math.log(2) / lengths,
        ranks=share_below(log_probabilities, drawn),
        in_training_data=np.array([x in known for x in names] if learned else [], bool),
        nearest=[learned[place] for place in places.tolist()],
        distances=distances,
        labels=labels,
        label_probabilities=label_probabilities,
    )


class Judged(NamedTuple):
    """What a model says of names without their labels, [num]."""

    character_nats: list[Floats]
    """As in `NameScores`."""
    labels: list[str]
    label_probabilities: Floats


def judged(trained: Trained, names: Sequence[str], label: str | None = None) -> Judged:
    """The cost of each character of names, and which label a model gives them.

    With a `label`, the costs are those of p(name | label), and all names get this label. Without,
    they are those of p(name) = sum_l p(l) p(name | l), and each name gets the label l for which
    p(l | name) = p(l) p(name | l) / p(name) is highest. See `NameScores` for the results.

    Raises:
        ValueError: see `names_nats`; or the model does not know the label.
    """
    vocab = trained.vocab
    if not names or (not vocab.labels and label is None):
        return Judged(names_nats(trained, names), [], np.zeros(0))
    given = None if label is None else number_of(vocab.labels, label)
    for name in names:
        with about(quoted(name)):
            vocab.plain.encode(name)
    marks = [label_character(i) for i in range(len(vocab.labels))]
    found, numbers, probabilities = list[Floats](), list[int](), list[float]()
    size = max(1, JUDGED_AT_ONCE // len(marks))
    for block in (names[i : i + size] for i in range(0, len(names), size)):
        each = iter(names_nats(trained, [mark + name for name in block for mark in marks]))
        for _ in block:
            # Log-probabilities of each label and the first characters, [labels, characters + 1].
            joint = -np.cumsum([next(each) for _ in marks], axis=1)
            whole = np.logaddexp.reduce(joint, axis=0)
            number = int(joint[:, -1].argmax()) if given is None else given
            found.append(-np.diff(whole if given is None else joint[given]))
            numbers.append(number)
            probabilities.append(math.exp(joint[number, -1] - whole[-1]))
    return Judged(found, [vocab.labels[i] for i in numbers], np.array(probabilities))


def score_text(trained: Trained, text: str | Text) -> TextScore:
    """Score a text, which is read in one pass; see `text_nats` for what is raised."""
    nats = text_nats(trained, text)
    figures = losses.summarize(losses.in_blocks(nats))
    means = {x: figures[x] for x in ("nats_per_character", "bits_per_character", "perplexity")}
    return TextScore(len(nats), float(nats.sum()), character_nats=nats, **means)


def names_nats(
    trained: Trained, names: Sequence[str], at_once: int = losses.CHARACTERS_AT_ONCE
) -> list[Floats]:
    """The cost of each character of each name and of its newline in nats, [len(name) + 1] each.

    Names of similar length are read side by side, about `at_once` characters at a time, so that a
    long name does not make many short ones take more memory.

    Raises:
        ValueError: there is no name, or the one quoted holds a newline or an unknown character.
    """
    if not names:
        raise ValueError("expected at least one name, got none")
    for name in names:
        with about(quoted(name)):
            trained.vocab.encode(name)
    found: dict[int, Floats] = {}
    rest = sorted(range(len(names)), key=lambda i: -len(names[i]))
    while rest:
        # Powers of two, so that few shapes are compiled.
        time = 1 << len(names[rest[0]]).bit_length()
        num = min(max(1, at_once // time), 1 << (len(rest) - 1).bit_length())
        block, rest = rest[:num], rest[num:]
        columns = pad_names([names[i] for i in block], trained.vocab)
        missing = (0, time - len(columns.weights)), (0, num - len(block))
        examples = Batch(*(np.pad(field, missing, mode="edge") for field in columns))
        nats = -np.asarray(_read(trained.params, trained.model, examples), float).T
        for i, each in zip(block, nats, strict=False):
            found[i] = each[: len(names[i]) + 1].copy()
    return [found[i] for i in range(len(names))]


def text_nats(trained: Trained, text: str | Text) -> Floats:
    """The cost of each character of a text in nats, [len(text)], read in one pass.

    Each document is read from a fresh state.

    Raises:
        ValueError: the text is empty or holds an unknown character.
    """
    if not len(text):
        raise ValueError("expected a text, got an empty one")
    read = jax.jit(partial(losses.nats_carried, model=trained.model))
    if isinstance(text, str):
        return np.asarray(read(trained.params, ids=trained.vocab.encode(text)), float)
    text = in_vocab(text, trained.vocab)
    starts = text.starts if len(text.starts) > 1 else None
    return np.asarray(read(trained.params, ids=text.take(slice(None)), starts=starts), float)


def share_below(values: ArrayLike, samples: ArrayLike) -> Floats:
    """The share of `samples` [m] that are less than each of `values` [num]; equal ones count half.

    The shares of values from the distribution of the samples are uniform on [0, 1].
    """
    values, ordered = np.asarray(values), np.sort(samples)
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(ordered))


def _drawn(
    trained: Trained, totals: Mapping[str, float], num: int, seed: int, label: str | None
) -> list[float]:
    """Log-probabilities of `num` new names; those of names in `totals` are taken from there.

    So a name that is drawn ties with itself, however the two numbers were rounded.
    """
    beginning = begin(trained, "", is_name=True, label=label)
    write = partial(stream_names, model=trained.model, num=num, max_length=MAX_NAME_LENGTH)
    samples = jax.jit(write)(jax.random.key(seed), trained.params, beginning=beginning)
    ids, lengths, nats, _, ended = jax.device_get(samples)
    names = [trained.vocab.decode(row[:length]) for row, length in zip(ids, lengths, strict=True)]
    if num_to_draw(trained.vocab, label):
        # Their log-probabilities are those of names and labels.
        names = list(without_labels(names, trained.vocab.labels))
        new = sorted(set(names) - totals.keys())
        costs = judged(trained, new).character_nats if new else []
        known = {x: -float(nats.sum()) for x, nats in zip(new, costs, strict=True)} | dict(totals)
        return [known[name] for name in names]
    return [
        totals.get(name, total) if whole else total
        for name, total, whole in zip(names, nats.tolist(), ended, strict=True)
    ]
