"""Make a run of the mixture of several runs; see --help."""

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from dinojax.cli.arguments import Parser, number, path, whole_number
from dinojax.cli.loaded import HELP_RUN
from dinojax.cli.settings import named_flags
from dinojax.cli.terminal import json_encoder
from dinojax.config import check_range
from dinojax.messages import visible
from dinojax.runs.kinds import MAX_CACHE, MAX_ORDER
from dinojax.runs.selection import SELECTION
from dinojax.startup import num_cores, start_jax


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax mix`."""
    add = parser.add_argument
    text = f"{HELP_RUN}; each at its best checkpoint, and all of the same data, split alike"
    add("runs", metavar="RUN", nargs="+", type=path, help=text)
    text = (
        f"also mix in an n-gram model of order N, up to {MAX_ORDER}, of what the runs learned from"
    )
    add("--ngram", metavar="N", type=whole_number, help=text)
    text = f"add a cache of the last N characters of a text, up to {MAX_CACHE:,}, which the "
    text += "mixture expects to read again"
    add("--cache", metavar="N", type=whole_number, help=text)
    text = "weights of the runs, and last of the n-gram model, in proportion (default: those that "
    text += "suit the validation part best)"
    add("--weights", metavar="W", nargs="+", type=number, help=text)
    add("--out", metavar="FOLDER", type=path, required=True, help="folder of the new run")
    add("--overwrite", action="store_true", help="replace the run in the folder --out")
    add("--json", action="store_true", help="print one object with the weights and all figures")


def main(parser: Parser, arguments: Namespace) -> int:
    """Make the run, and print the weights and the losses; returns the exit code."""
    with parser.reported_errors(), named_flags():
        if arguments.ngram is not None:
            check_range("--ngram", arguments.ngram, 1, MAX_ORDER)
        if arguments.cache is not None:
            check_range("--cache", arguments.cache, 1, MAX_CACHE)
        start_jax(num_cores())
        from dinojax.runs.mixtures import mix

        mixed = mix(
            arguments.runs,
            arguments.out,
            ngram=arguments.ngram or 0,
            cache=arguments.cache or 0,
            weights=arguments.weights,
            overwrite=arguments.overwrite,
        )
    for file in mixed.damaged:
        parser.note(f"{file} could not be read; an earlier checkpoint takes its place")
    is_selected = mixed.description.selection is not None
    selection = arguments.out / SELECTION if is_selected else None
    wholes = ["mixture", *["mixture with cache"] * bool(arguments.cache)]
    if arguments.json:
        pairs = zip([*mixed.names, *wholes], [*mixed.weights, *[1.0] * len(wholes)], strict=True)
        rows = [{"model": name, "weight": weight} for name, weight in pairs]
        for row, figures in zip(rows, mixed.figures, strict=False):
            row |= figures
        answer: dict[str, Any] = {"run": str(arguments.out), "split": "validation"}
        if selection:
            answer["selection"] = str(selection)
        answer["models"] = rows
        print(json_encoder(sys.stdout.encoding, indent=2)(answer))
        return 0
    names = [*map(visible, mixed.names), *wholes]
    weights = [*(f"{weight:.4f}" for weight in mixed.weights), *[""] * len(wholes)]
    width = max(map(len, names))
    print(f"{'':{width}}  weight" + "  nats a character" * bool(mixed.figures))
    for i, (name, weight) in enumerate(zip(names, weights, strict=True)):
        line = f"{name:{width}}  {weight:6}"
        if mixed.figures:
            figures = mixed.figures[i]
            line += f"  {figures['nats_per_character']:.4f}"
            # The error of a single piece is NaN.
            if figures["num_pieces"] > 1:
                line += f" ± {figures['standard_error']:.4f}"
        if weight or mixed.figures:
            print(line)
    if mixed.figures:
        learned = "" if arguments.weights else ", from which the weights were learned"
        part = "the validation part"
        if mixed.is_sample:
            part = f"{mixed.figures[0]['num_characters']:,.0f} characters of {part}"
        print(f"over {part}{learned}; ± one standard error")
    if selection:
        print(
            f"These are figures of the runs' selections, mixed in {visible(str(selection))}, which "
            "did not learn\nthat part; the mixture itself is of the refitted runs, which did"
        )
    config = mixed.description.config
    print(f"Saved in {visible(str(arguments.out))}")
    again = parser.program.line_to_sample(arguments.out, config.is_text)
    print(f"{'Text' if config.is_text else 'Names'}: {visible(again)}")
    return 0
