"""Names under constraints: draws that do not meet them are rejected.

The names accepted are exact draws from the distribution of the model, conditioned on the
constraints. With `unique`, each name is drawn from what is left without the names before it.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import jax
import numpy as np

from dinojax.config import check_range
from dinojax.data.stored import lookup
from dinojax.data.text import composed_start
from dinojax.models.context import in_context
from dinojax.models.trained import Trained
from dinojax.sampling.controls import NO_LIMIT, Controls
from dinojax.sampling.patterns import compile_pattern, found_in
from dinojax.sampling.strings import Names, begin, check_types, draw_names, stream_text


class Constraints(NamedTuple):
    """What a name must meet; the defaults accept any that ended by itself and is not empty.

    With `cut`, names that were cut are accepted, too. A name has at least `min_length` characters
    in all and contains a match of the regular expression `match`. It is at least `distance` edits
    away from every name that the model learned from and, if `novel`, is none of them. If `unique`,
    it differs from all names accepted before.
    """

    min_length: int = 0
    match: str = ""
    ignore_case: bool = False
    novel: bool = False
    unique: bool = False
    distance: int = 0
    cut: bool = False


class Accepted(NamedTuple):
    """Accepted names of a block, and counts over this block and all before it.

    `num_accepted` counts every name that met the constraints, even beyond the number asked for;
    `num_refused` those that did not, but none beyond the last that was asked for.
    """

    names: Names
    num_drawn: int
    num_accepted: int
    num_refused: int


def accept(
    blocks: Iterable[Names], num: int, constraints: Constraints, learned: Sequence[str] = ()
) -> Iterator[Accepted]:
    """Yield the first `num` names of `blocks` that meet the constraints, block by block.

    `learned` are the names that the model learned from. Asking for the first block raises a
    ValueError if `novel` or `distance` is set without them, or if no name can match. A block
    raises a TimeoutError as `patterns.found_in` does.
    """
    if (constraints.novel or constraints.distance) and not learned:
        raise ValueError("novel and distance need the names that the model learned from")
    match, ignore_case = constraints.match, constraints.ignore_case
    pattern = compile_pattern(match, ignore_case) if match else None
    known, seen, shortest = lookup(learned), set[str](), max(1, constraints.min_length)
    num_drawn = num_accepted = num_refused = 0
    for names, log_probabilities, drawn, ended, drawn_as, labels in blocks:
        matched = found_in(pattern, names) if pattern else [True] * len(names)
        rows = [
            row
            for row, (name, has_ended) in enumerate(zip(names, ended, strict=True))
            if (has_ended or constraints.cut)
            and len(name) >= shortest
            and matched[row]
            and not (constraints.novel and name in known)
        ]
        if constraints.distance and rows:
            # Most calls do not need rapidfuzz, which takes a while to import.
            from dinojax.data.distances import far_from

            is_far = far_from([names[row] for row in rows], learned, constraints.distance)
            rows = [row for row, far in zip(rows, is_far, strict=True) if far]
        if constraints.unique:
            first = {names[row]: row for row in reversed(rows)}
            rows = sorted(row for name, row in first.items() if name not in seen)
            seen.update(first)
        taken = rows[: num - num_accepted]
        num_drawn += len(names)
        num_accepted += len(rows)
        num_refused += (taken[-1] + 1 if num_accepted >= num else len(names)) - len(taken)
        arrays = log_probabilities[taken], drawn[taken], ended[taken]
        chosen, spelled = ([each[row] for row in taken] for each in (names, drawn_as))
        named = [labels[row] for row in taken] if labels else []
        found = Names(chosen, *arrays, spelled, named)
        yield Accepted(found, num_drawn, num_accepted, num_refused)
        if num_accepted >= num:
            break


def sample(
    trained: Trained,
    num: int = 10,
    *,
    seed: int = 0,
    prompt: str = "",
    label: str | None = None,
    max_length: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    match: str = "",
    min_length: int = 0,
    unique: bool = False,
    novel: bool = False,
    distance: int = 0,
    learned: Sequence[str] = (),
    max_draws: int = 1_000_000,
) -> Names:
    """Draw `num` names that begin with `prompt`; the same arguments give the same names.

    None of them is empty: they are exact draws from the model, conditioned on this. Names with
    labels are as in `draw_names`; constraints are about names without their labels. `max_length`,
    which counts the characters after the prompt, is a constraint like those from `match` to
    `distance`; see `Constraints`. Without any, names are cut after `trained.max_length` characters.
    Fewer names are returned if they are not found within `max_draws` draws or, without a
    constraint, within `max_draws` and ten more for each name. `learned` are the names that the
    model learned from. If the model knows no upper-case letter, the prompt is lower-cased and
    `match` ignores case. For the other arguments, see `controls`.

    Raises:
        ValueError: see `begin`; or a number is out of range, no name can match, or `novel` or
            `distance` is set without `learned`.
        TimeoutError: see `patterns.found_in`.
        TypeError: see `check_types`.
    """
    check_types(trained, prompt, num)
    ignore_case = knows_only_lowercase(trained)
    constraints = Constraints(min_length, match, ignore_case, novel, unique, distance)
    options: dict[str, Any] = {
        "prompt": composed_start(prompt, ignore_case),
        "label": label,
        "max_length": max_length,
        "controls": make_controls(temperature, top_k, top_p, min_p),
    }
    key = jax.random.key(seed)
    # At temperature 0 all draws are equal.
    max_draws = num if temperature == 0 else max_draws
    if max_length is not None or constraints != Constraints(ignore_case=ignore_case):
        blocks = draw_names(key, trained, max_draws, **options)
    else:
        blocks = draw_names(key, trained, num, most=10 * num + max_draws, **options)
        constraints = constraints._replace(cut=True)
    accepted = (block.names for block in accept(blocks, num, constraints, learned))
    names, *arrays, drawn_as, labels = zip(*accepted, strict=True)
    log_probabilities, drawn, ended = map(np.concatenate, arrays)
    lists = (list(chain.from_iterable(each)) for each in (names, drawn_as, labels))
    chosen, spelled, of_each = lists
    return Names(chosen, log_probabilities, drawn, ended, spelled, of_each)


def continue_text(
    trained: Trained,
    prompt: str = "",
    length: int = 400,
    *,
    seed: int = 0,
    stop: str = "",
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    context: int | None = None,
) -> str:
    """The prompt and the next `length` characters, or fewer, up to `stop`; see `stream_text`.

    With a `context`, the model reads only so many characters, again for each new one; see
    `in_context`. If it knows no upper-case letter, `prompt` and `stop` are lower-cased. A
    ValueError is raised if a number is out of range, or the prompt is not in the vocabulary.
    """
    prompt, stop = (composed_start(x, knows_only_lowercase(trained)) for x in (prompt, stop))
    if context is not None:
        trained = trained._replace(model=in_context(trained.model, context))
    key, beginning = jax.random.key(seed), begin(trained, prompt)
    controls = make_controls(temperature, top_k, top_p, min_p)
    pieces = stream_text(key, trained, beginning, length, stop=stop, controls=controls)
    return prompt + "".join(pieces)


def make_controls(temperature: float, top_k: int | None, top_p: float, min_p: float) -> Controls:
    """The controls of these values, `top_k` None for no limit; a ValueError if out of range."""
    top_k = NO_LIMIT if top_k is None else top_k
    check_range("temperature", temperature, 0, 1e6)
    check_range("top_k", top_k, 1, NO_LIMIT)
    check_range("top_p", top_p, 1e-6, 1)
    check_range("min_p", min_p, 0, 1)
    return Controls(temperature, top_k, top_p, min_p)


def knows_only_lowercase(trained: Trained) -> bool:
    """Whether no character of the vocabulary changes when it is lower-cased."""
    return trained.vocab.characters == trained.vocab.characters.lower()
