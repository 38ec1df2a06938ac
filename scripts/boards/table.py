"""The table of a board for some data: networks, mixtures of them, and n-gram models."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from dinojax.data.stored import Text
from dinojax.data.vocab import Vocab
from dinojax.evaluation.compare import joined
from dinojax.evaluation.copying import LEAST_COPIED, in_copies, longest_copies
from dinojax.evaluation.losses import BLOCK, summarize
from dinojax.evaluation.ngram import fit_ngrams, nats
from dinojax.evaluation.statistics import CONFIDENCE, compare, spread
from dinojax.messages import count
from dinojax.models.mixture import learn_weights
from dinojax.runs import folder as runs
from dinojax.runs.description import HELD_OUT, Part, Parts
from dinojax.runs.mixtures import mixed_nats
from dinojax.runs.ngrams import costs_of
from dinojax.runs.sweep import DIVERGED

from boards.recipes import Planned
from boards.runs import NUM_CHARACTERS, NUM_NAMES, SIZE

Floats = NDArray[np.float64]
Line = Mapping[str, Any]
MAX_ORDER = 10
"""Highest order of the n-gram models."""
WIDTH = 100


class Row(NamedTuple):
    """A model, or one for each of several seeds."""

    name: str
    validation: Floats
    """What each character of the validation part costs in nats, [seeds, characters]."""
    test: Floats
    parameters: int
    """Those of a network, and the n-grams that an n-gram model has counted."""
    seeds: Sequence[int] = ()
    """Of the models, in this order; none if it is a single one that is of no seed."""
    seconds: float = np.nan
    """Until it is trained, the mean over seeds."""
    teraflop: float = np.nan
    """10^12 operations that a large product would have done in the time of the training steps."""
    share: float = np.nan
    """See `runs.share_of_samples`."""


def table(name: str, done: Sequence[tuple[Line, Planned]]) -> str:
    """The runs on some data, of which one has finished, as a table in Markdown with a heading."""
    finished = [(line, each) for line, each in done if DIVERGED not in line]
    run = runs.load_run(finished[0][1].folder)
    parts = {x: runs.read_part(run.folder, run.description, x) for x in ("train", *HELD_OUT)}
    ngrams = ngram_rows(run.vocab, parts)
    best = min(ngrams, key=lambda row: row.validation.mean())
    rows = list[Row]()
    for _, group in groupby(finished, lambda pair: pair[0]["recipe"]):
        rows += rows_of(list(group), ngrams)
    rows += [row._replace(name=f"{row.name}, best") if row is best else row for row in ngrams]
    return f"{heading(name, [line for line, _ in done], parts)}\n\n{aligned(rows, parts['test'])}"


def ngram_rows(vocab: Vocab, parts: Parts) -> list[Row]:
    """N-gram models of all orders, counted in the training part."""
    fitted = fit_ngrams(*joined(vocab, parts["train"]), vocab.size, MAX_ORDER)
    read = {name: joined(vocab, parts[name]) for name in HELD_OUT}
    rows = []
    for order in range(1, MAX_ORDER + 1):
        validation, test = (nats(fitted, *read[name], order)[None] for name in read)
        size = sum(map(len, fitted.keys[:order]))
        rows.append(Row(f"{order}-gram", validation, test, size))
    return rows


def rows_of(done: Sequence[tuple[Line, Planned]], ngrams: Sequence[Row]) -> list[Row]:
    """The rows of a recipe: its networks, and their mixtures with one another and n-grams.

    Of the n-gram models, that is the one with which a mixture of all networks has the lowest loss
    on the validation part. Its order need not be that of the best n-gram model.
    """
    lines, costs = [line for line, _ in done], [np.load(each.costs_file) for _, each in done]
    name, size, num = lines[0]["recipe"], lines[0]["parameters"], len(lines)
    validation, test = (np.stack([x[part] for x in costs]) for part in HELD_OUT)
    seconds = float(np.mean([line["seconds"] for line in lines]))
    teraflop = float(np.mean([line["training_seconds"] * line["gflops"] / 1e3 for line in lines]))
    share = float(np.mean([line["share"] for line in lines]))
    seeds = [line["seed"] for line in lines]
    single = Row(name, validation, test, size, seeds, seconds, teraflop, share)
    ngram = min(ngrams, key=lambda row: mixed(validation, test, row)[0].mean())
    pairs = [mixed(validation[[i]], test[[i]], ngram) for i in range(num)]
    both = [np.concatenate(each) for each in zip(*pairs, strict=True)]
    counted = size + ngram.parameters
    mixtures = Row(f"{name} + {ngram.name}", both[0], both[1], counted, seeds, seconds, teraflop)
    rows = [single, mixtures]
    if num > 1:
        spent = num * seconds, num * teraflop
        means = [mixed_nats(each, np.full(num, 1 / num))[None] for each in (validation, test)]
        name, size = f"mean of {num} {name}", num * size
        rows.append(Row(name, means[0], means[1], size, (), *spent))
        means = list(mixed(validation, test, ngram))
        counted = size + ngram.parameters
        rows.append(Row(f"{name} + {ngram.name}", means[0], means[1], counted, (), *spent))
    return rows


def mixed(validation: Floats, test: Floats, ngram: Row) -> tuple[Floats, Floats]:
    """The costs of a mixture of networks and an n-gram model, [1, characters] each.

    The weights are learned from the validation part, as `mix` does.
    """
    members = np.concatenate([validation, ngram.validation])
    weights = learn_weights(members).weights
    tested = mixed_nats(np.concatenate([test, ngram.test]), weights)
    return mixed_nats(members, weights)[None], tested[None]


def aligned(rows: Sequence[Row], part: Part) -> str:
    """A line of Markdown for each row, all compared with the first one."""
    is_text, base = isinstance(part, str | Text), rows[0]
    pieces = "blocks" if is_text else "names"
    table = [
        [
            "model", "nats", f"± {pieces}", "± seeds", "bits", "validation", f"- {base.name}",
            f"95 % {pieces}", "95 % seeds", "copied" if is_text else "new",
            "parameters", "s", "Tflop",
        ]
    ]  # fmt: skip
    for row in rows:
        figures = summarize(costs_of(row.test.mean(axis=0), part))
        per_seed = row.test.mean(axis=1)
        cells = [
            row.name,
            shown(figures["nats_per_character"]),
            shown(figures["standard_error"]),
            shown(spread(per_seed).standard_error),
            shown(figures["bits_per_character"]),
            shown(float(row.validation.mean())),
            *([""] * 3 if row is base else difference(row, base, part)),
            shown(row.share, 3),
            f"{row.parameters:,}",
            shown(row.seconds, 1),
            shown(row.teraflop, 2),
        ]
        table.append(cells)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rule = [f"|:{'-' * (widths[0] + 1)}", *(f"{'-' * (width + 1)}:" for width in widths[1:])]
    lines = [
        " | ".join([f"| {row[0]:{widths[0]}}", *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in table
    ]
    return "\n".join([lines[0], "|".join(rule) + "|", *lines[1:]])


def difference(row: Row, base: Row, part: Part) -> list[str]:
    """How the cost of a character differs from that under another model, and 95 % intervals.

    These are over the pieces, and over the seeds that both have; see `statistics.compare`.
    """
    figures = summarize(costs_of(row.test.mean(axis=0) - base.test.mean(axis=0), part))
    quantile = float(stdtrit(figures["num_pieces"] - 1, (1 + CONFIDENCE) / 2))
    seeds = sorted({*row.seeds} & {*base.seeds})
    ours, others = (x.test[[x.seeds.index(seed) for seed in seeds]] for x in (row, base))
    margin = compare(ours.mean(axis=1), others.mean(axis=1)).margin
    over_pieces = quantile * figures["standard_error"]
    return [f"{figures['nats_per_character']:+.4f}", shown(over_pieces), shown(margin)]


def shown(value: float, digits: int = 4) -> str:
    """A figure; nothing for NaN."""
    return f"{value:,.{digits}f}" if value == value else ""


def heading(name: str, lines: Sequence[Line], parts: Parts) -> str:
    """What the data of a table are, and which of their runs diverged."""
    is_text = isinstance(parts["train"], str | Text)
    sizes = [f"{len(parts['train']):,} to learn from"]
    sizes += [f"{len(parts[part]):,} for {part}" for part in HELD_OUT]
    total = count(sum(map(len, parts.values())), "character" if is_text else "name")
    said = f"**{name}**: {total} (SHA-256 {lines[0]['data_sha256'][:12]}), {', '.join(sizes)}."
    train = parts["train"]
    if isinstance(train, str | Text):
        text = str(parts["test"][:NUM_CHARACTERS])
        documents = [train] if isinstance(train, str) else train.documents()
        copied = in_copies(longest_copies(text, documents).lengths).mean()
        said += f" Of the first {len(text):,} characters for test, {copied:.3f} are copied."
    for line in lines:
        if DIVERGED in line:
            said += f" {line['recipe']} with seed {line['seed']} diverged: {line[DIVERGED]}."
    return textwrap.fill(said, WIDTH)


def legend(lines: Sequence[Line]) -> str:
    """What the columns of all tables mean, and on what machines the runs were trained."""
    rates = [line["gflops"] for line in lines if "gflops" in line]
    machines = dict.fromkeys(line["machine"] for line in lines if "machine" in line)
    said = (
        "All costs are exact, in nats a character, over the test part, which no choice has seen. "
        "The newline of a name counts; a text is read in one pass. The validation part chooses "
        "checkpoints, the weights of mixtures, the best n-gram model, and the order that suits the "
        "mixtures of a recipe best. A recipe has the mean of its seeds. `±` is a standard error: "
        f"over names, or over blocks of {BLOCK:,} characters, "
        "and over seeds. `95 %` is half the width of the confidence interval of the difference "
        "from the first row: over the same pieces, and over the same seeds. `new` is the share of "
        f"new ones among the distinct of {NUM_NAMES:,} names drawn; such a name is in no part of "
        f"the list. `copied` is the share of {NUM_CHARACTERS:,} characters drawn that lie in spans "
        f"of {LEAST_COPIED} or more of the training text. The parameters of an n-gram model are "
        "the n-grams counted. `s` is seconds to train, with compilation and validations. `Tflop` "
        "serves to compare machines: the seconds of the training steps alone, times the speed of a "
        f"product of two {SIZE:,} x {SIZE:,} matrices, measured before and after each training "
        f"({min(rates):,.0f} to {max(rates):,.0f} Gflop a second)."
    )
    return "\n\n".join(textwrap.fill(each, WIDTH) for each in [said, *machines])
