"""Settings of JAX for programs, made before JAX first computes."""

import os
import warnings
from pathlib import Path

NEWEST_JAXLIB = 0, 12
"""Newest version tested. XLA aborts the program if a flag is set that it no longer knows."""


def set_cpu_flags() -> None:
    """Set XLA's flags for small work on the CPU, except those that the user has set.

    Loops that carry fewer bytes than the threshold are compiled into one kernel each: the loop over
    the characters of a name, but not that over training steps, whose larger matrix products are
    faster outside a single kernel. The other flag makes operations run one after the other, as most
    are too short to hand to a second core.
    """
    # Imported here, as reading flags and data does not need it.
    from importlib.metadata import version

    flags = os.environ.get("XLA_FLAGS", "")
    options = ["--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=65536"]
    if tuple(map(int, version("jaxlib").split(".")[:2])) <= NEWEST_JAXLIB:
        options.append("--xla_cpu_enable_concurrency_optimized_scheduler=false")
    chosen = [option for option in options if option.split("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *chosen]).strip()


def keep_compiled_programs() -> None:
    """Have JAX keep compiled programs in the user's cache folder, for the next start.

    This does nothing if the folder is not writable, or if the user has set
    `JAX_COMPILATION_CACHE_DIR`; `JAX_ENABLE_COMPILATION_CACHE=false` turns the cache off.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dinojax"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return
    if os.access(folder, os.W_OK | os.X_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        # In bytes; the least recently used programs are removed.
        jax.config.update("jax_compilation_cache_max_size", 2**28)
        # After a damaged file or on a full disk, JAX compiles again.
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def num_cores() -> int:
    """Number of processor cores available to this program."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def best_share(batch_size: int, available: int) -> int:
    """Largest number of devices, up to `available`, that can share the rows of a batch evenly.

    Each device gets at least four rows, as fewer are not worth a thread; otherwise the number is 1.
    """
    counts = range(1, max(1, min(available, batch_size // 4)) + 1)
    return max(count for count in counts if batch_size % count == 0)


def start_jax(num_cpu_devices: int = 1) -> None:
    """Set the flags, import JAX and have it find its devices; the CPU counts as `num_cpu_devices`.

    Raises:
        ValueError: JAX finds no device of the platform that the user has chosen.
    """
    set_cpu_flags()
    if num_cpu_devices > 1 and "xla_cpu_multi_thread_eigen" not in os.environ["XLA_FLAGS"]:
        # Each device has one core: matrix products that need a second one would wait for it.
        os.environ["XLA_FLAGS"] += " --xla_cpu_multi_thread_eigen=false"
    import jax

    keep_compiled_programs()
    try:
        jax.config.update("jax_num_cpu_devices", num_cpu_devices)
        # Calls as short as ours take less time than handing them to another thread.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        jax.devices()
    # Plugins raise exceptions of any type if a driver is missing.
    except Exception as error:
        chosen = os.environ.get("JAX_PLATFORMS", "")
        raise ValueError(
            f"JAX cannot start on the platform {chosen!r}: {error or type(error).__name__}; unset "
            "JAX_PLATFORMS, or set it to cpu"
        ) from None
