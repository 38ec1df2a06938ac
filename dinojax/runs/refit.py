"""A run that is refitted: validation chooses its steps, then it learns all but the test part.

RUN              the run itself, which takes no step until the number of steps is chosen
RUN/selection    an ordinary run with its settings, its seed and its validation part

Once the selection has ended, the run takes as many passes over its data as the selection had taken
over its own at the best validation, from the same seed and with the schedule for that many steps.
"""

from dataclasses import replace
from pathlib import Path

from dinojax import processes
from dinojax.config import TrainConfig, with_steps
from dinojax.runs.description import Description, facts, make_dataset
from dinojax.runs.folder import Run, find_checkpoints, load_run, read_part
from dinojax.runs.selection import SELECTION, Selection

MAY_DIFFER = (
    *("refit", "steps", "epochs", "patience", "window", "devices", "recurrence"),
    *("train part", "validation part", "earlier part"),
)
"""Those of the `facts` in which a run and its selection may differ."""


def selecting(config: TrainConfig) -> TrainConfig:
    """The configuration of the selection of a run that is to be refitted.

    Raises:
        ValueError: this is one of several processes.
    """
    check_alone()
    return replace(config, refit=False)


def check_alone() -> None:
    """Raise a ValueError unless this process trains alone."""
    if (num := processes.num_processes()) > 1:
        raise ValueError(f"refit: expected a single process, got {num:,}; turn it off")


def is_due(run: Run) -> bool:
    """Whether a run is to be refitted, and its steps are not chosen yet."""
    description = run.description
    is_chosen = description.selection is not None or description.model is not None
    return run.config.refit and not is_chosen


def check_learned(run: Run) -> None:
    """Raise a ValueError if a run is to be refitted, and has learned nothing yet."""
    if is_due(run):
        inner = run.folder / SELECTION
        other = f", or take its selection in {inner}" if _is_run(inner) else ""
        raise ValueError(f"{run.folder} has yet to be refitted; resume its training{other}")


def _is_run(folder: Path) -> bool:
    """Whether there is a run in a folder."""
    return folder.is_dir() and bool(find_checkpoints(folder))


def has_ended(run: Run) -> bool:
    """Whether a run has taken all its steps, or run out of patience."""
    is_patient = not 0 < run.config.patience <= run.tally.validations_since
    return run.step >= run.config.steps or not is_patient


def refitted_from(folder: Path | str) -> Path | None:
    """The folder of the run for which the run in `folder` is the selection; None if it is none."""
    folder = Path(folder)
    outer = folder.parent
    is_selection = folder.name == SELECTION and any(find_checkpoints(outer))
    return outer if is_selection else None


def selection_of(run: Run, wanted: str) -> Run:
    """The selection of a run that is refitted, at its best checkpoint.

    Raises:
        OSError: its checkpoint cannot be read.
        ValueError: it is damaged, or that of another run; or it is not there, with what is `wanted`
            then.
    """
    folder = run.folder / SELECTION
    if not _is_run(folder):
        there = f"its selection in {folder} is not there"
        raise ValueError(f"{run.folder} was refitted, and {there}; {wanted}")
    selection = load_run(folder)
    check_belongs(run, selection)
    return selection


def check_belongs(run: Run, selection: Run) -> None:
    """Raise a ValueError if a run in the place of the selection of another is not its selection."""
    theirs = facts(selection.description)
    for name, value in facts(run.description).items():
        if name not in MAY_DIFFER and theirs.get(name) != value:
            raise ValueError(
                f"{selection.folder} is not the selection of {run.folder}: {name} differs; train "
                "the run anew"
            )


def epochs_at_best(run: Run) -> float:
    """How many passes over its training part a run had taken at its best validation."""
    part = read_part(run.folder, run.description, "train")
    return run.tally.best_step / make_dataset(run.config, run.vocab, part).steps_per_epoch


def chosen(
    description: Description,
    steps_per_epoch: int,
    selected: Description,
    best: tuple[int, float],
    epochs: float,
) -> Description:
    """The description of a run that is refitted, with the steps of so many `epochs`.

    `best` are the steps and the loss of the best validation of its selection, which is described by
    `selected`. That may have become longer or more patient, and so would the same run.
    """
    taken = {name: getattr(selected.config, name) for name in ("steps", "epochs", "patience")}
    config = with_steps(replace(description.config, **taken), steps_per_epoch)
    selection = Selection(*best, config.steps, config.epochs)
    config = with_steps(replace(config, epochs=epochs), steps_per_epoch)
    extensions = selected.extensions
    return description._replace(config=config, selection=selection, extensions=extensions)
