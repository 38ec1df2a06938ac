"""What a preparation does with each block of text: it gathers characters, then writes their ids.

A reader can stop between two blocks and go on in another process: its `state` is JSON.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dinojax.data.corpus import (
    NO_NAMES,
    check_length,
    check_total,
    lines_of,
    notes_on,
    usual_length,
)
from dinojax.data.tables import Columns, Layout, Rows, layout_of, plain_rows, rows_of
from dinojax.data.vocab import Vocab, code_points
from dinojax.files import flush
from dinojax.messages import count

COUNTS = "counts.bin"
"""File of how often each name of a list with counts stands in it."""


class TextReader:
    """Reads documents, one from each file."""

    files: tuple[str, ...] = ("ids.bin",)
    by_line = False

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"num": 0, "sizes": [0] * len(self.files), "starts": []}
        self.state |= {"characters": "\n", "num_invisible": 0}
        self._seen = np.zeros(0x110000, bool)
        self._seen[ord("\n")] = True
        self._streams: list[BinaryIO] = []

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from the `state` of another reader."""
        self.state = state
        self._seen[code_points(state["characters"])] = True

    def look(self, text: str, first_line: int) -> None:
        """Read a block in the first pass."""
        self.state["num"] += len(text)
        self._gather(text)

    def start_pass(self, number: int, folder: Path, stack: ExitStack) -> None:
        """Start or continue a pass, with files in `folder` that are open until `stack` closes."""
        if not number:
            return
        self.vocab = Vocab(self.state["characters"])
        for name, size in zip(self.files, self.state["sizes"], strict=True):
            stream = stack.enter_context((folder / name).open("ab"))
            # What was written after the state was saved is written again.
            stream.truncate(size)
            self._streams.append(stream)

    def start_file(self, number: int) -> None:
        """Begin with the next file."""
        starts, place = self.state["starts"], self.state["sizes"][0]
        if number and place not in starts[-1:]:
            starts.append(place)

    def write(self, text: str, first_line: int) -> None:
        """Read a block in the second pass."""
        self._append(self.vocab.encode(text))

    def save(self) -> dict[str, Any]:
        """The state, once all that was written is on disk."""
        for stream in self._streams:
            flush(stream)
        self.state["characters"] = "".join(map(chr, np.flatnonzero(self._seen).tolist()))
        return self.state

    def check(self) -> None:
        """Raise a ValueError after the first pass if there is nothing to learn from."""
        if not self.state["num"]:
            raise ValueError("the text is empty; expected some characters")

    def described(self, num_repeated: int) -> dict[str, Any]:
        """What `meta.json` says of the data."""
        size = Vocab(self.state["characters"]).dtype.itemsize
        starts = [start // size for start in self.state["starts"]]
        if self.state["starts"][-1] == self.state["sizes"][0]:
            # The last document is empty.
            starts.pop()
        return {"starts": starts, "notes": self._notes()}

    def _notes(self) -> list[str]:
        num = self.state["num_invisible"]
        return [f"{count(num, 'invisible character')} dropped"] if num else []

    def _gather(self, text: str) -> None:
        self._seen[code_points(text)] = True

    def _append(self, *arrays: NDArray[np.unsignedinteger]) -> None:
        for i, (stream, array) in enumerate(zip(self._streams, arrays, strict=True)):
            stream.write(array.data)
            self.state["sizes"][i] += array.nbytes


class NameReader(TextReader):
    """Reads lists of names, as `joined` does. With `columns`, they are tables."""

    files: tuple[str, ...] = ("ids.bin", "lengths.bin")
    by_line = True

    def __init__(self, columns: Columns | None) -> None:
        self._columns = columns
        if columns and columns.count_column:
            self.files = (*self.files, COUNTS)
        super().__init__()
        self.state |= {"num": 0, "num_rows": 0, "skipped": {}, "lengths": {}, "layout": None}
        self.state |= {"far_longer": 0, "first_longer": None}

    def look(self, text: str, first_line: int) -> None:
        """Read a block in the first pass."""
        rows = self._rows(text, first_line)
        check_length(rows.names, first_line)
        names = list(filter(None, rows.names))
        sizes = np.fromiter(map(len, names), int, len(names))
        self._gather("".join(names))
        state, nums = self.state, self._counts(rows, len(names))
        state["num"] += int(nums.sum())
        state["num_rows"] += len(names)
        for what, num in rows.skipped.items():
            state["skipped"][what] = state["skipped"].get(what, 0) + num
        for size, total in enumerate(np.bincount(sizes, nums).tolist()):
            if total:
                # Keys of JSON are strings.
                state["lengths"][str(size)] = state["lengths"].get(str(size), 0) + int(total)

    def check(self) -> None:
        """Raise a ValueError after the first pass if there is no name, or too many by counts."""
        if not self.state["num"]:
            raise ValueError(NO_NAMES)
        if COUNTS in self.files:
            check_total(self.state["num"])
        sizes, nums = zip(*self.state["lengths"].items(), strict=True)
        self.state["longest"] = usual_length(np.repeat(np.array(sizes, int), nums))

    def write(self, text: str, first_line: int) -> None:
        """Read a block in the second pass."""
        rows = self._rows(text, first_line)
        names = list(filter(None, rows.names))
        lengths = np.fromiter((len(name) + 1 for name in names), np.uint16, len(names))
        arrays = [self.vocab.encode("".join(f"{name}\n" for name in names)), lengths]
        if COUNTS in self.files:
            arrays.append(self._counts(rows, len(names)).astype(np.uint32))
        self._append(*arrays)
        if (lengths > self.state["longest"] + 1).any():
            longer = [i for i, name in enumerate(rows.names) if len(name) > self.state["longest"]]
            self.state["far_longer"] += len(longer)
            if self.state["first_longer"] is None:
                self.state["first_longer"] = first_line + longer[0], len(rows.names[longer[0]])

    def described(self, num_repeated: int) -> dict[str, Any]:
        """What `meta.json` says of the data."""
        state = self.state
        more = notes_on(
            state["skipped"],
            state["num_rows"],
            state["num"],
            num_repeated,
            state["first_longer"],
            state["far_longer"],
        )
        return {"starts": [], "notes": [*self._notes(), *more]}

    def _rows(self, text: str, first_line: int) -> Rows:
        lines = lines_of(text)
        if self._columns is None:
            return plain_rows(lines)
        if first_line == 1:
            self.state["layout"] = None
        if self.state["layout"] is None:
            self.state["layout"] = layout_of(lines, self._columns, first_line)
        layout = self.state["layout"]
        # JSON knows no tuples.
        return rows_of(lines, Layout(*layout) if layout else None, first_line)

    def _counts(self, rows: Rows, num: int) -> NDArray[np.int64]:
        """How often each of `num` names stands in the list."""
        if rows.counts is None:
            return np.ones(num, np.int64)
        return np.array(list(filter(None, rows.counts)), np.int64)
