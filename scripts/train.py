"""Train a model on a list of names or a text, and write new ones; see --help."""

import importlib.util
import json
import os
import shlex
import shutil
import signal
import sys
import time
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from dinojax.command_line import (
    BAD_INPUT,
    INTERRUPTED,
    Parser,
    describe_error,
    number,
    path,
    run,
    say_damaged,
    visible,
    whole_number,
)
from dinojax.config import PRESETS, TrainConfig, check_range, config_from
from dinojax.devices import best_share, num_cores, start_jax

if TYPE_CHECKING:
    from dinojax.batches import Dataset
    from dinojax.cells import Params
    from dinojax.runs import Description, Run
    from dinojax.vocab import Vocab

REPORTS = 7
NAMES_PER_REPORT = 4
NAMES_AT_END = 10
MAX_LENGTH = 50
TEXT_LENGTH = 200
DIVERGED = 1
TERMINATED = 128 + signal.SIGTERM


# What each setting means; a flag of the same name sets it.
SETTINGS = {
    "batches": "names padded one a row, packed end to end, or windows of a running text",
    "lowercase": "read the data in lower case",
    "cell": "recurrent cell of each layer",
    "num_layers": "recurrent layers",
    "hidden_size": "units of each layer",
    "dropout": "share of each layer's outputs that is dropped in training",
    "dtype": "of the numbers that matrix products multiply; bfloat16 is for GPUs and TPUs",
    "batch_size": "rows a step; a padded row is one name",
    "window": "characters in a row of a packed or windowed batch; packed, at least a whole name",
    "reset_rate": "share of the rows whose state is set back before a window",
    "loss": "summed over a name's characters, or their mean",
    "steps": "training steps",
    "epochs": "passes over the data, which then decide the number of steps",
    "optimizer": "how gradients become updates",
    "learning_rate": "size of the updates",
    "schedule": "of the learning rate after its warm-up",
    "warmup": "share of the steps in which the learning rate rises to its full value",
    "weight_decay": "of adamw and lion, each step, times the learning rate",
    "clip_value": "bound on the size of each gradient entry, nats per unit; 0 for none",
    "clip_norm": "bound on the norm of the whole gradient, nats per unit; 0 for none",
    "validation_fraction": "share of the data to validate by, not to learn from",
    "test_fraction": "share of the data that training leaves alone",
    "evaluate_every": "steps between two validations, 0 for a tenth of the run",
    "patience": "validations in a row without an improvement that end training, 0 for never",
    "devices": "how many share the rows of a batch, 0 for the most that do so evenly; a core "
    "counts as one",
    "seed": "of all that is random",
}
OF_WINDOWS = {"reset_rate"}
OF_ROWS = {"window"}
OF_THE_MODEL = "cell", "num_layers", "hidden_size"
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


def parse_arguments() -> tuple[Parser, Namespace]:
    """Read the command line: the parser, to report errors with, and its result."""
    parser = Parser(
        "Train a recurrent network on a list of names or a text, character by character."
    )
    add = parser.add_argument
    add(
        "preset",
        nargs="?",
        choices=PRESETS,
        help="settings to start from: the exercise (dinos, the default), a long list of names, a "
        "running text",
    )
    add(
        "--data",
        metavar="FILE",
        type=path,
        help="UTF-8 file of names, one a line, or of a text (default: for names, the dinosaurs)",
    )
    for field in fields(TrainConfig):
        flag, choices = f"--{field.name.replace('_', '-')}", get_args(field.type)
        values = {name: getattr(preset, field.name) for name, preset in PRESETS.items()}
        if field.name == "steps":
            values |= {name: "by its epochs" for name, preset in PRESETS.items() if preset.epochs}
        if len(set(values.values())) == 1:
            default = f"default: {values['dinos']}"
        else:
            default = "default: " + ", ".join(f"{name} {value}" for name, value in values.items())
        options: dict[str, Any] = {"help": f"{SETTINGS[field.name]} ({default})"}
        if field.type is bool:
            options |= {"action": BooleanOptionalAction}
        elif choices:
            options |= {"choices": choices}
        else:
            options |= {
                "type": whole_number if field.type is int else number,
                "metavar": "N" if field.type is int else "X",
            }
        add(flag, default=None, **options)
    add(
        "--init-from",
        metavar="RUN",
        type=path,
        help="begin with the parameters of a run, its vocabulary and the same model",
    )
    add(
        "--resume",
        metavar="RUN",
        type=path,
        help="go on with a run where it stopped, as if it had not; with larger --steps, further",
    )
    add(
        "--config",
        metavar="FILE",
        type=path,
        help="settings and data of a run, from its config.json, instead of a preset",
    )
    add(
        "--out",
        metavar="FOLDER",
        type=path,
        help="folder of the run; default: runs/PRESET, or the next free",
    )
    add("--overwrite", action="store_true", help="replace the run that --out holds")
    add(
        "--keep",
        metavar="N",
        type=whole_number,
        default=2,
        help="how many of the newest checkpoints stay, besides the best (default: %(default)s)",
    )
    add(
        "--save-every",
        metavar="N",
        type=whole_number,
        default=0,
        help="steps between two checkpoints (default: half a minute)",
    )
    add("--max-minutes", metavar="X", type=number, help="save and stop after this time")
    add(
        "--tensorboard",
        action="store_true",
        help="write the metrics to event files too (needs dinojax[tensorboard])",
    )
    arguments = parser.parse_args()
    with parser.reported_errors():
        check_range("--keep", arguments.keep, 1, 10**6)
        check_range("--save-every", arguments.save_every, 0, 10**9)
        if arguments.max_minutes is not None:
            check_range("--max-minutes", arguments.max_minutes, 1e-3, 1e6)
        for flag, others in {
            "resume": ("preset", "init_from", "config", "out", "overwrite"),
            "config": ("preset",),
        }.items():
            for other in others:
                if getattr(arguments, flag) and getattr(arguments, other):
                    shown = "a preset" if other == "preset" else f"--{other.replace('_', '-')}"
                    raise ValueError(f"--{flag} and {shown} exclude each other")
        if arguments.overwrite and arguments.out is None:
            raise ValueError("--overwrite needs --out, the folder of the run to replace")
    return parser, arguments


def given_settings(arguments: Namespace) -> dict[str, Any]:
    """The settings that the command line gives."""
    values = {name: getattr(arguments, name) for name in SETTINGS}
    given = {name: value for name, value in values.items() if value is not None}
    if "steps" in given and "epochs" not in given:
        given["epochs"] = 0.0
    return given


def main() -> int:
    """Prepare a new run or an earlier one, and train; returns the exit code."""
    parser, arguments = parse_arguments()
    with ExitStack() as stack:
        with parser.reported_errors():
            if arguments.tensorboard:
                check_tensorboard()
            job = (resumed if arguments.resume else started)(arguments, stack)
            print(describe(job), flush=True)
        return learn(parser, job, arguments)


def started(arguments: Namespace, stack: ExitStack) -> Job:
    """A new run: its data read and split, its folder made and locked."""
    from dinojax.data import bundled_names, read_names, read_running_text, split_names, split_text
    from dinojax.vocab import build_vocab

    given = given_settings(arguments)
    base = PRESETS[arguments.preset or "dinos"]
    recorded: dict[str, str] = {}
    data, init_from = arguments.data, arguments.init_from
    if arguments.config:
        base, recorded = read_config(arguments.config)
        data = data or (Path(recorded["data"]) if recorded["data"] else None)
        init_from = init_from or (Path(recorded["init_from"]) if recorded["init_from"] else None)
    config, earlier = replace(base, **given), None
    if init_from:
        from dinojax import runs

        earlier = runs.load_run(init_from)
        config = like_earlier(config, given, earlier)
        if not arguments.config and "lowercase" not in given:
            config = replace(config, lowercase=earlier.config.lowercase)
    if config.batches != "windows" and OF_WINDOWS & set(given):
        raise ValueError("--reset-rate is for --batches windows: names start anew each time")
    if config.batches == "padded" and OF_ROWS & set(given):
        raise ValueError("--window is for --batches packed or windows: a padded row is one name")
    if config.is_text and data is None:
        raise ValueError("a running text is needed: give its file with --data")
    file = data or bundled_names()
    if recorded and not arguments.data and not file.exists():
        raise ValueError(
            f"{file} is not there, of which {arguments.config} was written; its path may be "
            "relative to another folder; give --data"
        )
    fractions = config.validation_fraction, config.test_fraction
    parts: dict[str, list[str] | str]
    num_blank = 0
    if config.is_text:
        text = read_running_text(file, config.lowercase)
        vocab = earlier.vocab if earlier else build_vocab([text])
        split: Any = split_text(text, *fractions)
    else:
        names, num_blank = read_names(file, config.lowercase)
        vocab = earlier.vocab if earlier else build_vocab(names)
        split = split_names(names, *fractions, config.seed)

    # JAX takes half a second: what is wrong with the data was said before.
    from dinojax import runs, trainer

    parts = {name: part for name, part in zip(runs.PARTS, split, strict=True) if part}
    data_sha256 = runs.digest(file.read_bytes())
    if recorded and not arguments.data and recorded["data_sha256"] != data_sha256:
        raise ValueError(
            f"{file} is not what it was when {arguments.config} was written: its checksum is "
            f"{data_sha256[:12]}.., not {recorded['data_sha256'][:12]}..; give --data to use it"
        )
    if config.batches == "packed" and "window" not in given:
        longest = max(map(len, parts["train"])) + 1
        config = replace(config, window=max(config.window, longest))
    config = replace(config, devices=start_devices(config))
    description = runs.Description(
        config,
        vocab,
        str(data or ""),
        data_sha256,
        str(init_from or ""),
        {name: runs.digest(runs.part_content(part)) for name, part in parts.items()},
    )
    if earlier:
        # Before there is a folder: its vocabulary may lack a character.
        check_vocabulary(vocab, parts.values(), file)
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


def resumed(arguments: Namespace, stack: ExitStack) -> Job:
    """A run that stopped before its end, or that is to go beyond it."""
    from dinojax import runs, trainer

    folder = arguments.resume
    # Before it is locked, which writes a file: is it a run at all?
    runs.load_run(folder, "last")
    stack.enter_context(runs.locked(folder))
    run = runs.load_run(folder, "last")
    say_damaged(run.damaged, run.checkpoint)
    old, given = run.config, given_settings(arguments)
    differences = [
        f"--{name.replace('_', '-')}: {folder} has {getattr(old, name)}, got {value}"
        for name, value in given.items()
        if name not in MAY_CHANGE and value != getattr(old, name)
    ]
    if differences:
        raise ValueError(
            f"{'; '.join(differences)}; a resumed run goes on as it began; start another with "
            "--init-from"
        )
    if arguments.data:
        data_sha256 = runs.digest(arguments.data.read_bytes())
        if data_sha256 != run.description.data_sha256:
            raise ValueError(
                f"--data: {folder} learns from a file with checksum "
                f"{run.description.data_sha256[:12]}.., {arguments.data} has {data_sha256[:12]}..; "
                "a resumed run keeps its data; start another with --init-from"
            )
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


def read_config(file: Path) -> tuple[TrainConfig, dict[str, str]]:
    """The settings in a run's config.json, and what it says of its data."""
    try:
        settings = json.loads(file.read_text("utf-8"))
        recorded = {name: settings.pop(name) for name in ("data", "data_sha256", "init_from")}
        if not all(isinstance(value, str) for value in recorded.values()):
            raise TypeError
        return config_from(settings), recorded
    except KeyError as error:
        raise ValueError(f"{file}: expected the config.json of a run; {error} is missing") from None
    except (AttributeError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError(f"{file}: expected the config.json of a run, a JSON object") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def start_devices(config: TrainConfig) -> int:
    """Start JAX; the number of devices that share the rows of a batch."""
    start_jax(config.devices or best_share(config.batch_size, num_cores()))
    import jax

    num_devices = config.devices or best_share(config.batch_size, jax.device_count())
    if num_devices > jax.device_count():
        raise ValueError(
            f"--devices: expected up to {jax.device_count()}, as many as there are, got "
            f"{num_devices}"
        )
    return num_devices


def with_steps(description: "Description", steps_per_epoch: int) -> "Description":
    """The description with a number of steps for its epochs, and for what happens every so many."""
    config = description.config
    if config.epochs:
        config = replace(config, steps=max(1, round(config.epochs * steps_per_epoch)))
    if not config.evaluate_every:
        config = replace(config, evaluate_every=max(1, config.steps // 10))
    return description._replace(config=config)


def like_earlier(config: TrainConfig, given: dict[str, Any], earlier: "Run") -> TrainConfig:
    """The configuration with the model of an earlier run.

    Raises:
        ValueError: the command line asks for another model or another kind of data.
    """
    if config.is_text != earlier.config.is_text:
        kinds = ["names", "a text"] if config.is_text else ["a text", "names"]
        raise ValueError(
            f"--init-from: that run learned {kinds[0]}, this one is to learn {kinds[1]}; choose a "
            f"preset for {kinds[0]}"
        )
    for name in OF_THE_MODEL:
        value = getattr(earlier.config, name)
        if given.get(name, value) != value:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag}: the run of --init-from has {value}, got {given[name]}")
    return replace(config, **{name: getattr(earlier.config, name) for name in OF_THE_MODEL})


def check_vocabulary(vocab: "Vocab", parts: Iterable[list[str] | str], file: Path) -> None:
    """Raise a ValueError if the data have a character that the run of --init-from has not."""
    try:
        for part in parts:
            for text in [part] if isinstance(part, str) else part:
                vocab.encode(text)
    except ValueError as error:
        raise ValueError(f"--init-from: that run cannot read {file}: {error}") from None


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


def learn(parser: Parser, job: Job, arguments: Namespace) -> int:
    """Train, save into the folder, and report; returns the exit code."""
    import jax
    from tqdm import tqdm

    from dinojax import runs, trainer
    from dinojax.data import capitalized
    from dinojax.evaluate import summarize

    folder, description = job.folder, job.description
    config, is_text = description.config, description.config.is_text
    setup = trainer.set_up(description, job.parts, job.dataset)
    with parser.reported_errors():
        if job.is_resumed:
            state, tally = trainer.resume(folder, description, setup, arguments.keep)
        else:
            state, tally = trainer.start(folder, description, job.parts, setup, job.params)
    write = make_writer(description, setup.model, setup.key_sample)
    unit = "nats a name" if config.loss == "summed" else "nats a character"

    def shown(report: trainer.Report) -> str:
        text = f"step {report.step:>{len(f'{config.steps:,}')},}  {report.loss:.2f} {unit}"
        if report.validation_loss is not None:
            text += f", {report.validation_loss:.4f} a character in validation"
        texts = write(report.state.params, report.step)
        if is_text:
            return f"{text}\n{visible_lines(texts[0])}\n"
        names = map(visible, map(capitalized, texts[:NAMES_PER_REPORT]))
        return f"{text}  {' '.join(names)}"

    failure: Exception | None = None
    is_late = False
    report = trainer.Report(state, int(state.step), 0, 0.0, None, True, None)
    # Where there are validations, these are the reports.
    report_at = [] if setup.evaluate else [config.steps * i // REPORTS for i in range(1, REPORTS)]
    report_at = [at for at in report_at if at > report.step]
    started = time.monotonic()
    progress = tqdm(
        total=config.steps,
        initial=report.step,
        unit=" steps",
        unit_scale=True,
        disable=None,
        # Steps a second, never seconds a step.
        bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, "
        "{rate_noinv_fmt}{postfix}]",
    )
    work = trainer.work(
        folder, description, setup, state, tally, arguments.keep, arguments.save_every
    )
    signals: list[int] = []
    try:
        with ExitStack() as stack:
            signals = stack.enter_context(stop_on_signal())
            stack.enter_context(progress)
            stack.enter_context(closing(work))
            write_events = None
            if arguments.tensorboard:
                from dinojax.event_files import event_file

                write_events = stack.enter_context(event_file(folder, report.step))
            for report in work:
                progress.set_postfix_str(f"{report.loss:.2f} {unit}", refresh=False)
                progress.update(report.num_steps)
                if write_events and report.line:
                    write_events(report.line)
                is_due = report.validation_loss is not None or (
                    report_at and report.step >= report_at[0]
                )
                if is_due and report.step < config.steps and not signals:
                    report_at = [at for at in report_at if at > report.step]
                    progress.write(shown(report))
                minutes = (time.monotonic() - started) / 60
                is_late = arguments.max_minutes is not None and minutes > arguments.max_minutes
                if signals or is_late or not report.is_patient:
                    break
    except BrokenPipeError:
        # Nobody reads on; see `command_line.run`.
        raise
    except (FloatingPointError, OSError) as error:
        failure = error
    seconds = time.monotonic() - started
    saved_as = runs.load_run(folder, "last").checkpoint
    go_on = f"go on: {command('train.py', '--resume', short_path(folder))}"
    if failure:
        diverged = isinstance(failure, FloatingPointError)
        remedy = "try a smaller --learning-rate" if diverged else f"mend that and {go_on}"
        print(
            f"train.py: error: {describe_error(failure)}; the last good checkpoint is {saved_as}; "
            f"{remedy}",
            file=sys.stderr,
        )
        return DIVERGED if diverged else BAD_INPUT
    if signals and report.step < config.steps:
        print(f"\ntrain.py: interrupted; saved {saved_as}; {go_on}", file=sys.stderr)
        return INTERRUPTED if signals[0] == signal.SIGINT else TERMINATED
    if not report.is_patient:
        print(
            f"Stopped after {count(report.step, 'step')}: "
            f"{count(config.patience, 'validation')} in a row without an improvement"
        )
    elif is_late and report.step < config.steps:
        print(f"Stopped after {count(report.step, 'step')}: time is up; {go_on}")

    best = runs.load_run(folder)
    say_damaged(best.damaged, best.checkpoint)
    texts = write(best.params, best.step)
    evaluate = setup.evaluate or trainer.make_evaluation(description, job.parts["train"])
    figures = summarize(jax.device_get(evaluate(best.params)))
    if is_text:
        print(f"\nNew text:\n{visible_lines(texts[0])}\n")
        more, figure = ("--length", "400"), f"in windows of {trainer.WINDOW}"
    else:
        print("\nNew names:", *map(visible, map(capitalized, texts)), sep="\n  ")
        print(f"\n{figures['nats_per_piece']:.3f} nats a name, ", end="")
        more, figure = ("--num", "20"), "its newline is one"
    thing = "character" if is_text else "name"
    over = f"all the {thing}s it learned from"
    if "validation" in job.parts:
        over = f"{count(len(job.parts['validation']), thing)} it has not learned from"
        if best.step < report.step:
            over += f", after {count(best.step, 'step')}, when that was least"
    spread = f" ± {figures['standard_error']:.4f}" if figures["num_pieces"] > 1 else ""
    print(f"{figures['nats_per_character']:.4f}{spread} nats a character ({figure}), over {over}")
    draw_losses(folder)
    print(
        f"{count(report.step, 'step')} in {seconds:.1f} s; saved in {folder}\n"
        f"More {'text' if is_text else 'names'}: "
        f"{command('sample.py', short_path(folder), *more)}"
    )
    return 0


def make_writer(description: "Description", model: Any, key: Any) -> Any:
    """A function of parameters and step: new names, or a list with a new text."""
    import jax
    import jax.numpy as jnp

    from dinojax.sample import read_prompt, sample_names, sample_text

    vocab = description.vocab

    @jax.jit
    def names(params: Any, step: Any) -> Any:
        key_step = jax.random.fold_in(key, step)
        samples = sample_names(key_step, params, model, vocab.newline, NAMES_AT_END, MAX_LENGTH)
        return samples.ids, samples.lengths

    @jax.jit
    def text(params: Any, step: Any) -> Any:
        key_step = jax.random.fold_in(key, step)
        start = read_prompt(params, model, jnp.zeros(0, int))
        ids = sample_text(key_step, params, model, start, TEXT_LENGTH)[1]
        return ids[None], jnp.full(1, TEXT_LENGTH)

    sampler = text if description.config.is_text else names

    def write(params: Any, step: int) -> list[str]:
        # From wherever the devices hold them.
        ids, lengths = jax.device_get(sampler(jax.device_get(params), step))
        return [vocab.decode(row[:length]) for row, length in zip(ids, lengths, strict=True)]

    return write


def visible_lines(text: str) -> str:
    """A text of several lines, each as it may be shown in a terminal."""
    return "\n".join(map(visible, text.split("\n")))


def draw_losses(folder: Path) -> None:
    """Write the picture of the losses into the folder, where matplotlib is there."""
    from dinojax.metrics import read_metrics

    if importlib.util.find_spec("matplotlib"):
        metrics = read_metrics(folder)
        # A run that was stopped at once has none.
        if any("event" not in line for line in metrics):
            try:
                from dinojax import plots

                plots.save(plots.plot_losses({folder.name: metrics}), folder / "loss")
            # A setting of the user's, such as MPLBACKEND, or a full disk: all else is saved.
            except (ImportError, OSError, ValueError) as error:
                print(f"train.py: note: no picture: {describe_error(error)}", file=sys.stderr)


def check_tensorboard() -> None:
    """Raise a ValueError if what writes event files is not there."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ValueError("--tensorboard: tensorboardX is missing; pip install dinojax[tensorboard]")


def count(num: int, noun: str) -> str:
    """A number of things: "1 name", "1,538 names"."""
    return f"{num:,} {noun}{'' if num == 1 else 's'}"


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """The signals, Ctrl-C or SIGTERM, that ask to stop; a second Ctrl-C ends at once.

    A second later or more, that is: a key that is held down means it once.
    """
    signals: list[int] = []
    stopped = 0.0

    def handle(signal_number: int, frame: Any) -> None:
        nonlocal stopped
        if not signals:
            stopped = time.monotonic()
            signals.append(signal_number)
        elif signal_number == signal.SIGINT and time.monotonic() - stopped > 1:
            at_once(signal_number, frame)

    at_once: Any = signal.signal(signal.SIGINT, handle)
    terminate = signal.signal(signal.SIGTERM, handle)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, at_once)
        signal.signal(signal.SIGTERM, terminate)


def command(script: str, *arguments: str) -> str:
    """The shell command that runs another script with this Python, from this folder."""
    is_python = shutil.which("python") == sys.executable
    python = "python" if is_python else short_path(sys.executable)
    file = Path(__file__).with_name(script).resolve()
    return shlex.join([python, short_path(file), *arguments])


def short_path(file: str | Path) -> str:
    """A path relative to this folder where that is shorter."""
    short = min(str(file), os.path.relpath(file), key=len)
    # What starts with a dash would be taken for a flag.
    return os.path.join(os.curdir, short) if short.startswith("-") else short


if __name__ == "__main__":
    run(main)
