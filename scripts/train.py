"""Train a model on a list of names and write new ones; see --help."""

import os
import shlex
import shutil
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from dinojax.vocab import Vocab

REPORTS = 7
NAMES_PER_REPORT = 4
NAMES_AT_END = 10
MAX_LENGTH = 50
SECONDS_BETWEEN_SAVES = 30
DIVERGED = 1


def parse_arguments() -> tuple[Parser, Namespace, TrainConfig]:
    """Read the command line: the parser, to report errors with, its result, the configuration."""
    from dinojax.data import bundled_names

    preset = PRESETS["dinos"]
    parser = Parser("Train a recurrent network on a list of names, letter by letter.")
    parser.add_argument(
        "preset", nargs="?", choices=PRESETS, default="dinos", help="settings to start from"
    )
    add = parser.add_argument
    add(
        "--data",
        metavar="FILE",
        type=path,
        default=bundled_names(),
        help="UTF-8 file of names, one a line",
    )
    add(
        "--steps",
        metavar="N",
        type=whole_number,
        default=preset.steps,
        help="training steps, one name each",
    )
    add(
        "--hidden-size",
        metavar="N",
        type=whole_number,
        default=preset.hidden_size,
        help="units of the network",
    )
    add(
        "--learning-rate",
        metavar="RATE",
        type=number,
        default=preset.learning_rate,
        help="of gradient descent",
    )
    add(
        "--clip-value",
        metavar="BOUND",
        type=number,
        default=preset.clip_value,
        help="bound on the size of each gradient entry, nats per unit of the parameter",
    )
    add("--seed", metavar="N", type=whole_number, default=preset.seed, help="of all that is random")
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
    with parser.reported_errors():
        config = TrainConfig(
            steps=arguments.steps,
            hidden_size=arguments.hidden_size,
            learning_rate=arguments.learning_rate,
            clip_value=arguments.clip_value,
            seed=arguments.seed,
        )
    return parser, arguments, config


def main() -> int:
    """Read the names, find a folder, train; returns the exit code."""
    # What takes time to import is imported here, where Ctrl-C is one line.
    parser, arguments, config = parse_arguments()
    from dinojax.data import read_names
    from dinojax.vocab import build_vocab

    with parser.reported_errors():
        names, num_blank = read_names(arguments.data)
    vocab = build_vocab(names)

    # JAX takes half a second: what is wrong with the arguments was said before.
    with parser.reported_errors():
        start_jax()
    from dinojax import runs

    with parser.reported_errors():
        if arguments.out is None:
            folder = runs.next_free_folder(arguments.preset)
        else:
            folder = arguments.out
            runs.take_folder(folder, arguments.overwrite)
    blank = f" ({count(num_blank, 'blank line')} skipped)" if num_blank else ""
    print(
        f"{count(len(names), 'name')}{blank}, {count(vocab.size, 'symbol')}; "
        f"{count(config.hidden_size, 'hidden unit')}; {count(config.steps, 'step')}",
        flush=True,
    )
    return learn(names, vocab, config, folder)


def learn(names: list[str], vocab: "Vocab", config: TrainConfig, folder: Path) -> int:
    """Train on the names, save into the folder, and report; returns the exit code."""
    import jax
    import numpy as np
    from tqdm import tqdm

    from dinojax import runs, train
    from dinojax.data import capitalized, pad_names
    from dinojax.evaluate import nats_per_name
    from dinojax.sample import sample_names

    examples = pad_names(names, vocab)
    num_characters = int(examples.weights.sum(dtype=float))
    model = runs.build_model(config, vocab)
    optimizer = train.clipped_sgd(config.learning_rate, config.clip_value)
    train_step = train.make_train_step(model, optimizer)
    key_params, key_train, key_sample = jax.random.split(jax.random.key(config.seed), 3)
    # A model that has learned nothing costs log(vocab) nats a character.
    untrained_loss = np.log(vocab.size) * num_characters / len(names)

    @jax.jit
    def initial_state() -> train.TrainState:
        params = model.init(key_params)
        return train.init_train_state(key_train, params, model, optimizer, 1, untrained_loss)

    @jax.jit
    def write_names(params: Any, step: Any) -> Any:
        key = jax.random.fold_in(key_sample, step)
        return sample_names(key, params, model, vocab.newline, NAMES_AT_END, MAX_LENGTH)

    def new_names(state: train.TrainState) -> list[str]:
        samples = jax.device_get(write_names(state.params, state.step))
        rows = zip(samples.ids, samples.lengths, strict=True)
        return [visible(capitalized(vocab.decode(ids[:length]))) for ids, length in rows]

    state = initial_state()
    runs.start_run(folder, state, config, vocab, names)
    save = partial(runs.save_checkpoint, folder, config=config, vocab=vocab, names=names)
    failure = None
    started = saved = time.monotonic()
    report_at = [config.steps * i // REPORTS for i in range(1, REPORTS + 1)]
    progress = tqdm(total=config.steps, unit=" steps", unit_scale=True, disable=None)
    with stop_on_interrupt() as stop, progress:
        try:
            for new_state, losses in train.run(train_step, state, examples, config.steps):
                state, step = new_state, int(new_state.step)
                loss = f"{float(state.smoothed_loss):.2f} nats a name"
                progress.set_postfix_str(loss, refresh=False)
                progress.update(len(losses))
                if stop.is_set():
                    break
                is_report = report_at[0] <= step < config.steps
                if is_report:
                    report_at = [at for at in report_at if at > step]
                    width = len(f"{config.steps:,}")
                    some = " ".join(new_names(state)[:NAMES_PER_REPORT])
                    progress.write(f"step {step:>{width},}  {loss}  {some}")
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

    nats = jax.jit(lambda params: nats_per_name(params, model, examples))(state.params)
    nats = np.asarray(nats).sum(dtype=float)
    print("\nNew names:", *new_names(state), sep="\n  ")
    print(
        f"\n{nats / len(names):.3f} nats a name, {nats / num_characters:.4f} nats a character "
        "(its newline is one), over all the names it learned from\n"
        f"{count(config.steps, 'step')} in {seconds:.1f} s; saved in {folder}\n"
        f"More names: {command('sample.py', short_path(folder), '--num', '20')}"
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
