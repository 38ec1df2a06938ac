"""Settings of JAX for programs, made before JAX first computes."""

import os
import re
import signal
import warnings
from pathlib import Path

from dinojax.messages import quoted

NEWEST_JAXLIB = 0, 12
"""Newest version tested. XLA ends the program if a flag is set that it no longer knows."""
LOCK_SECONDS = 1.0
"""How long to wait for another process that has locked the cache of compiled programs."""


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


def cache_folder() -> Path:
    """The folder of dinojax in the user's cache; see the XDG Base Directory Specification.

    Raises:
        RuntimeError: the user has no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dinojax"


def keep_compiled_programs() -> None:
    """Have JAX keep compiled programs in the user's cache folder, for the next start.

    This does nothing if the folder is not writable, not UTF-8 or stays locked, or if the user has
    set `JAX_COMPILATION_CACHE_DIR`; `JAX_ENABLE_COMPILATION_CACHE=false` turns the cache off.
    """
    import jax
    from filelock import FileLock, Timeout

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = cache_folder()
        # JAX cannot use a path that is not UTF-8.
        str(folder).encode()
        folder.mkdir(parents=True, exist_ok=True)
        # JAX waits ten seconds for this lock, at every program.
        FileLock(folder / ".lockfile").acquire(LOCK_SECONDS).lock.release()
    except (OSError, RuntimeError, Timeout, UnicodeEncodeError):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # In bytes; the least recently used programs are removed.
    jax.config.update("jax_compilation_cache_max_size", 2**28)
    # After a damaged file or on a full disk, JAX compiles again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def num_cores() -> int:
    """Number of processor cores available to this program."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def best_share(batch_size: int, available: int, num_processes: int = 1) -> int:
    """Largest number of devices, up to `available`, that can share the rows of a batch evenly.

    Of several processes, each has as many. Each device gets at least four rows, as fewer are not
    worth a thread; otherwise the number is 1.

    Raises:
        ValueError: the processes cannot share the rows evenly.
    """
    num_rows, rest = divmod(batch_size, num_processes)
    if rest:
        expected = f"expected a multiple of {num_processes:,}, the number of processes"
        raise ValueError(f"batch size: {expected}, got {batch_size:,}")
    counts = range(1, max(1, min(available, num_rows // 4)) + 1)
    return max(count for count in counts if num_rows % count == 0)


def start_jax(num_cpu_devices: int = 1) -> None:
    """Set the flags, import JAX and have it find its devices.

    The CPU counts as `num_cpu_devices`, or as many as it has cores: XLA may crash with more.

    Raises:
        ValueError: JAX cannot start with the environment variables that the user has set.
    """
    has_flags = "XLA_FLAGS" in os.environ
    set_cpu_flags()
    num_cpu_devices = min(num_cpu_devices, num_cores())
    if num_cpu_devices > 1 and "xla_cpu_multi_thread_eigen" not in os.environ["XLA_FLAGS"]:
        # Each device has one core: matrix products that need a second one would wait for it.
        os.environ["XLA_FLAGS"] += " --xla_cpu_multi_thread_eigen=false"
    chosen = [f"{name}={quoted(os.environ[name])}" for name in os.environ if name[:4] == "JAX_"]
    try:
        import jax

        if has_flags:
            check_xla_flags()
        keep_compiled_programs()
        jax.config.update("jax_num_cpu_devices", num_cpu_devices)
        # Calls as short as ours take less time than handing them to another thread.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        jax.devices()
        if chosen:
            # Some settings, such as JAX_TRANSFER_GUARD, forbid what all programs do.
            jax.device_get(jax.jit(abs)(1))
    # Plugins raise exceptions of any type if a driver is missing.
    except Exception as error:
        remedy = f"; change or unset {', '.join(chosen)}" if chosen else ""
        said = str(error) or type(error).__name__
        raise ValueError(f"JAX cannot start: {said}{remedy}") from None


def check_xla_flags() -> None:
    """Have a process of its own read `XLA_FLAGS`: XLA ends the program if it cannot.

    Raises:
        ValueError: it cannot; says why.
    """
    if not hasattr(os, "fork"):
        return
    from jaxlib import xla_client

    output, own = os.pipe()
    # JAX and Python warn of threads, of which the child needs none.
    with warnings.catch_warnings(action="ignore"):
        child = os.fork()
    if not child:
        try:
            os.dup2(own, 2)
            _ = xla_client.CompileOptions().executable_build_options.debug_options
        finally:
            # It must do nothing else, as it is a copy of this program.
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(own)
    with open(output, encoding="utf-8", errors="replace") as file:
        said = file.read()
    if os.waitpid(child, 0)[1] != signal.SIGKILL:
        found = re.search(r"\] (.*)", said)
        raise ValueError(f"XLA_FLAGS: {found[1] if found else 'XLA cannot read them'}")
