"""Train a model on a list of names or a text, and write new ones; see --help."""

import importlib.util
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dinojax.cli import jobs, terminal
from dinojax.cli.arguments import Parser, number, path, whole_number
from dinojax.cli.loaded import note_damaged
from dinojax.cli.settings import add_settings, flag_of, named_flags
from dinojax.cli.terminal import Program, count, short_path
from dinojax.config import PRESETS, check_range

if TYPE_CHECKING:
    from dinojax.models.cells import Params
    from dinojax.runs.experiment import Experiment
    from dinojax.runs.recorder import Report

REPORTS = 7
DIVERGED = 1


class Ending(NamedTuple):
    """How training ended."""

    report: "Report"
    """The last report."""
    seconds: float
    signals: list[int]
    """Signals that asked training to stop."""
    is_late: bool
    """Whether the time was up."""
    failure: Exception | None


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax train`."""
    add = parser.add_argument
    file: dict[str, Any] = {"metavar": "FILE", "type": path}
    run = file | {"metavar": "RUN"}
    whole: dict[str, Any] = {"metavar": "N", "type": whole_number}
    text = "the exercise (dinos, the default), a long list of names, a running text"
    add("preset", nargs="?", choices=tuple(PRESETS), help=f"settings to start from: {text}")
    text = "UTF-8 file of names, one per line, or of a text (default: for names, the dinosaurs)"
    add("--data", **file, help=text)
    add_settings(parser)
    add("--init-from", **run, help="start with the parameters, vocabulary and model of a run")
    text = "resume a run with the same result as if it had not stopped; with larger --steps, longer"
    add("--resume", **run, help=text)
    text = "take settings and data from the config.json of a run, instead of a preset"
    add("--config", **file, help=text)
    text = "folder of the run; default: runs/PRESET, or the next free one"
    add("--out", metavar="FOLDER", type=path, help=text)
    add("--overwrite", action="store_true", help="replace the run in the folder --out")
    text = "number of newest checkpoints to keep, besides the best (default: %(default)s)"
    add("--keep", **whole, default=2, help=text)
    add("--save-every", **whole, help="steps between checkpoints (default: half a minute)")
    add("--max-minutes", metavar="X", type=number, help="save and stop after this time")
    text = "also write the metrics to event files (needs dinojax[tensorboard])"
    add("--tensorboard", action="store_true", help=text)


def main(parser: Parser, arguments: Namespace) -> int:
    """Start or resume a run and train it; returns the exit code."""
    with parser.reported_errors():
        check_flags(arguments)
    with ExitStack() as stack:
        with parser.reported_errors(), named_flags():
            begin = jobs.resume if arguments.resume else jobs.start
            started = begin(parser, arguments, stack)
        return learn(parser, arguments, started)


def check_flags(arguments: Namespace) -> None:
    """Raise a ValueError if a flag is out of range or does not go with another."""
    check_range("--keep", arguments.keep, 1, 10**6)
    check_range("--save-every", arguments.save_every or 0, 0, 10**9)
    if arguments.max_minutes is not None:
        check_range("--max-minutes", arguments.max_minutes, 1e-3, 1e6)
    excluded = {"resume": ("preset", "init_from", "config", "out", "overwrite")}
    for flag, others in (excluded | {"config": ("preset",)}).items():
        for other in others:
            if getattr(arguments, flag) and getattr(arguments, other):
                shown = "a preset" if other == "preset" else flag_of(other)
                raise ValueError(f"--{flag} and {shown} exclude each other")
    if arguments.overwrite and arguments.out is None:
        raise ValueError("--overwrite needs --out, the folder of the run to replace")
    if arguments.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ValueError("--tensorboard: tensorboardX is missing; pip install dinojax[tensorboard]")


def learn(parser: Parser, arguments: Namespace, started: "jobs.Started") -> int:
    """Train, save into the folder, and print the result; returns the exit code."""
    from dinojax.cli import reports
    from dinojax.evaluation.losses import summarize
    from dinojax.runs.experiment import make_evaluation
    from dinojax.runs.folder import load_run

    folder, experiment, *_ = started
    write = reports.make_writer(experiment)
    ending = train(arguments, started, write)
    if code := describe_ending(parser.program, folder, experiment, ending):
        return code
    best = load_run(folder)
    note_damaged(parser, best)
    texts = write(best.params, best.step)
    evaluate = experiment.evaluate or make_evaluation(
        experiment.model, best.vocab, experiment.parts["train"]
    )
    figures, step = summarize(evaluate(best.params)), ending.report.step
    print(reports.describe_result(experiment, step, best.step, texts=texts, figures=figures))
    reports.draw_losses(parser.program, folder)
    is_text = experiment.config.is_text
    more = ("--length", "400") if is_text else ("--num", "20")
    again = parser.program.shell_line("sample", short_path(folder), *more)
    print(f"{count(step, 'step')} in {ending.seconds:.1f} s; saved in {folder}")
    print(f"More {'text' if is_text else 'names'}: {again}")
    return 0


def train(
    arguments: Namespace, started: "jobs.Started", write: Callable[["Params", int], list[str]]
) -> Ending:
    """Train to the end, or until something stops it, and print reports on the way."""
    from tqdm import tqdm

    from dinojax import parallel
    from dinojax.cli import reports
    from dinojax.runs.recorder import Report
    from dinojax.runs.session import work

    folder, experiment, state, tally = started
    config = experiment.config
    report = Report(state, int(state.step), 0, 0.0, None, True, True, None)
    # Where there are validations, these are the reports.
    report_at = [
        config.steps * i // REPORTS for i in range(1, 1 if experiment.evaluate else REPORTS)
    ]
    report_at = [at for at in report_at if at > report.step]
    started_at = time.monotonic()
    progress = tqdm(
        total=config.steps,
        initial=report.step,
        unit=" steps",
        unit_scale=True,
        # Only in a terminal.
        disable=None,
        # Steps per second, never seconds per step.
        bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, "
        "{rate_noinv_fmt}{postfix}]",
    )
    keep, save_every = arguments.keep, arguments.save_every or 0
    coming = work(experiment, state, tally, folder, keep=keep, save_every=save_every)
    signals: list[int] = []
    is_late, failure = False, None
    try:
        with ExitStack() as stack:
            signals = stack.enter_context(terminal.stop_on_signal())
            stack.enter_context(progress)
            stack.enter_context(closing(coming))
            write_events = None
            if arguments.tensorboard and parallel.may_write():
                from dinojax.runs.event_files import event_file

                write_events = stack.enter_context(event_file(folder, report.step))
            for report in coming:
                progress.set_postfix_str(reports.describe_loss(report.loss, config), refresh=False)
                progress.update(report.num_steps)
                if write_events and report.line:
                    write_events(report.line)
                is_due = report_at and report.step >= report_at[0]
                is_due = is_due or report.validation_loss is not None
                if is_due and report.step < config.steps and not signals:
                    report_at = [at for at in report_at if at > report.step]
                    texts = write(report.state.params, report.step)
                    progress.write(reports.describe_report(report, config, texts))
                minutes = (time.monotonic() - started_at) / 60
                is_late = arguments.max_minutes is not None and minutes > arguments.max_minutes
                if signals or is_late or not report.is_patient:
                    break
    except BrokenPipeError:
        # The output is no longer read; see `terminal.run`.
        raise
    except (FloatingPointError, OSError) as error:
        failure = error
    return Ending(report, time.monotonic() - started_at, signals, is_late, failure)


def describe_ending(
    program: Program, folder: Path, experiment: "Experiment", ending: Ending
) -> int:
    """Print why training ended early; returns the exit code, 0 if the result is to be printed."""
    from dinojax.runs.folder import load_run

    report, config = ending.report, experiment.config
    saved_as = load_run(folder, "last").checkpoint
    resume = f"resume with: {program.shell_line('train', '--resume', short_path(folder))}"
    if ending.failure:
        diverged = isinstance(ending.failure, FloatingPointError)
        remedy = "try a smaller --learning-rate" if diverged else f"fix that and {resume}"
        error = f"{terminal.describe_error(ending.failure)}; the last good checkpoint is {saved_as}"
        print(f"{program.name}: error: {error}; {remedy}", file=sys.stderr)
        return DIVERGED if diverged else terminal.BAD_INPUT
    if ending.signals and report.step < config.steps:
        print(f"\n{program.name}: interrupted; saved {saved_as}; {resume}", file=sys.stderr)
        return terminal.INTERRUPTED if ending.signals[0] == signal.SIGINT else terminal.TERMINATED
    if not report.is_patient:
        print(
            f"Stopped after {count(report.step, 'step')}: "
            f"{count(config.patience, 'validation')} in a row without an improvement"
        )
    elif ending.is_late and report.step < config.steps:
        print(f"Stopped after {count(report.step, 'step')}: time is up; {resume}")
    return 0
