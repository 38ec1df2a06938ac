"""How commands read names and texts, and write names."""

import os
import shutil
import stat
import sys
import tempfile
from argparse import Namespace
from collections.abc import Container, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from dinojax.cli.arguments import Parser
from dinojax.cli.settings import named_flags, with_flags
from dinojax.cli.terminal import CUT, json_encoder
from dinojax.config import COLUMNS, TrainConfig
from dinojax.data.corpus import STANDARD_INPUT, Corpus, shown
from dinojax.data.looks import columns_in
from dinojax.data.prepared import Progress
from dinojax.data.reading import Data, read
from dinojax.data.tables import Columns, columns_of, row_text
from dinojax.data.text import capitalized
from dinojax.files import atomic_file, named_errors
from dinojax.messages import visible

if TYPE_CHECKING:
    from dinojax.runs.description import Part
    from dinojax.runs.folder import Run
    from dinojax.sampling.strings import Names

Result = TypeVar("Result")
MAX_SHOWN = 10
KEYS = "name", "log_probability", "drawn_log_probability", "ended", "in_training_data"
"""Keys of the JSON object of a name."""


def read_data(
    parser: Parser, paths: Sequence[Path], config: TrainConfig, labels: Sequence[str] = ()
) -> Corpus[Data]:
    """A text or names from files or folders, as a run of this configuration reads them.

    For those known as `labels`, see `with_labels`.
    """
    for file in paths:
        note_wait(parser, file)
    ways = {"is_text": config.is_text, "lowercase": config.lowercase}
    return drawn(read(paths, **ways, columns=columns_of(config), labels=labels))


def read_and_note(
    parser: Parser, file: Path, config: TrainConfig, labels: Sequence[str] = ()
) -> Corpus[Data]:
    """The same for one, with a note on what is unusual or was changed."""
    corpus = read_data(parser, [file], config, labels)
    if corpus.notes:
        parser.note(f"{shown(file)}: {', '.join(map(with_flags, corpus.notes))}")
    return corpus


def read_other(
    parser: Parser,
    file: Path,
    config: TrainConfig,
    arguments: Namespace,
    labels: Sequence[str] = (),
) -> Corpus[Data]:
    """The same for data that a run of this configuration did not learn from.

    They are read by the columns that the user gives or, without any, by those of the run if they
    are a table that has these. A column for which the command has no flag is not read.
    """
    columns = Columns(*(getattr(arguments, name, None) or "" for name in COLUMNS))
    if not any(getattr(arguments, name, None) is not None for name in COLUMNS):
        columns = columns_in(file, columns_of(config))
    if any(columns):
        columns = columns._replace(column=columns.column or "1")
    unread = {name: "" for name in COLUMNS if not hasattr(arguments, name)}
    with named_flags():
        config = replace(config, **columns._replace(**unread)._asdict())
    return read_and_note(parser, file, config, labels)


def read_known(parser: Parser, arguments: Namespace, run: "Run") -> "Part":
    """Names or a text from other data; a ValueError if the run does not know a character."""
    from dinojax.data.labels import Labelled, listed
    from dinojax.data.stored import NameList, Text

    file: Path = arguments.data
    part = read_other(parser, file, run.config, arguments, run.vocab.labels).data
    labels = part.labels if isinstance(part, Labelled) else ()
    if labels != run.vocab.labels:
        ours, theirs = (listed(each) or "no labels" for each in (run.vocab.labels, labels))
        raise ValueError(f"{shown(file)} has {theirs}, {arguments.run} has {ours}")
    found = part.vocab.characters if isinstance(part, Text | NameList) else "".join(part)
    unknown = sorted(set(found) - set(run.vocab.characters))
    if unknown:
        characters = " ".join(map(repr, unknown[:MAX_SHOWN]))
        more = f" and {len(unknown) - MAX_SHOWN:,} more" if len(unknown) > MAX_SHOWN else ""
        raise ValueError(
            f"{shown(file)} has characters that the run does not know: {characters}{more}"
        )
    return part


def drawn(progress: Generator[Progress, None, Result], unit: str = "B") -> Result:
    """What a long reading of data returns; a terminal shows how far it has come, in `unit`."""
    from tqdm import tqdm

    doing, bar = "", tqdm(disable=True)
    try:
        while True:
            try:
                coming = next(progress)
            except StopIteration as done:
                return done.value
            if coming.doing != doing:
                bar.close()
                doing, options = coming.doing, {"unit": unit, "unit_scale": True, "leave": False}
                bar = tqdm(desc=doing, total=coming.total, file=sys.stderr, disable=None, **options)
            bar.update(coming.done - bar.n)
    finally:
        bar.close()


def note_wait(parser: Parser, file: Path) -> None:
    """Say so if a file has no end until somebody closes it."""
    is_standard = file == STANDARD_INPUT
    with suppress(OSError):
        status = os.stat(0 if is_standard else file)
        is_terminal = os.isatty(0) and os.path.samestat(status, os.stat(0))
        if stat.S_ISFIFO(status.st_mode) or is_terminal:
            parser.note(f"reading {shown(file)} until it is closed")


@contextmanager
def output(path: Path | None) -> Iterator[TextIO]:
    """Where names are written to: standard output, or a file that appears once it is complete."""
    if path is None:
        yield sys.stdout
        return
    # The draft has no name: an interrupt, which ends the program at once, leaves no file behind.
    with (
        named_errors(path, path),
        tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=path.parent) as draft,
    ):
        yield draft
        draft.seek(0)
        with atomic_file(path) as whole:
            shutil.copyfileobj(draft.buffer, whole)  # type: ignore[type-var]  # narrow in typeshed


def write_names(
    blocks: "Iterable[Names]",
    file: TextIO,
    learned: Container[str] | None,
    *,
    as_json: bool,
    lowercase: bool,
    with_labels: bool = True,
) -> int:
    """Write names, one a line; returns how many there were.

    They are the names that other commands read, `with_labels`, if they have any, after a tab. A
    terminal shows lower-cased ones capitalized. In JSON, `in_training_data` is null where what was
    `learned` is not known, and labels are always given.
    """
    encode, is_terminal, written = json_encoder(file.encoding), file.isatty(), 0
    for names, whole, drawn, ended, drawn_as, labels in blocks:
        lines = list(map(capitalized, names)) if lowercase and is_terminal else names
        if as_json:
            known = [None if learned is None else name in learned for name in names]
            rows = zip(names, whole.tolist(), drawn.tolist(), ended.tolist(), known, strict=True)
            objects = [dict(zip(KEYS, row, strict=True)) for row in rows]
            for each, name, spelled in zip(objects, names, drawn_as, strict=True):
                if spelled != name:
                    each["drawn_as"] = spelled
            for each, label in zip(objects, labels, strict=False):
                each["label"] = label
            lines = list(map(encode, objects))
        elif is_terminal:
            pairs = zip(lines, ended.tolist(), strict=True)
            lines = [visible(name) + ("" if has_ended else CUT) for name, has_ended in pairs]
        if labels and with_labels and not as_json:
            if is_terminal:
                pairs = zip(lines, map(visible, labels), strict=True)
                lines = [f"{line}\t{label}" for line, label in pairs]
            else:
                lines = list(map(row_text, lines, labels))
        # One write for the block: one for each name would take as long as drawing it.
        file.write("".join(f"{line}\n" for line in lines))
        written += len(names)
    return written
