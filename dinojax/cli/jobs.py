"""What `dinojax train` works on: a new run, or an earlier one that it resumes.

Errors in flags and data are reported before JAX is imported, and before a folder is made.
"""

from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinojax.cli import devices, refit
from dinojax.cli.arguments import Parser
from dinojax.cli.folders import next_free_folder
from dinojax.cli.loaded import note_damaged, note_unknown
from dinojax.cli.settings import given_settings
from dinojax.config import with_steps
from dinojax.data.standard_library import is_library, library_path
from dinojax.messages import count, quoted
from dinojax.presets import resolve, resolve_resumed
from dinojax.processes import compare, exchange, num_processes, num_sharing, process_id
from dinojax.recipes import AUTO
from dinojax.startup import best_share, num_cores, start_jax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dinojax.cli.refit import Started as Started
    from dinojax.data.batches import Dataset
    from dinojax.data.vocab import Vocab
    from dinojax.runs.description import Description, Origin, Parts
    from dinojax.runs.experiment import Experiment
    from dinojax.runs.folder import Run


def start(parser: Parser, arguments: Namespace, stack: ExitStack) -> "Started":
    """Start a new run. Its folder stays locked until `stack` is closed."""
    from dinojax.cli import auto
    from dinojax.cli.data import read_data
    from dinojax.data.corpus import STANDARD_INPUT, bundled_names, shown_all
    from dinojax.models.code import pinned
    from dinojax.runs.code import check_copies, codes_in
    from dinojax.runs.description import describe
    from dinojax.runs.exchange import CONFIG_FILE
    from dinojax.runs.metadata import read_config
    from dinojax.runs.suited import fitted

    given, recorded, sources = pinned(given_settings(arguments)), None, dict[str, str]()
    if arguments.config:
        if arguments.config.is_dir():
            raise ValueError(
                f"--config: {arguments.config} is a folder; give {arguments.config / CONFIG_FILE}"
            )
        recorded, sources = read_config(arguments.config)
        check_copies(arguments.config.parent, codes_in(recorded))
        if sources["extensions"] and not {"steps", "epochs"} & given.keys():
            longer = "its selection" if recorded.get("refit") else "the new run"
            raise ValueError(
                f"the run of {arguments.config} was extended ({sources['extensions']}); give the "
                f"first number as --steps and extend {longer} likewise, or give the last for a "
                "run that plans all steps from its start"
            )
    # What the user gives takes the place of what was recorded, and of its checksum.
    recorded_files = list(map(Path, filter(None, sources.get("data", "").split("\n"))))
    data = arguments.data or recorded_files
    expected = None if arguments.data else sources.get("data_sha256")
    earlier = origin = None
    if init_from := arguments.init_from or sources.get("init_from"):
        expected_origin = None if arguments.init_from else sources["init_sha256"]
        if expected_origin is not None:
            check_there(Path(init_from), arguments.config, "--init-from")
        earlier, origin = load_origin(parser, Path(init_from), expected_origin)
    preset, before = arguments.preset or "dinos", earlier.config if earlier else None
    labels = origin.vocab.labels if origin and origin.vocab else ()
    if preset == AUTO:
        files = data or [bundled_names()]
        config, corpus = auto.settle(parser, files, before, given, labels)
    else:
        config = resolve(preset, recorded=recorded, earlier=before, given=given)
        if config.is_text and not data:
            if recorded is not None:
                raise ValueError("these settings are for a running text; give its file with --data")
            data = [library_path()]
        files = data or [bundled_names()]
        for file in files if expected is not None else []:
            if file != STANDARD_INPUT:
                check_there(file, arguments.config, "--data")
        corpus = read_data(parser, files, config, labels)
    source, sha256 = "\n".join(map(str, data)), corpus.sha256
    if expected not in (None, sha256):
        raise ValueError(
            f"{shown_all(files)} has changed since {arguments.config} was written: its checksum is "
            f"{sha256[:12]}.., not {expected[:12]}..; give --data to use it"
        )
    asked, config = config, fitted(config, corpus.data, given)
    options: dict[str, Any] = {"keep_window": "window" in given, "source": source, "sha256": sha256}
    experiment = start_experiment(parser, *describe(config, corpus.data, origin, **options))

    from dinojax import parallel
    from dinojax.cli.reports import describe_experiment
    from dinojax.runs import folder as runs
    from dinojax.runs import session
    from dinojax.runs.experiment import make_experiment
    from dinojax.runs.refit import selecting

    if config.refit:
        described = describe(selecting(experiment.config), corpus.data, origin, **options)
        whole, experiment = experiment, make_experiment(*described)

    folder = arguments.out or Path("runs", preset)
    if parallel.may_write():
        name = preset
        if preset == AUTO or arguments.config:
            files = [each for each in data if each != STANDARD_INPUT and not is_library(each)]
            name = auto.run_name(files, "text" if config.is_text else preset)
        folder = arguments.out or next_free_folder(name)
        runs.take_folder(folder, arguments.overwrite)
        stack.enter_context(runs.locked(folder))
    exchange("folder", None)
    library = [str(each) for each in data if is_library(each)]
    print(describe_experiment(experiment, [*library, *corpus.notes]), flush=True)
    note_unknown(parser, experiment.description)
    if config != asked:
        rows, window = count(config.batch_size, "row"), count(config.window, "character")
        parser.note(
            f"the text is short: a batch has {rows} of {window}, not {asked.batch_size:,} of "
            f"{asked.window:,}"
        )
    if preset == AUTO and (note := auto.describe_few(parser.program, folder, corpus.data)):
        parser.note(note)
    params = None
    if earlier:
        note_new(parser, earlier, experiment.description.vocab)
        params = session.inherited(experiment, earlier.trained)
    if config.refit:
        return refit.start(stack, folder, (whole, experiment), params)
    state, tally = session.start(experiment, folder, params)
    return folder, experiment, state, tally


def note_new(parser: Parser, earlier: "Run", vocab: "Vocab") -> None:
    """Print a note on the characters of a vocabulary that an earlier run did not know."""
    if new := sorted(set(vocab.characters) - set(earlier.vocab.characters)):
        verb = "begins" if len(new) == 1 else "begin"
        parser.note(
            f"{count(len(new), 'character')} that {earlier.folder} did not know {verb} with random "
            f"parameters: {quoted(''.join(new))}"
        )


def check_there(path: Path, config: Path, flag: str) -> None:
    """Raise a ValueError if what a config.json names is not there; `flag` can replace it."""
    if not (path.exists() or is_library(path)):
        hint = f"its path may be relative to another folder; give {flag}"
        raise ValueError(f"{path} is not there, which {config} names; {hint}")


def load_origin(parser: Parser, folder: Path, expected: str | None) -> "tuple[Run, Origin]":
    """The run that a new one begins with; a config.json may give its `expected` checksum.

    It is empty where an earlier version of dinojax wrote that file.
    """
    from dinojax.runs.folder import load_run
    from dinojax.runs.lineage import read_origin

    run = load_run(folder)
    note_damaged(parser, run)
    origin = read_origin(folder, run)
    if expected == "":
        parser.note(
            f"the run of --config did not record what {folder} was; this one may differ from it"
        )
    elif expected not in (None, origin.sha256):
        raise ValueError(
            f"{folder} has changed since the run of --config began with it: its parameters, or "
            "what it learned, have another checksum; give --init-from to use it as it is"
        )
    return run, origin


def resume(parser: Parser, arguments: Namespace, stack: ExitStack) -> "Started":
    """Resume a run. Its folder stays locked until `stack` is closed."""
    from dinojax.cli.data import drawn, note_wait
    from dinojax.data.corpus import shown_all
    from dinojax.data.reading import checksum_of
    from dinojax.models.code import pinned
    from dinojax.runs import folder as runs
    from dinojax.runs.description import extended, make_dataset
    from dinojax.runs.refit import has_ended, is_due

    folder, given = arguments.resume, pinned(given_settings(arguments))
    # A folder without a run gets no lock file.
    runs.load_run(folder, "last")
    if process_id() == 0:
        stack.enter_context(runs.locked(folder))
    run, arrays = runs.load_checkpoint(folder, "last")
    note_damaged(parser, run)
    runs.check_is_network(run, "only a network is trained step by step, and resumed")
    config = resolve_resumed(run.config, given)
    if data := arguments.data:
        for file in data:
            note_wait(parser, file)
        checksum, expected = checksum_of(data), run.description.data_sha256
        if checksum != expected:
            raise ValueError(
                f"--data: the run learns from a file with checksum {expected[:12]}.., "
                f"{shown_all(data)} has {checksum[:12]}..; a resumed run keeps its data; start "
                "another with --init-from"
            )
    if is_due(run):
        folder, run, arrays = refit.load_selection(parser, run, stack)
        config = resolve_resumed(run.config, given)
        if has_ended(run):
            start_jax(config.devices or num_cores())
            if refitted := refit.begin(parser, arguments, folder):
                return refitted
    drawn(runs.restore_data(folder, run.description))
    parts = {name: runs.read_part(folder, run.description, name) for name in run.description.parts}
    dataset = make_dataset(config, run.vocab, parts["train"])
    config = with_steps(config, dataset.steps_per_epoch)
    if config.steps < run.config.steps:
        planned = f"expected at least {run.config.steps:,}, as planned for {folder}"
        raise ValueError(f"steps: {planned}, got {config.steps:,}")
    if run.step >= config.steps:
        remedy = "train another run" if run.config.refit else "give more --steps"
        raise ValueError(f"{folder} has done all its {config.steps:,} steps; {remedy}")
    if config.steps > run.config.steps and run.step > (start := run.config.cooldown_start):
        parser.note(
            f"{folder} goes on from step {start:,}, before its cooldown; {run.step - start:,} of "
            "its steps are taken again"
        )
        run, arrays = runs.load_checkpoint(folder, str(start))
    if config.patience and run.tally.validations_since >= config.patience:
        validations = count(run.tally.validations_since, "validation")
        stopped = f"stopped after {validations} without improvement"
        raise ValueError(f"{folder} {stopped}; give a larger --patience")
    description = extended(run.description, config, run.step)
    experiment = start_experiment(
        parser, description, parts, dataset, resumed=arrays, may_change=not arguments.devices
    )

    from dinojax.cli.reports import describe_experiment, describe_rates
    from dinojax.runs import session

    print(describe_experiment(experiment), flush=True)
    note_unknown(parser, description)
    if config.steps != run.config.steps and (note := describe_rates(experiment, run)):
        parser.note(note)
    state, tally = session.resume(experiment, run, arrays, arguments.keep)
    return folder, experiment, state, tally


def start_experiment(
    parser: Parser,
    description: "Description",
    parts: "Parts",
    dataset: "Dataset",
    *,
    resumed: "Mapping[str, Any] | None" = None,
    may_change: bool = False,
) -> "Experiment":
    """Start JAX and build the experiment.

    Several processes must have the same description, and the same arrays of a checkpoint if they
    have `resumed` a run. Where not as many devices are there, their number `may_change`.
    """
    config, num = description.config, num_processes()
    each = best_share(config.batch_size, max(1, num_cores() // num_sharing()), num)
    if num > 1:
        from dinojax.runs.checkpoint import checksum
        from dinojax.runs.description import facts

        checkpoint = {"checkpoint": checksum(resumed, {})[:12]} if resumed else {}
        compare("data", facts(description) | checkpoint)
    start_jax(config.devices // num or each)

    return devices.make(parser, description, parts, dataset, may_change=may_change)
