"""The metrics of a run: `metrics.jsonl` in its folder, one JSON object per line.

    step, epoch               done so far
    characters                number of targets so far
    seconds                   time so far, including that before a resume
    training_seconds          time in training steps so far, without validations, reports,
                              checkpoints, and the first call in each process, which compiles
    training_loss             mean since the previous line, nats per character
    validation_loss           nats per character; null if there was no validation
    learning_rate             of the last step
    gradient_norm             of the last step, before clipping; null if it overflowed
    clipped_share             share of the entries of that gradient that were clipped
    characters_per_second     since the previous line

A line with the key `event` records something else, such as a resume. All functions raise an OSError
if the file cannot be read or written.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinojax.files import named_errors, read_regular, write_atomically
from dinojax.runs.exchange import METRICS_FILE, current
from dinojax.runs.selection import SELECTION

COUNTS = "step", "characters", "seconds", "training_seconds"
MEASURES = (
    *("epoch", "training_loss", "validation_loss", "learning_rate", "gradient_norm"),
    *("clipped_share", "characters_per_second"),
)
LARGEST = 1e39
"""More than any float32; what is computed from it is finite in float64."""


def append_metrics(folder: Path | str, line: Mapping[str, Any]) -> None:
    """Append one line to the metrics of a run and hand it to the operating system.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
    path, data = Path(folder) / METRICS_FILE, text.encode()
    with named_errors(path, path), path.open("ab", buffering=0) as file:
        if file.write(data) != len(data):
            raise OSError(f"{path}: written in part; is the disk full?")


def read_metrics(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without an incomplete last line.

    Raises:
        ValueError: another line is not a JSON object with a step, or what should be a number is
            none, or out of all bounds; names the line.
    """
    path, lines = current(Path(folder), METRICS_FILE), []
    for number, text in enumerate(read_regular(path).split(b"\n")[:-1], start=1):
        try:
            line = json.loads(text)
            # bool is a subclass of int.
            if not isinstance(line, dict) or type(line.get("step")) is not int:
                raise ValueError
        except (RecursionError, ValueError):
            expected = "expected a JSON object with a step; fix or delete it"
            raise ValueError(f"{path}, line {number}: {expected}") from None
        for name in line.keys() & {*COUNTS, *MEASURES}:
            value, least = line[name], 0 if name in COUNTS else -LARGEST
            is_unknown = value is None and name in MEASURES
            if not (is_unknown or (type(value) in (int, float) and least <= value <= LARGEST)):
                expected = f"expected a finite number for {name}; fix or delete it"
                raise ValueError(f"{path}, line {number}: {expected}")
        lines.append(line)
    return lines


def rewind_metrics(folder: Path | str, step: int) -> list[dict[str, Any]]:
    """Remove the lines of later steps and an incomplete last line; returns the remaining lines."""
    folder = Path(folder)
    path = folder / METRICS_FILE
    lines = [line for line in read_metrics(folder) if line["step"] <= step] if path.exists() else []
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(path, text.encode())
    return lines


def phases(folder: Path | str) -> list[Path]:
    """The folder of a run and, if it is one that is refitted, that of its selection."""
    folder = Path(folder)
    inner = folder / SELECTION
    return [folder, inner] if current(inner, METRICS_FILE).is_file() else [folder]
