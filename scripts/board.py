"""Train recipes with several seeds and compare them on parts that no choice has seen; see --help.

A board is a folder. BOARD/board.jsonl has a line for each finished run, BOARD/DATA/RECIPE/seed-N is
its folder, an ordinary run, and seed-N.npz beside it holds what each held-out character costs; a
run that diverged has no such file. A line counts as long as both are there: remove the folder to
have the run made again, or the file to have it measured again. What is trained is listed in
`boards.recipes`.
"""

import json
import signal
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from dinojax import files
from dinojax.__main__ import interrupt
from dinojax.cli.arguments import Parser, hint, path, whole_number
from dinojax.cli.terminal import (
    INTERRUPTED,
    TERMINATED,
    Program,
    json_encoder,
    run,
    stop_on_signal,
    tell,
)
from dinojax.config import check_range
from dinojax.messages import quoted
from dinojax.startup import num_cores, start_jax

from boards.recipes import BUNDLED, LISTS, RECIPES, TEXTS, Key, Planned, plan

LINES_FILE, LOCK_FILE = "board.jsonl", ".lock"
Lines = dict[Key, dict[str, Any]]


def parse_arguments() -> tuple[Parser, Namespace]:
    """Read the command line; returns the parser, for reporting errors, and the arguments."""
    parser = Parser(
        Program("board", __file__),
        "Train recipes with several seeds on names and texts, and print a table for each of these: "
        "exact losses on a part that no choice has seen, of networks, of their mixtures and of "
        "n-gram models. A board that was stopped goes on where it was.",
    )
    add = parser.add_argument
    names = ", ".join(f"{name}.txt" for name in (*LISTS, *TEXTS) if name != BUNDLED)
    text = f"folder that holds {names} or some of them (default: the bundled dinosaurs alone)"
    add("--data", metavar="FOLDER", type=path, help=text)
    add("--out", metavar="BOARD", type=path, required=True, help="folder of the board")
    text = f"only these data, of {', '.join((*LISTS, *TEXTS))} (default: all that are there)"
    add("--only", metavar="NAME", nargs="+", default=[], help=text)
    text = f"only these recipes, of {', '.join(each.name for each in RECIPES)} (default: all); the "
    text += "others are compared with the first"
    add("--recipes", metavar="NAME", nargs="+", default=[], help=text)
    text = "number of runs of each recipe, with the seeds from 0 on (default: %(default)s)"
    add("--seeds", metavar="N", type=whole_number, default=3, help=text)
    return parser, parser.parse_args(sys.argv[1:])


def main() -> int:
    """Make the board and print its tables; returns the exit code."""
    parser, arguments = parse_arguments()
    out: Path = arguments.out
    with parser.reported_errors():
        check_range("--seeds", arguments.seeds, 1, 1_000)
        recipes = chosen("--recipes", arguments.recipes, {each.name: each for each in RECIPES})
        data = list(chosen("--only", arguments.only, dict.fromkeys((*LISTS, *TEXTS))))
        if not (arguments.only or arguments.data):
            data = [BUNDLED]
        found = find_data(parser, arguments.data, data)
        start_jax(num_cores())
        planned = plan(list(recipes.values()), found, arguments.seeds, out)
        out.mkdir(parents=True, exist_ok=True)
    message = f"another process works in {out}; wait until it has ended, or choose another folder"
    again = parser.program.shell_line("board", *sys.argv[1:])
    with parser.reported_errors(), files.locked(out / LOCK_FILE, message):
        files.remove_leftovers(out)
        lines = read_lines(out)
        drop_removed(planned, lines)
        for each in planned:
            check_same(each, lines.get(each.key))
        with stop_on_signal(parser.prog) as signals:
            num_failed = work(parser, planned, lines, out, signals)
        if signals:
            tell(parser.prog, f"interrupted; all is saved in {out}; go on with: {again}")
            return INTERRUPTED if signals[0] == signal.SIGINT else TERMINATED
    print(f"`{again}`")
    return 1 if num_failed else 0


def chosen(flag: str, wanted: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `known` that are wanted, in this order; all if none is."""
    for name in wanted:
        if name not in known:
            expected = f"expected some of {', '.join(known)}"
            raise ValueError(f"{flag}: {expected}, got {quoted(name)}; {hint(name, known)}")
    return {name: known[name] for name in wanted or known}


def find_data(parser: Parser, folder: Path | None, names: Sequence[str]) -> dict[str, str]:
    """The file of each of some data, empty for the bundled names; says which are not there."""
    if folder and not folder.is_dir():
        raise ValueError(f"--data: {folder} is not a folder")
    found = dict[str, str]()
    for name in names:
        file = folder / f"{name}.txt" if folder else None
        if name == BUNDLED:
            found[name] = ""
        elif file and file.is_file():
            found[name] = str(file)
        else:
            parser.note(f"{file} is not there" if file else f"{name}: no folder given with --data")
    if not found:
        raise ValueError(f"none of {', '.join(names)} is there; give their folder with --data")
    return found


def read_lines(out: Path) -> Lines:
    """The lines of the finished runs of a board."""
    file, lines = out / LINES_FILE, Lines()
    for number, text in enumerate(file.read_bytes().splitlines() if file.exists() else [], 1):
        try:
            line = json.loads(text)
            lines[line["data"], line["recipe"], line["seed"]] = line
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"{file}: line {number:,} is not that of a run") from None
    return lines


def drop_removed(planned: Sequence[Planned], lines: Lines) -> None:
    """Drop the lines of runs whose folders are gone, or the files of what they cost."""
    for each in planned:
        is_measured = "test" in lines.get(each.key, {})
        if not each.folder.is_dir() or (is_measured and not each.costs_file.is_file()):
            lines.pop(each.key, None)


def check_same(planned: Planned, line: Mapping[str, Any] | None) -> None:
    """Raise a ValueError if a finished run was of another recipe, or of other data."""
    now = planned.identity
    if line is None or all(line.get(name) == value for name, value in now.items()):
        return
    before, after = line.get("settings", {}), now["settings"]
    changed = [name for name in before | after if before.get(name) != after.get(name)]
    if line.get("data_sha256") != now["data_sha256"]:
        changed = ["data"]
    data, recipe, _ = planned.key
    raise ValueError(
        f"recipe {recipe} on {data} has changed ({', '.join(changed) or 'window'}) since "
        f"{planned.folder} was trained; give it another name, or remove {planned.folder.parent}"
    )


def work(
    parser: Parser, planned: Sequence[Planned], lines: Lines, out: Path, signals: Sequence[int]
) -> int:
    """Train what is left of a board, and print a table as soon as all runs on some data are done.

    Returns how many runs failed. It stops early once there is one of `signals`.
    """
    import jax

    from boards.table import legend, table

    encode = json_encoder()
    shown, num_failed = list[Mapping[str, Any]](), 0
    for name in dict.fromkeys(each.key[0] for each in planned):
        runs = [each for each in planned if each.key[0] == name]
        for each in runs:
            if each.key not in lines:
                line = train(parser, each, signals)
                if line is not None:
                    lines[each.key] = line
                    content = "".join(f"{encode(x)}\n" for x in lines.values())
                    files.write_atomically(out / LINES_FILE, content.encode())
                if signals:
                    return num_failed
                num_failed += line is None
                # Compiled programs take memory, and those of another run do not fit this one.
                jax.clear_caches()
        done = [(lines[each.key], each) for each in runs if each.key in lines]
        if any("test" in line for line, _ in done):
            print(f"{table(name, done)}\n", flush=True)
            shown += [line for line, _ in done]
    if shown:
        print(f"{legend(shown)}\n")
    return num_failed


def train(parser: Parser, planned: Planned, signals: Sequence[int]) -> dict[str, Any] | None:
    """Train a run, or what is left of it; returns its line, or None if it failed or was stopped.

    It stops once there is one of `signals`, and is then saved as it is.
    """
    from tqdm import tqdm

    from dinojax.runs.sweep import DIVERGED

    from boards import runs

    what = "{}, {}, seed {}".format(*planned.key)
    with closing(runs.train(planned)) as coming, tqdm(desc=what, leave=False, disable=None) as bar:
        try:
            for event in coming:
                if isinstance(event, dict):
                    line = event
                elif signals:
                    return None
                else:
                    bar.total = event.steps
                    bar.update(event.step - bar.n)
        except ValueError as error:
            tell(parser.prog, f"error: {what}: {error}")
            return None
    said = line.get(DIVERGED)
    if not said:
        cost = f"{line['test']['nats_per_character']:.4f} nats a character"
        said = f"{cost} in test, {line['seconds']:,.1f} s"
    tell(parser.prog, f"{what}: {said}")
    return line


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupt)
    run(Program("board", __file__), main)
