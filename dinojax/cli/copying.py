"""How much a text that a model wrote copies and repeats, as a table."""

from collections.abc import Mapping
from typing import Any

from dinojax.evaluation.copying import LEAST_COPIED, LEAST_LOOPED, LONGEST_PIECE
from dinojax.messages import count, shortened

MOST_SHOWN = 50
"""Longest span that the table shows whole, in characters; JSON has all."""
FIGURES = {
    "longest_copied": ("longest copied span, characters", ".0f"),
    "share_copied": (f"share in copied spans of {LEAST_COPIED} or more", ".4f"),
    "distinct_1": ("distinct words, share", ".4f"),
    "distinct_2": ("distinct pairs of words, share", ".4f"),
    "distinct_3": ("distinct triples of words, share", ".4f"),
    "share_looped": ("share in loops", ".4f"),
}
"""Labels and formats of the figures of a text, in the order of the rows of their table."""


def table_of_text(samples: Mapping[str, Any]) -> str:
    """The figures of a text as lines of a table, with a column for each model."""
    rows, num, num_held_out = samples["models"], samples["num"], samples["num_held_out"]
    names = [f"{row['order']}-gram" if "order" in row else row["model"] for row in rows]
    title = f"a text of {count(num, 'character')}, drawn at temperature 1, seed {samples['seed']}"
    lines = [f"{title}\n", f"{'':36}" + "".join(f"{name:>10}" for name in names)]
    for figure, (label, digits) in FIGURES.items():
        cells = (f"{row[figure]:{digits}}".replace("nan", "-") for row in rows)
        lines.append(f"{label:36}" + "".join(f"{cell:>10}" for cell in cells))
    lines.append("\nlongest copied spans, and where they begin in the training text (characters):")
    for name, row in zip(names, rows, strict=True):
        longest = row["longest_copy"]
        place = f"{longest['training_place']:,}" if longest["text"] else "nowhere"
        lines.append(f"{name:9} {place:>11}  {shortened(repr(longest['text']), MOST_SHOWN)}")
    if not num_held_out:
        note = "no held-out text, as this is what it learned from"
    elif num_held_out < num:
        note = f"the held-out text has only {count(num_held_out, 'character')}: compare its shares "
        note += "in spans and\nloops alone, as longer texts copy longer spans and repeat more words"
    else:
        note = f"held-out: the first {count(num, 'character')} of that part"
    note += f";\nloops: spans of at least {LEAST_LOOPED} characters in which a piece of up to "
    note += f"{LONGEST_PIECE:,}\nstands three times or more in a row"
    return "\n".join([*lines, f"\n{note}"])
