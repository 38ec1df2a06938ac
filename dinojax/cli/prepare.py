"""Prepare large data ahead of training; see --help."""

from argparse import ArgumentParser, BooleanOptionalAction, Namespace

from dinojax.cli.arguments import Parser, path, take_preset
from dinojax.config import PRESETS
from dinojax.messages import count, visible


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax prepare`."""
    add = parser.add_argument
    text = "preset that will train on the data (default: text)"
    add("preset", nargs="?", choices=tuple(PRESETS), help=text)
    text = "UTF-8 files of names, one a line, or of texts, plain or as .gz or .zst; folders of them"
    add("--data", metavar="FILE", type=path, nargs="+", required=True, help=text)
    text = "convert the data to lower case (default: as the preset says)"
    add("--lowercase", action=BooleanOptionalAction, help=text)


def main(parser: Parser, arguments: Namespace) -> int:
    """Prepare the data and say what they are; returns the exit code."""
    from dinojax.cli.data import drawn
    from dinojax.data.prepared import data_folder, prepare
    from dinojax.data.reading import IN_MEMORY
    from dinojax.data.sources import data_files

    take_preset(arguments, PRESETS)
    config, lowercase = PRESETS[arguments.preset or "text"], arguments.lowercase
    lowercase = config.lowercase if lowercase is None else lowercase
    with parser.reported_errors():
        files = data_files(arguments.data)
        store = drawn(prepare(files, is_text=config.is_text, lowercase=lowercase))
    folder = data_folder() / store.key
    amount = count(len(store.starts), "document" if config.is_text else "name")
    said = f"{count(len(store.ids), 'character')} in {amount}, {count(store.vocab.size, 'symbol')}"
    print(", ".join([said, *store.notes]))
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"Prepared in {visible(str(folder))}, {size / 1e6:,.0f} MB")
    if store.ids.nbytes <= IN_MEMORY:
        parser.note(f"train reads up to {IN_MEMORY / 1e6:.0f} MB into memory, without this")
    return 0
