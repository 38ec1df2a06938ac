"""What `dinojax train` prints about a run: samples, losses, and at the end a picture."""

import importlib.util
import math
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from dinojax import parallel, processes
from dinojax.cli.arguments import Parser
from dinojax.cli.blocks import describe_apart, describe_blocks, describe_mean
from dinojax.cli.loaded import describe_learned, describe_selection
from dinojax.cli.settings import with_flags
from dinojax.cli.terminal import CUT, describe_error
from dinojax.config import TrainConfig
from dinojax.data.labels import labels_of, without_labels
from dinojax.data.stored import lookup
from dinojax.data.text import capitalized
from dinojax.evaluation.apart import costs_apart
from dinojax.evaluation.losses import summarize
from dinojax.messages import count, visible
from dinojax.models.cells import Params
from dinojax.own import own_code
from dinojax.runs.description import HELD_OUT, Description, Parts
from dinojax.runs.experiment import WINDOW, Experiment, make_evaluation
from dinojax.runs.folder import Run
from dinojax.runs.lineage import learned_of, num_learned
from dinojax.runs.metrics import phases, read_metrics
from dinojax.runs.recorder import Report
from dinojax.sampling.draw import read_prompt, sample_names, sample_text
from dinojax.sampling.strings import composed_names, num_to_draw
from dinojax.training.optimizers import make_schedule

NAMES_PER_REPORT = 4
NAMES_AT_END = 10
NAMES_DRAWN = 2 * NAMES_AT_END
"""Of these, those that are empty are not shown."""
MOST_BATCHES = 10
"""How often so many names are drawn, at most, to find enough new ones."""
TEXT_LENGTH = 200
TOO_LARGE = 2
"""How many times the share of lines that was asked for is worth a note."""
USELESS = 2
"""How many times the loss of a model that has learned nothing is too much."""


class Written(NamedTuple):
    """Names as a terminal shows them, with their labels in brackets, or one text."""

    texts: list[str]
    is_new: list[bool]
    """Whether each name is in no part of the data, nor of those of the runs before this one."""


class Writer(Protocol):
    """A function that draws names, or a text, as a terminal shows them."""

    def __call__(self, params: Params, step: int, batch: int = 0) -> Written:
        """Draw with a seed made of a step and the number of a batch."""


def describe_experiment(experiment: Experiment, notes: Sequence[str] = ()) -> str:
    """A run in one line, with `notes` on its data."""
    config = experiment.config
    layers = f" in each of {config.num_layers} layers" if config.num_layers > 1 else ""
    return (
        f"{describe_data(experiment.description, experiment.parts, notes)}; "
        f"{count(config.hidden_size, 'hidden unit')}{layers}; {count(config.steps, 'step')}"
    )


def describe_data(description: Description, parts: Parts, notes: Sequence[str] = ()) -> str:
    """How much data a run has, in words, with `notes` on them."""
    amounts = [count(len(parts["train"]), "character" if description.config.is_text else "name")]
    for name in HELD_OUT:
        if name in parts:
            num = num_learned(description, parts[name], learned_of(parts))
            before = f" ({num:,} learned before)" if num else ""
            blocks = describe_blocks(description.blocks) if name == "validation" else ""
            crowded = describe_crowded(description.config, parts, name)
            amounts.append(f"{len(parts[name]):,} for {name}{before}{blocks}{crowded}")
    if notes:
        amounts[-1] += f" ({', '.join(map(with_flags, notes))})"
    labels = description.vocab.labels
    of_labels = f", {count(len(labels), 'label')}" if labels else ""
    return f"{', '.join(amounts)}, {count(description.vocab.plain.size, 'symbol')}{of_labels}"


def describe_crowded(config: TrainConfig, parts: Parts, name: str) -> str:
    """That copies of few names make a part that is held out too large; empty if they do not."""
    asked = config.validation_fraction if name == "validation" else config.test_fraction
    total = sum(len(parts[each]) for each in ("train", *HELD_OUT) if each in parts)
    if config.is_text or len(parts[name]) <= TOO_LARGE * asked * total:
        return ""
    num = len(set(parts[name]))
    if num == len(parts[name]):
        return ""
    return f" ({count(num, 'distinct name')}, with all copies: more than a share of {asked:g})"


def make_writer(experiment: Experiment) -> Writer:
    """The writer of a run, which knows the names of its list, those held out included."""
    model, max_length = experiment.model, experiment.description.max_length
    vocab = experiment.description.vocab
    max_length += num_to_draw(vocab, None)
    is_text, shown = experiment.config.is_text, capitalized if experiment.config.lowercase else str
    known = list[Container[str]]()
    if not is_text:
        parts = experiment.parts
        names_of = learned_of(parts), *(parts[name] for name in HELD_OUT if name in parts)
        known = [lookup(without_labels(each, vocab.labels)) for each in names_of]

    @jax.jit
    def draw(key: Any, params: Any) -> Any:
        if is_text:
            start = read_prompt(params, model, jnp.zeros(0, int))
            ids = sample_text(key, params, model, start, TEXT_LENGTH)[1]
            return ids[None], jnp.full(1, TEXT_LENGTH), jnp.full(1, True)
        samples = sample_names(key, params, model, NAMES_DRAWN, max_length)
        return samples.ids, samples.lengths, samples.ended

    def write(params: Params, step: int, batch: int = 0) -> Written:
        key = jax.random.fold_in(experiment.key_sample, step)
        key = jax.random.fold_in(key, batch) if batch else key
        # The parameters may lie on several devices, but samples are drawn on one.
        ids, lengths, ended = parallel.gather(draw(key, parallel.gather(params)))
        texts = [vocab.decode(row[:length]) for row, length in zip(ids, lengths, strict=True)]
        if is_text:
            return Written(["\n".join(map(visible, text.split("\n"))) for text in texts], [])
        names = composed_names(vocab, list(without_labels(texts, vocab.labels)))
        marks = ["" if has_ended else CUT for has_ended in ended.tolist()]
        if vocab.labels:
            labels = labels_of(texts, vocab.labels)
            marks = [f"{mark} ({visible(x)})" for mark, x in zip(marks, labels, strict=True)]
        pairs = [pair for pair in zip(names, marks, strict=True) if pair[0]][:NAMES_AT_END]
        shown_names = [visible(shown(name)) + mark for name, mark in pairs]
        is_new = [not any(name in names for names in known) for name, _ in pairs]
        return Written(shown_names, is_new)

    return write


def describe_names(write: Writer, params: Params, step: int, config: TrainConfig) -> str:
    """Names that the parameters write, with a heading.

    The exercise shows all that it draws. Other runs show new names, none of them empty or twice.
    """
    if config.loss == "summed":
        texts, is_new = write(params, step)
        return "\n  ".join([f"Names, {sum(is_new)} of {len(is_new)} new:", *texts])
    names, num_drawn, num_copies = new_names(write, params, step)
    heading = f"Names, {'all' if names else 'none'} new"
    if num_copies:
        heading += f" ({num_copies} of the first {num_drawn} drawn were copies of the list)"
    return "\n  ".join([f"{heading}:", *names])


def new_names(write: Writer, params: Params, step: int) -> tuple[list[str], int, int]:
    """Up to `NAMES_AT_END` new names, none of them empty or twice.

    Also returns how many names were drawn for that, and how many of these were not new.
    """
    names, num_drawn, num_copies = list[str](), 0, 0
    for batch in range(MOST_BATCHES):
        for name, is_new in zip(*write(params, step, batch), strict=True):
            num_drawn, num_copies = num_drawn + 1, num_copies + (not is_new)
            if is_new and name and name not in names:
                names.append(name)
            if len(names) == NAMES_AT_END:
                return names, num_drawn, num_copies
    return names, num_drawn, num_copies


def describe_loss(loss: float, config: TrainConfig) -> str:
    """The loss that training minimises, with its unit; one of the user's own is shown without."""
    if own_code(config.loss):
        return f"loss {loss:.4g}"
    return f"{loss:.2f} nats a {'name' if config.loss == 'summed' else 'character'}"


def describe_report(report: Report, config: TrainConfig, written: Written) -> str:
    """A report in one line, with some of the new names or a new text."""
    width = len(f"{config.steps:,}")
    said = f"step {report.step:>{width},}  {describe_loss(report.loss, config)}"
    if report.validation_loss is not None:
        said += f", {report.validation_loss:.4f} a character in validation"
    if config.is_text:
        return f"{said}\n{written.texts[0]}\n"
    texts, is_new = written.texts[:NAMES_PER_REPORT], written.is_new[:NAMES_PER_REPORT]
    return f"{said}  {' '.join(texts)} ({sum(is_new)} of {len(is_new)} new)"


def describe_rates(experiment: Experiment, run: Run) -> str:
    """How the learning rate rises again as `run` is extended; empty if it does not."""
    planned = make_schedule(run.config)
    last, expected = (float(planned(step)) for step in (max(0, run.step - 1), run.step))
    if (rate := float(experiment.schedule(run.step))) <= expected:
        return ""
    return (
        f"the learning rate rises again, from {last:.3g} at step {run.step:,} to {rate:.3g} at the "
        f"next, as its schedule is now that of {count(experiment.config.steps, 'step')}"
    )


def measure(experiment: Experiment, best: Run) -> dict[str, Any]:
    """The exact loss of the best parameters of a run; see `summarize` and `costs_apart`."""
    blocks = experiment.description.blocks
    evaluate = experiment.evaluate
    # Of several processes, only the first comes here.
    if evaluate is None or processes.num_processes() > 1:
        part = experiment.parts.get("validation", experiment.parts["train"])
        evaluate = make_evaluation(experiment.model, best.vocab, part, blocks=blocks)
    costs = evaluate(best.params)
    return {**summarize(costs), **(costs_apart(costs, blocks) if blocks else {})}


def describe_failure(nats_per_character: float, num_symbols: int) -> str:
    """Why a model is of no use; empty unless it is far worse than one that has learned nothing.

    Equal probabilities cost log(num_symbols) nats a character, and random parameters a little more
    or less. Only a training that went wrong costs more than `USELESS` times that.
    """
    chance = math.log(num_symbols)
    if nats_per_character <= USELESS * chance:
        return ""
    return (
        f"training went wrong: this model costs {nats_per_character:,.2f} nats a character, and "
        f"equal probabilities for all {num_symbols:,} symbols cost {chance:.2f}; try a smaller "
        "--learning-rate or, if the loss in training was low, fewer --steps"
    )


def describe_result(
    experiment: Experiment, best: Run, step: int, write: Writer, figures: Mapping[str, Any]
) -> str:
    """What the best parameters of a run of `step` steps write, and their loss."""
    parts, description = experiment.parts, experiment.description
    if experiment.config.is_text:
        thing, figure = "character", f"in windows of {WINDOW}"
        said = f"\nNew text:\n{write(best.params, best.step).texts[0]}\n\n"
    else:
        thing, figure = "name", "newline included"
        if description.vocab.labels:
            figure = "newline and label included"
        names = describe_names(write, best.params, best.step, experiment.config)
        said = f"\n{names}\n\n{figures['nats_per_piece']:.3f} nats a name, "
    part = parts.get("validation", parts["train"])
    num_read = int(figures["num_characters" if experiment.config.is_text else "num_pieces"])
    over = f"all the {thing}s it learned from"
    if num_read < len(part):
        over = f"{num_read:,} of the {count(len(part), thing)} it learned from, spread evenly"
    if "validation" in parts:
        over = f"{count(len(part), thing)} held out for validation"
        if num_read < len(part):
            over = f"{num_read:,} of {over}, spread evenly"
        if description.init_from:
            num = num_learned(description, parts["validation"], learned_of(parts))
            over += f", {describe_learned(num, description)}"
        if best.step < step:
            over += f", after {count(best.step, 'step')}, when it was lowest"
    if description.selection:
        over += f"; {describe_selection(description.selection)}"
    over += describe_apart(figures)
    return f"{said}{describe_mean(figures)} nats a character ({figure}), over {over}"


def draw_losses(parser: Parser, folder: Path) -> None:
    """Write a picture of the losses into the folder, if matplotlib is installed, and say where."""
    metrics = read_metrics(folder) if importlib.util.find_spec("matplotlib") else []
    # A run that was stopped at once has no losses.
    if any("event" not in line for line in metrics):
        try:
            from dinojax.plots.losses import plot_losses
            from dinojax.plots.style import save

            others = {f"{folder.name}/{x.name}": read_metrics(x) for x in phases(folder)[1:]}
            files = save(plot_losses({folder.name: metrics, **others}), folder / "loss")
            print(f"Losses drawn in {' and '.join(visible(str(file)) for file in files)}")
        # A bad setting such as MPLBACKEND, or a full disk. Everything else is saved.
        except (ImportError, OSError, ValueError) as error:
            parser.note(f"no picture: {describe_error(error)}")
