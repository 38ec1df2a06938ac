"""What a training says of itself: what it writes by now, and its losses, at last in a picture."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dinojax.cli.jobs import Job
from dinojax.cli.terminal import Program, count, describe_error, visible
from dinojax.config import TrainConfig
from dinojax.data.text import capitalized
from dinojax.models.cells import Params
from dinojax.models.model import CharModel
from dinojax.runs.experiment import WINDOW, Report
from dinojax.runs.folder import Description
from dinojax.runs.metrics import read_metrics
from dinojax.sampling.draw import read_prompt, sample_names, sample_text

NAMES_PER_REPORT = 4
NAMES_AT_END = 10
MAX_LENGTH = 50
TEXT_LENGTH = 200


def make_writer(
    description: Description, model: CharModel, key: jax.Array
) -> Callable[[Params, int], list[str]]:
    """A function of parameters and step: new names, or a list with a new text."""
    vocab = description.vocab

    @jax.jit
    def names(params: Any, step: Any) -> Any:
        key_step = jax.random.fold_in(key, step)
        samples = sample_names(key_step, params, model, NAMES_AT_END, MAX_LENGTH)
        return samples.ids, samples.lengths

    @jax.jit
    def text(params: Any, step: Any) -> Any:
        key_step = jax.random.fold_in(key, step)
        start = read_prompt(params, model, jnp.zeros(0, int))
        ids = sample_text(key_step, params, model, start, TEXT_LENGTH)[1]
        return ids[None], jnp.full(1, TEXT_LENGTH)

    sampler = text if description.config.is_text else names

    def write(params: Params, step: int) -> list[str]:
        # From wherever the devices hold them.
        ids, lengths = jax.device_get(sampler(jax.device_get(params), step))
        return [vocab.decode(row[:length]) for row, length in zip(ids, lengths, strict=True)]

    return write


def describe_loss(loss: float, config: TrainConfig) -> str:
    """A loss as the training minimises it, with its unit."""
    return f"{loss:.2f} nats a {'name' if config.loss == 'summed' else 'character'}"


def describe_report(report: Report, config: TrainConfig, texts: Sequence[str]) -> str:
    """Where a training stands, and the first of what it writes there."""
    width = len(f"{config.steps:,}")
    said = f"step {report.step:>{width},}  {describe_loss(report.loss, config)}"
    if report.validation_loss is not None:
        said += f", {report.validation_loss:.4f} a character in validation"
    if config.is_text:
        return f"{said}\n{visible_lines(texts[0])}\n"
    names = map(visible, map(capitalized, texts[:NAMES_PER_REPORT]))
    return f"{said}  {' '.join(names)}"


def describe_result(
    job: Job, step: int, best_step: int, texts: Sequence[str], figures: Mapping[str, float]
) -> str:
    """What a training has come to after `step` steps.

    `texts` and `figures` (see `evaluate.summarize`) are of the parameters after `best_step`.
    """
    if job.description.config.is_text:
        thing, figure = "character", f"in windows of {WINDOW}"
        said = f"\nNew text:\n{visible_lines(texts[0])}\n\n"
    else:
        thing, figure = "name", "its newline is one"
        said = "\n  ".join(["\nNew names:", *map(visible, map(capitalized, texts))])
        said += f"\n\n{figures['nats_per_piece']:.3f} nats a name, "
    over = f"all the {thing}s it learned from"
    if "validation" in job.parts:
        over = f"{count(len(job.parts['validation']), thing)} it has not learned from"
        if best_step < step:
            over += f", after {count(best_step, 'step')}, when that was least"
    spread = f" ± {figures['standard_error']:.4f}" if figures["num_pieces"] > 1 else ""
    mean = f"{figures['nats_per_character']:.4f}{spread} nats a character"
    return f"{said}{mean} ({figure}), over {over}"


def visible_lines(text: str) -> str:
    """A text of several lines, each as it may be shown in a terminal."""
    return "\n".join(map(visible, text.split("\n")))


def draw_losses(program: Program, folder: Path) -> None:
    """Write the picture of the losses into the folder, where matplotlib is there."""
    if importlib.util.find_spec("matplotlib"):
        metrics = read_metrics(folder)
        # A run that was stopped at once has none.
        if any("event" not in line for line in metrics):
            try:
                from dinojax.plots import losses, style

                style.save(losses.plot_losses({folder.name: metrics}), folder / "loss")
            # A setting of the user's, such as MPLBACKEND, or a full disk: all else is saved.
            except (ImportError, OSError, ValueError) as error:
                print(f"{program.name}: note: no picture: {describe_error(error)}", file=sys.stderr)
