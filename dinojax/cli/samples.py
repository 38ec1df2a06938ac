"""How new and how real drawn names look, as a table."""

from collections.abc import Mapping
from typing import Any

from dinojax.messages import count

FIGURES = {
    "validity": "ended within {max_length} characters",
    "uniqueness": "distinct, of these",
    "novelty": "novel, of the distinct",
    "hits": "held-out names among them",
    "mean_length": "length, mean",
    "length_deviation": "length, standard deviation",
    "edit_distance": "edits to the nearest training name",
    "edit_distance_of_novel": "the same, of the novel alone",
    "edit_distance_error": "standard error of that",
    **{f"divergence_{n}": f"{n}-gram divergence, bits" for n in range(1, 5)},
}
"""Labels of the figures of samples, in the order of the rows of their table."""


def table_of_samples(samples: Mapping[str, Any]) -> str:
    """The figures of samples as lines of a table, with a column for each model."""
    rows, num, num_floor = samples["models"], samples["num_held_out"], samples.get("num_floor")
    names = [f"{row['order']}-gram" if "order" in row else row["model"] for row in rows]
    lines = [f"{count(samples['num'], 'sample')} of each model, seed {samples['seed']}\n"]
    lines.append(f"{'':36}" + "".join(f"{name:>10}" for name in names))
    for figure, label in FIGURES.items():
        if figure in rows[0]:
            cells = "".join(f"{row[figure]:10.4f}" if figure in row else " " * 10 for row in rows)
            lines.append(f"{label.format(**samples):36}{cells}".rstrip())
    if num:
        note = f"divergence of {num:,} samples from {num:,} held-out names; under held-out, "
        note += f"the floor: of two\nrandom sets of {num_floor:,} real names. The more names, "
    else:
        note = "no held-out names, as this is what it learned from: no hits and no divergences. "
        note += "The more names,\n"
    note += (
        "the fewer are distinct; edits are of the distinct,\nand of no more than 1,000 novel ones"
    )
    return "\n".join([*lines, f"\n{note}"])
