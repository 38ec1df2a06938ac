"""What is asked of many runs, by a sweep or a search: checks of its values, and its file."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dinojax.config import OF_THE_DATA
from dinojax.files import read_regular, write_atomically
from dinojax.messages import about, quoted
from dinojax.own import brief
from dinojax.presets import PRESETS, check_preset, resolve

FORMAT = 1
FRACTION = 0.1
"""Share of the data held out to validate where the preset holds out none."""
OF_THE_SWEEP = "seed", "devices"
"""Settings that a sweep or a search gives each run itself: its seed, and one device."""
SHARED = tuple(name for name in OF_THE_DATA if name != "batches")
"""Settings that all runs share, as losses over different data cannot be compared."""

Values = Mapping[str, Any]
"""Some settings, as in {"learning_rate": 0.001, "dropout": 0.1}."""
Asked = TypeVar("Asked")


def check_values(name: str, values: Sequence[Any]) -> None:
    """Raise a ValueError if a setting has no value, one twice, or may not have several."""
    words = name.replace("_", " ")
    if not values:
        raise ValueError(f"{words}: expected at least one value, got none")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"{words}: {shown(value)} is given twice")
    if name == "refit" and True in values:
        raise ValueError(
            "refit: sweeps and searches compare runs by validation; refit a run of the best setting"
        )
    if name in SHARED and len(values) > 1:
        raise ValueError(
            f"{words}: expected one value, as losses over different data cannot be compared, got "
            f"{', '.join(map(shown, values))}"
        )


def with_validation(preset: str, settings: Values, kind: str) -> dict[str, Any]:
    """The settings of all runs, with a share of `FRACTION` held out if the preset holds out none.

    No run is refitted, as then its validation loss would be that of another model.

    Raises:
        ValueError: `settings` hold out none.
    """
    check_preset(preset, PRESETS)
    if PRESETS[preset].refit:
        settings = {**settings, "refit": False}
    if resolve(preset, given=settings).validation_fraction:
        return dict(settings)
    if "validation_fraction" in settings:
        raise ValueError(
            f"validation fraction: expected more than 0, as a {kind} compares validation losses"
        )
    return {**settings, "validation_fraction": FRACTION}


def shown(value: Any) -> str:
    """A value of a setting as tables show it."""
    is_short = isinstance(value, float) and float(f"{value:g}") == value
    return f"{value:g}" if is_short else brief(value)


def write_asked(file: Path | str, asked: Mapping[str, Any]) -> None:
    """Write what was asked; see `read_asked`."""
    content = json.dumps({"format": FORMAT, **asked}, indent=2, ensure_ascii=False)
    write_atomically(Path(file), f"{content}\n".encode(errors="backslashreplace"))


def read_asked(file: Path | str, kind: str, make: Callable[..., Asked]) -> Asked:
    """What was asked of a sweep or a search, as `make` makes it of what the file holds.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is missing, of a newer dinojax, or damaged.
    """
    file = Path(file)
    if not file.is_file():
        raise ValueError(f"{file.parent} holds no {kind}: it has no {file.name}")
    with about(file):
        try:
            content = json.loads(read_regular(file).decode())
            if (version := content.pop("format")) == FORMAT:
                return make(**content)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            raise ValueError(f"expected what was asked of a {kind}, a JSON object") from None
        raise ValueError(f"has format {quoted(version)}, this dinojax reads {FORMAT}")
