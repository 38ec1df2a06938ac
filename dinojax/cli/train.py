"""Train a model on a list of names or a text, and write new ones; see --help."""

import io
import math
import os
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from dinojax import processes
from dinojax.cli import hosts, jobs, ngram, refit, terminal
from dinojax.cli.arguments import (
    Parser,
    number,
    path,
    require,
    take_files,
    take_preset,
    whole_number,
)
from dinojax.cli.loaded import note_damaged
from dinojax.cli.settings import add_settings, flag_of, flags_for, given_settings, named_flags
from dinojax.cli.terminal import short_path
from dinojax.config import COLUMNS, check_range
from dinojax.data.corpus import read_once
from dinojax.messages import about, count, quoted, visible
from dinojax.presets import PRESETS
from dinojax.recipes import AUTO
from dinojax.runs.kinds import MAX_ORDER

if TYPE_CHECKING:
    from dinojax.cli.reports import Writer
    from dinojax.runs.recorder import Report

CHOICES = AUTO, *PRESETS, ngram.PRESET
REPORTS = 7
KEEP = 2
DIVERGED = 1
TIME_IS_UP = -1
"""Why training stops, where others are numbers of signals."""
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"
"""Format of the progress bar: steps per second, never seconds per step."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax train`."""
    add = parser.add_argument
    file: dict[str, Any] = {"metavar": "FILE", "type": path}
    run = file | {"metavar": "RUN"}
    whole: dict[str, Any] = {"metavar": "N", "type": whole_number}
    text = "settings to start from: dinos, the exercise (default); auto, what suits the data "
    text += "(default with a FILE); names, for a long list; text, for a running text; names-best "
    text += "or text-best, larger and refitted; or ngram, for an n-gram model in place of a network"
    add("preset", nargs="?", metavar="PRESET", help=text)
    add("files", **file, nargs="*", help="files or folders of data, as after --data")
    text = "UTF-8 files of names, one a line, or of texts, plain or as .gz or .zst; folders of "
    text += (
        "them; - for standard input (default: dinosaurs, or for a text Python's standard library)"
    )
    add("--data", **file, nargs="+", help=text)
    add_settings(parser)
    text = f"for ngram: characters of an n-gram, of which the last is predicted, up to {MAX_ORDER}"
    add("--order", **whole, help=f"{text} (default: {ngram.ORDER})")
    add("--init-from", **run, help="start with the parameters, vocabulary and model of a run")
    text = "resume a run with the same result as if it had not stopped; with larger --steps, longer"
    add("--resume", **run, help=text)
    text = "take settings and data from the config.json of a run, instead of a preset"
    add("--config", **file, help=text)
    text = "folder of the run (default: runs/PRESET, or runs/FILE with auto or --config, or the "
    text += "next free one)"
    add("--out", metavar="FOLDER", type=path, help=text)
    add("--overwrite", action="store_true", help="replace the run in the folder --out")
    text = f"number of newest checkpoints to keep, besides the best (default: {KEEP})"
    add("--keep", **whole, help=text)
    add("--save-every", **whole, help="steps between checkpoints (default: half a minute)")
    add("--max-minutes", metavar="X", type=number, help="save and stop after this time")
    text = "also write the metrics to event files (needs dinojax[tensorboard])"
    add("--tensorboard", action="store_true", help=text)
    hosts.add_arguments(parser)


def check_flags(arguments: Namespace) -> None:
    """Raise a ValueError if a flag is out of range or does not go with another."""
    if arguments.order is not None:
        raise ValueError(f"--order is for {ngram.PRESET}, the n-gram model; a network has none")
    arguments.keep = KEEP if arguments.keep is None else arguments.keep
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
    if arguments.tensorboard:
        with about("--tensorboard"):
            require("tensorboardX", "tensorboard")
    settings = [f"{name}={quoted(os.environ[name])}" for name in os.environ if name[:5] == "TQDM_"]
    if settings:
        try:
            from tqdm import tqdm

            tqdm(total=1, file=io.StringIO()).close()
        # Of any type: tqdm takes what it cannot convert as text.
        except Exception as error:
            message = f"no progress bar with {', '.join(settings)}: {error}; unset them"
            raise ValueError(message) from None


def main(parser: Parser, arguments: Namespace) -> int:
    """Start or resume a run, train it, and print the result; returns the exit code."""
    take_preset(arguments, CHOICES)
    with parser.reported_errors():
        has_files = take_files(arguments, CHOICES)
    if has_files and not (arguments.preset or arguments.config or arguments.resume):
        arguments.preset = AUTO
    if arguments.preset == ngram.PRESET:
        return ngram.main(parser, arguments)
    with parser.reported_errors():
        check_flags(arguments)
        is_one_of_several = hosts.is_one_of_several(arguments)
    begin = jobs.resume if arguments.resume else jobs.start

    def work() -> int:
        with ExitStack() as stack:
            with parser.reported_errors(), processes.together("start"), named_flags():
                started = begin(parser, arguments, stack)
            # A refit shares the time with its selection.
            deadline = time.monotonic() + 60 * (arguments.max_minutes or math.inf)
            code = learn(parser, arguments, started, deadline)
            # A selection that is resumed alone stays alone.
            if code == 0 and started[0] != arguments.resume:
                with parser.reported_errors():
                    refitted = refit.begin(parser, arguments, started[0])
                code = learn(parser, arguments, refitted, deadline) if refitted else 0
            return code

    return hosts.take_part(parser, arguments, work) if is_one_of_several else work()


def learn(
    parser: Parser, arguments: Namespace, started: "jobs.Started", deadline: float = math.inf
) -> int:
    """Train and print the result, or why there is none; returns the exit code."""
    from dinojax import parallel
    from dinojax.cli import reports
    from dinojax.runs.folder import load_run
    from dinojax.runs.refit import refitted_from

    folder, experiment, *_ = started
    config, write = experiment.config, reports.make_writer(experiment)
    # Now, as the current folder may be gone when training ends. What is resumed alone stays alone.
    outer = None if folder == arguments.resume else refitted_from(folder)
    resumed = short_path(outer or folder)
    resume = f"resume with: {parser.program.shell_line('train', '--resume', resumed)}"
    again = parser.program.line_to_sample(folder, config.is_text)
    better = "" if config.is_text else line_of_better_names(parser, arguments)
    try:
        report, seconds, signals = train(parser, arguments, started, write, deadline)
    except BrokenPipeError:
        # The output is no longer read; see `terminal.run`.
        raise
    except (FloatingPointError, OSError) as error:
        diverged = isinstance(error, FloatingPointError)
        if not parallel.may_write():
            return DIVERGED if diverged else terminal.BAD_INPUT
        remedy = "try a smaller --learning-rate" if diverged else f"fix that and {resume}"
        try:
            saved = f"the last good checkpoint is {load_run(folder, 'last').checkpoint}; {remedy}"
        except (OSError, ValueError) as unread:
            moved = "if it was moved, resume it in its new place"
            saved = f"{terminal.describe_error(unread)}; {moved}"
        terminal.tell(parser.prog, f"error: {terminal.describe_error(error)}; {saved}")
        return DIVERGED if diverged else terminal.BAD_INPUT
    ended = terminal.INTERRUPTED if signals[:1] == [signal.SIGINT] else terminal.TERMINATED
    if not parallel.may_write():
        return ended if signals and report.step < config.steps else 0
    is_complete, steps = report.step == config.steps, count(report.step, "step")
    # The refit of a selection is still to come.
    if signals and (not is_complete or outer):
        saved = f"saved {load_run(folder, 'last').checkpoint}"
        print(file=sys.stderr)
        terminal.tell(parser.prog, f"interrupted; {saved}; {resume}")
        return ended
    if not report.is_patient:
        validations = count(config.patience, "validation")
        print(f"Stopped after {steps}: {validations} in a row without an improvement")
    elif not is_complete:
        print(f"Stopped after {steps}: time is up; {visible(resume)}")
    with parser.reported_errors():
        best = load_run(folder)
    note_damaged(parser, best)
    figures = reports.measure(experiment, best)
    print(reports.describe_result(experiment, best, report.step, write, figures))
    reports.draw_losses(parser, folder)
    print(f"{steps} in {seconds:.1f} s; saved in {visible(str(folder))}")
    if better:
        print(f"Better names: {visible(better)}")
    print(f"More {'text' if config.is_text else 'names'}: {visible(again)}")
    if why := reports.describe_failure(figures["nats_per_character"], best.vocab.size):
        terminal.tell(parser.prog, f"error: {why}")
        return DIVERGED
    return 0


def line_of_better_names(parser: Parser, arguments: Namespace) -> str:
    """The line for a shell that trains a better model than the exercise; empty after others."""
    others = arguments.resume, arguments.config, arguments.init_from
    files = arguments.data or []
    if arguments.preset not in (None, "dinos") or any(others) or read_once(files):
        return ""
    columns = {name: x for name, x in given_settings(arguments).items() if name in COLUMNS}
    words = [*map(short_path, files), *flags_for(columns)] if files else [AUTO]
    return parser.program.shell_line("train", *words)


@contextmanager
def ended_alike(coming: "Generator[Report]") -> Iterator[None]:
    """End the reports of a run by the error that ends their use, so that the run knows of it."""
    try:
        yield
    except Exception as error:
        coming.throw(error)
        raise
    finally:
        coming.close()


def train(
    parser: Parser,
    arguments: Namespace,
    started: "jobs.Started",
    write: "Writer",
    deadline: float,
) -> tuple["Report", float, list[int]]:
    """Train to the end, or until something or the `deadline` stops it, and print reports.

    Returns the last report, the seconds it took, and the signals that asked training to stop.
    """
    from tqdm import tqdm

    from dinojax import parallel
    from dinojax.cli import reports
    from dinojax.runs.session import work

    folder, experiment, state, tally = started
    config, first_step = experiment.config, int(state.step)
    report_at = [config.steps * i // REPORTS for i in range(1, REPORTS)]
    started_at = time.monotonic()
    # Shown only in a terminal.
    bar: dict[str, Any] = {"unit": " steps", "unit_scale": True, "bar_format": BAR}
    bar |= {"disable": None if parallel.may_write() else True, "file": sys.stderr}
    keep, save_every = arguments.keep, arguments.save_every or 0
    agree = processes.make_agreement()
    coming = work(experiment, state, tally, folder, keep=keep, save_every=save_every)
    with ExitStack() as stack:
        signals = stack.enter_context(terminal.stop_on_signal(parser.prog))
        progress = stack.enter_context(tqdm(total=config.steps, initial=first_step, **bar))
        progress.set_postfix_str("compiling")
        stack.enter_context(ended_alike(coming))
        write_events = None
        if arguments.tensorboard and parallel.may_write():
            from dinojax.runs.event_files import event_file

            write_events = stack.enter_context(event_file(folder, first_step))
        for report in coming:
            progress.set_postfix_str(reports.describe_loss(report.loss, config), refresh=False)
            progress.update(report.num_steps)
            if write_events and report.line:
                write_events(report.line)
            before = report.step - report.num_steps
            is_due = report.validation_loss is not None
            if not experiment.evaluate:
                is_due = any(before < step <= report.step for step in report_at)
            if is_due and report.step < config.steps and not signals and parallel.may_write():
                written = write(report.state.model_params, report.step)
                progress.write(reports.describe_report(report, config, written))
                # So that a pipe, for example to tee, shows it at once.
                sys.stdout.flush()
            is_late = time.monotonic() > deadline
            wish = agree(signals[0] if signals else TIME_IS_UP * is_late)
            if wish:
                signals[:] = [wish] if wish > 0 else []
            if wish or not report.is_patient:
                break
    return report, time.monotonic() - started_at, signals
