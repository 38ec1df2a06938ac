"""Train a model on a list of names or a text, and write new ones; see --help."""

import importlib.util
import signal
import sys
import time
from argparse import Namespace
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinojax.command_line import (
    BAD_INPUT,
    INTERRUPTED,
    TERMINATED,
    Parser,
    count,
    describe_error,
    number,
    path,
    run,
    say_damaged,
    shell_command,
    short_path,
    stop_on_signal,
    visible,
    whole_number,
)
from dinojax.config import PRESETS, check_range
from dinojax.jobs import Job, describe, new_job, resumed_job
from dinojax.settings import add_settings, flag_of

if TYPE_CHECKING:
    from dinojax.runs import Description

REPORTS = 7
NAMES_PER_REPORT = 4
NAMES_AT_END = 10
MAX_LENGTH = 50
TEXT_LENGTH = 200
DIVERGED = 1


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
    add_settings(parser)
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
                    shown = "a preset" if other == "preset" else flag_of(other)
                    raise ValueError(f"--{flag} and {shown} exclude each other")
        if arguments.overwrite and arguments.out is None:
            raise ValueError("--overwrite needs --out, the folder of the run to replace")
    return parser, arguments


def main() -> int:
    """Prepare a new run or an earlier one, and train; returns the exit code."""
    parser, arguments = parse_arguments()
    with ExitStack() as stack:
        with parser.reported_errors():
            if arguments.tensorboard:
                check_tensorboard()
            job = (resumed_job if arguments.resume else new_job)(arguments, stack)
            print(describe(job), flush=True)
        return learn(parser, job, arguments)


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
    go_on = f"go on: {shell_command(Path(__file__), '--resume', short_path(folder))}"
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
        f"{shell_command(Path(__file__).with_name('sample.py'), short_path(folder), *more)}"
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


if __name__ == "__main__":
    run(main)
