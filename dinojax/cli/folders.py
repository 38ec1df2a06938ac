"""Folders for runs that were given none."""

import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def next_free_folder(preset: str) -> Path:
    """Make the folder runs/`preset`, or the next free one of runs/`preset`-2, -3, .."""
    Path("runs").mkdir(exist_ok=True)
    for folder in folders(preset):
        # mkdir itself is the test, so that two runs that start at once get two folders.
        with suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def folders(preset: str) -> Iterator[Path]:
    """The folders runs/`preset`, runs/`preset`-2, runs/`preset`-3, .."""
    names = (f"{preset}-{number}" for number in itertools.count(2))
    return (Path("runs", name) for name in itertools.chain([preset], names))
