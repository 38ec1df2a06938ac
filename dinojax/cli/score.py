"""Say how probable names, or a text, are to a trained model; see --help."""

import json
import math
import os
import re
import sys
import unicodedata
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dinojax.cli.arguments import Parser, add_which, path, whole_number
from dinojax.cli.loaded import load
from dinojax.cli.terminal import visible
from dinojax.config import check_range
from dinojax.startup import start_jax

if TYPE_CHECKING:
    from dinojax.runs.folder import Run

NUM_SAMPLES = 10_000
"""Names drawn to compare with; of a rank, the standard error is up to half a percent."""
COLOURS = 17, 19, 60, 102, 144, 186, 228
"""Behind a character of 0, 1, 2, .. bits, of the 256 of a terminal: from dark blue to light yellow,
ever lighter, so that eyes that see no colour, or not all, see the order too."""
FIRST_LIGHT = 3
"""From this one on, black can be read on a colour better than white."""
BLACK, WHITE = 16, 231


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax score`."""
    add = parser.add_argument
    add("run", metavar="RUN", type=path, help="folder of a run")
    add(
        "--file",
        metavar="FILE",
        type=path,
        help="names, one a line, or a text, read in one pass with its state carried",
    )
    add_which(parser)
    add(
        "--characters",
        action="store_true",
        help="the surprisal of each character too, in bits; in a terminal as colours, unless "
        "NO_COLOR is set",
    )
    add(
        "--json",
        action="store_true",
        help="one object a line, for each name or for the text, log-probabilities in nats",
    )
    names = parser.add_argument_group("for a run of names")
    names.add_argument("--names", metavar="NAME", nargs="+", help="in the place of --file")
    names.add_argument(
        "--seed",
        metavar="N",
        type=whole_number,
        help=f"of the {NUM_SAMPLES:,} new names among which a name has its rank (default: 0)",
    )


def main(parser: Parser, arguments: Namespace) -> int:
    """Print the figures; returns the exit code."""
    with parser.reported_errors():
        if arguments.names and arguments.file:
            raise ValueError("--names and --file exclude each other")
        if not arguments.names and not arguments.file:
            raise ValueError("nothing to score: give --names NAME.. or --file FILE")
        if arguments.seed is not None:
            check_range("--seed", arguments.seed, 0, 2**32 - 1)
    with parser.reported_errors():
        start_jax()
    from dinojax.runs import folder as runs

    with parser.reported_errors():
        loaded = load(parser, arguments)
        if loaded.config.is_text:
            for flag in "names", "seed":
                if getattr(arguments, flag) is not None:
                    raise ValueError(
                        f"--{flag} is for runs of names; {arguments.run} learned a text"
                    )
            strings = [read_text(arguments, loaded)]
            known: Sequence[str] = ()
        else:
            strings = read_names(arguments, loaded)
            known = runs.read_part(arguments.run, loaded.description, "train")
    if loaded.config.is_text:
        nats = [of_text(loaded, strings[0])]
        rows = [{"file": str(arguments.file), **text_figures(nats[0])}]
    else:
        nats = of_names(loaded, strings)
        rows = name_figures(loaded, strings, nats, known, arguments.seed or 0)
        strings = [f"{name}\n" for name in strings]
    bits = [each / math.log(2) for each in nats]
    if arguments.json:
        for row, each in zip(rows, bits, strict=True):
            if arguments.characters:
                row["bits"] = each.tolist()
            print(in_json(row))
        return 0
    print(f"{arguments.run} after {loaded.step:,} steps\n")
    print(describe_text(rows[0]) if loaded.config.is_text else table(rows))
    if arguments.characters:
        show_characters(strings, bits)
    return 0


def read_names(arguments: Namespace, loaded: "Run") -> list[str]:
    """The names to score, as the run reads its own.

    Raises:
        OSError: the file cannot be read.
        ValueError: there is no name, or one that cannot be.
    """
    from dinojax.data import text as data

    lowercase = loaded.config.lowercase
    if arguments.file:
        names, _ = data.read_names(arguments.file, lowercase)
    else:
        names = [data.composed(name.strip(), lowercase) for name in arguments.names]
    for number, name in enumerate(names, start=1):
        if not name:
            raise ValueError(f"--names: number {number} is empty; expected a name")
        if len(name) > data.MAX_NAME_LENGTH:
            raise ValueError(
                f"--names: number {number} has {len(name):,} characters; names may have up to "
                f"{data.MAX_NAME_LENGTH:,}"
            )
        if "\n" in name:
            raise ValueError(f"{name!r}: a name holds no newline")
        check_known(name, repr(name), loaded)
    return names


def read_text(arguments: Namespace, loaded: "Run") -> str:
    """The text to score, as the run reads its own.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no text, is empty, or holds a character that the run does not know.
    """
    from dinojax.data.text import read_running_text

    text = read_running_text(arguments.file, loaded.config.lowercase)
    check_known(text, str(arguments.file), loaded)
    return text


def check_known(text: str, where: str, loaded: "Run") -> None:
    """Raise a ValueError if the run does not know a character."""
    try:
        loaded.vocab.encode(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def of_names(loaded: "Run", names: Sequence[str]) -> list[Any]:
    """What each character of each name costs, and its newline, in nats: [len(name) + 1] each.

    Names that are about as long are read side by side: a long one among many costs its own time
    and memory alone.
    """
    import jax
    import numpy as np

    from dinojax.data.batches import pad_names
    from dinojax.evaluation.losses import CHARACTERS_AT_ONCE
    from dinojax.evaluation.score import log_probability

    read = jax.jit(lambda params, examples: log_probability(params, loaded.model, examples))
    found: dict[int, Any] = {}
    rest = sorted(range(len(names)), key=lambda i: -len(names[i]))
    while rest:
        # Powers of two, so that few sizes are compiled.
        time = 1 << len(names[rest[0]]).bit_length()
        num = min(max(1, CHARACTERS_AT_ONCE // time), 1 << (len(rest) - 1).bit_length())
        block, rest = rest[:num], rest[num:]
        examples = pad_names([names[i] for i in block], loaded.vocab)
        missing = time - len(examples.weights), num - len(block)
        examples = jax.tree.map(
            lambda x, missing=missing: np.pad(x, [(0, n) for n in missing], mode="edge"), examples
        )
        nats = -np.asarray(read(loaded.params, examples), float).T
        for i, each in zip(block, nats, strict=False):
            found[i] = each[: len(names[i]) + 1].copy()
    return [found[i] for i in range(len(names))]


def of_text(loaded: "Run", text: str) -> Any:
    """What each character of a text costs in nats, [len(text)]."""
    import jax
    import numpy as np

    from dinojax.evaluation.losses import nats_carried

    read = jax.jit(lambda params, ids: nats_carried(params, loaded.model, ids))
    return np.asarray(read(loaded.params, loaded.vocab.encode(text)), float)


def text_figures(nats: Any) -> dict[str, Any]:
    """The figures of a text of which the characters cost `nats` [num]."""
    from dinojax.evaluation.losses import in_blocks, summarize

    figures = summarize(in_blocks(nats))
    shown = "nats_per_character", "bits_per_character", "perplexity"
    return {
        "num_characters": len(nats),
        "nats": float(nats.sum()),
        **{name: figures[name] for name in shown},
    }


def name_figures(
    loaded: "Run",
    names: Sequence[str],
    nats: Sequence[Any],
    known: Sequence[str],
    seed: int,
) -> list[dict[str, Any]]:
    """The figures of each name, of which the characters cost `nats` [len(name) + 1] each."""
    from dinojax.data.distances import nearest
    from dinojax.evaluation.score import share_below

    totals: dict[str | None, float] = {
        name: -float(each.sum()) for name, each in zip(names, nats, strict=True)
    }
    # A name that was drawn too ties with itself, however the two numbers were rounded.
    drawn = [totals.get(name, total) for name, total in draw(loaded, seed)]
    ranks = share_below([totals[name] for name in names], drawn).tolist()
    places, distances = nearest(names, known)
    training_names = set(known)
    return [
        {
            "name": name,
            "log_probability": totals[name],
            "bits_per_character": -totals[name] / math.log(2) / (len(name) + 1),
            "rank": rank,
            "in_training_data": name in training_names,
            "nearest": known[place],
            "distance": distance,
        }
        for name, rank, place, distance in zip(
            names, ranks, places.tolist(), distances.tolist(), strict=True
        )
    ]


def draw(loaded: "Run", seed: int) -> Iterator[tuple[str | None, float]]:
    """New names and their log-probabilities; None in the place of one that did not end."""
    import jax

    from dinojax.data.text import MAX_NAME_LENGTH
    from dinojax.sampling.stream import stream_names

    # As long as a name may be that is compared with them.
    sizes = NUM_SAMPLES, MAX_NAME_LENGTH
    write = jax.jit(lambda key, params: stream_names(key, params, loaded.model, *sizes))
    samples = jax.device_get(write(jax.random.key(seed), loaded.params))
    for ids, length, total, ended in zip(
        samples.ids,
        samples.lengths,
        samples.log_probabilities.tolist(),
        samples.ended,
        strict=True,
    ):
        yield (loaded.vocab.decode(ids[:length]) if ended else None), total


def in_json(row: dict[str, Any]) -> str:
    """A row as one line; JSON has no infinite perplexity."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    is_unicode = (sys.stdout.encoding or "").lower() == "utf-8"
    return json.dumps(finite, ensure_ascii=not is_unicode, allow_nan=False)


def describe_text(row: dict[str, Any]) -> str:
    """The figures of a text in two lines."""
    return (
        f"{row['file']}: {row['num_characters']:,} characters, {row['nats']:,.2f} nats\n"
        f"{row['nats_per_character']:.4f} nats and {row['bits_per_character']:.4f} bits a "
        f"character, perplexity {row['perplexity']:.3f}"
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures of names as lines of a table."""
    shown = [visible(row["name"]) for row in rows]
    wide = max(map(width, shown))
    lines = [f"{'':{wide}}      nats  bits a character    rank  learned  nearest (edits)"]
    for row, name in zip(rows, shown, strict=True):
        lines.append(
            f"{name}{' ' * (wide - width(name))}{row['log_probability']:10.3f}"
            f"{row['bits_per_character']:18.4f}{row['rank']:8.2%}"
            f"  {'yes' if row['in_training_data'] else 'no':7}"
            f"  {visible(row['nearest'])} ({row['distance']})"
        )
    lines.append(
        "\nnats: log-probability, newline included; rank: the share of "
        f"{NUM_SAMPLES:,} new names\nthat are less probable; nearest: of those it learned from"
    )
    return "\n".join(lines)


def width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    joins = "Mn", "Me", "Cf"
    return sum(
        0 if unicodedata.category(c) in joins else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def show_characters(strings: Sequence[str], bits: Sequence[Any]) -> None:
    """Print the surprisal of each character, line by line: as colours in a terminal, or numbers."""
    in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    last = len(COLOURS) - 1
    if in_colour:
        scale = [painted(f" {i}{'+' if i == last else ''} ", i) for i in range(last + 1)]
        print(f"\nbits  {''.join(scale)}\n")
    else:
        print("\nbits of each character\n")
    for string, values in zip(strings, bits, strict=True):
        cells = [(mark(c), value) for c, value in zip(string, values.tolist(), strict=True)]
        first = 0
        # Not splitlines, which splits at U+2028 and others too.
        for line in re.findall(r"[^\n]*\n|[^\n]+", string):
            part = cells[first : first + len(line)]
            if in_colour:
                print("".join(painted(shown, value) for shown, value in part))
            else:
                print("  ".join(f"{shown} {value:.2f}" for shown, value in part))
            first += len(line)


def mark(character: str) -> str:
    """What stands for a character: one that joins the character before gets a circle to join."""
    is_joining = unicodedata.category(character)[0] == "M"
    return f"◌{character}" if is_joining else visible(character)


def painted(text: str, bits: float) -> str:
    """A text for a terminal on the colour of so many bits, rounded down."""
    level = min(int(bits), len(COLOURS) - 1)
    ink = BLACK if level >= FIRST_LIGHT else WHITE
    return f"\x1b[48;5;{COLOURS[level]};38;5;{ink}m{text}\x1b[0m"
