"""How commands read names and texts."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from dinojax.cli.arguments import Parser
from dinojax.config import TrainConfig
from dinojax.data.corpus import STANDARD_INPUT, Corpus, read_names, read_running_text


def read_data(parser: Parser, file: Path, config: TrainConfig) -> Corpus[str] | Corpus[list[str]]:
    """A text or names from a file, as a run of this configuration reads them."""
    note_wait(parser, file)
    read = read_running_text if config.is_text else read_names
    return read(file, config.lowercase)


def read_and_note(
    parser: Parser, file: Path, config: TrainConfig
) -> Corpus[str] | Corpus[list[str]]:
    """The same; prints the notes on it."""
    corpus = read_data(parser, file, config)
    if corpus.notes:
        parser.note(f"{file}: {', '.join(corpus.notes)}")
    return corpus


def note_wait(parser: Parser, file: Path) -> None:
    """Say so if a file has no end until somebody closes it."""
    is_standard = file == STANDARD_INPUT
    with suppress(OSError):
        source = 0 if is_standard else file
        if stat.S_ISFIFO(os.stat(source).st_mode) or (is_standard and os.isatty(0)):
            shown = "standard input" if is_standard else file
            parser.note(f"reading {shown} until it is closed")
