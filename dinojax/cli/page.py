"""Write one file of HTML in which a trained model runs; see --help."""

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dinojax.cli.arguments import Parser, output_file, path, whole_number
from dinojax.cli.loaded import add_which, load, load_learned
from dinojax.config import check_range
from dinojax.files import write_atomically
from dinojax.messages import count, visible
from dinojax.startup import start_jax

if TYPE_CHECKING:
    from dinojax.interchange.page_data import Page
    from dinojax.runs.folder import Run

MAX_CHECKPOINTS = 100


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax page`."""
    add = parser.add_argument
    add("run", metavar="RUN", type=path, help="folder of a run")
    add("--out", metavar="FILE", type=path, help="file to write (default: NAME-OF-RUN.html)")
    add_which(parser)
    number = partial(add, metavar="N", type=whole_number, default=0)
    help_checkpoints = "hold N checkpoints from first to last, to watch the network learn; a run "
    help_checkpoints += "has only the newest and the best, unless it was trained with --keep"
    number("--checkpoints", help=help_checkpoints)
    help_names = "hold the training names, to tell which names are new and what they are near to"
    add("--names", action="store_true", help=help_names)
    help_ngrams = "hold an n-gram model of order N; its counts reveal much of the training data"
    number("--ngrams", help=help_ngrams)
    help_precision = "of the weights (default: half, unless that moves a logit by over 0.001)"
    add("--precision", choices=["half", "single"], help=help_precision)


def main(parser: Parser, arguments: Namespace) -> int:
    """Write the page, and print what it holds; returns the exit code."""
    with parser.reported_errors():
        check_range("--checkpoints", arguments.checkpoints, 0, MAX_CHECKPOINTS)
        title = arguments.run.resolve().name
        out = output_file("--out", arguments.out or Path(f"{title}.html"))
        start_jax()
        from dinojax.interchange.page_data import make_page
        from dinojax.runs.folder import read_part

        run = load(parser, arguments)
        if arguments.names and run.config.is_text:
            raise ValueError(f"--names is for runs of names; {arguments.run} learned a text")
        needed_by = "--names" if arguments.names else "--ngrams" if arguments.ngrams else ""
        learned = load_learned(parser, run, needed_by)
        split = "validation" if "validation" in run.description.parts else "train"
        others = checkpoints(run.folder, arguments.checkpoints)
        made = make_page(
            run,
            title,
            learned,
            read_part(run.folder, run.description, split),
            split=split,
            others=others,
            with_names=arguments.names,
            ngram_order=arguments.ngrams,
            precision=arguments.precision,
        )
    write_atomically(out, made.content)
    print(f"{visible(str(out))}: {len(made.content) / 1000:,.0f} kB")
    print(describe(made))
    if len(others) < arguments.checkpoints:
        kept = count(len(others), "checkpoint")
        print(f"the run has only {kept}; train with a larger --keep for more")
    left_out = {
        "training names (--names)": not arguments.names and not run.config.is_text,
        "an n-gram model (--ngrams 5)": not arguments.ngrams,
        "earlier checkpoints (--checkpoints 10)": not arguments.checkpoints,
    }
    if any(left_out.values()):
        print(f"left out: {', '.join(name for name, is_out in left_out.items() if is_out)}")
    return 0


def checkpoints(folder: Path, num: int) -> "list[Run]":
    """Up to `num` checkpoints of a run, spread evenly from the first that it has to the last."""
    from dinojax.runs.folder import find_checkpoints, load_run, step_of

    found = find_checkpoints(folder)
    last = len(found) - 1
    places = sorted({round(i * last / max(1, num - 1)) for i in range(num)})
    return [load_run(folder, str(step_of(found[place]))) for place in places]


def describe(made: "Page") -> str:
    """The precision of the weights in a page, in one line."""
    other = "" if made.precision == "half" else f" (in half precision, {made.half_error:.1g})"
    start = f"weights in {made.precision} precision, read back: logits differ by at most"
    return f"{start} {made.error:.1g}{other}"
