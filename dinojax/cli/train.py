"""Train a model on a list of names or a text, and write new ones; see --help."""

import importlib.util
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, NamedTuple

from dinojax.cli.arguments import Parser, number, path, whole_number
from dinojax.cli.jobs import Job, describe, new_job, resumed_job
from dinojax.cli.loaded import note_damaged
from dinojax.cli.settings import add_settings, flag_of
from dinojax.cli.terminal import (
    BAD_INPUT,
    INTERRUPTED,
    TERMINATED,
    Program,
    count,
    describe_error,
    short_path,
    stop_on_signal,
)
from dinojax.config import PRESETS, check_range

if TYPE_CHECKING:
    from dinojax.models.cells import Params
    from dinojax.runs.experiment import Report, Setup
    from dinojax.runs.folder import Tally
    from dinojax.training.step import TrainState

REPORTS = 7
DIVERGED = 1


class Ending(NamedTuple):
    """How a training came to its end."""

    report: "Report"
    """The last."""
    seconds: float
    signals: list[int]
    """Those that asked it to stop."""
    is_late: bool
    """Whether its time was up."""
    failure: Exception | None


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax train`."""
    add = parser.add_argument
    add(
        "preset",
        nargs="?",
        choices=tuple(PRESETS),
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


def main(parser: Parser, arguments: Namespace) -> int:
    """Prepare a new run or an earlier one, and train; returns the exit code."""
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
    with ExitStack() as stack:
        with parser.reported_errors():
            if arguments.tensorboard:
                check_tensorboard()
            job = (resumed_job if arguments.resume else new_job)(parser, arguments, stack)
            print(describe(job), flush=True)
        return learn(parser, job, arguments)


def check_tensorboard() -> None:
    """Raise a ValueError if what writes event files is not there."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ValueError("--tensorboard: tensorboardX is missing; pip install dinojax[tensorboard]")


def learn(parser: Parser, job: Job, arguments: Namespace) -> int:
    """Train, save into the folder, and say what came of it; returns the exit code."""
    import jax

    from dinojax.cli import reports
    from dinojax.evaluation.losses import summarize
    from dinojax.runs import experiment as trainer
    from dinojax.runs import folder as runs

    folder, description = job.folder, job.description
    setup = trainer.set_up(description, job.parts, job.dataset)
    with parser.reported_errors():
        if job.is_resumed:
            state, tally = trainer.resume(folder, description, setup, arguments.keep)
        else:
            state, tally = trainer.start(folder, description, job.parts, setup, job.params)
    write = reports.make_writer(description, setup.model, setup.key_sample)
    ending = train(job, setup, state, tally, write, arguments)
    code = say_why_it_ended(parser.program, job, ending)
    if code:
        return code
    best = runs.load_run(folder)
    note_damaged(parser, best)
    texts = write(best.params, best.step)
    evaluate = setup.evaluate or trainer.make_evaluation(description, job.parts["train"])
    figures = summarize(jax.device_get(evaluate(best.params)))
    step = ending.report.step
    print(reports.describe_result(job, step, best.step, texts, figures))
    reports.draw_losses(parser.program, folder)
    if description.config.is_text:
        things, more = "text", ("--length", "400")
    else:
        things, more = "names", ("--num", "20")
    again = parser.program.shell_line("sample", short_path(folder), *more)
    print(f"{count(step, 'step')} in {ending.seconds:.1f} s; saved in {folder}")
    print(f"More {things}: {again}")
    return 0


def train(
    job: Job,
    setup: "Setup",
    state: "TrainState",
    tally: "Tally",
    write: Callable[["Params", int], list[str]],
    arguments: Namespace,
) -> Ending:
    """Train to the end, or until something stops it, and show on the way how it goes."""
    from dinojax.cli import reports
    from dinojax.runs import experiment as trainer

    folder, config = job.folder, job.description.config
    report = trainer.Report(state, int(state.step), 0, 0.0, None, True, None)
    # Where there are validations, these are the reports.
    report_at = [] if setup.evaluate else [config.steps * i // REPORTS for i in range(1, REPORTS)]
    report_at = [at for at in report_at if at > report.step]
    started = time.monotonic()
    progress = progress_bar(config.steps, report.step)
    work = trainer.work(
        folder, job.description, setup, state, tally, arguments.keep, arguments.save_every
    )
    signals: list[int] = []
    is_late, failure = False, None
    try:
        with ExitStack() as stack:
            signals = stack.enter_context(stop_on_signal())
            stack.enter_context(progress)
            stack.enter_context(closing(work))
            write_events = None
            if arguments.tensorboard:
                from dinojax.runs.event_files import event_file

                write_events = stack.enter_context(event_file(folder, report.step))
            for report in work:
                progress.set_postfix_str(reports.describe_loss(report.loss, config), refresh=False)
                progress.update(report.num_steps)
                if write_events and report.line:
                    write_events(report.line)
                is_due = report.validation_loss is not None or (
                    report_at and report.step >= report_at[0]
                )
                if is_due and report.step < config.steps and not signals:
                    report_at = [at for at in report_at if at > report.step]
                    texts = write(report.state.params, report.step)
                    progress.write(reports.describe_report(report, config, texts))
                minutes = (time.monotonic() - started) / 60
                is_late = arguments.max_minutes is not None and minutes > arguments.max_minutes
                if signals or is_late or not report.is_patient:
                    break
    except BrokenPipeError:
        # Nobody reads on; see `terminal.run`.
        raise
    except (FloatingPointError, OSError) as error:
        failure = error
    return Ending(report, time.monotonic() - started, signals, is_late, failure)


def progress_bar(steps: int, done: int) -> Any:
    """A bar of a training's steps, shown in a terminal alone."""
    from tqdm import tqdm

    return tqdm(
        total=steps,
        initial=done,
        unit=" steps",
        unit_scale=True,
        disable=None,
        # Steps a second, never seconds a step.
        bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, "
        "{rate_noinv_fmt}{postfix}]",
    )


def say_why_it_ended(program: Program, job: Job, ending: Ending) -> int:
    """Say what ended a training before all its steps were done; returns the exit code.

    It is zero where what was learned is to be shown.
    """
    from dinojax.runs import folder as runs

    report, config = ending.report, job.description.config
    saved_as = runs.load_run(job.folder, "last").checkpoint
    go_on = f"go on: {program.shell_line('train', '--resume', short_path(job.folder))}"
    if ending.failure:
        diverged = isinstance(ending.failure, FloatingPointError)
        remedy = "try a smaller --learning-rate" if diverged else f"mend that and {go_on}"
        print(
            f"{program.name}: error: {describe_error(ending.failure)}; the last good checkpoint is "
            f"{saved_as}; {remedy}",
            file=sys.stderr,
        )
        return DIVERGED if diverged else BAD_INPUT
    if ending.signals and report.step < config.steps:
        print(f"\n{program.name}: interrupted; saved {saved_as}; {go_on}", file=sys.stderr)
        return INTERRUPTED if ending.signals[0] == signal.SIGINT else TERMINATED
    if not report.is_patient:
        print(
            f"Stopped after {count(report.step, 'step')}: "
            f"{count(config.patience, 'validation')} in a row without an improvement"
        )
    elif ending.is_late and report.step < config.steps:
        print(f"Stopped after {count(report.step, 'step')}: time is up; {go_on}")
    return 0
