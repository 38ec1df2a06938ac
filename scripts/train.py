"""Train a model on a list of names or a text, and write new ones; see --help."""

import os
import shlex
import shutil
import signal
import sys
import threading
import time
from argparse import BooleanOptionalAction, Namespace
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dinojax.command_line import (
    INTERRUPTED,
    Parser,
    number,
    path,
    run,
    visible,
    whole_number,
)
from dinojax.config import PRESETS, TrainConfig
from dinojax.devices import start_jax

if TYPE_CHECKING:
    from dinojax.batches import Dataset
    from dinojax.cells import Params
    from dinojax.runs import Run
    from dinojax.vocab import Vocab

REPORTS = 7
NAMES_PER_REPORT = 4
NAMES_AT_END = 10
MAX_LENGTH = 50
TEXT_LENGTH = 200
SECONDS_BETWEEN_SAVES = 30
DIVERGED = 1


# What each setting means; a flag of the same name sets it.
SETTINGS = {
    "batches": "names padded one a row, packed end to end, or windows of a running text",
    "lowercase": "read the data in lower case",
    "cell": "recurrent cell of each layer",
    "num_layers": "recurrent layers",
    "hidden_size": "units of each layer",
    "dropout": "share of each layer's outputs that is dropped in training",
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
    "seed": "of all that is random",
}
OF_WINDOWS = {"reset_rate"}
OF_ROWS = {"window"}
OF_THE_MODEL = "cell", "num_layers", "hidden_size"


def parse_arguments() -> tuple[Parser, Namespace, TrainConfig]:
    """Read the command line: the parser, to report errors with, its result, the configuration."""
    parser = Parser(
        "Train a recurrent network on a list of names or a text, character by character."
    )
    add = parser.add_argument
    add(
        "preset",
        nargs="?",
        choices=PRESETS,
        default="dinos",
        help="settings to start from: the exercise, a long list of names, a running text",
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
        help="go on from the parameters of a run, with its vocabulary and the same model",
    )
    add(
        "--out",
        metavar="FOLDER",
        type=path,
        help="folder of the run; default: runs/PRESET, or the next free",
    )
    add("--overwrite", action="store_true", help="replace the run that --out holds")
    arguments = parser.parse_args()
    if arguments.overwrite and arguments.out is None:
        parser.error("--overwrite needs --out, the folder of the run to replace")
    given = given_settings(arguments)
    if "steps" in given and "epochs" not in given:
        given["epochs"] = 0.0
    with parser.reported_errors():
        config = replace(PRESETS[arguments.preset], **given)
    if config.batches != "windows" and OF_WINDOWS & set(given):
        parser.error("--reset-rate is for --batches windows: names start anew each time")
    if config.batches == "padded" and OF_ROWS & set(given):
        parser.error("--window is for --batches packed or windows: a padded row is one name")
    if config.is_text and arguments.data is None:
        parser.error("a running text is needed: give its file with --data")
    return parser, arguments, config


def given_settings(arguments: Namespace) -> dict[str, Any]:
    """The settings that the command line gives."""
    values = {name: getattr(arguments, name) for name in SETTINGS}
    return {name: value for name, value in values.items() if value is not None}


def main() -> int:
    """Read the data, find a folder, train; returns the exit code."""
    # What takes time to import is imported here, where Ctrl-C is one line.
    parser, arguments, config = parse_arguments()
    from dinojax.batches import packed, padded, windows
    from dinojax.data import bundled_names, read_names, read_running_text
    from dinojax.vocab import build_vocab

    names: list[str] = []
    text, num_blank = "", 0
    with parser.reported_errors():
        if config.is_text:
            text = read_running_text(arguments.data, config.lowercase)
        else:
            data = arguments.data or bundled_names()
            names, num_blank = read_names(data, config.lowercase)
    vocab = build_vocab(names or [text])

    # JAX takes half a second: what is wrong with the arguments was said before.
    with parser.reported_errors():
        start_jax()
    from dinojax import runs

    earlier = None
    with parser.reported_errors():
        if arguments.init_from:
            earlier = runs.load_run(arguments.init_from)
            config = like_earlier(config, given_settings(arguments), earlier)
            vocab = earlier.vocab
        if config.is_text:
            dataset = windows(text, vocab, config.batch_size, config.window)
        elif config.batches == "packed":
            if "window" not in given_settings(arguments):
                longest = max(map(len, names)) + 1
                config = replace(config, window=max(config.window, longest))
            dataset = packed(names, vocab, config.batch_size, config.window)
        else:
            dataset = padded(names, vocab, config.batch_size)
        if config.epochs:
            steps = max(1, round(config.epochs * dataset.steps_per_epoch))
            config = replace(config, steps=steps)
        if arguments.out is None:
            folder = runs.next_free_folder(arguments.preset)
        else:
            folder = arguments.out
            runs.take_folder(folder, arguments.overwrite)
    blank = f" ({count(num_blank, 'blank line')} skipped)" if num_blank else ""
    amount = count(len(names), "name") if names else count(len(text), "character")
    layers = f" in each of {config.num_layers} layers" if config.num_layers > 1 else ""
    print(
        f"{amount}{blank}, {count(vocab.size, 'symbol')}; "
        f"{count(config.hidden_size, 'hidden unit')}{layers}; {count(config.steps, 'step')}",
        flush=True,
    )
    return learn(names, dataset, vocab, config, folder, earlier.params if earlier else None)


def like_earlier(config: TrainConfig, given: dict[str, Any], earlier: "Run") -> TrainConfig:
    """The configuration with the model of an earlier run.

    Raises:
        ValueError: the command line asks for another model or another kind of data.
    """
    if config.is_text != earlier.config.is_text:
        kinds = ["names", "a text"] if config.is_text else ["a text", "names"]
        raise ValueError(
            f"--init-from: that run learned {kinds[0]}, this one is to learn {kinds[1]}"
        )
    for name in OF_THE_MODEL:
        value = getattr(earlier.config, name)
        if given.get(name, value) != value:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag}: the run of --init-from has {value}, got {given[name]}")
    return replace(config, **{name: getattr(earlier.config, name) for name in OF_THE_MODEL})


def learn(
    names: list[str],
    dataset: "Dataset",
    vocab: "Vocab",
    config: TrainConfig,
    folder: Path,
    params: "Params | None",
) -> int:
    """Train on the data, save into the folder, and report; returns the exit code."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from tqdm import tqdm

    from dinojax import loss, runs, train
    from dinojax.batches import pad_names
    from dinojax.data import capitalized
    from dinojax.evaluate import nats_per_name
    from dinojax.sample import read_prompt, sample_names, sample_text

    model = runs.build_model(config, vocab)
    optimizer = train.make_optimizer(config, config.steps)
    train_step = train.make_train_step(
        model,
        optimizer,
        loss.summed_cross_entropy if config.loss == "summed" else loss.mean_cross_entropy,
        carry_state=config.is_text,
        resets=config.batches != "padded",
        reset_rate=config.reset_rate,
    )
    key_params, key_train, key_sample = jax.random.split(jax.random.key(config.seed), 3)
    # A model that has learned nothing costs log(vocab) nats a character.
    untrained_loss = np.log(vocab.size)
    if config.loss == "summed":
        untrained_loss *= dataset.examples.weights.sum(dtype=float) / max(1, len(names))
    unit = "nats a name" if config.loss == "summed" else "nats a character"

    @jax.jit
    def initial_state(params: Any) -> train.TrainState:
        params = model.init(key_params) if params is None else params
        return train.init_train_state(
            key_train, params, model, optimizer, config.batch_size, untrained_loss
        )

    @jax.jit
    def write_names(params: Any, step: Any) -> Any:
        key = jax.random.fold_in(key_sample, step)
        return sample_names(key, params, model, vocab.newline, NAMES_AT_END, MAX_LENGTH)

    @jax.jit
    def write_text(params: Any, step: Any) -> Any:
        key = jax.random.fold_in(key_sample, step)
        start = read_prompt(params, model, jnp.zeros(0, int))
        return sample_text(key, params, model, start, TEXT_LENGTH)[1]

    def new_names(state: train.TrainState) -> list[str]:
        samples = jax.device_get(write_names(state.params, state.step))
        rows = zip(samples.ids, samples.lengths, strict=True)
        return [visible(capitalized(vocab.decode(ids[:length]))) for ids, length in rows]

    def new_text(state: train.TrainState) -> str:
        lines = vocab.decode(np.asarray(write_text(state.params, state.step))).split("\n")
        return "\n".join(map(visible, lines))

    def report(state: train.TrainState, cost: str) -> str:
        step = f"step {int(state.step):>{len(f'{config.steps:,}')},}  {cost}"
        if names:
            return f"{step}  {' '.join(new_names(state)[:NAMES_PER_REPORT])}"
        return f"{step}\n{new_text(state)}\n"

    state = initial_state(params)
    runs.start_run(folder, state, config, vocab, names)
    save = partial(runs.save_checkpoint, folder, config=config, vocab=vocab, names=names)
    failure = None
    recent: deque[float] = deque(maxlen=dataset.steps_per_epoch)
    started = saved = time.monotonic()
    report_at = [config.steps * i // REPORTS for i in range(1, REPORTS + 1)]
    progress = tqdm(total=config.steps, unit=" steps", unit_scale=True, disable=None)
    with stop_on_interrupt() as stop, progress:
        try:
            for new_state, losses in train.run(train_step, state, dataset, config.steps):
                state, step = new_state, int(new_state.step)
                recent.extend(losses.tolist())
                # The exercise's average is of the last thousand steps or so, too many for others.
                average = state.smoothed_loss if config.loss == "summed" else losses.mean()
                cost = f"{float(average):.2f} {unit}"
                progress.set_postfix_str(cost, refresh=False)
                progress.update(len(losses))
                if stop.is_set():
                    break
                is_report = report_at[0] <= step < config.steps
                if is_report:
                    report_at = [at for at in report_at if at > step]
                    progress.write(report(state, cost))
                if is_report or time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    save(state)
                    saved = time.monotonic()
        except FloatingPointError as error:
            failure = error
        finally:
            # Whatever ended the loop, if only that nobody reads what it prints any more.
            saved_as = save(state)
    if failure:
        print(
            f"train.py: error: {failure}; the last good checkpoint is {saved_as}; "
            "try a smaller --learning-rate",
            file=sys.stderr,
        )
        return DIVERGED
    if stop.is_set():
        print(f"\ntrain.py: interrupted; saved {saved_as}", file=sys.stderr)
        return INTERRUPTED
    seconds = time.monotonic() - started

    if names:
        examples = pad_names(names, vocab)
        nats = jax.jit(lambda params: nats_per_name(params, model, examples))(state.params)
        nats, num_characters = np.asarray(nats).sum(dtype=float), examples.weights.sum(dtype=float)
        print("\nNew names:", *new_names(state), sep="\n  ")
        print(
            f"\n{nats / len(names):.3f} nats a name, {nats / num_characters:.4f} nats a character "
            "(its newline is one), over all the names it learned from"
        )
        more = "--num", "20"
    else:
        print(f"\nNew text:\n{new_text(state)}")
        print(
            f"\n{np.mean(recent):.4f} nats a character, the mean over the last "
            f"{count(len(recent), 'step')} as it learned"
        )
        more = "--length", "400"
    print(
        f"{count(config.steps, 'step')} in {seconds:.1f} s; saved in {folder}\n"
        f"More {'names' if names else 'text'}: {command('sample.py', short_path(folder), *more)}"
    )
    return 0


def count(num: int, noun: str) -> str:
    """A number of things: "1 name", "1,538 names"."""
    return f"{num:,} {noun}{'' if num == 1 else 's'}"


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; one more, a second later or more, interrupts at once."""
    stop = threading.Event()
    stopped = 0.0

    def handle(signal_number: int, frame: Any) -> None:
        nonlocal stopped
        if not stop.is_set():
            stopped = time.monotonic()
            stop.set()
        # A key that is held down, or a process group that is told twice, means it once.
        elif time.monotonic() - stopped > 1:
            at_once(signal_number, frame)

    at_once: Any = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, at_once)


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
