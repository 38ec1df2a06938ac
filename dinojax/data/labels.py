"""Labels of names, such as girl or boy: a label is the first symbol of a name.

A name with the i-th of the labels, which are sorted, is read as `label_character(i)` and the name.
So a model of labels and names is a model of strings: p(label) p(name | label).
"""

import re
from collections.abc import Iterable, Sequence

from dinojax.messages import quoted, shortened

FIRST = 0xF0000
"""Code point of the first label: where the private use plane 15 begins."""
MAX_LABELS = 1_000
"""Most labels that names may have."""


class Labelled(list[str]):
    """Names, each after the character of its label."""

    def __init__(self, names: Iterable[str], labels: Sequence[str]) -> None:
        super().__init__(names)
        self.labels = tuple(labels)
        """Every label that there is, in order."""


def label_character(number: int) -> str:
    """The character that stands for the label of this number, counted from 0."""
    return chr(FIRST + number)


def with_labels(names: Sequence[str], labels: Sequence[str], known: Sequence[str] = ()) -> Labelled:
    """The names [num], each with its label [num] in front.

    The labels of the result are those `known` or, if there are none, all that `labels` holds.

    Raises:
        ValueError: a label is empty or not among those `known`, there are more than `MAX_LABELS`,
            or a name has a character that sorts after the labels' or is one of theirs.
    """
    there = known or sorted(set(labels))
    if len(there) > MAX_LABELS:
        raise ValueError(
            f"expected up to {MAX_LABELS:,} different labels, got {len(there):,}; is that the "
            "right column?"
        )
    for name, label in zip(names, labels, strict=True):
        if not label:
            raise ValueError(f"{quoted(name)} has no label; expected one for each name")
    characters = {label: label_character(number_of(there, label)) for label in set(labels)}
    if (last := max("".join(names), default="")) >= label_character(0):
        raise ValueError(f"{last!r} may not stand in names with labels; labels use such characters")
    pairs = zip(names, labels, strict=True)
    return Labelled((characters[label] + name for name, label in pairs), there)


def without_labels(names: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
    """The names of a model that has these `labels`, without them."""
    if not labels or not len(names):
        return names
    pattern = f"[{label_character(0)}-{label_character(len(labels) - 1)}]"
    return re.sub(pattern, "", "\n".join(names)).split("\n")


def labels_of(names: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The label of each name of a model that has these `labels`; none if it has no labels."""
    return [labels[ord(name[0]) - FIRST] for name in names] if labels else []


def number_of(labels: Sequence[str], label: str) -> int:
    """The number of a label among `labels`; of one that is not there, that of its lower case.

    Raises:
        ValueError: neither is there.
    """
    for written in label, label.lower():
        if written in labels:
            return labels.index(written)
    if not labels:
        raise ValueError(f"expected no label, as the model has none, got {quoted(label)}")
    raise ValueError(f"expected one of the {listed(labels)}, got {quoted(label)}")


def listed(labels: Sequence[str]) -> str:
    """Labels as a message lists them, visible and shortened; empty for none."""
    return f"labels {shortened(', '.join(map(repr, labels)))}" if labels else ""
