"""The parts of the data of a run, read from its folder or from where it refers to."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

from dinojax.data.prepared import Progress, finished
from dinojax.files import digest, read_regular
from dinojax.runs import exchange
from dinojax.runs.description import Description, Part, part_from
from dinojax.runs.references import find_store, referenced
from dinojax.runs.selection import SELECTION


def read_part(folder: Path | str, description: Description, name: str) -> Part:
    """A part of a run's data: its names, or its text.

    Prepared data are read where they are, and prepared again if they are no longer there.

    Raises:
        ValueError: the run has no such part, or the file was changed; or prepared data are gone,
            and so are the files that they were made from.
    """
    folder = Path(folder)
    content, is_reference = _part_content(folder, description, name)
    if not is_reference:
        return part_from(content, description.config.is_text, description.vocab)
    store = finished(restore_data(folder, description))
    return referenced(content, store, description.vocab)


def restore_data(folder: Path | str, description: Description) -> Generator[Progress, None, Any]:
    """The data of a run that were prepared, again if they are no longer there; None for others."""
    folder = Path(folder)
    if not exchange.current(folder, "train.json").exists():
        return None
    content, _ = _part_content(folder, description, "train")
    is_text, lowercase = description.config.is_text, description.config.lowercase
    return (yield from find_store(content, is_text=is_text, lowercase=lowercase))


def _part_content(folder: Path, description: Description, name: str) -> tuple[bytes, bool]:
    """The file of a part, and whether it is a reference to prepared data."""
    if name == "validation" and description.config.refit:
        selection = folder / SELECTION
        but = f"; its selection in {selection} did not" if selection.is_dir() else ""
        raise ValueError(f"{folder} learned its validation part, too, as it was refitted{but}")
    if name not in description.parts:
        raise ValueError(
            f"{folder} has no {name} part; it has {', '.join(description.parts)} (others are set "
            "aside by a validation fraction or a test fraction)"
        )
    path = exchange.current(folder, f"{name}.json")
    is_reference = path.exists()
    path = path if is_reference else exchange.current(folder, f"{name}.txt")
    content = read_regular(path)
    if digest(content) != description.parts[name]:
        raise ValueError(f"{path} was changed after training: its checksum does not match")
    return content, is_reference
