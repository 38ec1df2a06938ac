"""What a run learned from, together with the runs that it began with."""

from dataclasses import replace
from pathlib import Path

from dinojax.data.labels import without_labels
from dinojax.data.stored import NameList, Text, lookup
from dinojax.runs import checkpoint
from dinojax.runs.description import Description, Origin, Part, Parts
from dinojax.runs.folder import Run, check_is_network, read_part
from dinojax.runs.refit import check_learned

LEARNED = "train", "earlier"


def read_origin(folder: Path | str, run: Run) -> Origin:
    """What a new run takes over from the `run` in a folder, besides its parameters.

    Raises:
        ValueError: its model is no network, or it has yet to be refitted.
    """
    folder = Path(folder)
    check_learned(run)
    check_is_network(run, "a new run begins with a network; give one of its members, if it has any")
    description = run.description
    own, names = description.parts["train"], list[str]()
    if not run.config.is_text:
        learned: Part = ()
        try:
            learned = read_learned(folder, description)
        except (OSError, ValueError):
            # A missing or changed list need not keep the parameters from being used.
            own = ""
        if isinstance(learned, NameList):
            raise ValueError(
                f"{folder} learned a list of {len(learned):,} names, among which the new run would "
                "have to look for its own; begin with a run of a list that fits into memory"
            )
        names = sorted(set(learned))
    before = *description.learned_before, own
    taken = {"characters": run.vocab.characters, "learned_before": before, "names": names}
    if run.vocab.labels:
        taken["labels"] = run.vocab.labels
    sha256 = checkpoint.checksum(run.params, taken)
    return Origin(str(folder), run.vocab, sha256, before, names)


def read_learned(folder: Path | str, description: Description) -> Part:
    """All names that a run and the runs it began with learned, as far as known; or its text.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file was changed.
    """
    names = [name for name in LEARNED if name in description.parts]
    return learned_of({name: read_part(folder, description, name) for name in names})


def learned_of(parts: Parts) -> Part:
    """All names, or the text, in the parts that were learned."""
    train = parts["train"]
    if isinstance(train, str | Text):
        return train
    if isinstance(train, NameList):
        return replace(train, more=tuple(parts.get("earlier", ())))
    return [*parts["train"], *parts.get("earlier", ())]


def num_learned(description: Description, part: Part, learned: Part | None) -> int | None:
    """How many names of `part` are among those `learned`; None if these are not all known.

    A name is the same with each label.
    Of a text that the run held out: 0, or None if a run before it learned another text.
    """
    if isinstance(part, str | Text):
        return None if set(description.learned_before) - {description.parts["train"]} else 0
    if learned is None or "" in description.learned_before:
        return None
    if isinstance(part, NameList) and isinstance(learned, NameList):
        return part.num_in(learned)
    labels = description.vocab.labels
    known = lookup(without_labels(learned, labels))
    return sum(name in known for name in without_labels(part, labels))
