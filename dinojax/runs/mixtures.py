"""Runs that mix the models of other runs: mixtures that stand alone, and ensembles of replicas."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinojax.data.stored import Text, excerpt
from dinojax.evaluation.losses import summarize
from dinojax.evaluation.strings import names_nats, text_nats
from dinojax.files import digest
from dinojax.messages import quoted
from dinojax.models.cache import cached
from dinojax.models.mixture import combined, learn_weights, normalized
from dinojax.models.trained import Trained
from dinojax.runs.description import HELD_OUT, Description, Part, Parts, build_model, part_content
from dinojax.runs.folder import Run, load_run, read_part
from dinojax.runs.kinds import Kind, Mixture, Ngram, kind_from_json, kind_name, kind_to_json
from dinojax.runs.ngrams import costs_of, fitted_ngrams, ngram_params, save_untrained
from dinojax.runs.refit import check_learned, selection_of
from dinojax.runs.selection import SELECTION, Selection
from dinojax.runs.sweep import is_sweep, members

MOST_MEASURED = 2**20
"""About the most characters of prepared data by which members are measured and weighted."""


class Mixed(NamedTuple):
    """A mixture that `mix` has made."""

    trained: Trained
    description: Description
    names: Sequence[str]
    """What each member is: the folder of a run, or a kind of model."""
    weights: Sequence[float]
    """Of each member; they sum to one."""
    figures: Sequence[Mapping[str, float]]
    """Of each member, then of the mixture, and, where it has a cache, of the mixture with it, over
    the validation part; see `losses.summarize`. Empty where there is no such part. Of runs that
    were refitted, they are those of their selections."""
    is_sample: bool
    """Whether only about `MOST_MEASURED` characters of it were read."""
    damaged: Sequence[Path]
    """Checkpoints that could not be read, and were passed over."""


def mix(
    folders: Sequence[Path | str],
    out: Path | str,
    *,
    ngram: int = 0,
    cache: int = 0,
    weights: Sequence[float] | None = None,
    overwrite: bool = False,
) -> Mixed:
    """Mix the runs in `folders`, each at its best checkpoint, into a run in the folder `out`.

    With an order `ngram`, an n-gram model of their training part is the last member. With `cache`,
    for texts alone, the mixture has a cache of so many characters; see `cached`. `weights` are
    divided by their sum; by default, they are those with which the mixture has the lowest loss on
    the validation part, as `learn_weights` finds them. The new run holds the data, and the
    parameters of all members. A text is read in one pass. Of a validation part of
    prepared data, about `MOST_MEASURED` characters are read; see `stored.excerpt`.

    Runs that were refitted learned their validation part, too. Their selections did not, so these
    are mixed as well, into the folder `selection` within `out`. That mixture, whose n-gram model is
    of their training part, gives the weights and the figures. With given weights, there is none if
    selections are missing or differ.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: there is no run, runs differ in their characters or their data, or some were
            refitted and others not, weights are not suitable or there is no validation part to
            learn them from, or the folder is not suitable.
    """
    if not folders:
        raise ValueError("expected at least one run to mix, got none")
    names = [str(folder) for folder in folders]
    loaded = [load_any(Path(folder)) for folder in folders]
    selections, selection = _selections(loaded, are_needed=weights is None), None
    if not selections:
        mixed, parts = _mixture(loaded, names, weights, ngram=ngram, cache=cache)
    else:
        chosen, chosen_parts = _mixture(selections, names, weights, ngram=ngram, cache=cache)
        mixed, parts = _mixture(loaded, names, chosen.weights, ngram=ngram, cache=cache)
        found = Selection(0, chosen.figures[-1]["nats_per_character"], 0, 0.0)
        description = mixed.description._replace(selection=found)
        damaged = [*mixed.damaged, *chosen.damaged]
        mixed = chosen._replace(trained=mixed.trained, description=description, damaged=damaged)
        selection = chosen.trained.params, chosen.description, chosen_parts
    save_untrained(
        mixed.trained.params,
        Path(out),
        mixed.description,
        parts,
        overwrite=overwrite,
        selection=selection,
    )
    return mixed


def _mixture(
    runs: Sequence[Run],
    names: Sequence[str],
    weights: Sequence[float] | None,
    *,
    ngram: int,
    cache: int,
) -> tuple[Mixed, Parts]:
    """The mixture of runs that have `names`, and the data of its run; see `mix`."""
    if cache and not runs[0].config.is_text:
        raise ValueError("cache: only for texts; names stand in no order, so leave it out")
    description, parts = common(runs)
    kinds: list[Kind] = [run.description.kind for run in runs]
    trained = [run.trained for run in runs]
    if ngram:
        fitted, vocab = fitted_ngrams(description.vocab, parts["train"], ngram), description.vocab
        kinds.append(Ngram(ngram))
        names = [*names, kind_name(kinds[-1])]
        model = build_model(kinds[-1], vocab)
        trained.append(Trained(model, ngram_params(fitted), vocab, description.max_length))
    part = excerpt(parts.get("validation"), MOST_MEASURED)
    if weights is None and not part:
        raise ValueError("the runs have no validation part to learn weights from; give the weights")
    shares = None if weights is None else normalized(weights, len(trained))
    figures = []
    if part:
        nats = np.array([character_nats(each, part) for each in trained])
        shares = learn_weights(nats).weights if shares is None else shares
        costs = *nats, mixed_nats(nats, shares)
        figures = [summarize(costs_of(each, part, description.blocks)) for each in costs]
    assert shares is not None
    kind = Mixture(tuple(kinds), tuple(shares.tolist()), cache)
    # What a checkpoint could not hold is refused now.
    kind_from_json(kind_to_json(kind))
    whole, description = combined(trained, shares.tolist()), description._replace(model=kind)
    if cache:
        whole = whole._replace(model=cached(whole.model, cache))
        if part:
            figures.append(
                summarize(costs_of(character_nats(whole, part), part, description.blocks))
            )
    is_sample = len(part or ()) < len(parts.get("validation", ()))
    damaged = [file for run in runs for file in run.damaged]
    mixed = Mixed(whole, description, names, kind.weights, figures, is_sample, damaged)
    return mixed, parts


def _selections(runs: Sequence[Run], *, are_needed: bool) -> list[Run]:
    """The selections of runs that were refitted; none if no run was.

    Unless they `are_needed`, there are none, either, where one is missing or they differ.

    Raises:
        ValueError: selections are needed, but one is missing, some runs were not refitted, or the
            selections differ in their data.
    """
    refitted = [run for run in runs if run.config.refit]
    try:
        if 0 < len(refitted) < len(runs):
            raise ValueError(_partly_refitted(runs))
        found = [selection_of(run, "give the weights") for run in refitted]
        for selection in found[1:]:
            _check_alike(found[0], selection)
    except ValueError:
        if are_needed:
            raise
        return []
    return found


def load_any(folder: Path | str, which: str = "best") -> Run:
    """The run in a folder, as `load_run` loads it, or the ensemble of a sweep's best setting.

    A folder may be that of a sweep, or that of one of its settings; each replica takes part with
    its checkpoint `which`.

    Raises:
        OSError: a file cannot be read.
        ValueError: the run has yet to be refitted; or see `folder.load_checkpoint` and
            `sweep.members`.
    """
    folder = Path(folder)
    if is_sweep(folder) or is_sweep(folder.resolve().parent):
        return ensemble([load_run(replica, which) for replica in members(folder)])
    run = load_run(folder, which)
    check_learned(run)
    return run


def ensemble(runs: Sequence[Run]) -> Run:
    """The mean of the probabilities of several runs as one; of a single run, that run.

    The runs are replicas: what one of them learned, and learned before, all did.

    Raises:
        ValueError: the runs differ in their characters or in their data.
    """
    first, num = runs[0], len(runs)
    if num == 1:
        return first
    for other in runs[1:]:
        _check_alike(first, other)
    kind = Mixture(tuple(run.description.kind for run in runs), (1 / num,) * num)
    trained = combined([run.trained for run in runs], kind.weights)
    damaged = tuple(file for run in runs for file in run.damaged)
    description = first.description._replace(model=kind, max_length=trained.max_length)
    return first._replace(
        description=description, model=trained.model, params=trained.params, damaged=damaged
    )


def common(runs: Sequence[Run]) -> tuple[Description, Parts]:
    """The description and the data of a mixture of runs: those of the first one.

    What any of them learned before, in earlier runs, counts as learned by the mixture.

    Raises:
        OSError: a file cannot be read.
        ValueError: the runs differ in their characters or in their data, or data were changed.
    """
    first = runs[0]
    for other in runs[1:]:
        _check_alike(first, other)
    described = [run.description for run in runs]
    origin = next((each for each in described if each.init_from), described[0])
    names = [name for name in ("train", *HELD_OUT) if name in first.description.parts]
    parts: dict[str, Part] = {
        name: read_part(first.folder, first.description, name) for name in names
    }
    earlier = {
        name
        for run in runs
        if "earlier" in run.description.parts
        for name in read_part(run.folder, run.description, "earlier")
    }
    if earlier:
        parts["earlier"] = sorted(earlier)
    before = dict.fromkeys(sha256 for each in described for sha256 in each.learned_before)
    description = first.description._replace(
        parts={name: digest(part_content(part)) for name, part in parts.items()},
        init_from=origin.init_from,
        init_sha256=origin.init_sha256,
        extensions="",
        selection=None,
        learned_before=tuple(before),
        max_length=max(each.max_length for each in described),
    )
    return description, parts


def _check_alike(first: Run, other: Run) -> None:
    """Raise a ValueError unless two runs have the same characters and the same parts of data."""
    pair = f"{first.folder} and {other.folder}"
    remedy = "mix runs of the same data, split by the same fractions and split seed"
    ours, theirs = first.config, other.config
    if ours.is_text != theirs.is_text:
        text, names = (first, other) if ours.is_text else (other, first)
        raise ValueError(f"{text.folder} learned a text, and {names.folder} names; {remedy}")
    if ours.lowercase != theirs.lowercase:
        lower = (first if ours.lowercase else other).folder
        raise ValueError(f"{pair}: only {lower} reads lower case; mix runs that all do, or none")
    if first.vocab.labels != other.vocab.labels:
        raise ValueError(f"{pair} do not have the same labels; {remedy}")
    if first.vocab != other.vocab:
        apart = sorted(set(first.vocab.characters) ^ set(other.vocab.characters))
        said = f": only one knows {quoted(''.join(apart))}" if apart else " in the same order"
        raise ValueError(f"{pair} do not know the same characters{said}; {remedy}")
    for name in ("train", *HELD_OUT):
        if first.description.parts.get(name) != other.description.parts.get(name):
            if ours.refit != theirs.refit:
                raise ValueError(_partly_refitted([first, other]))
            raise ValueError(f"{pair} differ in their {name} part; {remedy}")


def _partly_refitted(runs: Sequence[Run]) -> str:
    one = next(run.folder for run in runs if run.config.refit)
    other = next(run.folder for run in runs if not run.config.refit)
    return f"{one} was refitted, and {other} was not; mix runs that all were, or {one / SELECTION}"


def character_nats(trained: Trained, part: Part) -> NDArray[np.float64]:
    """The cost of each character of a part in nats, end to end; a text is read in one pass."""
    if isinstance(part, str | Text):
        return text_nats(trained, part)
    return np.concatenate(names_nats(trained, part))


def mixed_nats(nats: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cost of characters under a mixture of models that they cost `nats` [num, characters]."""
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights)[:, None]
    whole: NDArray[np.float64] = -np.logaddexp.reduce(log_weights - nats, axis=0)
    return whole
