"""A run that is refitted: its selection, then itself; see `runs.refit`."""

from argparse import Namespace
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinojax.cli import devices
from dinojax.cli.arguments import Parser
from dinojax.cli.loaded import note_damaged
from dinojax.cli.settings import given_settings
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
    # It runs on what its selection ran on, unless something else is given.
    given = {name: getattr(selection.config, name) for name in ("devices", "recurrence")}
    given |= {name: x for name, x in given_settings(arguments).items() if name in given}
    description = description._replace(config=replace(description.config, **given))
    may_change = not arguments.devices
    experiment = devices.make(parser, description, parts, dataset, may_change=may_change)
    passes = f"{epochs:.3g} pass{'' if f'{epochs:.3g}' == '1' else 'es'} over the data"
    taken = f"as many as the selection had taken after {count(best[0], 'step')}"
    print(f"\nRefit for {passes}: {taken}, where its loss was lowest")
    print(describe_experiment(experiment), flush=True)
    state, tally = session.resume(experiment, run, arrays, arguments.keep)
    return outer, experiment, state, tally
