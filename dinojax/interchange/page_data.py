"""What the page of a run holds, measured and read back."""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

import jax
import numpy as np

import dinojax
from dinojax.config import check_range
from dinojax.data.stored import Text
from dinojax.evaluation.compare import ModelFigures, compare, joined
from dinojax.evaluation.ngram import fit_ngrams
from dinojax.evaluation.traits import LEAST, followers
from dinojax.interchange import page
from dinojax.interchange.proof import choose_strings, model_logits
from dinojax.messages import count
from dinojax.models.cells import Params
from dinojax.models.trained import Trained
from dinojax.own import brief, own_code
from dinojax.runs.description import Part
from dinojax.runs.folder import Run, check_is_network, check_without_labels
from dinojax.runs.lineage import num_learned

MAX_NAMES, MAX_ORDER = 50_000, 8
MAX_ERROR = 1e-3
"""Largest error of a logit with which half precision is chosen."""
MAX_READ = 1_000, 64, 10_000
"""Names and characters of each, or characters of a text, by which units are judged."""


class Page(NamedTuple):
    """A page of a run, and what was found when it was made."""

    content: bytes
    precision: str
    """"half" or "single"."""
    error: float
    """Largest difference between a logit by the weights in the page and one by those of the run."""
    half_error: float
    """The same for half precision; infinite if a parameter is too large for it."""


def make_page(
    run: Run,
    title: str,
    learned: Part | None,
    part: Part,
    *,
    split: str = "train",
    others: Sequence[Run] = (),
    with_names: bool = False,
    ngram_order: int = 0,
    precision: str | None = None,
) -> Page:
    """The page of a run at one of its checkpoints, at which it starts.

    `learned` is all that the run and those before it learned, None if that is not known. Figures
    are measured over `part`, the part of the run's data called `split`. `others` are other
    checkpoints of the run. `with_names` puts the names of `learned` into the page, and an
    `ngram_order` above 0 the counts of an n-gram model of `learned`. The default precision is half
    if that moves no logit by more than `MAX_ERROR`, else single.

    The page is read back, and its logits are compared with those of the run.

    Raises:
        ValueError: the model is no network or has a cell that a page lacks, names are wanted where
            there are none or more than `MAX_NAMES`, the order is out of range, or a parameter does
            not fit into half precision.
    """
    check_is_network(run, "a page holds a network, beside an n-gram model if that is asked for")
    if own_code(run.config.cell):
        raise ValueError(f"a page holds cells of dinojax, not {brief(run.config.cell)}")
    if not page.has_cell(run.config.cell):
        raise ValueError(f"page_files/engine.js has no {run.config.cell} cell; add it there")
    if run.config.mogrifier_rounds:
        raise ValueError("a page holds no network with Mogrifier rounds; train one without")
    check_without_labels(run, "a page has no choice of them")
    has_names = learned is not None and not isinstance(learned, str | Text)
    if with_names and not (has_names and len(learned or ()) <= MAX_NAMES):
        got = _size(learned or ()) if has_names else "no names"
        raise ValueError(f"expected up to {MAX_NAMES:,} names for the page, got {got}")
    if ngram_order and learned is None:
        raise ValueError("expected what the run learned for an n-gram model, got nothing")
    check_range("n-gram order", ngram_order, 0, MAX_ORDER)
    trained = run.trained
    half_error = _error(trained, part, _weights(trained.params, "half"))
    precision = precision or ("half" if half_error <= MAX_ERROR else "single")
    runs = sorted({each.step: each for each in (*others, run)}.values(), key=lambda x: x.step)
    counted, order = (learned, ngram_order) if ngram_order else (None, 1)
    figures = compare(trained, counted, part, contexts=["carry"], max_order=order)
    ngrams = None
    if counted is not None:
        model = fit_ngrams(*joined(run.vocab, counted), run.vocab.size, order)
        ngrams = page.pack_ngrams(model, order)
    units, num_read = followers(trained, _some(part))
    measured = _measured(run, learned, part, split)
    data: dict[str, Any] = {
        "title": title,
        "lead": _lead(run, learned),
        "isText": run.config.is_text,
        "characters": run.vocab.characters,
        "lowercase": run.config.lowercase,
        "maxLength": trained.max_length,
        "cell": run.config.cell,
        "gate": run.config.gate,
        "shapes": page.shapes_of(trained.params),
        "bytesPerNumber": np.dtype(page.NUMBERS[precision]).itemsize,
        "checkpoints": [
            {"step": x.step, "weights": page.pack_weights(x.params, precision)} for x in runs
        ],
        "start": [x.step for x in runs].index(run.step),
        "names": [*(learned or ())] if with_names else None,
        "ngrams": ngrams,
        "units": [[*unit] for unit in units],
        "unitsNote": f"The output of each unit after each of {num_read:,} characters "
        f"({measured}) was correlated with what a reader sees there: places, vowels, spaces "
        "and the like. The unit was chosen on the first half of them; r is Pearson's correlation "
        f"on the second half, shown from ±{LEAST} on, at {run.step:,} steps.",
        "facts": _facts(run, learned, measured, figures, ngram_order),
        "notes": _notes(run, with_names),
    }
    content = page.page_content(data)
    back = page.read_page(content)
    text = back["checkpoints"][back["start"]]["weights"]
    error = _error(trained, part, page.unpack_weights(text, trained.params, precision))
    return Page(content, precision, error, half_error)


def _some(part: Part) -> Part:
    """Beginnings of names from all over a part, or of a text, as many as `MAX_READ`."""
    num_names, most, num_characters = MAX_READ
    if isinstance(part, str | Text):
        return str(part[:num_characters])
    return [name[:most] for name in part[:: -(-len(part) // num_names)]]


def _weights(params: Params, precision: str) -> Params | None:
    """The parameters as a page holds them, or None if they do not fit the precision."""
    try:
        return page.unpack_weights(page.pack_weights(params, precision), params, precision)
    except ValueError:
        return None


def _error(trained: Trained, part: Part, params: Params | None) -> float:
    """Largest difference between logits over a part by `params` and by those of the model."""
    if params is None:
        return inf
    strings = choose_strings(part)
    pairs = zip(
        model_logits(trained, strings),
        model_logits(trained._replace(params=params), strings),
        strict=True,
    )
    return float(max(np.abs(theirs - ours).max() for ours, theirs in pairs))


def _size(part: Part) -> str:
    return count(len(part), "character" if isinstance(part, str | Text) else "name")


def _measured(run: Run, learned: Part | None, part: Part, split: str) -> str:
    """What figures are measured over, and how much of it was learned."""
    if split == "train":
        return "what it learned from"
    num = num_learned(run.description, part, learned) if run.description.init_from else 0
    says = {0: "never learned", None: "which earlier runs may have learned"}
    return f"the {split} part, {says.get(num, f'of which earlier runs learned {num}')}"


def _lead(run: Run, learned: Part | None) -> str:
    data = "a text" if run.config.is_text else "names"
    if learned is not None:
        data = f"a text of {_size(learned)}" if run.config.is_text else _size(learned)
    return (
        f"A recurrent network that read {data}, letter by letter, and learned to write more. "
        "It runs in this page, and sends nothing anywhere."
    )


def _facts(
    run: Run,
    learned: Part | None,
    measured: str,
    figures: Sequence[ModelFigures],
    ngram_order: int,
) -> list[tuple[str, str]]:
    """What the page states about the run: labels and values."""
    config, size = run.config, sum(x.size for x in jax.tree.leaves(run.params))
    units = f"{config.hidden_size:,} units"
    source = run.description.data.replace("\\", "/").rsplit("/")[-1]
    data = ("data" if learned is None else _size(learned)) + (f" of {source}" if source else "")
    network, *ngrams = figures
    has_origin = bool(run.description.init_from)

    def loss(found: ModelFigures) -> str:
        of, error = found.figures, found.figures["standard_error"]
        # The error of a single piece is NaN.
        shown = f" ± {error:.4f}" if error == error else ""
        nats, bits = of["nats_per_character"], of["bits_per_character"]
        return f"{nats:.4f}{shown} nats, {bits:.4f} bits a character"

    return [
        ("Network", f"{count(config.num_layers, 'layer')} of {units}, cell {config.cell}"),
        ("Parameters", f"{size:,}"),
        ("Learned from", data + " and earlier runs" * has_origin),
        ("Training", count(run.step, "step") + ", after earlier ones" * has_origin),
        ("Measured over", f"{network.figures['num_characters']:,.0f} characters, {measured}"),
        ("Loss", loss(network)),
        *((f"{ngram_order}-gram model", loss(each)) for each in ngrams[-1:]),
        ("Made by", f"dinojax {dinojax.__version__}"),
    ]


def _notes(run: Run, with_names: bool) -> list[str]:
    """What a reader of the page should know."""
    notes = [
        "Probabilities of names and the costs of texts are those of the network itself, at "
        "temperature 1, whatever the sliders say. A nat is 1.4427 bits.",
        "The page draws by a random generator of its own. The same seed gives something else in "
        "dinojax, from the same distribution.",
    ]
    if not run.config.is_text:
        known = "It names the nearest of the training names, which it holds."
        unknown = "It holds no training names, so it cannot say which names are new."
        notes.append(known if with_names else unknown)
    return notes
