"""What a text costs a run whose weights follow it, for `evaluate --dynamic`."""

import time
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dinojax.cli.arguments import Parser
from dinojax.cli.loaded import describe_excerpt, load_learned
from dinojax.messages import count, visible
from dinojax.runs.selection import SELECTION

if TYPE_CHECKING:
    from dinojax.evaluation.compare import ModelFigures
    from dinojax.evaluation.dynamic import Selecting
    from dinojax.runs.folder import Run

MOST_FOLLOWED = 2**20
"""Most characters of prepared data that are read."""


def tuner_of(arguments: Namespace, run: "Run") -> "Run":
    """The run for which settings are chosen: its selection, if it was refitted, or itself.

    Raises:
        ValueError: its weights cannot follow a text, or there is nothing to choose by.
    """
    from dinojax.evaluation.dynamic import networks
    from dinojax.runs.refit import selection_of

    if not run.config.is_text:
        raise ValueError(
            f"--dynamic is for runs of a text; {arguments.run} learned names, which stand in no "
            "order to follow: to adapt it to other names, train with --init-from"
        )
    tuner = run
    if run.config.refit:
        tuner = selection_of(run, "--dynamic chooses its settings by it")
    elif "validation" not in run.description.parts:
        raise ValueError(
            f"--dynamic chooses its settings on the validation part, which {arguments.run} lacks; "
            "train it with --validation-fraction"
        )
    networks(run.params)
    return tuner


def split_of(run: "Run") -> str:
    """The part to measure by default: one on which no setting is chosen, if there is one.

    Raises:
        ValueError: the run was refitted and has no test part, so it learned all its data.
    """
    if "test" in run.description.parts:
        return "test"
    if run.config.refit:
        raise ValueError(
            f"--dynamic: {run.folder} learned all but its test part, and has none; give --data, "
            f"or measure {run.folder / SELECTION}"
        )
    return "validation"


def tuned_on(tuner: "Run", name: str, split: str, part: Any) -> tuple[str, Any, Any]:
    """What is measured in words, this text, and the text on which settings are chosen for `tuner`.

    The part `name`, or other data if that is empty, is to be measured; `split` is what it is in
    words. If it is the validation part, the two texts are its halves. Of prepared data, about
    `MOST_FOLLOWED` characters are measured.

    Raises:
        ValueError: this part is too short to be halved.
    """
    from dinojax.data.stored import excerpt
    from dinojax.runs.folder import read_part

    validation = read_part(tuner.folder, tuner.description, "validation")
    if name == "validation":
        half = len(part) // 2
        if not half:
            raise ValueError("the validation part has a single character; give --data")
        split, part, validation = "the second half of validation", part[half:], part[:half]
    if counted := describe_excerpt(part, MOST_FOLLOWED):
        split = f"{counted} of {split}"
    return split, excerpt(part, MOST_FOLLOWED), validation


def selecting_of(parser: Parser, run: "Run", tuner: "Run") -> "Selecting | None":
    """The model for which settings are chosen, and its text; None if it is that of the run."""
    from dinojax.evaluation.dynamic import Selecting

    if tuner is run:
        return None
    learned: Any = load_learned(parser, tuner, "--dynamic")
    return Selecting(tuner.trained, learned)


def measure_dynamic(
    run: "Run", text: Any, learned: Any, validation: Any, selecting: "Selecting | None"
) -> tuple["ModelFigures", dict[str, Any]]:
    """The figures of a text that weights follow, and how they were found as an object of JSON."""
    from dinojax.cli.data import drawn
    from dinojax.evaluation.compare import ModelFigures
    from dinojax.evaluation.dynamic import GRID, MOST_TRIED, following
    from dinojax.evaluation.losses import in_blocks, summarize

    started = time.monotonic()
    texts = {"train": learned, "validation": validation}
    found = drawn(following(run.trained, text, **texts, selecting=selecting), unit=" characters")
    difference = summarize(in_blocks(found.dynamic - found.static))
    said = {
        **found.settings._asdict(),
        "tried": [
            {**each._asdict(), "nats_per_character": nats}
            for each, nats in zip(GRID, found.tried, strict=True)
        ],
        "num_validation_characters": min(len(validation), MOST_TRIED),
        "difference": difference["nats_per_character"],
        "standard_error": difference["standard_error"],
        **({"selection": str(run.folder / SELECTION)} if selecting else {}),
        "seconds": time.monotonic() - started,
    }
    figures = summarize(in_blocks(found.dynamic))
    return ModelFigures("network", figures, context="dynamic"), said


def describe_dynamic(said: Mapping[str, Any]) -> str:
    """How much the weights gain by following a text, and their settings, in lines."""
    # The error of a single block is NaN.
    error = said["standard_error"]
    margin = f" ± {error:.4f}" if error == error else ""
    tried = count(said["num_validation_characters"], "character")
    chosen_for = f", for {visible(said['selection'])}" if "selection" in said else ""
    return (
        f"weights that follow the text: {said['difference']:+.4f}{margin} nats a character, "
        f"in {said['seconds']:.0f} s;\nlearning rate {said['learning_rate']:g}, decay "
        f"{said['decay']:g}, after each {count(said['window'], 'character')}: the best of "
        f"{len(said['tried'])}\nover {tried} of the validation part{chosen_for}"
    )
