"""Show what a model expects after the beginning of a name or a text; see --help.

Characters that may not be drawn are struck through.
"""

import logging
import math
import shutil
import sys
import unicodedata
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from dinojax.cli.arguments import Parser, output_file, path, require, whole_number
from dinojax.cli.colours import blue, can_show, character, in_colour, padded, painted, struck, width
from dinojax.cli.loaded import HELP_RUN, add_which, heading, load, read_label
from dinojax.cli.sample import RANGES, add_controls, given
from dinojax.cli.settings import flag_of
from dinojax.cli.terminal import json_encoder
from dinojax.config import check_range
from dinojax.messages import count, quoted, visible
from dinojax.startup import start_jax

NUM = 10
BLOCKS = " ▏▎▍▌▋▊▉█"
"""Of a column, no eighth to all of it."""
LEAST_COLUMNS, MOST_COLUMNS = 10, 100
"""Lengths of the longest bar."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax next`."""
    add = parser.add_argument
    add("run", metavar="RUN", type=path, help=HELP_RUN)
    help_text = "how the name or the text begins; write -- before one that starts with a dash "
    add("text", metavar="TEXT", nargs="?", help=f"{help_text}(default: nothing)")
    add_which(parser)
    help_label = "how names with this label go on, for a run of names with labels (default: how "
    add("--label", metavar="LABEL", help=f"{help_label}probable each label is)")
    help_num = f"how many characters, the likeliest first (default: {NUM}, all in JSON)"
    add("--num", metavar="N", type=whole_number, help=help_num)
    help_json = "print one object: of each character its probability, its surprisal in bits, and "
    add("--json", action="store_true", help=f"{help_json}the probability with which it is drawn")
    help_out = "write a picture instead, a PNG or SVG file by its suffix; needs matplotlib"
    add("--out", metavar="FILE", type=path, help=help_out)
    add_controls(parser)


def main(parser: Parser, arguments: Namespace) -> int:
    """Print or draw what may come next; returns the exit code."""
    with parser.reported_errors():
        check_arguments(arguments)
        start_jax()
        from dinojax.data.labels import labels_of
        from dinojax.data.text import composed_start
        from dinojax.sampling.controls import Controls
        from dinojax.sampling.following import next_characters

        run = load(parser, arguments)
        is_name = not run.config.is_text
        prompt = composed_start(arguments.text or "", run.config.lowercase)
        controls = Controls(**given(arguments, Controls._fields))
        label, labels = read_label(arguments, run), run.vocab.labels
        options: dict[str, Any] = {"controls": controls, "is_name": is_name, "label": label}
        found = next_characters(run.trained, prompt, **options)
        kind, each = "character", list(found.characters)
        if labels and label is None:
            kind, each = "label", labels_of(each, labels)
        columns = each, found.probabilities.tolist(), found.drawn_probabilities.tolist()
        rows = [row_of(kind, *row) for row in zip(*columns, strict=True)]
        num = arguments.num or (len(rows) if arguments.json else NUM)
        if arguments.json:
            head = {"run": str(arguments.run), "text": prompt} | ({"label": label} if label else {})
            print(json_encoder(sys.stdout.encoding)(head | {f"{kind}s": rows[:num]}))
            return 0
        said = "the label of a name" if kind == "label" else described(prompt, is_name, label)
        title = f"{heading(arguments.run, run)}: {said}"
        shown = [visible(one) if kind == "label" else shown_as(one, is_name) for one in each[:num]]
        if arguments.out:
            draw(arguments, shown, rows[:num], title)
            print(visible(str(arguments.out)))
            return 0
    print(f"{title}\n")
    print(table(shown, rows, is_controlled=controls != Controls()))
    return 0


def check_arguments(arguments: Namespace) -> None:
    """Raise a ValueError or an OSError for arguments that no run allows."""
    for name in given(arguments, ["temperature", "top_k", "top_p", "min_p", "num"]):
        check_range(flag_of(name), getattr(arguments, name), *RANGES[name])
    for name, flag in {"text": "TEXT", "label": "--label"}.items():
        if getattr(arguments, name) == "":
            raise ValueError(f"{flag}: expected a text, got an empty one; leave it out")
    if arguments.out is not None:
        if arguments.json:
            raise ValueError("--json and --out exclude each other")
        arguments.out = output_file("--out", arguments.out)
        if arguments.out.suffix not in (".png", ".svg"):
            raise ValueError(
                f"--out: expected a name that ends in .png or .svg, got {arguments.out}"
            )
        # Matplotlib logs a message while it builds its font cache.
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        require("matplotlib", "plot")


def row_of(kind: str, one: str, probability: float, drawn: float) -> dict[str, Any]:
    """The figures of a character or a label, its `kind`, as an object of JSON."""
    bits = -math.log2(probability) if probability else math.inf
    figures = {"probability": probability, "bits": bits, "drawn_probability": drawn}
    return {kind: one, **figures}


def described(prompt: str, is_name: bool, label: str | None) -> str:
    """What comes next, in words."""
    of_label = f" with the label {quoted(label)}" if label else ""
    what = f"a {'name' if is_name else 'text'}{of_label}"
    if not prompt:
        return f"how {what} begins"
    return f"what comes after {quoted(prompt)}" + (f" in {what}" if label else "")


def shown_as(one: str, is_name: bool) -> str:
    """A character in the table: a word for one that cannot be seen."""
    if one == "\n" and is_name:
        return "(end)"
    if one == " ":
        return "(space)"
    is_blank = unicodedata.category(one) == "Zs"
    return one.encode("unicode_escape").decode() if is_blank else character(one)


def table(labels: Sequence[str], rows: Sequence[dict[str, Any]], is_controlled: bool) -> str:
    """The characters with these labels, which are the first of all `rows`, as lines with bars."""
    wide, is_coloured = max(map(width, labels)), in_colour()
    lines = [f"{'':{wide}}   probability   bits{'   drawn' * is_controlled}"]
    room = shutil.get_terminal_size().columns - len(lines[0]) - 3
    room = min(max(room, LEAST_COLUMNS), MOST_COLUMNS)
    most = max(row["drawn_probability"] for row in rows[: len(labels)]) or 1.0
    for label, row in zip(labels, rows, strict=False):
        bits, drawn = row["bits"], row["drawn_probability"]
        shown, length = f" {padded(label, wide)} ", bar(drawn / most, room)
        figures = f"{row['probability']:12.4f}{bits:7.2f}"
        if is_controlled:
            figures += f"{drawn:8.4f}" if drawn else f"{'-':>8}"
        if is_coloured and drawn:
            lines.append(f"{painted(shown, bits)}{figures}  {blue(length)}")
        else:
            line = f"{shown}{figures}  {length}".rstrip()
            lines.append(struck(line) if is_coloured else line)
    if others := rows[len(labels) :]:
        total, drawn = (sum(row[x] for row in others) for x in ("probability", "drawn_probability"))
        said = f"{count(len(others), 'other')}: {total:.4f}"
        lines.append(f"\n{said}{f', drawn {drawn:.4f}' if is_controlled else ''}")
    return "\n".join(lines)


def bar(share: float, room: int) -> str:
    """A bar that fills this share of the room, in eighths of a column where they can be shown."""
    if not can_show(BLOCKS):
        return "#" * round(share * room)
    eighths = round(share * room * 8)
    return (BLOCKS[-1] * (eighths // 8) + BLOCKS[eighths % 8]).rstrip()


def draw(
    arguments: Namespace, labels: Sequence[str], rows: Sequence[dict[str, Any]], title: str
) -> None:
    """Write the picture."""
    from dinojax.plots.following import plot_following
    from dinojax.plots.style import save_as

    columns = ([row[x] for row in rows] for x in ("probability", "drawn_probability"))
    save_as(plot_following(labels, *columns, title=visible(title)), arguments.out)
