"""What `dinojax train` prints about a run: samples, losses, and at the end a picture."""

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dinojax import parallel
from dinojax.cli.terminal import Program, count, describe_error, visible
from dinojax.config import TrainConfig
from dinojax.data.text import capitalized
from dinojax.models.cells import Params
from dinojax.runs.experiment import WINDOW, Experiment
from dinojax.runs.metrics import read_metrics
from dinojax.runs.recorder import Report
from dinojax.sampling.draw import read_prompt, sample_names, sample_text

NAMES_PER_REPORT = 4
NAMES_AT_END = 10
MAX_LENGTH = 50
TEXT_LENGTH = 200


def describe_experiment(experiment: Experiment, num_blank: int = 0) -> str:
    """A run in one line; `num_blank` lines of its data held no name."""
    config, parts = experiment.config, experiment.parts
    amounts = [count(len(parts["train"]), "character" if config.is_text else "name")]
    amounts += [f"{len(parts[name]):,} for {name}" for name in parts if name != "train"]
    if num_blank:
        amounts[-1] += f" ({count(num_blank, 'blank line')} skipped)"
    layers = f" in each of {config.num_layers} layers" if config.num_layers > 1 else ""
    return (
        f"{', '.join(amounts)}, {count(experiment.description.vocab.size, 'symbol')}; "
        f"{count(config.hidden_size, 'hidden unit')}{layers}; {count(config.steps, 'step')}"
    )


def make_writer(experiment: Experiment) -> Callable[[Params, int], list[str]]:
    """A function from parameters and a step to new names, or to a list with one new text."""
    model, vocab = experiment.model, experiment.description.vocab

    @jax.jit
    def names(params: Any, step: Any) -> Any:
        key_step = jax.random.fold_in(experiment.key_sample, step)
        samples = sample_names(key_step, params, model, NAMES_AT_END, MAX_LENGTH)
        return samples.ids, samples.lengths

    @jax.jit
    def text(params: Any, step: Any) -> Any:
        key_step = jax.random.fold_in(experiment.key_sample, step)
        start = read_prompt(params, model, jnp.zeros(0, int))
        ids = sample_text(key_step, params, model, start, TEXT_LENGTH)[1]
        return ids[None], jnp.full(1, TEXT_LENGTH)

    sampler = text if experiment.config.is_text else names

    def write(params: Params, step: int) -> list[str]:
        # The parameters may lie on several devices, but samples are drawn on one.
        ids, lengths = parallel.gather(sampler(parallel.gather(params), step))
        return [vocab.decode(row[:length]) for row, length in zip(ids, lengths, strict=True)]

    return write


def describe_loss(loss: float, config: TrainConfig) -> str:
    """The loss that training minimises, with its unit."""
    return f"{loss:.2f} nats a {'name' if config.loss == 'summed' else 'character'}"


def describe_report(report: Report, config: TrainConfig, texts: Sequence[str]) -> str:
    """A report in one line, with some of the new names or a new text."""
    width = len(f"{config.steps:,}")
    said = f"step {report.step:>{width},}  {describe_loss(report.loss, config)}"
    if report.validation_loss is not None:
        said += f", {report.validation_loss:.4f} a character in validation"
    if config.is_text:
        return f"{said}\n{visible_lines(texts[0])}\n"
    names = map(visible, map(capitalized, texts[:NAMES_PER_REPORT]))
    return f"{said}  {' '.join(names)}"


def describe_result(
    experiment: Experiment,
    step: int,
    best_step: int,
    *,
    texts: Sequence[str],
    figures: Mapping[str, float],
) -> str:
    """The result of a run of `step` steps.

    `texts` and `figures` (see `losses.summarize`) belong to the parameters after `best_step`.
    """
    if experiment.config.is_text:
        thing, figure = "character", f"in windows of {WINDOW}"
        said = f"\nNew text:\n{visible_lines(texts[0])}\n\n"
    else:
        thing, figure = "name", "newline included"
        said = "\n  ".join(["\nNew names:", *map(visible, map(capitalized, texts))])
        said += f"\n\n{figures['nats_per_piece']:.3f} nats a name, "
    over = f"all the {thing}s it learned from"
    if "validation" in experiment.parts:
        over = f"{count(len(experiment.parts['validation']), thing)} held out for validation"
        if best_step < step:
            over += f", after {count(best_step, 'step')}, when it was lowest"
    spread = f" ± {figures['standard_error']:.4f}" if figures["num_pieces"] > 1 else ""
    mean = f"{figures['nats_per_character']:.4f}{spread} nats a character"
    return f"{said}{mean} ({figure}), over {over}"


def visible_lines(text: str) -> str:
    """A text of several lines, with control characters as escapes."""
    return "\n".join(map(visible, text.split("\n")))


def draw_losses(program: Program, folder: Path) -> None:
    """Write a picture of the losses into the folder, if matplotlib is installed."""
    metrics = read_metrics(folder) if importlib.util.find_spec("matplotlib") else []
    # A run that was stopped at once has no losses.
    if any("event" not in line for line in metrics):
        try:
            from dinojax.plots.losses import plot_losses
            from dinojax.plots.style import save

            save(plot_losses({folder.name: metrics}), folder / "loss")
        # A bad setting such as MPLBACKEND, or a full disk. Everything else is saved.
        except (ImportError, OSError, ValueError) as error:
            print(f"{program.name}: note: no picture: {describe_error(error)}", file=sys.stderr)
