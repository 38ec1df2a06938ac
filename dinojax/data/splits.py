"""Names and texts, split into parts for training, validation and test."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from dinojax.data.stored import NameList, Text
from dinojax.messages import count


def split_names(
    names: Sequence[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    learned: Iterable[str] = (),
    skipped: int = 0,
) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """Split names at random into training, validation and test parts, each in the given order.

    All copies of a name go to the same part. Fractions are of the distinct names; a fraction above
    zero gives at least one. The test part, then the validation part, takes names already `learned`
    by an earlier run only where no others are left. The split depends on the set of names, on
    `learned` and on `seed`, not on the order. The first `skipped` characters of a name, such as its
    label, do not count: a name goes to the same part with each label.

    Raises:
        ValueError: no name would be left for training.
    """
    if isinstance(names, NameList):
        return _split_list(names, validation_fraction, test_fraction, seed, learned)
    distinct = sorted({name[skipped:] for name in names})
    sizes = sizes_of(len(distinct), "distinct name", validation_fraction, test_fraction)
    known = {name[skipped:] for name in learned}
    order = np.random.default_rng(seed).permutation(len(distinct))
    drawn = sorted((distinct[i] for i in order.tolist()), key=known.__contains__)
    # The test part is drawn first, so that it does not depend on the validation fraction.
    parts = np.repeat([2, 1, 0], sizes[::-1])
    part_of = dict(zip(drawn, parts.tolist(), strict=True))
    train, validation, test = (
        [name for name in names if part_of[name[skipped:]] == i] for i in range(3)
    )
    return train, validation, test


def _split_list(
    names: NameList, validation: float, test: float, seed: int, learned: Iterable[str]
) -> tuple[NameList, NameList, NameList]:
    """`split_names` by the numbers of distinct names instead of the names, all of a store."""
    ranks = names.store.ranks
    sizes = sizes_of(int(ranks.max()) + 1, "distinct name", validation, test)
    known = np.zeros(sum(sizes), bool)
    known[[rank for name in learned if (rank := names.rank(name)) is not None]] = True
    order = np.random.default_rng(seed).permutation(len(known))
    part_of = np.empty(len(known), np.int8)
    part_of[order[np.argsort(known[order], kind="stable")]] = np.repeat([2, 1, 0], sizes[::-1])
    part_of = part_of[ranks[names.rows]]
    train, held_out, tested = (replace(names, rows=names.rows[part_of == i]) for i in range(3))
    return train, held_out, tested


def split_text(
    text: str | Text, validation_fraction: float, test_fraction: float
) -> tuple[str | Text, str | Text, str | Text]:
    """Split a text into training, validation and test parts, which follow each other.

    Fractions are of the characters, of all documents together; a fraction above zero gives at least
    one. A document may end in the next part.

    Raises:
        ValueError: no character would be left for training.
    """
    start, num, _ = sizes_of(len(text), "character", validation_fraction, test_fraction)
    return text[:start], text[start : start + num], text[start + num :]


def sizes_of(num: int, thing: str, *fractions: float) -> tuple[int, int, int]:
    """The sizes of the training, validation and test parts of `num` things, each a `thing`."""
    validation, test = (max(1, round(f * num)) if f else 0 for f in fractions)
    if validation + test >= num:
        raise ValueError(
            f"no data would be left to learn from, of {count(num, thing)}; expected more of them, "
            "or smaller fractions for validation and test"
        )
    return num - validation - test, validation, test
