"""The blocks of a validation part, in words and as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from dinojax.data.blocks import Block
from dinojax.messages import count

KINDS = "seen", "unseen"


def describe_blocks(blocks: Sequence[Block]) -> str:
    """In how many blocks a text is validated, and how many are unseen; empty for one stretch."""
    if not blocks:
        return ""
    which = "all of works that training reads, too: no document or play is short enough to hold out"
    if num := sum(block.is_unseen for block in blocks):
        which = f"{num:,} of works that training does not read"
    return f" in {len(blocks):,} blocks ({which})"


def describe_apart(figures: Mapping[str, Any]) -> str:
    """The losses over seen and unseen blocks, if there are any, to follow that over all."""
    numbers = {x: count(figures[x]["num_pieces"], f"{x} block") for x in KINDS if x in figures}
    return "".join(f"; {describe_mean(figures[x])} over {num}" for x, num in numbers.items())


def describe_mean(figures: Mapping[str, Any]) -> str:
    """A loss for each character, with its standard error if there are several pieces."""
    spread = f" ± {figures['standard_error']:.4f}" if figures["num_pieces"] > 1 else ""
    return f"{figures['nats_per_character']:.4f}{spread}"


def table_of_blocks(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The losses of models, by their names, over seen and unseen blocks, as lines of a table."""
    first = next(iter(rows.values()))
    kinds = [kind for kind in KINDS if kind in first]
    numbers = [count(first[kind]["num_pieces"], f"{kind} block") for kind in kinds]
    lines = [f"{'nats a character':26}" + "".join(f"{each:20}" for each in numbers).rstrip()]
    for name, figures in rows.items():
        costs = "".join(f"{describe_mean(figures[kind]):20}" for kind in kinds)
        lines.append(f"{name:26}{costs}".rstrip())
    note = "the model has learned from the works of seen blocks"
    note += ", and not from those of unseen ones" if "unseen" in kinds else ""
    return "\n".join([*lines, f"\n{note};\n± one standard error over blocks"])
