"""The model card: what a model learned from, what it pays for data, and how to load it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax

import dinojax
from dinojax.config import TrainConfig
from dinojax.data.corpus import bundled_names
from dinojax.data.stored import Text, num_characters
from dinojax.evaluation.compare import ModelFigures, compare
from dinojax.files import digest
from dinojax.interchange.numpy_file import describe_layers
from dinojax.interchange.safetensors import MODEL_FILE, VOCAB_FILE, torch_code
from dinojax.interchange.torch import has_cell
from dinojax.messages import count, visible
from dinojax.models.trained import Trained
from dinojax.runs.description import Part
from dinojax.runs.folder import Run, read_part
from dinojax.runs.lineage import learned_of, num_learned
from dinojax.sampling.accept import continue_text, sample

NUM_SAMPLES, TEXT_LENGTH = 10, 400

_CARD = """\
# A character-level language model of {kind}

It writes {kind} character by character, and says how probable given ones are. It has {layers} and
{num_params:,} parameters, {trained}. This card is from dinojax {version}.

## What it learned from

{data}

{settings}

## What it did not learn

- It has read nothing but these data{and_earlier}. It knows no other words and no facts, and it
  cannot follow instructions.
- It reads and writes {num_characters:,} characters, which `{vocab_file}` lists, and no other.
- What it writes may be false or offensive, and may be a copy of what it has read.

## How well it predicts

The exact loss over the part `{name}`, beside n-gram models that learned from the same data:

{table}

± one standard error over {pieces}. {note}

## What it writes

{samples}

## How to load it

With dinojax, in this folder:

```python
{dinojax_code}```

{in_torch}

With NumPy, by the program in this folder:

```python
from model import sample, score

print(sample(seed=0), score({example}))
```

## Licence

None is stated here: whoever publishes the model chooses one. The data may have a licence of their
own.
"""

_NOTES = {
    "train": "No data were set apart: the model has learned from these, and pays more for others.",
    "validation": "Training chose its best checkpoint by this part, but did not learn from it.",
    "test": "Training never read this part.",
}

_LOAD_NAMES = f"""\
import dinojax
from dinojax.interchange.safetensors import load

model = load("{MODEL_FILE}")
print(dinojax.sample(model, 5, seed=0).names)
"""

_LOAD_TEXT = f"""\
from dinojax.interchange.safetensors import load
from dinojax.sampling.accept import continue_text

model = load("{MODEL_FILE}")
print(continue_text(model, length=100, seed=0))
"""


def model_card(run: Run, trained: Trained, config: TrainConfig) -> str:
    """The text of a card in Markdown.

    Its losses, from `compare`, are over data that training never read, or as close to that as the
    run has.
    """
    is_text, description = config.is_text, run.description
    parts = {x: read_part(run.checkpoint.parent, description, x) for x in description.parts}
    name = next(name for name in ("test", "validation", "train") if name in parts)
    if is_text:
        written = [continue_text(trained, length=TEXT_LENGTH, seed=0)]
    else:
        written = sample(trained, NUM_SAMPLES, seed=0).names
    learned = learned_of(parts)
    note, num = _NOTES[name], num_learned(description, parts[name], learned)
    if num is None:
        note += " It is not known how much of it runs before this one had learned."
    elif num and name != "train":
        note += f" Of its names, runs before this one had learned {num:,}."
    if selection := description.selection:
        note += (
            f" Its number of steps was chosen by data that it learned from only then; those cost "
            f"{selection.best_loss:.4f} nats a character before."
        )
    blocks = description.blocks if name == "validation" else ()
    figures = compare(trained, learned, parts[name], held_out=blocks)
    trained_for, settings = _training(run)
    return _CARD.format(
        kind="texts" if is_text else "names",
        layers=describe_layers(config),
        num_params=sum(leaf.size for leaf in jax.tree.leaves(trained.params)),
        trained=trained_for,
        settings=settings,
        version=dinojax.__version__,
        data=_indented(_data_lines(run, parts)),
        and_earlier=" and those of the model that it started from" * bool(description.init_from),
        num_characters=trained.vocab.size,
        vocab_file=VOCAB_FILE,
        name=name,
        table=_table(figures),
        pieces="pieces of the text" if is_text else "names",
        note=note,
        samples=_indented("\n".join(written).split("\n")),
        dinojax_code=_LOAD_TEXT if is_text else _LOAD_NAMES,
        in_torch=_in_torch(config, trained.vocab.size),
        example=ascii(written[0][:20] if is_text else f"{(written or [''])[0]}\n"),
    )


def _training(run: Run) -> tuple[str, str]:
    """How the model was trained, as far as that is known, and what `config.json` says of it."""
    steps, has_origin = count(run.step, "step"), bool(run.description.init_from)
    if has_origin and not run.step:
        return (
            "those of the model that it started from",
            "It is not known how that model was trained.",
        )
    after = ", after those of the model that it started from" * has_origin
    of_these = "these steps" if has_origin else "the training"
    return f"and was trained for {steps}{after}", f"`config.json` has the settings of {of_these}."


def _in_torch(config: TrainConfig, vocab_size: int) -> str:
    if not has_cell(config):
        return "PyTorch has no such cell; the program below says what the tensors are for."
    code = f'{torch_code(config, vocab_size, Path())}\n\nprint(logits("").softmax(-1))'
    return f"With PyTorch:\n\n```python\n{code}\n```"


def _data_lines(run: Run, parts: Mapping[str, Part]) -> list[str]:
    """The source of the data, and the size of each part."""
    source, sha256 = Path(run.description.data).name, run.description.data_sha256
    is_bundled = not source and sha256 == digest(bundled_names().read_bytes())
    if is_bundled:
        source = "the dinosaur names of dinojax"
    lines = [f"source      {source or 'unnamed'}", f"SHA-256     {sha256}"]
    for name, part in parts.items():
        names = "" if isinstance(part, str | Text) else f"{len(part):,} names, "
        lines.append(f"{name:12}{names}{num_characters(part):,} characters")
    if earlier := Path(run.description.init_from).name:
        lines.append(f"start       the parameters of {earlier}")
    # A line break in the name of a file would end the block.
    return list(map(visible, lines))


def _table(rows: Sequence[ModelFigures]) -> str:
    lines = ["| model | nats a character | bits a character | perplexity |", "|---|---|---|---|"]
    ways: dict[int | str | None, str] = {None: "", "carry": ", state carried"}
    for row in rows:
        figures, way = row.figures, row.context
        network = "this model" + ways.get(way, f", windows of {way} characters")
        name = f"{row.order}-gram" if row.order else network
        nats = f"{figures['nats_per_character']:.4f} ± {figures['standard_error']:.4f}"
        bits = f"{figures['bits_per_character']:.4f}"
        lines.append(f"| {name} | {nats} | {bits} | {figures['perplexity']:.3f} |")
    return "\n".join(lines)


def _indented(lines: Iterable[str]) -> str:
    """A block that Markdown shows as it is, whatever it holds."""
    return "\n".join(f"    {line}".rstrip() for line in lines)
