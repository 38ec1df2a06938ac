"""The run that a command works on, and what it learned."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from dinojax.cli.arguments import MAX_DIGITS, Parser
from dinojax.data.labels import number_of
from dinojax.messages import about, count, quoted, visible
from dinojax.runs.kinds import Mixture, kind_name

if TYPE_CHECKING:
    from dinojax.runs.description import Description, Part
    from dinojax.runs.folder import Run
    from dinojax.runs.selection import Selection

HELP_RUN = "folder of a run, or of a sweep: then the mean of the replicas of its best setting"


def add_which(parser: ArgumentParser) -> None:
    """Add the argument that chooses a checkpoint of a run."""
    text = "checkpoint: best (by validation loss), last, or a number of steps (default: best)"
    add = parser.add_argument
    add("--which", metavar="STEP", type=which_checkpoint, default="best", help=text)


def which_checkpoint(text: str) -> str:
    """Argument type: a checkpoint, as "best", "last" or a number of steps."""
    if text in ("best", "last") or (text.isascii() and text.isdigit() and len(text) < MAX_DIGITS):
        return text
    expected = "best, last or a number of steps"
    raise ArgumentTypeError(f"expected {expected}, got {quoted(text)}")


def load(parser: Parser, arguments: Namespace) -> "Run":
    """The run in the folder `arguments.run`, at its checkpoint `arguments.which`."""
    from dinojax.runs.mixtures import load_any
    from dinojax.runs.study import best_trial

    if best := best_trial(arguments.run):
        raise ValueError(f"{arguments.run} is a search, not a run; its best trial is {best}")
    run = load_any(arguments.run, arguments.which)
    note_damaged(parser, run)
    if replicas := described_replicas(arguments.run, run):
        parser.note(f"{arguments.run}: the {replicas}, with equal weights")
    return run


def read_label(arguments: Namespace, run: "Run") -> str | None:
    """The label that a flag gives, as the run calls it; None if it is not given.

    Raises:
        ValueError: the run has no labels, or not this one.
    """
    from dinojax.data.text import composed

    if arguments.label is None:
        return None
    labels = run.vocab.labels
    with about(f"--label: {arguments.run}"):
        return labels[number_of(labels, composed(arguments.label, run.config.lowercase).strip())]


def described_replicas(folder: Path, run: "Run") -> str:
    """Of which replicas a run is the mean, if the folder is that of a sweep; else empty."""
    if run.folder.resolve() == folder.resolve():
        return ""
    kind = run.description.model
    num = len(kind.members) if isinstance(kind, Mixture) else 1
    return f"mean of {count(num, 'replica')} of {run.folder.parent.name}"


def heading(folder: Path, run: "Run") -> str:
    """What figures are about: a run after so many steps, or a model of another kind."""
    if replicas := described_replicas(folder, run):
        return visible(f"{folder}, {replicas}")
    if run.description.model:
        return visible(f"{folder}, {kind_name(run.description.kind)}")
    return visible(f"{folder} after {count(run.step, 'step')}")


def note_damaged(parser: Parser, run: "Run") -> None:
    """Print a note on each damaged checkpoint that was passed over."""
    for file in run.damaged:
        parser.note(f"{file} could not be read; using {run.checkpoint.name}")


def load_learned(parser: Parser, run: "Run", needed_by: str = "") -> "Part | None":
    """All that a run and those before it learned; None, and a note, where the files are missing.

    If a flag cannot do without, `needed_by` names it, and a ValueError is raised instead.
    """
    from dinojax.cli.data import drawn
    from dinojax.runs.folder import restore_data
    from dinojax.runs.lineage import read_learned

    note_unknown(parser, run.description)
    try:
        drawn(restore_data(run.folder, run.description))
        return read_learned(run.folder, run.description)
    except FileNotFoundError as error:
        missing = f"what the run learned is not known, as {error.filename} is missing"
        if needed_by:
            raise ValueError(f"{needed_by}: {missing}") from None
        parser.note(missing)
        return None


def note_unknown(parser: Parser, description: "Description") -> None:
    """Print a note if it is not known what all runs before a run learned."""
    if "" in description.learned_before:
        parser.note(
            f"the run began with {description.init_from}; not all that was learned until then is "
            "known, so what counts as new may be old"
        )


def describe_excerpt(part: "Part", most: int) -> str:
    """How much of a part of prepared data is read where `most` characters are; else empty."""
    from dinojax.data.stored import num_in_excerpt

    if (num := num_in_excerpt(part, most)) == len(part):
        return ""
    if isinstance(part, str) or hasattr(part, "documents"):
        return f"the first {num:,} of {count(len(part), 'character')}"
    return f"{num:,} of {count(len(part), 'name')}, spread evenly"


def describe_learned(num: int | None, description: "Description") -> str:
    """How many of some names, or of the characters of a text, were learned, in words."""
    if num is None:
        return "which the runs that this one began with may have learned"
    runs = "this run or the runs it began with" if description.init_from else "this run"
    return f"{num:,} of them learned by {runs}" if num else f"not learned by {runs}"


def describe_selection(selection: "Selection") -> str:
    """What a refitted run, or a mixture of such runs, knows of its validation."""
    said = f"the validation loss of this run, {selection.best_loss:.4f}"
    # A mixture takes no steps.
    if not selection.best_step:
        return (
            f"{said}, is that of its selection, whose members did not learn the validation part; "
            "its weights did, unless they were given"
        )
    return (
        f"{said} after {count(selection.best_step, 'step')}, is that of its selection, which did "
        "not learn the validation part"
    )


def default_split(description: "Description") -> str:
    """The part of its data on which a run is measured, unless another is asked for."""
    names = ("test", "train") if description.config.refit else ("validation", "train")
    return next(name for name in names if name in description.parts)
