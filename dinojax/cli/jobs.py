"""A training made ready to begin, from what the command line of scripts/train.py asks for.

What is wrong with the settings and the data is said before JAX is imported, which takes half a
second, and before there is a folder.
"""

from argparse import Namespace
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dinojax.cli.arguments import Parser, about
from dinojax.cli.loaded import note_damaged
from dinojax.cli.settings import flag_of, given_settings, make_plan
from dinojax.cli.terminal import count
from dinojax.config import TrainConfig
from dinojax.files import digest
from dinojax.startup import best_share, num_cores, start_jax

if TYPE_CHECKING:
    from dinojax.data.batches import Dataset
    from dinojax.data.vocab import Vocab
    from dinojax.models.cells import Params
    from dinojax.runs.folder import Description, Run

MAY_CHANGE = {"steps", "epochs", "patience", "devices"}
"""What a resumed run may have otherwise than before."""


class Job(NamedTuple):
    """A training, new or resumed, ready to begin."""

    folder: Path
    description: "Description"
    parts: dict[str, list[str] | str]
    """The names or the text of each part, as in {"train": ..}."""
    dataset: "Dataset"
    params: "Params | None"
    """To begin with, where the run does not draw them."""
    is_resumed: bool = False
    num_blank: int = 0
    """Lines of the data without a name."""


def new_job(parser: Parser, arguments: Namespace, stack: ExitStack) -> Job:
    """A new run: its data read and split, its folder made, and locked until `stack` is closed.

    Raises:
        OSError: a file cannot be read, or the folder not be made.
        ValueError: the settings, the data or the folder cannot be used.
    """
    from dinojax.data.text import bundled_names

    given = given_settings(arguments)
    config, data, expected_sha256, init_from, earlier = make_plan(arguments, given)
    file = data or bundled_names()
    if expected_sha256 is not None and not file.exists():
        raise ValueError(
            f"{file} is not there, of which {arguments.config} was written; its path may be "
            "relative to another folder; give --data"
        )
    split, vocab, num_blank = read_data(file, config)

    # JAX takes half a second: what is wrong with the data was said before.
    from dinojax.runs import experiment as trainer
    from dinojax.runs import folder as runs

    parts = {name: part for name, part in zip(runs.PARTS, split, strict=True) if part}
    data_sha256 = digest(file.read_bytes())
    if expected_sha256 not in (None, data_sha256):
        raise ValueError(
            f"{file} is not what it was when {arguments.config} was written: its checksum is "
            f"{data_sha256[:12]}.., not {expected_sha256[:12]}..; give --data to use it"
        )
    if config.batches == "packed" and "window" not in given:
        longest = max(map(len, parts["train"])) + 1
        config = replace(config, window=max(config.window, longest))
    config = replace(config, devices=start_devices(config))
    if earlier:
        vocab = earlier.vocab
        # Before there is a folder: its vocabulary may lack a character.
        check_vocabulary(vocab, parts.values(), file)
    description = runs.Description(
        config,
        vocab,
        str(data or ""),
        data_sha256,
        str(init_from or ""),
        {name: digest(runs.part_content(part)) for name, part in parts.items()},
    )
    dataset = trainer.make_dataset(description, parts["train"])
    description = with_steps(description, dataset.steps_per_epoch)
    if arguments.out is None:
        folder = runs.next_free_folder(arguments.preset or "dinos")
    else:
        folder = arguments.out
        runs.take_folder(folder, arguments.overwrite)
    stack.enter_context(runs.locked(folder))
    params = earlier.params if earlier else None
    return Job(folder, description, parts, dataset, params, num_blank=num_blank)


def resumed_job(parser: Parser, arguments: Namespace, stack: ExitStack) -> Job:
    """A run to go on with, or to go beyond its end, locked until `stack` is closed.

    Raises:
        OSError: a file cannot be read, or the lock not be made.
        ValueError: there is no such run, it is done, or what is asked for would change it.
    """
    from dinojax.runs import experiment as trainer
    from dinojax.runs import folder as runs

    folder = arguments.resume
    # Before it is locked, which writes a file: is it a run at all?
    runs.load_run(folder, "last")
    stack.enter_context(runs.locked(folder))
    run = runs.load_run(folder, "last")
    note_damaged(parser, run)
    old, given = run.config, given_settings(arguments)
    check_unchanged(folder, run, given, arguments.data)
    parts = {name: runs.read_part(folder, run.description, name) for name in run.description.parts}
    config = replace(old, **given)
    config = replace(config, devices=start_devices(config))
    description = run.description._replace(config=config)
    dataset = trainer.make_dataset(description, parts["train"])
    if given.get("epochs"):
        description = with_steps(description, dataset.steps_per_epoch)
    config = description.config
    if config.steps < old.steps:
        raise ValueError(
            f"--steps: expected at least {old.steps:,}, for which {folder} was planned, got "
            f"{config.steps:,}"
        )
    if run.step >= config.steps:
        raise ValueError(
            f"{folder} has done all its {config.steps:,} steps; give more --steps to go on"
        )
    if config.patience and run.tally.validations_since >= config.patience:
        raise ValueError(
            f"{folder} stopped after {run.tally.validations_since:,} validations without an "
            "improvement; give a larger --patience to go on"
        )
    return Job(folder, description, parts, dataset, None, is_resumed=True)


def read_data(file: Path, config: TrainConfig) -> tuple[tuple[Any, Any, Any], "Vocab", int]:
    """The data split into its parts, their characters, and how many lines were blank.

    Raises:
        OSError: the file cannot be read.
        ValueError: its content cannot be used, or not be split so.
    """
    from dinojax.data.text import read_names, read_running_text, split_names, split_text
    from dinojax.data.vocab import build_vocab

    fractions = config.validation_fraction, config.test_fraction
    if config.is_text:
        text = read_running_text(file, config.lowercase)
        return split_text(text, *fractions), build_vocab([text]), 0
    names, num_blank = read_names(file, config.lowercase)
    return split_names(names, *fractions, config.seed), build_vocab(names), num_blank


def start_devices(config: TrainConfig) -> int:
    """Start JAX; the number of devices that share the rows of a batch."""
    start_jax(config.devices or best_share(config.batch_size, num_cores()))
    import jax

    from dinojax.parallel import make_mesh

    num_devices = config.devices or best_share(config.batch_size, jax.device_count())
    with about("--devices"):
        make_mesh(num_devices)
    return num_devices


def with_steps(description: "Description", steps_per_epoch: int) -> "Description":
    """The description with a number of steps for its epochs, and for what happens every so many."""
    config = description.config
    if config.epochs:
        config = replace(config, steps=max(1, round(config.epochs * steps_per_epoch)))
    if not config.evaluate_every:
        config = replace(config, evaluate_every=max(1, config.steps // 10))
    return description._replace(config=config)


def check_vocabulary(vocab: "Vocab", parts: Iterable[list[str] | str], file: Path) -> None:
    """Raise a ValueError if the data have a character that the run of --init-from has not."""
    try:
        for part in parts:
            for text in [part] if isinstance(part, str) else part:
                vocab.encode(text)
    except ValueError as error:
        raise ValueError(f"--init-from: that run cannot read {file}: {error}") from None


def check_unchanged(folder: Path, run: "Run", given: dict[str, Any], data: Path | None) -> None:
    """Raise a ValueError if a run would not go on as it began; `data` as --data gives them."""
    differences = [
        f"{flag_of(name)}: {folder} has {getattr(run.config, name)}, got {value}"
        for name, value in given.items()
        if name not in MAY_CHANGE and value != getattr(run.config, name)
    ]
    if differences:
        raise ValueError(
            f"{'; '.join(differences)}; a resumed run goes on as it began; start another with "
            "--init-from"
        )
    if data:
        data_sha256 = digest(data.read_bytes())
        if data_sha256 != run.description.data_sha256:
            raise ValueError(
                f"--data: {folder} learns from a file with checksum "
                f"{run.description.data_sha256[:12]}.., {data} has {data_sha256[:12]}..; "
                "a resumed run keeps its data; start another with --init-from"
            )


def describe(job: Job) -> str:
    """A run in one line."""
    config = job.description.config
    thing = "character" if config.is_text else "name"
    amounts = [count(len(job.parts["train"]), thing)]
    amounts += [
        f"{len(job.parts[name]):,} {purpose}"
        for name, purpose in (("validation", "to validate by"), ("test", "to test by"))
        if name in job.parts
    ]
    if job.num_blank:
        amounts[-1] += f" ({count(job.num_blank, 'blank line')} skipped)"
    layers = f" in each of {config.num_layers} layers" if config.num_layers > 1 else ""
    return (
        f"{', '.join(amounts)}, {count(job.description.vocab.size, 'symbol')}; "
        f"{count(config.hidden_size, 'hidden unit')}{layers}; {count(config.steps, 'step')}"
    )
