"""`dinojax sweep --search`: draw settings by what earlier ones reached, and rank them."""

import sys
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinojax.cli import many, terminal
from dinojax.cli.arguments import Parser, require
from dinojax.cli.folders import next_free_folder
from dinojax.cli.settings import flag_of, flags_for, given_settings, named_flags
from dinojax.cli.terminal import short_path
from dinojax.config import check_range
from dinojax.messages import count, visible
from dinojax.startup import start_jax

if TYPE_CHECKING:
    from dinojax.runs.search import Search
    from dinojax.runs.study import Trial

BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def check_not_given(arguments: Namespace) -> None:
    """Raise a ValueError if a flag of a search is given for another sweep."""
    from dinojax.runs.search import Range

    for name in ("pruner", "seed"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"{flag_of(name)} needs --search")
    for name, values in given_settings(arguments).items():
        if isinstance(values, list) and any(isinstance(x, Range) for x in values):
            raise ValueError(f"{flag_of(name)}: a range needs --search N; give values")


def main(parser: Parser, arguments: Namespace) -> int:
    """Start a search or join it, train its trials, and print the table; returns the exit code."""
    with parser.reported_errors(), named_flags():
        many.check_shared(arguments, "search")
        require("optuna", "search")
        start_jax()
        folder, search = (join if arguments.resume else start)(parser, arguments)
    return train(parser, arguments, folder, search)


def start(parser: Parser, arguments: Namespace) -> "tuple[Path, Search]":
    """Make the folder of a new search."""
    from dinojax.runs import searching
    from dinojax.runs.search import Range

    for name in ("seeds", "baseline"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--search and {flag_of(name)} exclude each other")
    check_range("--search", arguments.search, 1, 100_000)
    given, preset = given_settings(arguments), arguments.preset or "dinos"
    seed = given.pop("seed", 0)
    settings = dict[str, Any]()
    for name, values in given.items():
        is_range = isinstance(values, list) and any(isinstance(x, Range) for x in values)
        if is_range and len(values) > 1:
            raise ValueError(f"{flag_of(name)}: expected one range, or values")
        settings[name] = values[0] if is_range else values
    search = searching.new_search(
        preset,
        many.data_to_begin(arguments, preset),
        trials=arguments.search,
        settings=settings,
        seed=seed,
        pruner=arguments.pruner or "median",
    )
    for name in search.settings.keys() - given.keys():
        parser.note(f"{flag_of(name)} {search.settings[name]}: a search compares validation losses")
    folder = arguments.out or next_free_folder(f"{preset}-search")
    searching.begin(folder, search)
    return folder, search


def join(parser: Parser, arguments: Namespace) -> "tuple[Path, Search]":
    """The search in a folder, which other processes may work on."""
    from dinojax.runs.search import SEARCH_FILE, read_search

    folder, given = arguments.resume, [*given_settings(arguments)]
    names = ("preset", "out", "search", "pruner", "seeds", "baseline")
    given += [name for name in names if getattr(arguments, name) is not None]
    if given:
        flags = ", ".join("a preset" if name == "preset" else flag_of(name) for name in given)
        raise ValueError(
            f"--resume: the search in {folder} stays what it was; give it without {flags}"
        )
    search = read_search(folder)
    many.check_data_there(arguments, search.data, folder / SEARCH_FILE)
    return folder, search


def train(parser: Parser, arguments: Namespace, folder: Path, search: "Search") -> int:
    """Train what is left of a search, report each trial, and print the table."""
    print(describe_search(search), flush=True)
    bar: dict[str, Any] = {"unit": " trials", "bar_format": BAR, "disable": None}
    # Before Optuna is imported, which takes a while.
    with many.waiting(parser, folder) as (signals, again):
        from tqdm import tqdm

        from dinojax.runs import searching
        from dinojax.runs.study import open_study, ranked, read_trials, table
        from dinojax.runs.sweep import FAILED, FINISHED

        data = many.data_given(arguments)
        with open_study(folder, search) as study:
            done = sum(each.status != "running" for each in read_trials(study))
        bar |= {"total": search.trials, "initial": done, "file": sys.stderr}
        coming = searching.work(folder, data=data, jobs=arguments.jobs or 0)
        with tqdm(**bar) as progress, closing(coming):
            for trial in coming:
                if trial:
                    progress.update()
                    progress.write(describe_trial(trial))
                    sys.stdout.flush()
                if signals:
                    break
        with open_study(folder, search) as study:
            trials = read_trials(study)
    num_ended = sum(each.status != "running" for each in trials)
    if signals and num_ended < search.trials:
        ended = f"{num_ended:,} of {count(search.trials, 'trial')}"
        return many.tell_interrupted(parser, signals, ended, again)
    print(f"\n{table(search, trials)}")
    if best := [each for each in ranked(trials) if each.status == FINISHED][:1]:
        print(f"Best: {visible(line_to_train(parser, search, best[0]))}")
    print(f"Saved in {visible(str(folder))}")
    if num_ended < search.trials:
        left = count(search.trials - num_ended, "trial")
        terminal.tell(parser.prog, f"{left} left to other processes; {again}")
    statuses = [each.status for each in trials]
    if FAILED in statuses:
        failed = count(statuses.count(FAILED), "trial")
        terminal.tell(parser.prog, f"error: {failed} failed, as the table says")
        return many.SOME_FAILED
    return 0


def describe_search(search: "Search") -> str:
    """A search in one line."""
    from dinojax.runs.asked import shown
    from dinojax.runs.search import Range

    spaces = []
    for name, space in search.space.items():
        if isinstance(space, Range):
            scale = ", logarithmic" if space.is_log else ""
            said = f"from {shown(space.low)} to {shown(space.high)}{scale}"
        else:
            said = " or ".join(map(shown, space))
        spaces.append(f"{name.replace('_', ' ')} {said}")
    return f"{count(search.trials, 'trial')}: {'; '.join(spaces)}"


def describe_trial(trial: "Trial") -> str:
    """How a trial ended, in one line."""
    from dinojax.runs.sweep import setting_name

    said = f"trial {trial.number}, {setting_name('', trial.values)}: "
    if trial.message or trial.validation_loss is None:
        return f"{said}{trial.status}: {visible(trial.message)}"
    how = "in validation" if trial.status == "finished" else f"{trial.status} there"
    return f"{said}{trial.validation_loss:.4f} nats a character {how}"


def line_to_train(parser: Parser, search: "Search", trial: "Trial") -> str:
    """The line for a shell that trains with the settings of a trial."""
    files = search.data.split("\n") if search.data else []
    words = ["--data", *map(short_path, files)] if files else []
    words += flags_for({**search.settings, **trial.values, "seed": search.seed})
    return parser.program.shell_line("train", search.preset, *words)
