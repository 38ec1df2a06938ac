"""`dinojax train FILE`: what the file holds, and the settings that suit that."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dinojax.cli.arguments import Parser
from dinojax.cli.data import read_data
from dinojax.cli.terminal import Program, short_path
from dinojax.config import COLUMNS, TrainConfig
from dinojax.data.corpus import Corpus, read_once, shown
from dinojax.data.looks import LOOKED, first_lines, looks_like
from dinojax.data.reading import Data
from dinojax.data.sources import beginning, data_files
from dinojax.data.stored import Text
from dinojax.messages import count
from dinojax.presets import resolve_suited
from dinojax.recipes import AUTO, recipe
from dinojax.runs.suited import recipe_for

FEW = 300
"""From fewer names than these, a network learns little."""


def settle(
    parser: Parser,
    files: Sequence[Path],
    earlier: TrainConfig | None,
    given: Mapping[str, Any],
    labels: Sequence[str] = (),
) -> tuple[TrainConfig, Corpus[Data]]:
    """The configuration that suits the data in files, and the data.

    Settings that are `given`, and those of an `earlier` run to begin with, stay as they are. For
    the `labels` of that run, see `data.read_data`.
    """
    if earlier:
        is_text = earlier.is_text
    elif "batches" in given:
        is_text = given["batches"] == "windows"
    else:
        is_text = not given.keys() & {*COLUMNS} and holds_text(files)
    resolved = partial(resolve_suited, earlier=earlier, given=given)
    # The data are read alike, whatever their size.
    corpus = read_data(parser, files, resolved(recipe(1, None if is_text else 1)), labels)
    return resolved(recipe_for(corpus.data)), corpus


def holds_text(files: Sequence[Path]) -> bool:
    """Whether files hold a text, not names. Of several, the largest one decides.

    Raises:
        OSError: one cannot be read.
        ValueError: they look like tables, or can be read only once.
    """
    if once := read_once(files):
        raise ValueError(
            f"{shown(once[0])} can be read only once; say what it holds by a preset, such "
            "as names or text"
        )
    file = max(data_files(files), key=lambda each: each.stat().st_size)
    kind = looks_like(first_lines(beginning(file, LOOKED)))
    if kind == "table":
        raise ValueError(
            f"{file} looks like a table; give --column with the name or number of the column that "
            "holds the names, or --batches windows if it is a text"
        )
    return kind == "text"


def run_name(files: Sequence[Path], preset: str = AUTO) -> str:
    """The name of the run of some files: that of the first one, without its suffixes.

    Where there is none, it is that of the preset.
    """
    return files[0].resolve().name.split(".")[0] or preset if files else preset


def describe_few(program: Program, folder: Path, data: Data) -> str:
    """What helps the run in a folder where there are few names; empty where there are enough."""
    if isinstance(data, str | Text) or len(data) >= FEW:
        return ""
    out = short_path(f"{folder}-mixed")
    mix = program.shell_line("mix", short_path(folder), "--ngram", "3", "--out", out)
    return (
        f"a network learns little from {count(len(data), 'name')}; what helps: more names, "
        f"--init-from with a run of a longer list, and n-grams mixed in afterwards: {mix}"
    )
