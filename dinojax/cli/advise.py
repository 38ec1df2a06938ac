"""Say what to train on given data, and what to expect of it; see --help."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinojax.cli.arguments import Parser, number, path
from dinojax.cli.settings import add_columns, add_settings, flags_for, given_settings, named_flags
from dinojax.cli.terminal import Program, json_encoder, short_path
from dinojax.config import COLUMNS, OF_THE_DATA, TrainConfig, check_range
from dinojax.messages import count, visible
from dinojax.presets import ngram_config
from dinojax.recipes import AUTO
from dinojax.startup import best_share, num_cores, start_jax

if TYPE_CHECKING:
    from dinojax.evaluation.baseline import Baseline
    from dinojax.runs.advice import Facts
    from dinojax.runs.advising import Advice


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax advise`."""
    add = parser.add_argument
    text = "UTF-8 files of names, one a line, or of texts, plain or as .gz or .zst; folders of them"
    file: dict[str, Any] = {"metavar": "FILE", "type": path}
    add("files", **file, nargs="*", help="files or folders of data, as after --data")
    add("--data", **file, nargs="+", help=text)
    text = "propose what can be trained in this many minutes (default: what suits the data)"
    add("--minutes", metavar="X", type=number, help=text)
    own = {*OF_THE_DATA} - {*COLUMNS}
    others = {each.name for each in fields(TrainConfig)} - own
    add_settings(parser, without=others, default="what suits the data")
    add_columns(parser)
    add("--json", action="store_true", help="print one object with all figures")


def main(parser: Parser, arguments: Namespace) -> int:
    """Measure, and print the figures and the proposal; returns the exit code."""
    given, files = given_settings(arguments), arguments.data or arguments.files
    with parser.reported_errors(), named_flags():
        if bool(arguments.data) == bool(arguments.files):
            raise ValueError("expected files of data, after --data or without it")
        if arguments.minutes is not None:
            check_range("--minutes", arguments.minutes, 1e-3, 1e6)

        from dinojax.cli.auto import run_name, settle
        from dinojax.cli.folders import folders
        from dinojax.data.corpus import read_once, shown, shown_all
        from dinojax.runs.suited import fitted

        if once := read_once(files):
            raise ValueError(f"--data: expected a file to train on later, got {shown(once[0])}")
        config, corpus = settle(parser, files, None, given)
        config = fitted(config, corpus.data, given)
        start_jax(best_share(config.batch_size, num_cores()))
        from dinojax.runs.advising import advise

        advice = advise(corpus.data, arguments.minutes, **given)
    folder = next(each for each in folders(run_name(files)) if not os.path.lexists(each))
    lines = lines_to_paste(parser.program, advice, files=files, given=given, folder=folder)
    if arguments.json:
        answer = {"files": list(map(str, files)), "notes": list(corpus.notes)}
        answer |= as_object(advice) | {"commands": lines}
        print(json_encoder(sys.stdout.encoding, indent=2)(answer))
        return 0
    print(f"{visible(shown_all(files))}: {described_data(advice.facts, corpus.notes)}\n")
    print(f"{table(advice.ngrams)}\n")
    print(f"{described_proposal(advice)}\n\n  {visible(lines['train'])}\n")
    print("\n".join(["To do better:", *hints(advice, lines)]))
    return 0


def lines_to_paste(
    program: Program,
    advice: "Advice",
    *,
    files: Sequence[Path],
    given: Mapping[str, Any],
    folder: Path,
) -> dict[str, str]:
    """The lines for a shell that train what is proposed in a folder, and what may follow."""
    order, mixed = f"{advice.ngrams.order}", short_path(f"{folder}-mixed")
    data, out = ("--data", *map(short_path, files)), ("--out", short_path(folder))
    if advice.proposal.is_ngram:
        # The same data, read and split as for the network.
        read, usual = asdict(advice.plan.config), asdict(ngram_config({}))
        same = flags_for({name: read[name] for name in OF_THE_DATA if read[name] != usual[name]})
        return {"train": program.shell_line("train", "ngram", *data, *same, "--order", order, *out)}
    settings = flags_for({**given, **advice.proposal.settings})
    lines = {
        "train": program.shell_line("train", AUTO, *data, *settings, *out),
        "mix": program.shell_line("mix", out[1], "--ngram", order, "--out", mixed),
    }
    if advice.seconds_of_best:
        best = "text-best", *data, *flags_for(given), "--out", short_path(f"{folder}-best")
        lines["best"] = program.shell_line("train", *best)
    return lines


def described_data(facts: "Facts", notes: Sequence[str]) -> str:
    """What the data are, in words."""
    said = [count(facts.num_characters, "character"), count(facts.num_symbols, "symbol"), *notes]
    if facts.num_names is None:
        return ", ".join(["a text", *said])
    said[:0] = [count(facts.num_names, "name"), f"{facts.num_distinct:,} distinct"]
    lengths = f"{facts.mean_length:.1f} characters a name, {facts.longest:,} the longest"
    return "\n".join([", ".join(said), lengths])


def table(ngrams: "Baseline") -> str:
    """The losses of n-gram models as lines of a table."""
    rows = {
        "n-gram models of order": [f"{i}" for i, _ in enumerate(ngrams.nats_per_character, 1)],
        "nats a character": [f"{loss:.4f}" for loss in ngrams.nats_per_character],
        "nats a name": [f"{loss:.3f}" for loss in ngrams.nats_per_name],
    }
    lines = [
        f"{name:22}" + "".join(f"{cell:>9}" for cell in cells)
        for name, cells in rows.items()
        if cells
    ]
    # The error of a single piece is NaN, and so is the loss from the half of one name.
    error = f" ± {ngrams.standard_error:.4f}" if isfinite(ngrams.standard_error) else ""
    half = f"; from half of the data {ngrams.from_half:.4f}" if isfinite(ngrams.from_half) else ""
    thing = "name" if ngrams.nats_per_name else "character"
    amounts = f"counted in {count(ngrams.num_counted, thing)}, measured on {ngrams.num_held_out:,}"
    best = f"best: order {ngrams.order}, {ngrams.loss:.4f}{error}{half}"
    return "\n".join([*lines, f"{amounts} held out", best])


def described_proposal(advice: "Advice") -> str:
    """What to train, how long it takes, and what loss to expect of it."""
    proposal, plan, speed = advice.proposal, advice.plan, advice.machine.speed
    config, ngrams = plan.config, advice.ngrams
    devices = f"{count(advice.machine.num_devices, 'device')}, {advice.machine.platform}"
    measured = f"{speed.characters:,.0f} characters a second ({devices})"
    layers = f"{count(config.num_layers, 'layer')} of {config.hidden_size:,} {config.cell} units"
    if proposal.is_ngram:
        from dinojax.runs.advice import seconds_of, seconds_to_read

        before = duration(seconds_of(0, plan, speed))
        reading = duration(seconds_to_read(advice.facts, plan, speed))
        return "\n".join(
            [
                f"proposed: the {ngrams.order}-gram model, in a second or two",
                f"time:     too short for {layers}: compiling and validating take about {before},",
                f"          and reading the data once {reading}, at {measured}",
                f"loss:     {ngrams.loss:.4f} nats a character, on what is held out",
            ]
        )
    low, high = proposal.expected
    length = f"{count(proposal.steps, 'step')}, {proposal.epochs:.3g} epochs"
    parameters = count(plan.num_parameters, "parameter")
    return "\n".join(
        [
            f"proposed: {layers}, {parameters}, dropout {config.dropout:g}",
            f"time:     about {duration(proposal.seconds)} for {length}, at {measured}",
            f"loss:     {low:.2f} to {high:.2f} nats a character expected, on what is held out",
        ]
    )


def duration(seconds: float) -> str:
    """A time in words, to two digits."""
    for unit, size in ("h", 3600), ("min", 60):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, seconds):.0f} s"


def hints(advice: "Advice", lines: Mapping[str, str]) -> list[str]:
    """What would lower the loss further, according to the figures that were measured."""
    from dinojax.cli.auto import FEW
    from dinojax.evaluation.baseline import MOST_READ

    facts, ngrams, plan, proposal = advice.facts, advice.ngrams, advice.plan, advice.proposal
    found = []
    if proposal.is_ngram or proposal.steps < plan.config.steps:
        found.append(
            f"more time: the whole training takes about {duration(proposal.whole_seconds)}"
        )
    if "mix" in lines:
        found.append(
            f"mixing in the n-gram model, for a loss of {ngrams.loss:.2f} at most:\n"
            f"  {visible(lines['mix'])}"
        )
    if "best" in lines:
        found.append(
            f"a larger network, in about {duration(advice.seconds_of_best or 0)}:\n"
            f"  {visible(lines['best'])}"
        )
    saved = ngrams.from_half - ngrams.loss
    if saved > 0 and facts.num_characters <= MOST_READ:
        found.append(
            f"more data: n-gram models of all cost {saved:.2f} nats less than those of half"
        )
    if facts.num_names is not None and facts.num_names < FEW:
        found.append(
            "a longer list of such names: learn it first, and begin with its run (--init-from)"
        )
    if plan.num_parameters > facts.num_characters and not proposal.is_ngram:
        more, fewer = min(0.9, plan.config.dropout + 0.2), max(1, plan.config.hidden_size // 2)
        found.append(
            "if the validation loss rises before the end, a smaller network or more dropout:\n"
            f"  --hidden-size {fewer} or --dropout {more:g}"
        )
    return [f"- {each}" for each in found]


def as_object(value: Any) -> Any:
    """Named tuples and configurations as objects of JSON."""
    if isinstance(value, TrainConfig):
        return asdict(value)
    if hasattr(value, "_asdict"):
        return {name: as_object(each) for name, each in value._asdict().items()}
    return list(value) if isinstance(value, tuple) else value
