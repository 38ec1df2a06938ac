"""Replay the dinosaur-name exercise in float64, number by number; see --help."""

import sys
from argparse import ArgumentParser, Namespace

from dinojax.cli.arguments import Parser, output_file, path, whole_number
from dinojax.cli.data import read_and_note
from dinojax.cli.terminal import json_encoder
from dinojax.config import check_range
from dinojax.data.corpus import bundled_names
from dinojax.data.text import capitalized
from dinojax.files import write_atomically
from dinojax.messages import visible
from dinojax.presets import PRESETS
from dinojax.startup import start_jax


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax reproduce`."""
    add, names = parser.add_argument, bundled_names()
    data = "file of names, one a line (default: %(default)s)"
    add("--data", metavar="FILE", type=path, default=names, help=data)
    steps = "training steps, one name each (default: %(default)s)"
    add("--steps", metavar="N", type=whole_number, default=12_001, help=steps)
    add("--json", metavar="FILE", type=path, help="also write the losses and names to this file")


def main(parser: Parser, arguments: Namespace) -> int:
    """Print the exercise's log; returns the exit code."""
    with parser.reported_errors():
        check_range("--steps", arguments.steps, 1, 10**9)
        names = read_and_note(parser, arguments.data, PRESETS["dinos"]).data
        if arguments.json:
            arguments.json = output_file("--json", arguments.json, [arguments.data])
        start_jax()
    from dinojax.evaluation.exercise import replay

    losses, written = {}, {}
    for step, loss, sampled in replay(names, arguments.steps):
        texts = list(map(capitalized, sampled))
        shown = map(visible, texts) if sys.stdout.isatty() else texts
        print(f"Iteration: {step}, Loss: {loss:f}\n", *shown, "", sep="\n", flush=True)
        losses[str(step)], written[str(step)] = loss, texts
    if arguments.json:
        content = json_encoder(indent=1)({"smooth_loss": losses, "names": written})
        write_atomically(arguments.json, f"{content}\n".encode())
    return 0
