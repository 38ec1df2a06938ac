"""Prepare large data ahead of training; see --help."""

from argparse import ArgumentParser, BooleanOptionalAction, Namespace

from dinojax.cli.arguments import Parser, path, take_preset
from dinojax.cli.settings import add_columns, given_settings, named_flags
from dinojax.messages import count, visible
from dinojax.presets import PRESETS, resolve


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax prepare`."""
    add = parser.add_argument
    text = "preset that will train on the data (default: text)"
    add("preset", nargs="?", choices=tuple(PRESETS), help=text)
    text = "UTF-8 files of names, one a line, or of texts, plain or as .gz or .zst; folders of them"
    add("--data", metavar="FILE", type=path, nargs="+", required=True, help=text)
    text = "convert the data to lower case (default: as the preset says)"
    add("--lowercase", action=BooleanOptionalAction, help=text)
    add_columns(parser, without=("label_column",))


def main(parser: Parser, arguments: Namespace) -> int:
    """Prepare the data and say what they are; returns the exit code."""
    from dinojax.cli.data import drawn
    from dinojax.data.prepared import data_folder, prepare, whole
    from dinojax.data.reading import IN_MEMORY
    from dinojax.data.sources import data_files
    from dinojax.data.stored import num_characters
    from dinojax.data.tables import columns_of

    take_preset(arguments, PRESETS)
    with parser.reported_errors(), named_flags():
        config = resolve(arguments.preset or "text", given=given_settings(arguments))
        ways = {"is_text": config.is_text, "lowercase": config.lowercase}
        store = drawn(prepare(data_files(arguments.data), **ways, columns=columns_of(config)))
    folder = data_folder() / store.key
    amount = count(len(store.starts), "document" if config.is_text else "name")
    said = f"{count(len(store.ids), 'character')} in {amount}, {count(store.vocab.size, 'symbol')}"
    print(", ".join([said, *store.notes]))
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"Prepared in {visible(str(folder))}, {size / 1e6:,.0f} MB")
    if num_characters(whole(store)) * store.ids.itemsize <= IN_MEMORY:
        parser.note(f"train reads up to {IN_MEMORY / 1e6:.0f} MB into memory, without this")
    return 0
