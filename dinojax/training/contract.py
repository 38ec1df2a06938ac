"""Whether a cell, a loss or an optimizer of the user's own does what training expects of it.

Nothing is computed: shapes and types are, part by part, so that a message names the part.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dinojax.config import TrainConfig
from dinojax.data.vocab import Vocab
from dinojax.messages import about, shortened
from dinojax.models import code
from dinojax.models.cells import Cell
from dinojax.models.layers import own_cell
from dinojax.models.model import CharModel
from dinojax.own import brief, own_code

BATCH, TIME = (2, 3), 4
"""Sizes of the arrays that a cell is tried with: two batch dimensions, as any are allowed."""


def check_own(
    config: TrainConfig, vocab: Vocab, model: CharModel, optimizer: optax.GradientTransformation
) -> None:
    """Check the code of the user's own in a configuration, that of `model` and `optimizer`.

    Raises:
        ValueError: it does not do what is expected of it; says which part.
    """
    if own_code(config.cell):
        sizes = vocab.size, *[config.hidden_size] * config.num_layers
        for layer, each in enumerate(pairwise(sizes)):
            check_cell(config.cell, *each, reads_ids=layer == 0)
    if own_code(config.loss):
        check_loss(config.loss, code.load(config.loss), vocab)
    if own_code(config.optimizer):
        params = jax.eval_shape(model.init, jax.eval_shape(jax.random.key, 0))
        check_optimizer(params, config.optimizer, optimizer)


def check_cell(value: str, input_size: int, hidden_size: int, *, reads_ids: bool) -> None:
    """Check the cell that a setting names; see `cells.Cell` and `linear_cells.LinearCell`.

    `reads_ids` says whether it is that of the first layer, whose inputs are ids.

    Raises:
        ValueError: a part raises an exception, or returns other shapes or types than it should.
    """
    with about(f"cell: {brief(value)}"):
        cell = own_cell(value, input_size, hidden_size)
        if cell.hidden_size != hidden_size:
            raise ValueError(f"hidden_size: expected {hidden_size}, got {cell.hidden_size}")
        call = partial(_call, value)
        params = call("init", cell.init, jax.eval_shape(jax.random.key, 0))
        state = call("initial_state", lambda: cell.initial_state(BATCH))
        _expect("initial_state", state, lambda x: x.shape[:2] == BATCH, f"arrays {_sized(BATCH)}")
        vectors = jax.ShapeDtypeStruct((TIME, *BATCH, input_size), jnp.float32)
        ids = jax.ShapeDtypeStruct((TIME, *BATCH), jnp.uint8)
        projected = call("project", cell.project, params, ids if reads_ids else vectors)
        lead = (TIME, *BATCH)
        _expect("project", projected, lambda x: x.shape[:3] == lead, f"arrays {_sized(lead)}")
        # All parts but `project` work on one time step.
        now = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), projected)
        if isinstance(cell, Cell):
            sums = call("preactivate", cell.preactivate, params, state, now)
            new_state = call("update", cell.update, state, sums)
            _expect_like("update", new_state, state, "the state")
            outputs = call("output", cell.output, state)
        else:
            decays, terms = _pair(
                "coefficients", call("coefficients", cell.coefficients, params, now)
            )
            _expect_like("coefficients, decays", decays, state, "the state")
            _expect_like("coefficients, terms", terms, state, "the state")
            outputs = call("output", cell.output, params, state, now)
        like = jax.ShapeDtypeStruct((*BATCH, hidden_size), jnp.float32)
        _expect_like("output", outputs, like, "the outputs")


def check_loss(value: str, loss: Callable[..., Any], vocab: Vocab) -> None:
    """Check the loss that a setting names; see `step.Loss`.

    Raises:
        ValueError: it raises an exception, or returns anything but a total and a number.
    """
    with about(f"loss: {brief(value)}"):
        logits = jax.ShapeDtypeStruct((TIME, 2, vocab.size), jnp.float32)
        targets = jax.ShapeDtypeStruct((TIME, 2), vocab.dtype)
        weights = jax.ShapeDtypeStruct((TIME, 2), jnp.float32)
        answer = _call(value, "", loss, logits, targets, weights)
        total, number = _pair("", answer)
        if _shown(total) != "float32[]" or getattr(number, "shape", None) != ():
            raise ValueError(f"expected a total, float32[], and a number, [], got {_shown(answer)}")


def check_optimizer(params: Any, value: str, optimizer: optax.GradientTransformation) -> None:
    """Check the optimizer that a setting names, with parameters of these shapes and types.

    Raises:
        ValueError: its `init` or `update` raises an exception, or `update` returns anything but
            updates like the parameters and a state like that before.
    """
    with about(f"optimizer: {brief(value)}"):
        state = _call(value, "init", optimizer.init, params)
        answer = _call(value, "update", optimizer.update, params, state, params)
        updates, new_state = _pair("update", answer)
        _expect_like("update, updates", updates, params, "the parameters")
        _expect_like("update, new state", new_state, state, "the state before")


def _call(value: str, part: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The shapes and types of what a part returns."""
    with about(part) if part else nullcontext():
        return code.call(value, jax.eval_shape, function, *arguments)


def _pair(part: str, answer: Any) -> tuple[Any, Any]:
    if not (isinstance(answer, tuple | list) and len(answer) == 2):
        named = f"{part}: " if part else ""
        raise ValueError(f"{named}expected a pair, got {_shown(answer)}")
    return answer[0], answer[1]


def _expect(part: str, tree: Any, is_good: Callable[[Any], bool], expected: str) -> None:
    leaves = jax.tree.leaves(tree)
    if not (leaves and all(map(is_good, leaves))):
        raise ValueError(f"{part}: expected {expected}, got {_shown(tree)}")


def _expect_like(part: str, tree: Any, like: Any, what: str) -> None:
    if _shown(tree) != _shown(like):
        raise ValueError(f"{part}: expected {_shown(like)}, like {what}, got {_shown(tree)}")


def _sized(lead: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, lead))}, ..]"


def _shown(tree: Any) -> str:
    """A pytree with the type and the shape of each array, as in "(float32[2, 5], int32[])"."""
    shapes = jax.tree.map(lambda x: _Shown(f"{x.dtype}{list(x.shape)}"), tree)
    return shortened(repr(shapes), 200)


class _Shown(str):
    """A text that stands in a pytree without quotation marks."""

    def __repr__(self) -> str:
        return str(self)
