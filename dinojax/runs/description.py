"""What determines a run: its configuration, its vocabulary and its data in parts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from dinojax.config import TrainConfig, with_steps
from dinojax.contradictions import WITH_GATES
from dinojax.data.batches import Dataset, packed, padded, windows
from dinojax.data.blocks import Block, split_blocks
from dinojax.data.corpus import MIN_LIMIT, length_limit, longest_usual
from dinojax.data.labels import Labelled, listed, without_labels
from dinojax.data.splits import split_names, split_text
from dinojax.data.stored import (
    NameList,
    Text,
    in_vocab,
    is_prepared,
    joined_documents,
    lookup,
)
from dinojax.data.vocab import Vocab, build_vocab
from dinojax.files import digest
from dinojax.runs.kinds import Kind, Mixture, Ngram
from dinojax.runs.references import reference_to
from dinojax.runs.selection import Selection

if TYPE_CHECKING:
    from dinojax.models.model import CharModel

HELD_OUT = "validation", "test"
PARTS = "train", *HELD_OUT, "earlier"
"""`earlier` holds the names that the runs before learned and `train` lacks."""
Part = Sequence[str] | str
"""Names, or a text."""
Parts = Mapping[str, Part]
"""The parts that a run has, as in {"train": ..}."""


class Description(NamedTuple):
    """What stays the same throughout a run."""

    config: TrainConfig
    vocab: Vocab
    data: str
    """Paths of the data as given, one a line; empty for the bundled names, or for no file.

    Python's standard library has a path of its own; see `standard_library.library_path`.
    """
    data_sha256: str
    init_from: str
    """Folder, as given, of the run that provided the initial parameters; empty for none."""
    parts: Mapping[str, str]
    """Checksum of the file of each part, as in {"train": ..}."""
    init_sha256: str = ""
    """Checksum of what it took over from that run; see `Origin`."""
    extensions: str = ""
    """The planned steps, as in "300 steps, from step 300 on 400"; see `extended`."""
    learned_before: tuple[str, ...] = ()
    """Checksum of the training part of each run before this one, the first of them first.

    It is "" for a run whose training part is not known.
    """
    max_length: int = MIN_LIMIT
    """Where samples of names are cut, in characters."""
    blocks: tuple[Block, ...] = ()
    """Those that the validation part of a text consists of, if it is not one stretch."""
    selection: Selection | None = None
    """What the steps of a refitted run were chosen by, once they are."""
    model: Ngram | Mixture | None = None
    """What the model is, if it is not the network of `config`, which then describes the data."""

    @property
    def kind(self) -> Kind:
        """What the model is."""
        return self.model or self.config


class Origin(NamedTuple):
    """The earlier run, or another file, whose model a new run begins with."""

    path: str
    """As the user gave it."""
    vocab: Vocab | None
    """None for that of the data."""
    sha256: str
    """Checksum of the parameters, the vocabulary and what is known to have been learned."""
    learned_before: tuple[str, ...]
    """As in `Description`, for the new run."""
    names: Sequence[str]
    """The names that it and the runs before it learned, as far as they are known."""


class Tally(NamedTuple):
    """What a run must remember besides its state in order to resume exactly."""

    best_step: int = -1
    """Steps done at the best validation; -1 before the first validation."""
    best_loss: float = float("inf")
    """Validation loss at the best validation, in nats per character."""
    validations_since: int = 0
    """Number of validations since the best one."""
    nats: float = 0.0
    """Sum of the training losses since the last line of metrics, in nats."""
    characters: float = 0.0
    """Number of target characters since the last line of metrics."""
    recent_losses: tuple[float, ...] = ()
    """The last validation losses, as many as the average trigger, after the best before them."""


def describe(
    config: TrainConfig,
    data: Part,
    origin: Origin | None = None,
    *,
    keep_window: bool = False,
    source: str = "",
    sha256: str = "",
) -> tuple[Description, Parts, Dataset]:
    """Describe a new run on `data`, names or a text: its description, its parts and its batches.

    The configuration gets its number of steps and, for packed names unless `keep_window`, a window
    that holds the longest name, unless that is far longer than the others (see `longest_usual`). A
    run that is to be refitted learns its validation part, too, and has none; see `refit`. A run
    that begins with an `origin` has the characters of its vocabulary and those of the data, and
    names that were learned before are held out only where no others are left. `source` is the path
    of the data and `sha256` its checksum.

    Raises:
        ValueError: the data are too small to split or to fill a batch, a name does not fit into the
            window, or `origin` has other labels.
    """
    learned = origin.names if origin else ()
    fractions = 0.0 if config.refit else config.validation_fraction, config.test_fraction
    known = origin.vocab if origin else None
    labels = data.labels if isinstance(data, Labelled) else ()
    if known and known.labels != labels:
        raise ValueError(
            f"the earlier run has {listed(known.labels) or 'no labels'}, these data have "
            f"{listed(labels) or 'no labels'}"
        )
    before = [known.characters] if known else []
    if isinstance(data, Text | NameList):
        vocab = build_vocab([*before, data.vocab.characters])
        data = in_vocab(data, vocab)
    else:
        vocab = build_vocab([*before, *([data] if isinstance(data, str) else data)], labels)
    split: Sequence[Part]
    earlier, blocks = list[str](), list[Block]()
    if isinstance(data, str | Text) and config.has_blocks and not config.refit:
        chosen = config.validation_blocks, *fractions
        *split, blocks = split_blocks(data, vocab, *chosen, seed=config.split_seed)
    elif isinstance(data, str | Text):
        split = split_text(data, *fractions)
    else:
        skipped = 1 if labels else 0
        split = split_names(data, *fractions, config.split_seed, learned, skipped)
        now = lookup(split[0])
        earlier = sorted({name for name in learned if name not in now})
    split = *split, earlier
    parts = {name: part for name, part in zip(PARTS, split, strict=True) if part}
    if config.batches == "packed" and not keep_window:
        config = replace(config, window=max(config.window, longest_usual(parts["train"]) + 1))
    dataset = make_dataset(config, vocab, parts["train"])
    config = with_steps(config, dataset.steps_per_epoch)
    checksums = {name: digest(part_content(part)) for name, part in parts.items()}
    description = Description(config, vocab, source, sha256, "", checksums, blocks=tuple(blocks))
    if not isinstance(data, str | Text):
        names = without_labels(parts["train"], labels)
        description = description._replace(max_length=length_limit(names))
    if origin:
        description = description._replace(
            init_from=origin.path,
            init_sha256=origin.sha256,
            learned_before=origin.learned_before,
        )
    return description, parts, dataset


def facts(description: Description) -> dict[str, Any]:
    """What all processes that train one model must have in common, by name."""
    settings = {name.replace("_", " "): x for name, x in asdict(description.config).items()}
    parts = {f"{name} part": sha256[:12] for name, sha256 in description.parts.items()}
    data = {"data": description.data_sha256[:12], "earlier run": description.init_sha256[:12]}
    return settings | data | parts


def extended(description: Description, config: TrainConfig, step: int) -> Description:
    """The description of a run that is resumed after `step` steps with another configuration.

    Another number of steps is recorded unless the run would have taken the same course with this
    number from its start.
    """
    before, planned = description.config, description.extensions
    # A run is validated after its last step, due or not.
    is_one_more = step == before.steps and step % before.evaluate_every
    is_alike = all(
        x.schedule == "constant" and not (x.warmup or x.average_share) and step <= x.cooldown_start
        for x in (before, config)
    )
    if not is_alike or (is_one_more and "validation" in description.parts):
        planned = planned or f"{before.steps} steps"
    if step and planned and config.steps != before.steps:
        planned = f"{planned}, from step {step} on {config.steps}"
        description = description._replace(extensions=planned)
    return description._replace(config=config)


def make_dataset(config: TrainConfig, vocab: Vocab, part: Part) -> Dataset:
    """The batches of what a run learns from; see `batches` for the errors raised."""
    if isinstance(part, str | Text):
        return windows(part, vocab, config.batch_size, config.window)
    if config.batches == "packed":
        return packed(part, vocab, config.batch_size, config.window)
    return padded(part, vocab, config.batch_size)


def part_content(part: Part) -> bytes:
    """The content of a part's file: names, one a line, or the text, with NUL between documents.

    Of prepared data it is a reference; see `references`.
    """
    if is_prepared(part):
        return reference_to(part)
    if isinstance(part, Text):
        return "\0".join(part.documents()).encode()
    text = part if isinstance(part, str) else "".join(f"{name}\n" for name in part)
    return text.encode()


def part_from(content: bytes, is_text: bool, vocab: Vocab) -> Part:
    """A part from the content of its file; see `part_content`."""
    text = content.decode()
    if not is_text:
        return text.removesuffix("\n").split("\n")
    documents = text.split("\0")
    return text if len(documents) == 1 else joined_documents(documents, vocab)


def build_model(kind: Kind, vocab: Vocab, recurrence: str = "loop") -> "CharModel":
    """The model of a kind; a configuration describes a network.

    `recurrence` says how cells run along time in training: `loop`, on any device, or `fused`.
    """
    # Imported here, so that data can be read and checked before JAX is imported.
    import jax.numpy as jnp

    from dinojax.models.cache import cached
    from dinojax.models.gates import GATES
    from dinojax.models.labelled import labelled
    from dinojax.models.layers import Run, make_layer
    from dinojax.models.mixture import mixture
    from dinojax.models.model import char_model
    from dinojax.models.ngram import ngram_model
    from dinojax.models.recurrence import loop

    if isinstance(kind, Mixture):
        model = mixture([build_model(member, vocab) for member in kind.members], kind.weights)
        return cached(model, kind.cache) if kind.cache else model
    if vocab.labels:
        model = build_model(kind, replace(vocab, labels=()), recurrence)
        return labelled(model, len(vocab.labels))
    if isinstance(kind, Ngram):
        return ngram_model(vocab, kind.order)
    config = kind
    sizes = vocab.size, *[config.hidden_size] * config.num_layers
    dtype = None if config.dtype == "float32" else jnp.bfloat16
    run: Run = loop
    if recurrence == "fused":
        # Imported only here, as it takes half as long as JAX.
        from dinojax.models.fused import fused as run
    options: dict[str, Any] = {
        "run": run, "product_dtype": dtype, "mogrifier_rounds": config.mogrifier_rounds,
        "mogrifier_rank": config.mogrifier_rank,
    }  # fmt: skip
    if config.cell in WITH_GATES:
        options["gate"] = GATES[config.gate]
    layers = [make_layer(config.cell, *each, **options) for each in pairwise(sizes)]
    return char_model(layers, vocab, dropout=config.dropout, product_dtype=dtype)
