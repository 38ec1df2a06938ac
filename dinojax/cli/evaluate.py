"""Measure exactly what a trained model pays for data, beside n-gram models; see --help."""

import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dinojax.cli.arguments import Parser, path, whole_number
from dinojax.cli.blocks import table_of_blocks
from dinojax.cli.copying import table_of_text
from dinojax.cli.dynamic import (
    describe_dynamic,
    measure_dynamic,
    selecting_of,
    split_of,
    tuned_on,
    tuner_of,
)
from dinojax.cli.loaded import (
    HELP_RUN,
    add_which,
    default_split,
    describe_excerpt,
    describe_learned,
    describe_selection,
    heading,
    load,
    load_learned,
)
from dinojax.cli.samples import table_of_samples
from dinojax.cli.settings import OF_THE_RUN, add_columns, check_columns, flag_of
from dinojax.cli.terminal import json_encoder
from dinojax.config import check_range
from dinojax.messages import count, quoted, visible
from dinojax.runs.kinds import Mixture, Ngram, kind_name
from dinojax.startup import start_jax

if TYPE_CHECKING:
    from dinojax.evaluation.compare import ModelFigures
    from dinojax.runs.description import Part
    from dinojax.runs.folder import Run

MOST_OF_TEXT = 100_000
"""Longest text that is drawn, in characters."""
RANGES = {"samples": (1, 1_000_000), "seed": (0, 2**32 - 1), "max_length": (1, 10_000)}


def context(text: str) -> int | str:
    """The type of an argument that says how a text is read: "carry" or the length of a window."""
    if text == "carry":
        return text
    if text.isascii() and text.isdigit() and 0 < int(text) <= 100_000:
        return int(text)
    expected = "carry or a number of characters from 1 to 100,000"
    raise ArgumentTypeError(f"expected {expected}, got {quoted(text)}")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax evaluate`."""
    add = parser.add_argument
    add("run", metavar="RUN", type=path, help=HELP_RUN)
    help_split = "part of the run's data (default: validation if there is one, or test of a "
    help_split += "refitted run, else train)"
    add("--split", choices=["validation", "test", "train"], help=help_split)
    help_data = "another file, or a folder of files, to measure on, instead of a part"
    add("--data", metavar="FILE", type=path, help=help_data)
    add_columns(parser, OF_THE_RUN)
    help_context = "for a run of a text: carry (its state from beginning to end) or windows of N "
    help_context += "characters, each from a fresh state (default: both, with windows of 256)"
    add("--context", metavar="N", type=context, help=help_context)
    help_dynamic = "for a run of a text: also with weights that follow it as it is read, in a way "
    help_dynamic += "chosen on the validation part (default part: test or, where there is none, "
    help_dynamic += "the second half of validation; a refitted run without test needs --data)"
    add("--dynamic", action="store_true", help=help_dynamic)
    add_which(parser)
    help_samples = "also draw N names, to see how new and how real they look, or a text of N "
    help_samples += "characters, to see how much of it is copied or repeated"
    add("--samples", metavar="N", type=whole_number, help=help_samples)
    add("--seed", metavar="N", type=whole_number, help="seed of these draws (default: 0)")
    help_length = "where names are cut, in characters (default: 1.5 times the length of the "
    help_length += "longest name learned, at least 50)"
    add("--max-length", metavar="N", type=whole_number, help=help_length)
    add("--json", action="store_true", help="print one object with all figures")


def check_arguments(arguments: Namespace) -> None:
    """Raise a ValueError for arguments that no run allows."""
    if arguments.split and arguments.data:
        raise ValueError("--split and --data exclude each other")
    check_columns(arguments, "data")
    for name, (low, high) in RANGES.items():
        if (value := getattr(arguments, name)) is not None:
            check_range(flag_of(name), value, low, high)
            if arguments.samples is None:
                raise ValueError(f"{flag_of(name)} is for --samples, which is not given")


def main(parser: Parser, arguments: Namespace) -> int:
    """Print the figures; returns the exit code."""
    with parser.reported_errors():
        check_arguments(arguments)
        start_jax()
        from dinojax.cli.data import drawn, read_known
        from dinojax.data.stored import is_prepared
        from dinojax.runs.folder import read_part, restore_data

        run = load(parser, arguments)
        is_text = run.config.is_text
        if arguments.context and not is_text:
            raise ValueError(f"--context is for runs of a text; {arguments.run} learned names")
        if arguments.samples is not None and is_text:
            check_range("--samples of a text", arguments.samples, 1, MOST_OF_TEXT)
            if arguments.max_length is not None:
                is_for = "--max-length is for runs of names"
                raise ValueError(f"{is_for}; {arguments.run} learned a text")
        if arguments.dynamic:
            tuner = tuner_of(arguments, run)
        if arguments.data:
            name, split = "", str(arguments.data)
            part = read_known(parser, arguments, run)
        else:
            default = split_of(run) if arguments.dynamic else default_split(run.description)
            name = split = arguments.split or default
            drawn(restore_data(run.folder, run.description))
            part = read_part(run.folder, run.description, name)
        needed_by = "--samples" if arguments.samples is not None else ""
        learned = load_learned(parser, run, "--dynamic" if arguments.dynamic else needed_by)
        if arguments.dynamic:
            split, part, validation = tuned_on(tuner, name, split, part)
            selecting = selecting_of(parser, run, tuner)
        if arguments.samples is not None and (is_prepared(part) or is_prepared(learned)):
            data = "texts" if is_text else "lists of names"
            raise ValueError(f"--samples is for {data} that fit into memory")
    answer, said = measure(arguments, run, name, split, part, learned)
    if arguments.dynamic:
        found, answer["dynamic"] = measure_dynamic(run, part, learned, validation, selecting)
        answer["models"].insert(0, row_of(found, kind_of(run)))
    if arguments.json:
        print(json_encoder(sys.stdout.encoding, indent=2)(answer))
    else:
        print(heading(arguments.run, run) + visible(f", on {split}"), end="\n\n")
        print(table(answer["models"], is_text, said))
        if arguments.dynamic:
            print(f"\n{describe_dynamic(answer['dynamic'])}")
        if "samples" in answer:
            print(f"\n{(table_of_text if is_text else table_of_samples)(answer['samples'])}")
    return 0


def measure(
    arguments: Namespace, run: "Run", name: str, split: str, part: "Part", learned: "Part | None"
) -> tuple[dict[str, Any], str]:
    """All figures as an object of JSON, and what to say of the part that they are about.

    It is the part `name` of the run's data, or other data if that is empty; `split` is what it is
    in words.
    """
    import jax

    from dinojax.data.stored import is_prepared, num_in_excerpt
    from dinojax.evaluation.compare import CONTEXTS, MOST_COUNTED, compare
    from dinojax.evaluation.prepared import num_stretches
    from dinojax.runs.lineage import num_learned

    num, is_text, said = num_learned(run.description, part, learned), run.config.is_text, ""
    answer: dict[str, Any] = {"run": str(arguments.run)}
    started = time.monotonic()
    if run.description.model:
        answer |= {"kind": kind_name(run.description.model), "split": split}
    else:
        num_parameters = sum(leaf.size for leaf in jax.tree.leaves(run.params))
        answer |= {"step": run.step, "split": split, "num_parameters": num_parameters}
    # Of another text, it is not known how much of it was learned.
    if name != "train" and not (is_text and arguments.data):
        answer["num_learned"] = num
        if num or run.description.init_from:
            said = f",\n{describe_learned(num, run.description)}"
    if is_text and num is None:
        said += ";\nn-gram models learned the text of this run alone"
        said += ", and copies are from it alone" if arguments.samples else ""
    contexts = [arguments.context] if arguments.context else CONTEXTS
    blocks = run.description.blocks if split == name == "validation" else ()
    if selection := run.description.selection:
        answer["selection"] = selection._asdict()
        said += f";\n{describe_selection(selection)}"
    models = compare(run.trained, learned, part, contexts=contexts, held_out=blocks)
    if is_text and is_prepared(part) and "carry" in contexts:
        answer["num_stretches"] = num_stretches(len(part))
        if answer["num_stretches"] > 1:
            said += f";\nthe state is carried along {answer['num_stretches']} stretches of it"
    if learned and (counted := describe_excerpt(learned, MOST_COUNTED)):
        answer["num_counted"] = num_in_excerpt(learned, MOST_COUNTED)
        said += f";\nn-gram models counted {counted}"
    kind = kind_of(run)
    answer["models"] = [row_of(found, kind) for found in models]
    if arguments.samples and learned is not None:
        held_out = part[:0] if name == "train" else part
        answer["samples"] = measure_samples(arguments, run, learned, held_out)
    answer["seconds"] = time.monotonic() - started
    return answer, said


def measure_samples(
    arguments: Namespace, run: "Run", learned: "Part", held_out: "Part"
) -> dict[str, Any]:
    """The figures of new names, or of a new text, as an object of JSON."""
    from dinojax.data.stored import Text
    from dinojax.evaluation.compare import compare_samples, compare_text

    trained, num, seed, kind = run.trained, arguments.samples, arguments.seed or 0, kind_of(run)
    if isinstance(learned, str | Text) and isinstance(held_out, str | Text):
        text = compare_text(trained, learned, held_out, num, seed=seed)._asdict()
        spans = [{"longest_copy": span._asdict()} for span in text.pop("longest_copies")]
        rows = [row_of(each, kind) for each in text["models"]]
        return text | {"models": [row | span for row, span in zip(rows, spans, strict=True)]}
    options = {"seed": seed, "max_length": arguments.max_length}
    drawn = compare_samples(trained, learned, held_out, num, **options)
    head = {name: value for name, value in drawn._asdict().items() if value is not None}
    return head | {"models": [row_of(found, kind) for found in drawn.models]}


def kind_of(run: "Run") -> dict[str, Any]:
    """What the model of a run is, as rows call it."""
    if isinstance(kind := run.description.kind, Ngram):
        return {"model": "ngram", "order": kind.order}
    return {"model": "mixture" if isinstance(kind, Mixture) else "network"}


def row_of(found: "ModelFigures", kind: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a model as an object of JSON; that of the run is of this `kind`."""
    head = {"model": found.model, "context": found.context, "order": found.order}
    head |= kind if found.model == "network" else {}
    head = {name: value for name, value in head.items() if value is not None}
    return head | dict(found.figures) | dict(found.apart)


def table(rows: Sequence[Mapping[str, Any]], is_text: bool, said: str = "") -> str:
    """The figures as lines of a table; something may be `said` about what they measure."""

    def with_error(value: float, error: float, digits: int) -> str:
        # The error of a single piece is NaN.
        return f" {value:7.{digits}f}" + (f" ± {error:.{digits}f}" if error == error else "")

    lines = [f"{'':26}nats a character   bits  perplexity{'' if is_text else '    nats a name'}"]
    blocks = dict[str, Mapping[str, Any]]()
    for row in rows:
        way, name = row.get("context"), row["model"]
        if "order" in row:
            name = f"{row['order']}-gram model"
        if way:
            ways = {"carry": "state carried", "dynamic": "weights follow"}
            name += f", {ways.get(way, f'windows of {way}')}"
        elif "order" in row:
            name += " (Kneser-Ney)"
        if "seen" in row:
            blocks[name] = row
        cost = with_error(row["nats_per_character"], row["standard_error"], 4)
        line = f"{name:25}{cost:17} {row['bits_per_character']:8.4f} {row['perplexity']:10.3f}"
        if not is_text:
            line += with_error(row["nats_per_piece"], row["standard_error_per_piece"], 3)
        lines.append(line)
    amount, pieces = f"{rows[0]['num_characters']:,.0f} characters", "blocks or windows"
    if not is_text:
        num = count(int(rows[0]["num_pieces"]), "name")
        has_labels = "nats_per_label" in rows[0]
        included = "newlines and labels included" if has_labels else "newlines included"
        amount, pieces = f"{num}, {amount}, {included}", "names"
        if has_labels:
            label, name = rows[0]["nats_per_label"], rows[0]["nats_per_piece_given_label"]
            apart = f"{label:.3f} nats a label and {name:.3f} a name given its label"
            lines.append(f"\nof the first line, {apart}")
    lines.append(f"\n{amount}{said}; ± one standard error over {pieces}")
    return "\n".join([*lines, *([f"\n{table_of_blocks(blocks)}"] if blocks else [])])
