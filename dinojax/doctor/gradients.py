"""Whether cells and their gradients are right on this device: compared with float64 on the CPU."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dinojax.data.batches import Batch, pad_names
from dinojax.data.vocab import Vocab
from dinojax.doctor.machine import Finding
from dinojax.models.cells import Params
from dinojax.models.model import CharModel
from dinojax.training.loss import mean_cross_entropy

LOSS_BOUND, GRADIENT_BOUND = 1e-5, 1e-3
"""The largest error, relative to float64, of a loss and of a gradient in float32. On a CPU both are
below 1e-6 for most cells. The bound of gradients is wider, as they are judged by differences over a
small step, which magnify the rounding of float64."""
NATIVE_BOUND = 1e-2
"""The same for products in the precision that training uses on this device, such as TF32."""
HIDDEN_SIZE = 32
"""Units of a layer in these checks, the same in most, so that what draws them is compiled once."""
STEP = 1e-5
"""Step of the differences that replace a derivative in float64."""
QUICK_TO_COMPILE = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
"""Options of XLA for a program that runs once."""


class Errors(NamedTuple):
    """How far a loss and its gradient are from those in float64, relative to them."""

    loss: float
    gradient: float


def check_cell(name: str, model: CharModel, vocab: Vocab, names: Sequence[str]) -> Finding:
    """Whether a model with the cell `name` and its gradient are right on the default device.

    They are compared with float64 on the CPU; see `gradient_errors`. Where the device has a faster,
    less precise product of float32, which training uses unless JAX is set otherwise, that is
    measured too.
    """
    params = model.init(jax.random.key(0))
    with jax.default_matmul_precision("highest"):
        exact = gradient_errors(params, model, vocab, names)
    figures = {f"{field}_error": value for field, value in exact._asdict().items()}
    is_good = exact.loss <= LOSS_BOUND and exact.gradient <= GRADIENT_BOUND
    said = f"loss within {exact.loss:.0e} and gradient within {exact.gradient:.0e} of float64"
    if jax.default_backend() != "cpu":
        native = gradient_errors(params, model, vocab, names)
        figures |= {f"native_{field}_error": value for field, value in native._asdict().items()}
        is_good &= max(native) <= NATIVE_BOUND
        said += f", with products as in training {native.loss:.0e} and {native.gradient:.0e}"
    if is_good:
        return Finding(f"cell {name}", "ok", said, figures)
    said += f"; expected {LOSS_BOUND:.0e} and {GRADIENT_BOUND:.0e}"
    remedy = "do not trust what this device learns; try another version of jaxlib"
    return Finding(f"cell {name}", "fault", f"{said}; {remedy}", figures)


def gradient_errors(params: Params, model: CharModel, vocab: Vocab, names: Sequence[str]) -> Errors:
    """Relative errors of the mean loss of `names`, and of its gradient, on the default device.

    The device reads the names end to end with resets, as training does. Float64 on the CPU reads
    each from a fresh state. For each array of the parameters, the gradient g times a random
    direction v is compared with (loss(params + h v) - loss(params - h v)) / 2h, in which JAX
    differentiates nothing. The error is relative to the norm of g, the standard deviation of g v.
    """
    rows = [names[i::2] for i in range(2)]
    packed = _end_to_end(rows, vocab)
    columns = pad_names([name for row in rows for name in row], vocab)

    def loss(params: Params, batch: Batch, length: jax.Array | None, resets: bool) -> jax.Array:
        # The model has float32; its parameters may be in float64.
        dtype = params["readout"]["bias"].dtype
        first = model.initial_state(batch.inputs.shape[1:])
        first = jax.tree.map(lambda x: x.astype(dtype), first)
        _, logits = model.unroll(params, first, batch.inputs, length, resets)
        total, num = mean_cross_entropy(logits, *batch[1:])
        return total / num

    value_and_gradient = jax.jit(jax.value_and_grad(partial(loss, resets=True)))
    value, gradient = value_and_gradient(params, packed, jnp.asarray(len(packed.inputs)))
    generator = np.random.default_rng(0)
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    slopes, norms, moved = [], [], []
    for i, slope in enumerate(jax.tree.leaves(gradient)):
        direction = generator.normal(size=leaves[i].shape)
        slopes.append(np.vdot(np.asarray(slope, np.float64), direction))
        norms.append(np.linalg.norm(np.asarray(slope, np.float64)))
        for sign in (1, -1):
            moved.append([*leaves[:i], leaves[i] + sign * STEP * direction, *leaves[i + 1 :]])
    with _float64_on_the_cpu():
        of_names = jax.jit(
            partial(loss, batch=columns, length=None, resets=False),
            compiler_options=QUICK_TO_COMPILE,
        )
        tree = jax.tree.structure(params)
        exact, *values = [
            float(of_names(jax.tree.unflatten(tree, each))) for each in (leaves, *moved)
        ]
    differences = np.subtract(values[::2], values[1::2]) / (2 * STEP)
    errors = np.abs(differences - slopes) / np.maximum(norms, 1e-30)
    return Errors(abs(float(value) - exact) / exact, float(errors.max()))


def _end_to_end(rows: Sequence[Sequence[str]], vocab: Vocab) -> Batch:
    """The names of each row one after the other, [time, len(rows)]."""
    columns = [[pad_names([name], vocab) for name in row] for row in rows]
    ends = [Batch(*map(np.concatenate, zip(*column, strict=True))) for column in columns]
    time = max(len(row.inputs) for row in ends)

    def pad(values: Any, fill: int) -> Any:
        return np.pad(values, [(0, time - len(values)), (0, 0)], constant_values=fill)

    fills = vocab.no_character, vocab.newline, 0
    padded = [map(pad, row, fills) for row in ends]
    return Batch(*(np.concatenate(field, axis=1) for field in zip(*padded, strict=True)))


@contextmanager
def _float64_on_the_cpu() -> Iterator[None]:
    try:
        device = jax.devices("cpu")[0]
    except RuntimeError:
        # JAX_PLATFORMS excludes the CPU. GPUs and TPUs have float64 too, if only in software.
        device = jax.devices()[0]
    with jax.enable_x64(True), jax.default_device(device):
        yield
