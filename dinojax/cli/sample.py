"""Write new names, or a text, with a trained model; see --help."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from dinojax.cli.arguments import (
    Parser,
    number,
    output_file,
    path,
    whole_number,
)
from dinojax.cli.loaded import HELP_RUN, add_which, load, load_learned, read_label
from dinojax.cli.settings import flag_of
from dinojax.cli.terminal import tell
from dinojax.config import check_range
from dinojax.messages import about, count, visible
from dinojax.sampling.patterns import compile_pattern
from dinojax.startup import num_cores, start_jax

if TYPE_CHECKING:
    from dinojax.runs.folder import Run
    from dinojax.sampling.accept import Accepted
    from dinojax.sampling.strings import Names

NUM, MAX_DRAWS, LENGTH = 10, 1_000_000, 400
"""Values of these flags where they are not given."""
RANGES = {
    "seed": (0, 2**32 - 1), "temperature": (0, 1e6), "top_k": (1, 2**31 - 1), "top_p": (1e-6, 1),
    "min_p": (0, 1), "num": (1, 10**9), "max_length": (1, 10_000), "min_length": (1, 10_000),
    "distance": (1, 10_000), "max_draws": (1, 10**12), "best": (1, 100_000), "devices": (1, 4096),
    "length": (1, 10**9), "context": (1, 10_000),
}  # fmt: skip
OF_DRAWING = "seed", "temperature", "top_k", "top_p", "min_p", "num", "max_draws", "devices"
CONSTRAINTS = "min_length", "match", "novel", "unique", "distance"
FOR_NAMES = (
    "label", "num", "max_length", *CONSTRAINTS, "max_draws", "best", "devices", "json", "out",
)  # fmt: skip
FOR_TEXT = "length", "stop", "context"
KINDS = {"TEXT": str, "REGEX": str, "LABEL": str, "FILE": path, "P": number, "T": number}
"""Types of the values of flags, by their names in the help; others are whole numbers."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax sample`."""
    parser.add_argument("run", metavar="RUN", type=path, help=HELP_RUN)
    add_which(parser)
    add = partial(add_value, parser)
    help_seed = (
        "seed of the random draws; equal seeds give equal names (default: another each time)"
    )
    add("--seed", "N", help_seed)
    help_prompt = (
        "how every name, or the text, begins (default: nothing; for a text, a terminal asks)"
    )
    add("--prompt", "TEXT", help_prompt)
    add_controls(parser)
    names = parser.add_argument_group("for a run of names")
    add = partial(add_value, names)
    switch = partial(names.add_argument, action="store_true", default=None)
    help_label = "only names with this label, if names have labels (default: any; a line is then a "
    help_label += "name, a tab and its label); flags below are about the name alone"
    add("--label", "LABEL", help_label)
    add("--num", "N", f"how many names (default: {NUM})")
    help_length = "most characters after the prompt: only names that end by then (default: all "
    help_length += "names, cut at 1.5 times the length of the longest name learned, at least 50)"
    add("--max-length", "N", help_length)
    add("--min-length", "N", "fewest characters of the whole name (default: any)")
    add("--match", "REGEX", "only names in which this Python regex is found (default: any)")
    switch("--novel", help="only names that the model has not learned from, with any label")
    switch("--unique", help="no name twice")
    add("--distance", "D", "only names at least D edits from all those learned from (default: any)")
    add("--max-draws", "N", f"give up after N draws (default: {MAX_DRAWS})")
    add("--best", "N", "the N most probable names of all, in order, instead of random ones")
    add("--devices", "N", "how many GPUs or cores share the work for many names (default: all)")
    help_json = "print one object a line: name; log_probability under the model, in nats; "
    help_json += (
        "drawn_log_probability, with temperature, top-k and the like; ended, false if it was "
    )
    help_json += (
        "cut; in_training_data; drawn_as, if the model spelled it otherwise (not in NFC); and "
    )
    help_json += (
        "label, if names have labels: probabilities are then those of name and label or, if "
    )
    help_json += "the label is given, of the name alone"
    switch("--json", help=help_json)
    add("--out", "FILE", "write the names to this file, all or nothing")
    add = partial(add_value, parser.add_argument_group("for a run of a text"))
    add("--length", "N", f"how many characters after the prompt (default: {LENGTH})")
    add("--stop", "TEXT", "stop after this text, if it comes sooner")
    help_context = "for each character, read only the last N again from a fresh state, with zeros "
    add("--context", "N", f"{help_context}before the text (default: the state is carried)")


def add_controls(parser: ArgumentParser) -> None:
    """Add a flag for each of `Controls`."""
    add = partial(add_value, parser.add_argument_group("what may be drawn, in this order"))
    help_temperature = "divides the logits: above 1, unlikely characters come more often, below 1 "
    add("--temperature", "T", f"{help_temperature}less; at 0, only the likeliest (default: 1)")
    add("--top-k", "K", "only the K likeliest characters, with ties (default: all)")
    add("--top-p", "P", "only the fewest likeliest whose probabilities sum to P (default: 1)")
    add("--min-p", "P", "only those at least P times as likely as the likeliest (default: 0)")


def add_value(group: Any, flag: str, metavar: str, text: str) -> None:
    """Add a flag with a value to a group of arguments."""
    group.add_argument(flag, metavar=metavar, type=KINDS.get(metavar, whole_number), help=text)


def given(arguments: Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The arguments among `names` that the user gave."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def check_arguments(arguments: Namespace) -> None:
    """Raise a ValueError or an OSError for arguments that no run allows."""
    for name, value in given(arguments, RANGES).items():
        check_range(flag_of(name), value, *RANGES[name])
    for name, text in given(arguments, ["prompt", "stop", "match", "label"]).items():
        if not text:
            raise ValueError(f"{flag_of(name)}: expected a text, got an empty one; leave it out")
    if arguments.best is not None:
        for name in given(arguments, [*OF_DRAWING, *CONSTRAINTS]):
            raise ValueError(f"--best and {flag_of(name)} exclude each other")
    if arguments.max_draws is not None and not given(arguments, ["max_length", *CONSTRAINTS]):
        raise ValueError("--max-draws is for names under a constraint such as --match")
    if arguments.match:
        with about("--match"):
            compile_pattern(arguments.match)
    if arguments.out is not None:
        arguments.out = output_file("--out", arguments.out)


def main(parser: Parser, arguments: Namespace) -> int:
    """Print names or a text; returns the exit code, 1 if there are fewer names than asked for."""
    with parser.reported_errors():
        # Errors in the arguments are reported before JAX takes half a second to start.
        check_arguments(arguments)
        arguments.is_new_seed = arguments.seed is None
        if arguments.is_new_seed:
            arguments.seed = int.from_bytes(os.urandom(4))
        start_jax(arguments.devices or num_cores())
        from dinojax.parallel import make_mesh

        with about("--devices"):
            make_mesh(arguments.devices or 1)
        run = load(parser, arguments)
        is_text = run.config.is_text
        kind, learned_kind = ("names", "a text") if is_text else ("a text", "names")
        for name in given(arguments, FOR_NAMES if is_text else FOR_TEXT):
            is_for = f"{flag_of(name)} is for runs of {kind}"
            raise ValueError(f"{is_for}; {arguments.run} learned {learned_kind}")
    return (sample_text if is_text else sample_names)(parser, arguments, run)


def sample_text(parser: Parser, arguments: Namespace, run: "Run") -> int:
    """Print a text piece by piece, as it comes; returns the exit code."""
    import jax

    from dinojax.data.text import composed_start
    from dinojax.models.context import in_context
    from dinojax.sampling.controls import Controls
    from dinojax.sampling.strings import begin, stream_text

    with parser.reported_errors():
        prompt = arguments.prompt
        if prompt is None and sys.stdin.isatty() and sys.stdout.isatty():
            try:
                prompt = input("How does it begin? ")
            except EOFError:
                print()
                raise ValueError("the prompt: got no answer; or give it by --prompt") from None
        with about("--prompt"):
            prompt = composed_start(prompt or "", run.config.lowercase)
        with about("--stop"):
            stop = composed_start(arguments.stop or "", run.config.lowercase)
            run.vocab.encode(stop)
        trained = run.trained
        if arguments.context:
            trained = trained._replace(model=in_context(trained.model, arguments.context))
        beginning = begin(trained, prompt)
    note_seed(parser, arguments)
    key, length = jax.random.key(arguments.seed), arguments.length or LENGTH
    controls = Controls(**given(arguments, Controls._fields))
    pieces = stream_text(key, trained, beginning, length, stop=stop, controls=controls)
    for piece in chain([prompt], pieces):
        lines = map(visible, piece.split("\n")) if sys.stdout.isatty() else [piece]
        sys.stdout.write("\n".join(lines))
        sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def note_seed(parser: Parser, arguments: Namespace) -> None:
    """Say how to draw the same again, unless the user gave the seed or nothing is drawn."""
    if arguments.is_new_seed and not arguments.best:
        parser.note(f"seed {arguments.seed}; give --seed {arguments.seed} for the same again")


def sample_names(parser: Parser, arguments: Namespace, run: "Run") -> int:
    """Write names, one a line; returns the exit code."""
    from dinojax.cli.data import output, write_names
    from dinojax.data.labels import without_labels
    from dinojax.data.stored import lookup

    num, lowercase = arguments.best or arguments.num or NUM, run.config.lowercase
    with parser.reported_errors():
        needed_by = next(map(flag_of, given(arguments, ["novel", "distance"])), "")
        learned = None
        if arguments.json or needed_by:
            learned = load_learned(parser, run, needed_by)
            learned = learned and without_labels(learned, run.vocab.labels)
        blocks = name_blocks(parser, arguments, run, num, learned or ())
    note_seed(parser, arguments)
    with output(arguments.out) as file:
        known = None if learned is None else lookup(learned)
        options: dict[str, Any] = {"as_json": bool(arguments.json), "lowercase": lowercase}
        written = write_names(blocks, file, known, with_labels=arguments.label is None, **options)
    return int(written < num)


def name_blocks(
    parser: Parser, arguments: Namespace, run: "Run", num: int, learned: Sequence[str]
) -> "Iterator[Names]":
    """The `num` names that the arguments ask for, block by block."""
    import jax

    from dinojax.data.text import composed_start
    from dinojax.sampling.accept import Constraints, accept
    from dinojax.sampling.controls import Controls
    from dinojax.sampling.search import most_probable_names
    from dinojax.sampling.strings import draw_names

    with about("--prompt"):
        prompt = composed_start(arguments.prompt or "", run.config.lowercase)
    label = read_label(arguments, run)
    max_length = arguments.max_length or run.trained.max_length
    if (arguments.min_length or 0) > max_length + len(prompt):
        default = "" if arguments.max_length else ", its default"
        lengths = f"--min-length {arguments.min_length} and --max-length {max_length}{default}"
        raise ValueError(f"{lengths}: expected a minimum that is not above the maximum")
    options: dict[str, Any] = {"prompt": prompt, "label": label, "max_length": max_length}
    if arguments.best:
        found = most_probable_names(run.trained, num, **options)
        note = f"the {len(found.names.names):,} most probable names have {found.share:.3%} of all "
        note += f"probability; {found.num_prefixes:,} beginnings were read to find them"
        tell(parser.prog, note)
        return iter([found.names])
    options["controls"] = Controls(**given(arguments, Controls._fields))
    options["num_devices"] = arguments.devices
    key, constraints = jax.random.key(arguments.seed), Constraints(**given(arguments, CONSTRAINTS))
    # At temperature 0 all draws are equal.
    most = num if arguments.temperature == 0 else arguments.max_draws or MAX_DRAWS
    flags = list(map(flag_of, given(arguments, ["max_length", *CONSTRAINTS])))
    if flags:
        blocks = draw_names(key, run.trained, most, **options)
    else:
        blocks = draw_names(key, run.trained, num, most=10 * num + most, **options)
    constraints = constraints._replace(ignore_case=run.config.lowercase, cut=not flags)
    return noted(parser, accept(blocks, num, constraints, learned), flags)


def noted(parser: Parser, blocks: "Iterator[Accepted]", flags: Sequence[str]) -> "Iterator[Names]":
    """The names of each block; at the end, print how many draws were accepted, or were empty.

    The `flags` are those that names must meet.
    """
    drawn = accepted = refused = 0
    try:
        for names, drawn, accepted, refused in blocks:  # noqa: B007  # printed below
            yield names
    finally:
        if flags:
            note = f"{accepted:,} of {drawn:,} draws were accepted ({accepted / max(drawn, 1):.3g})"
            tell(parser.prog, note if accepted else f"{note}; loosen {' or '.join(flags)}")
    if refused and not flags:
        parser.note(f"{count(refused, 'empty name')} drawn and left out")
