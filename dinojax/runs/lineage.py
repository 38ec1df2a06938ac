"""What a run learned from, together with the runs that it began with."""

from pathlib import Path

from dinojax.runs import checkpoint
from dinojax.runs.description import Description, Origin, Part, Parts
from dinojax.runs.folder import Run, check_is_network, read_part

LEARNED = "train", "earlier"


def read_origin(folder: Path, run: Run) -> Origin:
    """What a new run takes over from the `run` in a folder, besides its parameters.

    Raises:
        ValueError: its model is no network.
    """
    check_is_network(run, "a new run begins with a network; give one of its members, if it has any")
    description = run.description
    own, names = description.parts["train"], list[str]()
    if not run.config.is_text:
        try:
            names = sorted(set(read_learned(folder, description)))
        except (OSError, ValueError):
            # A missing or changed list need not keep the parameters from being used.
            own = ""
    before = *description.learned_before, own
    taken = {"characters": run.vocab.characters, "learned_before": before, "names": names}
    sha256 = checkpoint.checksum(run.params, taken)
    return Origin(str(folder), run.vocab, sha256, before, names)


def read_learned(folder: Path, description: Description) -> Part:
    """All names that a run and the runs it began with learned, as far as known; or its text.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file was changed.
    """
    names = [name for name in LEARNED if name in description.parts]
    return learned_of({name: read_part(folder, description, name) for name in names})


def learned_of(parts: Parts) -> Part:
    """All names, or the text, in the parts that were learned."""
    if isinstance(parts["train"], str):
        return parts["train"]
    return [*parts["train"], *parts.get("earlier", ())]


def num_learned(description: Description, part: Part, learned: Part | None) -> int | None:
    """How many names of `part` are among those `learned`; None if these are not all known.

    Of a text that the run held out: 0, or None if a run before it learned another text.
    """
    if isinstance(part, str):
        return None if set(description.learned_before) - {description.parts["train"]} else 0
    if learned is None or "" in description.learned_before:
        return None
    known = set(learned)
    return sum(name in known for name in part)
