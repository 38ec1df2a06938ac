"""Train every combination of some settings with several seeds, and compare them; see --help."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinojax.cli import many, search, terminal
from dinojax.cli.arguments import Parser, hint, number, path, take_preset, whole_number
from dinojax.cli.folders import next_free_folder
from dinojax.cli.settings import add_settings, flag_of, given_settings, named_flags
from dinojax.config import TrainConfig
from dinojax.messages import count, quoted, visible
from dinojax.presets import PRESETS
from dinojax.startup import start_jax

if TYPE_CHECKING:
    from dinojax.runs.sweep import Replica, Sweep
    from dinojax.runs.sweeping import Progress

SEEDS = 8
BAR = "{l_bar}{bar}| {n:.1f}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax sweep`."""
    from dinojax.runs.asked import OF_THE_SWEEP

    add = parser.add_argument
    whole: dict[str, Any] = {"metavar": "N", "type": whole_number}
    text = "settings to start from, as for train (default: dinos)"
    add("preset", nargs="?", choices=tuple(PRESETS), help=text)
    text = "UTF-8 files of names, one a line, or of texts, plain or as .gz or .zst; folders of them"
    text += " (default: dinosaurs, or for a text Python's standard library)"
    add("--data", metavar="FILE", type=path, nargs="+", help=text)
    text = f"train each setting with the seeds 0 to N - 1 (default: {SEEDS})"
    add("--seeds", **whole, help=text)
    text = "values to compare with, of settings that are swept (default: those of the preset)"
    add("--baseline", metavar="NAME=VALUE", nargs="+", type=assignment, help=text)
    text = "folder of the sweep; default: runs/PRESET-sweep, or the next free one"
    add("--out", metavar="FOLDER", type=path, help=text)
    text = "train what is left of a sweep that was stopped, with the same result"
    add("--resume", metavar="SWEEP", type=path, help=text)
    text = "most runs to train at once on a CPU (default: one a core)"
    add("--jobs", **whole, help=text)
    text = "draw N settings from ranges (1e-4:1e-2) and values, by what earlier ones reached"
    add("--search", **whole, help=f"{text} (needs dinojax[search])")
    text = "how a search ends trials early (default: median)"
    add("--pruner", choices=("median", "halving", "none"), help=text)
    add("--seed", **whole, help="seed of a search: of what it draws and of its runs (default: 0)")
    add_settings(parser, without=OF_THE_SWEEP, several=True)


def assignment(text: str) -> tuple[str, Any]:
    """Argument type: a setting and its value, as in learning_rate=0.002."""
    name, equals, value = text.partition("=")
    kinds = {field.name: field.type for field in fields(TrainConfig)}
    name = name.replace("-", "_")
    if not equals:
        expected = "a setting and its value, such as learning_rate=0.002"
        raise ArgumentTypeError(f"expected {expected}, got {quoted(text)}")
    if name not in kinds:
        raise ArgumentTypeError(f"unknown setting {quoted(name)}; {hint(name, kinds)}")
    # Of the rest, `make_sweep` says that they are not swept.
    if kinds[name] not in (int, float):
        return name, value
    return name, (whole_number if kinds[name] is int else number)(value)


def main(parser: Parser, arguments: Namespace) -> int:
    """Start or resume a sweep, train its replicas, and print the table; returns the exit code."""
    from dinojax.runs.search import is_search

    take_preset(arguments, PRESETS)
    if arguments.search is not None or (arguments.resume and is_search(arguments.resume)):
        return search.main(parser, arguments)
    with ExitStack() as stack:
        with parser.reported_errors(), named_flags():
            search.check_not_given(arguments)
            many.check_shared(arguments, "sweep")
            if arguments.resume and arguments.out:
                raise ValueError("--resume and --out exclude each other")
            start_jax()
            begin = resume if arguments.resume else start
            folder, sweep, jobs = begin(parser, arguments, stack)
        return train(parser, arguments, folder, sweep, jobs)


def start(parser: Parser, arguments: Namespace, stack: ExitStack) -> "tuple[Path, Sweep, int]":
    """Start a new sweep. Its folder stays locked until `stack` is closed."""
    from dinojax.runs import sweeping
    from dinojax.runs.sweep import plan, write_sweep

    given, preset = given_settings(arguments), arguments.preset or "dinos"
    seeds = arguments.seeds
    sweep = sweeping.new_sweep(
        preset,
        many.data_to_begin(arguments, preset),
        seeds=SEEDS if seeds is None else seeds,
        settings=given,
        baseline=dict(arguments.baseline or []),
    )
    added = sweep.settings.keys() - given.keys()
    for name in added:
        parser.note(f"{flag_of(name)} {sweep.settings[name]}: a sweep compares validation losses")
    jobs = sweeping.check(sweep, plan(sweep), jobs=arguments.jobs or 0)
    folder = arguments.out or next_free_folder(f"{preset}-sweep")
    sweeping.take_folder(folder)
    stack.enter_context(sweeping.locked(folder))
    write_sweep(folder, sweep)
    return folder, sweep, jobs


def resume(parser: Parser, arguments: Namespace, stack: ExitStack) -> "tuple[Path, Sweep, int]":
    """Resume a sweep. Its folder stays locked until `stack` is closed."""
    from dinojax.runs import sweeping
    from dinojax.runs.sweep import SWEEP_FILE, make_sweep, read_sweep

    folder = arguments.resume
    sweep, left = read_sweep(folder), sweeping.replicas_left(folder)
    if left:
        many.check_data_there(arguments, sweep.data, folder / SWEEP_FILE)
    wanted = make_sweep(
        arguments.preset or sweep.preset,
        sweep.data,
        sweep.data_sha256,
        seeds=sweep.seeds if arguments.seeds is None else arguments.seeds,
        settings={**sweep.settings, **sweep.values, **given_settings(arguments)},
        baseline=dict(arguments.baseline) if arguments.baseline else sweep.baseline,
    )
    sweeping.check_same(sweep, wanted)
    data = many.data_given(arguments)
    jobs = sweeping.check(sweep, left, data=data, jobs=arguments.jobs or 0)
    stack.enter_context(sweeping.locked(folder))
    return folder, sweep, jobs


def train(parser: Parser, arguments: Namespace, folder: Path, sweep: "Sweep", jobs: int) -> int:
    """Train what is left of a sweep, report each replica, and print the table."""
    from tqdm import tqdm

    from dinojax.runs import sweeping
    from dinojax.runs.sweep import FAILED, TABLE_FILE, plan, read_outcomes

    replicas, left = plan(sweep), sweeping.replicas_left(folder)
    print(describe_sweep(sweep, replicas, len(replicas) - len(left)))
    if left:
        print(describe_layout(jobs), flush=True)
    shares: dict[Path, float] = {}
    bar: dict[str, Any] = {"unit": " runs", "bar_format": BAR, "disable": None, "file": sys.stderr}
    bar |= {"total": len(replicas), "initial": len(replicas) - len(left)}
    with many.waiting(parser, folder) as (signals, again):
        coming = sweeping.work(folder, data=many.data_given(arguments), jobs=jobs)
        with tqdm(**bar) as progress, closing(coming):
            for event in coming:
                if event:
                    before = shares.get(event.replica.folder, 0.0)
                    shares[event.replica.folder] = event.share
                    progress.update(event.share - before)
                    if event.outcome:
                        progress.write(describe_outcome(folder, event))
                        sys.stdout.flush()
                if signals:
                    break
    left = sweeping.replicas_left(folder)
    if signals and left:
        ended = f"{len(replicas) - len(left):,} of {count(len(replicas), 'run')}"
        return many.tell_interrupted(parser, signals, ended, again)
    print(f"\n{(folder / TABLE_FILE).read_text('utf-8')}")
    print(f"Saved in {visible(str(folder))}")
    statuses = [outcome.status for outcome in read_outcomes(folder).values()]
    if FAILED in statuses:
        failed = count(statuses.count(FAILED), "run")
        terminal.tell(parser.prog, f"error: {failed} failed, as the table says; {again}")
        return many.SOME_FAILED
    return 0


def describe_sweep(sweep: "Sweep", replicas: "Sequence[Replica]", num_ended: int) -> str:
    """A sweep in one line."""
    num = len({each.setting for each in replicas})
    said = f"{count(num, 'setting')}, each with {count(sweep.seeds, 'seed')}"
    if sweep.values:
        said += f"; baseline {replicas[0].setting}"
    return f"{said}{f'; {num_ended:,} of {len(replicas):,} runs have ended' if num_ended else ''}"


def describe_layout(num_processes: int) -> str:
    """How replicas are trained, and why."""
    import jax

    if num_processes > 1:
        return f"On {num_processes} cores, each with whole runs: on a CPU faster than stacked ones"
    if jax.default_backend() == "cpu":
        return "One run after the other: too few or too short for processes side by side to pay"
    return "Runs that differ only in their seeds are stacked, as many as suit this device"


def describe_outcome(folder: Path, progress: "Progress") -> str:
    """How a replica of the sweep in a folder ended, in one line."""
    from dinojax.cli.reports import describe_failure
    from dinojax.runs.folder import load_run

    outcome, replica = progress.outcome, progress.replica
    assert outcome
    said = f"{replica.setting} seed {replica.seed}: "
    if outcome.validation_loss is None:
        return f"{said}{outcome.status}: {visible(outcome.message)}"
    said += f"{outcome.validation_loss:.4f} nats a character in validation"
    num_symbols = load_run(folder / replica.folder).vocab.size
    failure = describe_failure(outcome.validation_loss, num_symbols)
    return f"{said}; {failure}" if failure else said
