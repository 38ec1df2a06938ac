"""What `dinojax train` works on: a new run, or an earlier one that it resumes.

Errors in flags and data are reported before JAX is imported, and before a folder is made.
"""

import io
from argparse import Namespace
from contextlib import ExitStack, redirect_stdout, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from dinojax.cli.arguments import Parser, note_damaged, note_unknown
from dinojax.cli.settings import given_settings
from dinojax.config import resolve, resolve_resumed, with_steps
from dinojax.files import digest
from dinojax.startup import best_share, num_cores, start_jax

if TYPE_CHECKING:
    from dinojax.data.batches import Dataset
    from dinojax.runs.description import Description, Parts, Tally
    from dinojax.runs.experiment import Experiment
    from dinojax.training.step import TrainState

    Started = tuple[Path, Experiment, TrainState, Tally]


def start(parser: Parser, arguments: Namespace, stack: ExitStack) -> "Started":
    """Start a new run. Its folder stays locked until `stack` is closed."""
    from dinojax.data.text import bundled_names, read_names, read_running_text
    from dinojax.runs.description import describe, read_config

    given, data, init_from = given_settings(arguments), arguments.data, arguments.init_from
    recorded, expected, earlier, origin = None, None, None, None
    if arguments.config:
        recorded, sources = read_config(arguments.config)
        if not data:
            data, expected = sources["data"], sources["data_sha256"]
        init_from = init_from or sources["init_from"]
    if init_from:
        from dinojax.runs.folder import load_run
        from dinojax.runs.lineage import read_origin

        earlier = load_run(Path(init_from))
        note_damaged(parser, earlier)
        origin = read_origin(Path(init_from), earlier)
    preset, known = arguments.preset or "dinos", earlier.config if earlier else None
    config = resolve(preset, recorded=recorded, earlier=known, given=given)
    if config.is_text and not data:
        raise ValueError("these settings are for a running text; give its file with --data")
    file = Path(data) if data else bundled_names()
    if expected is not None and not file.exists():
        hint = "its path may be relative to another folder; give --data"
        raise ValueError(f"{file} is not there, which {arguments.config} names; {hint}")
    read: list[str] | str
    if config.is_text:
        read, num_blank = read_running_text(file, config.lowercase), 0
    else:
        read, num_blank = read_names(file, config.lowercase)
    checksum = digest(file.read_bytes())
    if expected not in (None, checksum):
        raise ValueError(
            f"{file} has changed since {arguments.config} was written: its checksum is "
            f"{checksum[:12]}.., not {expected[:12]}..; give --data to use it"
        )
    sources = {"source": str(data or ""), "sha256": checksum}
    described = describe(config, read, origin, keep_window="window" in given, **sources)
    experiment = start_experiment(*described, stack)

    from dinojax.cli.reports import describe_experiment
    from dinojax.runs import folder as runs
    from dinojax.runs import session

    folder = arguments.out or next_free_folder(preset)
    runs.take_folder(folder, arguments.overwrite)
    stack.enter_context(runs.locked(folder))
    print(describe_experiment(experiment, num_blank), flush=True)
    note_unknown(parser, experiment.description)
    state, tally = session.start(experiment, folder, earlier.params if earlier else None)
    return folder, experiment, state, tally


def resume(parser: Parser, arguments: Namespace, stack: ExitStack) -> "Started":
    """Resume a run. Its folder stays locked until `stack` is closed."""
    from dinojax.runs import folder as runs
    from dinojax.runs.description import make_dataset

    folder = arguments.resume
    # A folder without a run gets no lock file.
    runs.load_run(folder, "last")
    stack.enter_context(runs.locked(folder))
    run, arrays = runs.load_checkpoint(folder, "last")
    note_damaged(parser, run)
    config = resolve_resumed(run.config, given_settings(arguments))
    data, expected = arguments.data, run.description.data_sha256
    if data and (checksum := digest(data.read_bytes())) != expected:
        raise ValueError(
            f"--data: the run learns from a file with checksum {expected[:12]}.., {data} has "
            f"{checksum[:12]}..; a resumed run keeps its data; start another with --init-from"
        )
    parts = {name: runs.read_part(folder, run.description, name) for name in run.description.parts}
    dataset = make_dataset(config, run.vocab, parts["train"])
    config = with_steps(config, dataset.steps_per_epoch)
    if config.steps < run.config.steps:
        expected = f"expected at least {run.config.steps:,}, as planned for {folder}"
        raise ValueError(f"steps: {expected}, got {config.steps:,}")
    if run.step >= config.steps:
        raise ValueError(f"{folder} has done all its {config.steps:,} steps; give more --steps")
    if config.patience and run.tally.validations_since >= config.patience:
        stopped = f"stopped after {run.tally.validations_since:,} validations without improvement"
        raise ValueError(f"{folder} {stopped}; give a larger --patience")
    experiment = start_experiment(run.description._replace(config=config), parts, dataset, stack)

    from dinojax.cli.reports import describe_experiment
    from dinojax.runs import session

    print(describe_experiment(experiment), flush=True)
    note_unknown(parser, run.description)
    state, tally = session.resume(experiment, run, arrays, arguments.keep)
    return folder, experiment, state, tally


def start_experiment(
    description: "Description", parts: "Parts", dataset: "Dataset", stack: ExitStack
) -> "Experiment":
    """Start JAX and build the experiment. Only one of several processes prints from now on."""
    config = description.config
    start_jax(config.devices or best_share(config.batch_size, num_cores()))

    from dinojax import parallel
    from dinojax.runs.experiment import make_experiment

    if not parallel.may_write():
        stack.enter_context(redirect_stdout(io.StringIO()))
    return make_experiment(description, parts, dataset)


def next_free_folder(preset: str) -> Path:
    """Make the folder runs/`preset`, or the next free one of runs/`preset`-2, -3, .."""
    Path("runs").mkdir(exist_ok=True)
    for number in count(1):
        folder = Path("runs", preset if number == 1 else f"{preset}-{number}")
        # mkdir itself is the test, so that two runs that start at once get two folders.
        with suppress(FileExistsError):
            folder.mkdir()
            break
    return folder
