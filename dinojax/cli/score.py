"""Say how probable names, or a text, are under a trained model; see --help."""

import math
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinojax.cli.arguments import Parser, path, whole_number
from dinojax.cli.colours import character, in_colour, in_rows, padded, painted, scale, width
from dinojax.cli.loaded import HELP_RUN, add_which, heading, load, load_learned, read_label
from dinojax.cli.settings import OF_THE_RUN, add_columns, check_columns
from dinojax.cli.terminal import json_encoder
from dinojax.config import check_range
from dinojax.messages import about, count, quoted, visible
from dinojax.startup import start_jax

if TYPE_CHECKING:
    from dinojax.data.corpus import Corpus
    from dinojax.runs.folder import Run

Scored = tuple[list[dict[str, Any]], list[str], list[Any]]
"""The figures of each string, its characters, and what each of them costs in nats."""
NUM_SAMPLES = 10_000
KINDS = {"names": "names", "file": "--file FILE", "text": "--text TEXT"}
"""What may be scored, as messages call it."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax score`."""
    add = parser.add_argument
    add("run", metavar="RUN", type=path, help=HELP_RUN)
    add("words", metavar="NAME", nargs="*", help="names to score, for a run of names")
    help_file = "names, one a line, or a text, which is read in one pass with its state carried"
    add("--file", metavar="FILE", type=path, help=help_file)
    add("--text", metavar="TEXT", help="a text to score, for a run of a text")
    add_columns(parser, OF_THE_RUN, without=("count_column", "label_column"))
    add_which(parser)
    help_characters = "show the surprisal of each character in bits; a terminal shows colours "
    add("--characters", action="store_true", help=f"{help_characters}unless NO_COLOR is set")
    help_json = "print one object a line, for each name or the text; log-probabilities and costs "
    help_json += "in nats"
    add("--json", action="store_true", help=help_json)
    add = parser.add_argument_group("for a run of names").add_argument
    help_names = "more names to score; give one that begins with a dash as --names=-NAME"
    add("--names", metavar="NAME", nargs="+", action="extend", help=help_names)
    help_label = "score p(name | label), if names have labels (default: p(name), the sum over all "
    help_label += "labels, and the likeliest label of each name)"
    add("--label", metavar="LABEL", help=help_label)
    help_seed = f"seed of the {NUM_SAMPLES:,} new names that a name is ranked among (default: 0)"
    add("--seed", metavar="N", type=whole_number, help=help_seed)


def main(parser: Parser, arguments: Namespace) -> int:
    """Print the figures; returns the exit code."""
    with parser.reported_errors():
        arguments.names = [*arguments.words, *(arguments.names or [])]
        given = [flag for flag in KINDS if getattr(arguments, flag) not in (None, [])]
        if len(given) > 1:
            first, second = (KINDS[flag] for flag in given[:2])
            raise ValueError(f"{first} and {second} exclude each other")
        if not given:
            raise ValueError(f"nothing to score: give {', '.join(KINDS.values())}")
        check_columns(arguments, "file")
        check_range("--seed", arguments.seed or 0, 0, 2**32 - 1)
        start_jax()
        run = load(parser, arguments)
        if run.config.is_text:
            rows, strings, nats = score_text(parser, arguments, run)
        else:
            learned = load_learned(parser, run) or ()
            rows, strings, nats = score_names(parser, arguments, run, learned)
    bits = [each / math.log(2) for each in nats]
    if arguments.json:
        encode = json_encoder(sys.stdout.encoding)
        for row, each in zip(rows, bits, strict=True):
            shown = row | {"bits": each.tolist()} if arguments.characters else row
            print(encode(shown))
        return 0
    print(f"{heading(arguments.run, run)}\n")
    has_origin = bool(run.description.init_from)
    print(describe_text(rows[0]) if run.config.is_text else table(rows, has_origin))
    if arguments.characters:
        show_characters(strings, bits)
    return 0


def score_names(parser: Parser, arguments: Namespace, run: "Run", learned: Sequence[str]) -> Scored:
    """Score the names that the user gave, beside those `learned`, if they are known."""
    from dinojax.cli.data import read_other
    from dinojax.data.corpus import MAX_NAME_LENGTH
    from dinojax.data.labels import without_labels
    from dinojax.data.text import composed
    from dinojax.evaluation.strings import score

    if arguments.text is not None:
        raise ValueError(f"--text is for runs of a text; {arguments.run} learned names")
    if arguments.file:
        names = list(
            in_memory(arguments.file, read_other(parser, arguments.file, run.config, arguments))
        )
    else:
        names = [composed(name, run.config.lowercase).strip() for name in arguments.names]
    for number, name in enumerate(names, start=1):
        if not name:
            raise ValueError(f"name {number} is empty; expected a name")
        if len(name) > MAX_NAME_LENGTH:
            most = f"names may have up to {MAX_NAME_LENGTH:,}"
            raise ValueError(f"name {number} has {len(name):,} characters; {most}")
    seed, unknown, label = arguments.seed or 0, [None] * len(names), read_label(arguments, run)
    learned = without_labels(learned, run.vocab.labels)
    options: dict[str, Any] = {"learned": learned, "seed": seed, "num_samples": NUM_SAMPLES}
    scores = score(run.trained, names, label=label, **options)
    columns = {
        "name": names,
        "log_probability": scores.log_probabilities.tolist(),
        "bits_per_character": scores.bits_per_character.tolist(),
        "rank": scores.ranks.tolist(),
        "in_training_data": scores.in_training_data.tolist() or unknown,
        "nearest": scores.nearest or unknown,
        "distance": scores.distances.tolist() or unknown,
    }
    if scores.labels:
        columns["label"] = scores.labels
        columns["label_probability"] = scores.label_probabilities.tolist()
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return rows, [f"{name}\n" for name in scores.names], scores.character_nats


def score_text(parser: Parser, arguments: Namespace, run: "Run") -> Scored:
    """Score the text that the user gave."""
    from dinojax.cli.data import read_other
    from dinojax.data.corpus import shown
    from dinojax.data.text import composed
    from dinojax.evaluation import strings

    if arguments.names:
        expected = "names are for runs of names; give --text TEXT"
        raise ValueError(f"{arguments.run} learned a text: {expected}")
    for flag in "seed", "label":
        if getattr(arguments, flag) is not None:
            raise ValueError(f"--{flag} is for runs of names; {arguments.run} learned a text")
    if arguments.file:
        head, name = {"file": str(arguments.file)}, shown(arguments.file)
        corpus = read_other(parser, arguments.file, run.config, arguments)
        text = in_memory(arguments.file, corpus)
    else:
        with about("--text"):
            text = composed(arguments.text, run.config.lowercase)
        head, name = {"text": text}, "--text"
    with about(name):
        row = {**head, **strings.score_text(run.trained, text)._asdict()}
    return [row], [str(text)], [row.pop("character_nats")]


def in_memory(file: Path, corpus: "Corpus[Any]") -> Any:
    """The data of a file; a ValueError if they are too large to score all characters at once."""
    from dinojax.data.reading import IN_MEMORY
    from dinojax.data.stored import is_prepared

    if is_prepared(corpus.data):
        raise ValueError(
            f"{file} has more than {IN_MEMORY / 1e6:.0f} MB, too much to score at once; measure it "
            "with evaluate --data, or score a part of it"
        )
    return corpus.data


def describe_text(row: dict[str, Any]) -> str:
    """The figures of a text in two lines."""
    name = visible(row["file"]) if "file" in row else quoted(row["text"])
    return (
        f"{name}: {count(row['num_characters'], 'character')}, "
        f"{row['nats']:,.2f} nats\n"
        f"{row['nats_per_character']:.4f} nats and {row['bits_per_character']:.4f} bits a "
        f"character, perplexity {row['perplexity']:.3f}"
    )


def table(rows: Sequence[dict[str, Any]], has_origin: bool) -> str:
    """The figures of names as lines of a table."""
    shown = [visible(row["name"]) for row in rows]
    wide = max(map(width, shown))
    labels = [
        f"  {visible(row['label'])} {row['label_probability']:.2%}" if "label" in row else ""
        for row in rows
    ]
    wide_label = max(map(width, labels))
    head = f"{'  label' if wide_label else '':{wide_label}}"
    figures = f"  log-probability  bits a character    rank{head}"
    lines = [f"{'':{wide}}{figures}  learned  nearest (edits)"]
    says = {True: "yes", False: "no", None: "-"}
    for row, name, label in zip(rows, shown, labels, strict=True):
        is_known = row["nearest"] is not None
        nearest = f"{visible(row['nearest'])} ({row['distance']})" if is_known else "-"
        lines.append(
            f"{padded(name, wide)}{row['log_probability']:17.3f}"
            f"{row['bits_per_character']:18.4f}{row['rank']:8.2%}"
            f"{label}{' ' * (len(head) - width(label))}"
            f"  {says[row['in_training_data']]:7}  {nearest}"
        )
    lines.append(
        "\nlog-probability: in nats, newline included; rank: the share of "
        f"{NUM_SAMPLES:,} new names\nthat are less probable; nearest: of those it learned from"
    )
    said = "\n".join(lines) + ",\nor a run it began with" * has_origin
    return said + ";\nlabel: how probable it is, given the name" * bool(wide_label)


def show_characters(strings: Sequence[str], bits: Sequence[Any]) -> None:
    """Print the surprisal of each character, line by line: as colours in a terminal, or numbers."""
    is_coloured = in_colour()
    print(f"\nbits  {scale()}\n" if is_coloured else "\nbits of each character\n")
    for string, values in zip(strings, bits, strict=True):
        rest = iter(values.tolist())
        # Unlike splitlines, this splits only at newlines.
        for line in re.findall(r"[^\n]*\n|[^\n]+", string):
            cells = [(character(c), next(rest)) for c in line]
            if is_coloured:
                rows = in_rows((shown, painted(shown, value)) for shown, value in cells)
            else:
                numbers = [f"{shown} {value:.2f}" for shown, value in cells]
                rows = in_rows(zip(numbers, numbers, strict=True), between="  ")
            print(*rows, sep="\n")
