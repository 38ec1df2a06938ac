"""How JAX uses the machine: for programs, before JAX first computes."""

import os
import warnings
from importlib.metadata import version
from pathlib import Path

NEWEST_JAXLIB = 0, 12
"""The newest that was tried: XLA ends a program that sets a flag which it no longer knows."""


CACHE_SIZE = 2**28
"""Bytes of compiled programs that are kept, those used last."""


def set_cpu_flags() -> None:
    """Set what makes XLA faster on the CPU at work as small as ours, unless the user has chosen.

    Loops that carry less than so many bytes are compiled into one kernel each: the loops over the
    characters of a name, 1.5 times as fast; not the loop over training steps, whose larger matrix
    products are faster outside a single kernel. And the operations of a training step, most under
    a microsecond, run one after the other: handing some to a second core takes twice the processor
    time and gains nothing; where that core is busy, it costs a third of the speed.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    options = ["--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=65536"]
    if tuple(map(int, version("jaxlib").split(".")[:2])) <= NEWEST_JAXLIB:
        options.append("--xla_cpu_enable_concurrency_optimized_scheduler=false")
    chosen = [option for option in options if option.split("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *chosen]).strip()


def keep_compiled_programs() -> None:
    """Have JAX keep what it compiles in the user's cache folder, for the next start.

    Where the user has chosen, by `JAX_COMPILATION_CACHE_DIR` or by
    `JAX_ENABLE_COMPILATION_CACHE=false`, or the folder cannot be written to, this does nothing.
    From the shell prompt to a first name of a trained network it takes half the time.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "dinojax"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return
    if os.access(folder, os.W_OK | os.X_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_compilation_cache_max_size", CACHE_SIZE)
        # A damaged file or a full disk cost the time to compile, nothing else.
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def num_cores() -> int:
    """Processor cores that this program may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def best_share(batch_size: int, available: int) -> int:
    """The number of devices to spread the rows of a batch over: the most that share them evenly.

    One where a device would get fewer than four rows, which is not worth a thread.
    """
    counts = range(1, max(1, min(available, batch_size // 4)) + 1)
    return max(count for count in counts if batch_size % count == 0)


def start_jax(num_cpu_devices: int = 1) -> None:
    """Set the flags, import JAX and let it find its devices; a CPU counts as `num_cpu_devices`.

    Raises:
        ValueError: it finds none for the platform that the user has chosen.
    """
    set_cpu_flags()
    if num_cpu_devices > 1 and "xla_cpu_multi_thread_eigen" not in os.environ["XLA_FLAGS"]:
        # Each device has its core: products that ask for a second one would wait for it.
        os.environ["XLA_FLAGS"] += " --xla_cpu_multi_thread_eigen=false"
    import jax

    keep_compiled_programs()
    try:
        jax.config.update("jax_num_cpu_devices", num_cpu_devices)
        # A call computes before it returns. Handing it to another thread and waiting for that takes
        # longer than writing a name: without, names asked for one by one come twice as fast.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        jax.devices()
    # What a missing driver or plugin raises is up to the plugin.
    except Exception as error:
        chosen = os.environ.get("JAX_PLATFORMS", "")
        raise ValueError(
            f"JAX cannot start on the platform {chosen!r}: {error or type(error).__name__}; unset "
            "JAX_PLATFORMS, or set it to cpu"
        ) from None


def check_devices(num: int) -> None:
    """Raise a ValueError if there are fewer than `num` devices; JAX has started."""
    import jax

    if num > jax.device_count():
        raise ValueError(
            f"--devices: expected up to {jax.device_count()}, as many as there are, got {num}"
        )
