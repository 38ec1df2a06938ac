"""Muon: updates of hidden matrices, gate by gate, that are orthogonal; all else by AdamW."""

import inspect
from typing import Any

import jax
import optax
from optax import contrib

CONSISTENT_RMS = 0.2
"""Root of the mean square of an update, over the learning rate; about that of AdamW."""


def muon(
    learning_rate: optax.ScalarOrSchedule, weight_decay: float, hidden_size: int
) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024) as Optax has it, for the parameters of `model.char_model`.

    Hidden matrices are those of the layers that are [input, gates * hidden], except the input
    kernel of the first, which reads characters, and the matrices of Mogrifier rounds. The matrix of
    each gate, [input, hidden], is updated by its own momentum with singular values of about 1,
    times `CONSISTENT_RMS` times the root of its longer side (Liu et al., 2025), so that the
    learning rate acts as for AdamW. All other parameters are updated by AdamW, with Nesterov's
    momentum. Weight decay is that of AdamW for both.

    Raises:
        ValueError: Optax is too old.
    """
    if "consistent_rms" not in inspect.signature(contrib.muon).parameters:
        raise ValueError(
            f"optimizer: muon needs a newer Optax than {optax.__version__}; upgrade it, or choose "
            "another optimizer"
        )

    def split(tree: Any) -> Any:
        """Hidden matrices as [input, gates, hidden]."""

        def split_leaf(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if name == "layers/0/input_kernel" or not name.startswith("layers/"):
                return leaf
            if "/rounds/" in name or leaf.ndim != 2 or leaf.shape[1] % hidden_size:
                return leaf
            return leaf.reshape(len(leaf), -1, hidden_size)

        return jax.tree.map_with_path(split_leaf, tree)

    def dimension_numbers(tree: Any) -> Any:
        of_gates = contrib.MuonDimensionNumbers(reduction_axis=0, output_axis=2)
        return jax.tree.map(lambda leaf: of_gates if leaf.ndim == 3 else None, tree)

    inner = contrib.muon(
        learning_rate,
        weight_decay=weight_decay,
        adam_weight_decay=weight_decay,
        muon_weight_dimension_numbers=dimension_numbers,
        consistent_rms=CONSISTENT_RMS,
    )

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(split(gradients), state, split(params))
        return jax.tree.map(lambda x, like: x.reshape(like.shape), updates, gradients), state

    return optax.GradientTransformation(lambda params: inner.init(split(params)), update)
