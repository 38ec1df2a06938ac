"""Memory: what reading a file or training takes at least, and what the machine has."""

import math
import os
from contextlib import suppress
from pathlib import Path

import jax

from dinojax.training.step import TrainState

LIMITS = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"
"""Files in which Linux says how much memory a container may use, in bytes."""


def machine_memory() -> float:
    """The memory that this process may use, in bytes; infinity where the system does not say."""
    sizes = [math.inf]
    # Windows has no `sysconf`.
    with suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in LIMITS:
        # "max" stands for no limit.
        with suppress(ValueError, OSError):
            sizes.append(int(Path(file).read_bytes()))
    return min(sizes)


def training_bytes(state: TrainState, num_characters: int, num_devices: int = 1) -> int:
    """A lower bound of the memory that training takes on each device, or on all of a CPU.

    `state` holds arrays or their shapes, and the rows of a step have `num_characters` in all. The
    bound counts the state before and after a step, the gradients, and for each character every
    value that a bias is added to, which the backward pass needs, and its gradient.
    """
    params = jax.tree.leaves(state.params)
    needed = 2 * _size((state.params, state.optimizer_state, state.average)) + _size(params)
    rows = 2 * num_characters * _size([leaf for leaf in params if leaf.ndim == 1])
    # All devices have the parameters, and those of a CPU share its memory.
    is_shared = jax.local_devices()[0].platform == "cpu"
    return num_devices * needed + rows if is_shared else needed + rows // num_devices


def available_bytes() -> float:
    """The memory of each device, or that of the machine for a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit") or machine_memory()


def check_training(state: TrainState, num_characters: int, num_devices: int = 1) -> None:
    """Check `training_bytes` before JAX allocates any.

    Raises:
        ValueError: it takes more than there is; says what it would take and what to change.
    """
    needed, available = training_bytes(state, num_characters, num_devices), available_bytes()
    if needed > available:
        num = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        raise ValueError(
            f"training takes at least {needed / 1e9:,.1f} GB of memory, for {num:,} parameters and "
            f"{num_characters:,} characters a step; there are {available / 1e9:,.1f} GB; choose "
            "fewer hidden units, layers or devices, a smaller batch size or shorter rows"
        )


def _size(tree: object) -> int:
    """Bytes of the arrays of a pytree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
