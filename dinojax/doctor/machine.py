"""What this machine has: packages, processors, settings of JAX, a cache of compiled programs.

JAX is imported only by the functions that need it, as it may be what is missing.
"""

import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import dinojax
from dinojax.files import check_writable
from dinojax.messages import count, shortened
from dinojax.startup import cache_folder, num_cores

NEEDED = "jax", "jaxlib", "numpy", "optax", "filelock", "rapidfuzz", "regex", "scipy", "tqdm"
"""The packages without which some part of dinojax does not run."""
EXTRAS = {
    "completion": ("shtab",),
    "export": ("flatbuffers", "safetensors"),
    "keras": ("h5py",),
    "plot": ("matplotlib",),
    "search": ("optuna",),
    "tensorboard": ("tensorboardX",),
    "zst": ("zstandard",),
}
"""The modules of each extra of dinojax."""
PLUGINS = "jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin", "libtpu"
"""Packages by which JAX computes elsewhere than on the CPU."""
SETTINGS = "JAX_", "XLA_", "CUDA_"
"""Prefixes of the environment variables that decide how JAX computes, and where."""
DRIVER = Path("/proc/driver/nvidia/version")
"""Exists where Linux has loaded the driver of an NVIDIA GPU."""


class Finding(NamedTuple):
    """What one check found."""

    name: str
    state: Literal["ok", "note", "fault"]
    """A note is of something that may be meant to be so; a fault should be mended."""
    said: str
    """One line: what was found and, unless that is good, what to do."""
    figures: Mapping[str, Any] = {}
    """The same for programs."""
    seconds: float = 0.0
    """How long the check took."""


def without_home(text: str) -> str:
    """`text` with ~ in place of the user's home folder, which tells who the user is."""
    home = os.path.expanduser("~")
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if len(home) > 1 else text


def find_versions() -> Finding:
    """The versions of dinojax, Python, the packages it needs and the plug-ins of JAX."""
    found = {"dinojax": dinojax.__version__, "Python": platform.python_version()}
    found |= {name: installed for name in (*NEEDED, *PLUGINS) if (installed := _version(name))}
    return Finding("versions", "ok", ", ".join(map(" ".join, found.items())), found)


def find_machine(memory: float) -> Finding:
    """The system, the processor, its cores and the `memory` in bytes that this process may use."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", file.read_text() if file.exists() else "")
    processor = found[1] if found else platform.processor() or platform.machine()
    system, cores = f"{platform.system()} {platform.machine()}", num_cores()
    said = f"{system}, {processor}, {count(cores, 'core')}, {memory / 1e9:,.1f} GB of memory"
    figures = {"system": system, "processor": processor, "cores": cores, "memory": memory}
    return Finding("machine", "ok", said, figures)


def find_settings() -> Finding:
    """The environment variables in force that decide how JAX computes, and where."""
    found = {
        name: without_home(value)
        for name, value in sorted(os.environ.items())
        if name.startswith(SETTINGS)
    }
    said = ", ".join(f"{name}={value}" for name, value in found.items())
    return Finding("settings", "ok", said or "none", found)


def check_packages(
    needed: Sequence[str] = NEEDED, extras: Mapping[str, Sequence[str]] = EXTRAS
) -> Iterator[Finding]:
    """Whether the packages `needed` are installed, a fault if not, and those of `extras`, a note.

    `extras` has the modules of each extra.
    """
    missing = [name for name in needed if not _version(name)]
    figures: dict[str, Any] = {"missing": missing}
    if missing:
        said = f"missing: {', '.join(missing)}; install them: pip install {' '.join(missing)}"
        yield Finding("packages", "fault", said, figures)
    else:
        yield Finding("packages", "ok", "all that dinojax needs", figures)
    absent = {name for name, modules in extras.items() if not all(map(find_spec, modules))}
    present = sorted(set(extras) - absent)
    figures = {"installed": present, "missing": sorted(absent)}
    if absent:
        names = ",".join(sorted(absent))
        said = f"not installed: {names}; where they are wanted: pip install 'dinojax[{names}]'"
        yield Finding("extras", "note", said, figures)
    else:
        yield Finding("extras", "ok", ", ".join(present), figures)


def find_devices() -> Finding:
    """The devices on which JAX computes, with their memory."""
    import jax

    devices, config = jax.devices(), _config()
    kinds = [device.device_kind for device in devices]
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    figures = {
        "platform": devices[0].platform,
        "devices": kinds,
        "memory": limits,
        "matmul_precision": config.jax_default_matmul_precision,
    }
    size = f" with {limits[0] / 1e9:,.1f} GB each" if limits[0] else ""
    said = f"{devices[0].platform}: {len(devices)} x {kinds[0]}{size}"
    return Finding("devices", "ok", said, figures)


def check_accelerator(
    used: str, asked: str | None = None, driver: Path = DRIVER, command: str = "nvidia-smi"
) -> Finding:
    """Whether JAX `used` the NVIDIA GPU of this machine, if there is one.

    `asked` is the platform that the user chose, as in JAX_PLATFORMS. There is a GPU where the file
    of its `driver` exists or its `command` is found.
    """
    is_there = driver.exists() or shutil.which(command) is not None
    figures = {"nvidia_driver": is_there, "platform": used}
    if used != "cpu":
        return Finding("accelerator", "ok", f"JAX computes on {used}", figures)
    if not is_there:
        return Finding("accelerator", "ok", "no NVIDIA GPU here; JAX computes on cpu", figures)
    if asked and not {"cuda", "gpu"}.intersection(asked.split(",")):
        said = f"there is an NVIDIA GPU; JAX_PLATFORMS={asked} has JAX compute on cpu"
        return Finding("accelerator", "note", said, figures)
    plugin = next((name for name in PLUGINS if "cuda" in name and _version(name)), None)
    if plugin is None:
        remedy = "this JAX has no GPU support: pip install 'jax[cuda12]', or cuda13 for new drivers"
    else:
        remedy = f"{plugin} {_version(plugin)} is installed but does not start: {_why_no_cuda()}"
    said = f"there is an NVIDIA GPU, but JAX computes on cpu; {remedy}"
    return Finding("accelerator", "fault", said, figures)


def check_cache() -> Finding:
    """Whether programs that were compiled are kept for the next start."""
    config, given = _config(), os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder = given or str(cache_folder())
    shown, figures = without_home(folder), {"folder": without_home(folder)}
    again = "so programs are compiled again at every start"
    if not config.jax_enable_compilation_cache:
        return Finding("cache", "note", f"turned off by a setting of JAX, {again}", figures)
    if "://" in folder:
        return Finding("cache", "ok", f"{shown}, as JAX_COMPILATION_CACHE_DIR says", figures)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        check_writable(Path(folder) / "check")
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        remedy = "set XDG_CACHE_HOME to a folder that you can write"
        return Finding("cache", "fault", f"{shown}: {why}, {again}; {remedy}", figures)
    if config.jax_compilation_cache_dir is None:
        said = f"{shown} is locked by another process, {again} until that ends"
        return Finding("cache", "note", said, figures)
    return Finding("cache", "ok", f"{shown} can be written", figures)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _config() -> Any:
    """JAX's settings, whose types JAX does not declare."""
    import jax

    return jax.config


def _why_no_cuda() -> str:
    import jax

    try:
        jax.devices("cuda")
    except RuntimeError as error:
        return shortened(without_home(" ".join(str(error).split())), 300)
    return "unset what makes JAX prefer cpu"
