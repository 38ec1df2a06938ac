"""A run that is refitted: its selection, then itself; see `runs.refit`."""

from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinojax.cli.arguments import Parser
from dinojax.cli.loaded import note_damaged
from dinojax.messages import count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dinojax.models.cells import Params
    from dinojax.runs.description import Tally
    from dinojax.runs.experiment import Experiment
    from dinojax.runs.folder import Run
    from dinojax.training.step import TrainState

    Started = tuple[Path, Experiment, TrainState, Tally]


def start(
    stack: ExitStack,
    folder: Path,
    experiments: "tuple[Experiment, Experiment]",
    params: "Params | None",
) -> "Started":
    """Start a run in a folder, and its selection, which is to be trained first.

    `experiments` are those of the run and of its selection. The folder of the selection stays
    locked until `stack` is closed.
    """
    from dinojax.runs import folder as runs
    from dinojax.runs import session
    from dinojax.runs.selection import SELECTION

    (whole, selection), inner = experiments, folder / SELECTION
    state, tally = session.start(whole, folder, params, selection)
    stack.enter_context(runs.locked(inner))
    return inner, selection, state, tally


def load_selection(
    parser: Parser, outer: "Run", stack: ExitStack
) -> "tuple[Path, Run, Mapping[str, Any]]":
    """The folder of the selection of a run, and its last checkpoint.

    It stays locked until `stack` is closed.
    """
    from dinojax.runs import folder as runs
    from dinojax.runs.refit import check_alone, check_belongs
    from dinojax.runs.selection import SELECTION

    check_alone()
    inner = outer.folder / SELECTION
    # A folder without a run gets no lock file.
    runs.load_run(inner, "last")
    stack.enter_context(runs.locked(inner))
    run, arrays = runs.load_checkpoint(inner, "last")
    check_belongs(outer, run)
    note_damaged(parser, run)
    return inner, run, arrays


def begin(parser: Parser, arguments: Namespace, folder: Path) -> "Started | None":
    """The refit of a run, if the selection in `folder` has ended; None if there is none to begin.

    The folder of the run must be locked.
    """
    from dinojax.cli.reports import describe_experiment
    from dinojax.runs import folder as runs
    from dinojax.runs import refit, session
    from dinojax.runs.description import make_dataset
    from dinojax.runs.experiment import make_experiment

    outer = refit.refitted_from(folder)
    if outer is None:
        return None
    run, arrays = runs.load_checkpoint(outer, "last")
    selection = runs.load_run(folder, "last")
    if not (refit.is_due(run) and refit.has_ended(selection)):
        return None
    note_damaged(parser, run)
    parts = {name: runs.read_part(outer, run.description, name) for name in run.description.parts}
    dataset = make_dataset(run.config, run.vocab, parts["train"])
    best = selection.tally.best_step, selection.tally.best_loss
    epochs = refit.epochs_at_best(selection)
    planned = run.description, dataset.steps_per_epoch, selection.description
    description = refit.chosen(*planned, best, epochs)
    experiment = make_experiment(description, parts, dataset)
    passes = f"the {epochs:.3g} passes of the {count(best[0], 'step')} with the lowest loss"
    print(f"\nRefit, with {passes}: {describe_experiment(experiment)}", flush=True)
    state, tally = session.resume(experiment, run, arrays, arguments.keep)
    return outer, experiment, state, tally
