"""How a run went: `metrics.jsonl` in its folder, one JSON object a line.

    step, epoch               done so far
    characters                that counted as targets so far
    seconds                   of training so far, those before a resume included
    training_loss             mean since the line before, nats a character
    validation_loss           nats a character; null where nothing was validated
    learning_rate             of the last step
    gradient_norm             of the last step, before clipping; null where it overflowed
    clipped_share             of that gradient's entries
    characters_per_second     since the line before

A line with the key `event` says that something else happened, such as a resume.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinojax.files import named_errors, write_atomically

METRICS_FILE = "metrics.jsonl"


def append_metrics(folder: Path, line: Mapping[str, Any]) -> None:
    """Add one line to the metrics of a run; it is with the operating system when this returns.

    Raises:
        OSError: it cannot be written.
        ValueError: a number is not finite.
    """
    text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
    path, data = folder / METRICS_FILE, text.encode()
    with named_errors(path, path), path.open("ab", buffering=0) as file:
        if file.write(data) != len(data):
            raise OSError(f"{path}: written in part; is the disk full?")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; a last line that was torn off is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: another line is not a JSON object; names it.
    """
    path = folder / METRICS_FILE
    *whole, torn = path.read_bytes().split(b"\n")
    del torn
    lines = []
    for number, text in enumerate(whole, start=1):
        try:
            line = json.loads(text)
            # bool is a kind of int.
            if not isinstance(line, dict) or type(line.get("step")) is not int:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: expected a JSON object with a step; mend or delete it"
            ) from None
        lines.append(line)
    return lines


def rewind_metrics(folder: Path, step: int) -> list[dict[str, Any]]:
    """Take back what the metrics say of later steps, and a torn last line; returns what is left.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: a line is not a JSON object.
    """
    path = folder / METRICS_FILE
    lines = [line for line in read_metrics(folder) if line["step"] <= step] if path.exists() else []
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomically(path, text.encode())
    return lines
