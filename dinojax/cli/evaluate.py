"""Measure exactly what a trained model pays for data, beside n-gram models; see --help."""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinojax.cli.arguments import Parser, add_which, path, whole_number
from dinojax.cli.loaded import load
from dinojax.config import check_range
from dinojax.startup import start_jax

if TYPE_CHECKING:
    import numpy as np

    from dinojax.evaluation.ngram import NgramModel
    from dinojax.runs.folder import Run

MAX_ORDER = 5
CONTEXTS = "carry", "256"
MAX_SHOWN = 10
SAMPLED_ORDERS = 2, MAX_ORDER
"""Of the n-gram models whose samples stand beside those of the network."""
MAX_LENGTH = 50
"""Characters after which a sample is cut, as in scripts/sample.py."""
FIGURES = {
    "validity": f"ended within {MAX_LENGTH} characters",
    "uniqueness": "distinct, of these",
    "novelty": "novel, of the distinct",
    "hits": "held-out names among them",
    "mean_length": "length, mean",
    "length_deviation": "length, standard deviation",
    "edit_distance": "edits to the nearest training name",
    "edit_distance_of_novel": "the same, of the novel alone",
    **{f"divergence_{n}": f"{n}-gram divergence, bits" for n in range(1, 5)},
}
"""What the figures of samples are called, row by row of their table."""


def context(text: str) -> str:
    """The type of an argument that says how much of a text is known before each character."""
    if text == "carry" or (text.isascii() and text.isdigit() and 0 < int(text) <= 100_000):
        return text
    raise ArgumentTypeError(
        f"expected carry or a number of characters from 1 to 100,000, got {text!r}"
    )


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax evaluate`."""
    add = parser.add_argument
    add("run", metavar="RUN", type=path, help="folder of a run")
    add(
        "--split",
        choices=["validation", "test", "train"],
        help="part of the run's data (default: validation where there is one, else train)",
    )
    add("--data", metavar="FILE", type=path, help="another file, in the place of such a part")
    add(
        "--context",
        metavar="N",
        type=context,
        help="for a run of a text: carry, its state carried from beginning to end, or windows of N "
        "characters, each from a fresh state (default: both, with windows of 256)",
    )
    add_which(parser)
    add(
        "--samples",
        metavar="N",
        type=whole_number,
        help="for a run of names: draw N names too, to see how new they are and how real they look",
    )
    add(
        "--seed",
        metavar="N",
        type=whole_number,
        help="of these draws; the same seed, the same names (default: 0)",
    )
    add("--json", action="store_true", help="one object with all figures")


def main(parser: Parser, arguments: Namespace) -> int:
    """Print the figures; returns the exit code."""
    if arguments.split and arguments.data:
        parser.error("--split and --data exclude each other")
    with parser.reported_errors():
        if arguments.seed is not None:
            check_range("--seed", arguments.seed, 0, 2**32 - 1)
            if arguments.samples is None:
                raise ValueError("--seed is of the draws for --samples, which is not given")
        if arguments.samples is not None:
            check_range("--samples", arguments.samples, 1, 1_000_000)
    with parser.reported_errors():
        start_jax()
    from dinojax.evaluation.ngram import fit_ngrams
    from dinojax.runs import folder as runs

    with parser.reported_errors():
        loaded = load(parser, arguments)
        if arguments.context and not loaded.config.is_text:
            raise ValueError(
                f"--context is for runs of a text; {arguments.run} learned names, each of which "
                "starts anew"
            )
        if arguments.samples is not None and loaded.config.is_text:
            raise ValueError(f"--samples is for runs of names; {arguments.run} learned a text")
        description = loaded.description
        train = runs.read_part(arguments.run, description, "train")
        if arguments.data:
            split, part = str(arguments.data), read_data(arguments.data, loaded)
        else:
            split = arguments.split
            split = split or ("validation" if "validation" in description.parts else "train")
            part = runs.read_part(arguments.run, description, split)
    ngrams = fit_ngrams(*flat(train, loaded), loaded.vocab.size, MAX_ORDER)
    rows = [*of_network(loaded, part, arguments.context), *of_ngrams(loaded, ngrams, part)]
    samples = None
    if arguments.samples and not isinstance(part, str):
        held_out = [] if split == "train" else part
        seed = arguments.seed or 0
        samples = of_samples(loaded, ngrams, list(train), held_out, arguments.samples, seed)
    if arguments.json:
        answer = {"run": str(arguments.run), "step": loaded.step, "split": split, "models": rows}
        if samples:
            answer["samples"] = samples
        print(json.dumps(for_json(answer), indent=2, allow_nan=False))
    else:
        print(f"{arguments.run} after {loaded.step:,} steps, on {split}\n")
        print(table(rows, loaded.config.is_text))
        if samples:
            print(f"\n{table_of_samples(samples)}")
    return 0


def for_json(value: Any) -> Any:
    """JSON has no NaN, an error that a single piece cannot have, and no infinite perplexity."""
    if isinstance(value, Mapping):
        return {name: for_json(x) for name, x in value.items()}
    if isinstance(value, list):
        return [for_json(x) for x in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def read_data(file: Path, loaded: "Run") -> list[str] | str:
    """Names or a text from a file, as the run reads them."""
    from dinojax.data.text import read_names, read_running_text

    lowercase = loaded.config.lowercase
    part: list[str] | str
    if loaded.config.is_text:
        part = read_running_text(file, lowercase)
    else:
        part, _ = read_names(file, lowercase)
    unknown = sorted(set("".join(part)) - set(loaded.vocab.characters))
    if unknown:
        shown = " ".join(map(repr, unknown[:MAX_SHOWN]))
        more = f" and {len(unknown) - MAX_SHOWN:,} more" if len(unknown) > MAX_SHOWN else ""
        raise ValueError(f"{file} has characters that the run does not know: {shown}{more}")
    return part


def of_network(
    loaded: "Run", part: list[str] | str, context: str | None
) -> Iterator[Mapping[str, Any]]:
    """The figures of the network, for each way to read the data."""
    import jax
    import numpy as np

    from dinojax.data.batches import cut_text, pad_names
    from dinojax.evaluation import losses as evaluate

    def figures(columns: Any) -> Mapping[str, float]:
        return evaluate.summarize(evaluate.column_evaluation(loaded.model, columns)(loaded.params))

    if isinstance(part, list):
        yield {"model": "network", **figures(pad_names(part, loaded.vocab))}
        return
    for each in [context] if context else CONTEXTS:
        if each == "carry":
            ids = loaded.vocab.encode(part)
            read = jax.jit(lambda params, ids: evaluate.nats_carried(params, loaded.model, ids))
            costs = evaluate.in_blocks(np.asarray(read(loaded.params, ids)))
            yield {"model": "network", "context": each, **evaluate.summarize(costs)}
        else:
            columns = cut_text(part, loaded.vocab, min(int(each), len(part)))
            yield {"model": "network", "context": int(each), **figures(columns)}


def flat(part: list[str] | str, loaded: "Run") -> tuple["np.ndarray", "np.ndarray"]:
    """The characters of a part end to end, [num], and whether a name or the text begins there."""
    import numpy as np

    text = part if isinstance(part, str) else "".join(f"{name}\n" for name in part)
    ids = loaded.vocab.encode(text)
    starts = np.zeros(len(ids), bool)
    if not isinstance(part, str):
        starts[1:] = ids[:-1] == loaded.vocab.newline
    starts[0] = True
    return ids, starts


def of_ngrams(
    loaded: "Run", model: "NgramModel", part: list[str] | str
) -> Iterator[Mapping[str, Any]]:
    """The figures of n-gram models that have learned from the same data as the network."""
    import numpy as np

    from dinojax.evaluation import losses as evaluate
    from dinojax.evaluation.ngram import nats

    ids, starts = flat(part, loaded)
    for order in range(1, MAX_ORDER + 1):
        each = nats(model, ids, starts, order)
        if isinstance(part, str):
            costs = evaluate.in_blocks(each)
        else:
            first = np.flatnonzero(starts)
            counts = np.diff([*first, len(ids)]).astype(float)
            costs = evaluate.Costs(np.add.reduceat(each, first), counts)
        yield {"model": "ngram", "order": order, **evaluate.summarize(costs)}


def of_samples(
    loaded: "Run",
    ngrams: "NgramModel",
    train: list[str],
    held_out: list[str],
    num: int,
    seed: int,
) -> Mapping[str, Any]:
    """The figures of fresh samples of the network and of n-gram models, and of real names.

    Divergences are of as many samples as there are held-out names, drawn in addition if they are
    more than `num`; all other figures are of the first `num`. With no held-out names, what needs
    them is left out.
    """
    import jax
    import numpy as np

    from dinojax.evaluation.ngram import draw_names
    from dinojax.evaluation.quality import describe_names, describe_samples, divergences, halves
    from dinojax.sampling.stream import stream_names

    vocab = loaded.vocab
    num_held_out = len(held_out)
    num_drawn = max(num, num_held_out)
    held_out_lines = [f"{name}\n" for name in held_out]

    def figures(ids: Any, ended: Any) -> Mapping[str, float]:
        lengths = np.sum(ids != vocab.newline, axis=1)
        names = [vocab.decode(row[:length]) for row, length in zip(ids, lengths, strict=True)]
        found = describe_samples(names[:num], ended[:num], train, held_out)
        if not held_out:
            return found
        lines = [name + "\n" * whole for name, whole in zip(names, ended.tolist(), strict=True)]
        return {**found, **divergences(lines[:num_held_out], held_out_lines)}

    draw = jax.jit(
        lambda key, params: stream_names(key, params, loaded.model, num_drawn, MAX_LENGTH)
    )
    drawn = jax.device_get(draw(jax.random.key(seed), loaded.params))
    rows: list[Mapping[str, Any]] = [{"model": "network", **figures(drawn.ids, drawn.ended)}]
    for order in SAMPLED_ORDERS:
        generator = np.random.default_rng([seed, order])
        drawn = draw_names(generator, ngrams, vocab.newline, num_drawn, MAX_LENGTH, order)
        rows.append({"model": "ngram", "order": order, **figures(*drawn)})
    head = {"num": num, "seed": seed, "max_length": MAX_LENGTH, "num_held_out": num_held_out}
    if held_out:
        real_lines = [*(f"{name}\n" for name in train), *held_out_lines]
        floor = halves(np.random.default_rng(seed), real_lines, num_held_out)
        rows.append({"model": "held-out", **describe_names(held_out, train), **divergences(*floor)})
        head["num_floor"] = len(floor[0])
    return {**head, "models": rows}


def table(rows: Sequence[Mapping[str, Any]], is_text: bool) -> str:
    """The figures as lines of a table."""

    def name(row: Mapping[str, Any]) -> str:
        if row["model"] == "ngram":
            return f"{row['order']}-gram model (Kneser-Ney)"
        if "context" not in row:
            return "network"
        if row["context"] == "carry":
            return "network, state carried"
        return f"network, windows of {row['context']}"

    def with_error(value: float, error: float, digits: int) -> str:
        # A single piece has none.
        return f" {value:7.{digits}f}" + (f" ± {error:.{digits}f}" if error == error else "")

    head = f"{'':26}nats a character   bits  perplexity"
    lines = [head if is_text else f"{head}    nats a name"]
    for row in rows:
        cost = with_error(row["nats_per_character"], row["standard_error"], 4)
        line = f"{name(row):25}{cost:17} {row['bits_per_character']:8.4f} {row['perplexity']:10.3f}"
        if not is_text:
            line += with_error(row["nats_per_piece"], row["standard_error_per_piece"], 3)
        lines.append(line)
    first = rows[0]
    num = first["num_pieces"]
    pieces = "" if is_text else f"{num:,.0f} name{'' if num == 1 else 's'}, "
    lines.append(
        f"\n{pieces}{first['num_characters']:,.0f} characters"
        f"{'' if is_text else ', newlines included'}; ± one standard error over "
        + ("blocks or windows" if is_text else "names")
    )
    return "\n".join(lines)


def table_of_samples(samples: Mapping[str, Any]) -> str:
    """The figures of samples as lines of a table, a column for each model."""
    rows, num, num_held_out = samples["models"], samples["num"], samples["num_held_out"]
    names = [f"{row['order']}-gram" if "order" in row else row["model"] for row in rows]
    lines = [
        f"{num:,} sample{'' if num == 1 else 's'} of each model, seed {samples['seed']}\n",
        f"{'':36}" + "".join(f"{name:>10}" for name in names),
    ]
    for figure, label in FIGURES.items():
        if figure in rows[0]:
            values = (f"{row[figure]:.4f}" if figure in row else "" for row in rows)
            lines.append(f"{label:36}{''.join(f'{value:>10}' for value in values)}".rstrip())
    if num_held_out:
        lines.append(
            f"\ndivergence of {num_held_out:,} samples from {num_held_out:,} held-out names; under "
            f"held-out, the floor: of two\nrandom sets of {samples['num_floor']:,} real names. The "
            "more names, the fewer are distinct; edits are of the distinct"
        )
    else:
        lines.append(
            "\nno held-out names, as this is what it learned from: no hits and no divergences. The "
            "more names,\nthe fewer are distinct; edits are of the distinct"
        )
    return "\n".join(lines)
