"""Data that are larger than memory, prepared once: read, encoded, and kept in the user's cache.

~/.cache/dinojax/data/KEY/ids.bin        ids of all characters, in the smallest unsigned type
~/.cache/dinojax/data/KEY/meta.json      vocabulary, sizes, checksums, and what was read
~/.cache/dinojax/data/KEY/lengths.bin    of names, with newline, in two bytes each
~/.cache/dinojax/data/KEY/counts.bin     of names that have them, in four bytes each
~/.cache/dinojax/data/KEY/order.bin      which name comes n-th by code points, in four bytes each
~/.cache/dinojax/data/KEY/ranks.bin      the number of each among the distinct names, likewise
~/.cache/dinojax/data/KEY.part/          the same while it is made

KEY is a checksum of the bytes of the files and of how they are read, so that data that have changed
are prepared anew. `meta.json` is written last; then the folder gets its name. `state.json`, in the
.part folder, says after every `SAVE_EVERY` bytes how far the two passes over the files have come: a
process that goes on for one that was killed reads no more than these again, and orders the names
again. The result has the same bytes.
"""

import json
import os
import shutil
import time
import unicodedata
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from dinojax.data import sources
from dinojax.data.ranks import sort_names
from dinojax.data.readers import COUNTS, NameReader, TextReader
from dinojax.data.stored import NameList, Store, Text
from dinojax.data.tables import WHOLE_LINES, Columns
from dinojax.data.text import INVISIBLE, composed
from dinojax.data.vocab import Vocab
from dinojax.files import digest, locked, remove_leftovers, sync_folder, write_atomically
from dinojax.messages import about
from dinojax.startup import cache_folder

FORMAT = 1
SAVE_EVERY = 2**26
"""After how many bytes of a file a process that is killed need not read them again."""
TYPES = {"lengths.bin": np.uint16, "order.bin": np.uint32, "ranks.bin": np.uint32}

Result = TypeVar("Result")


class Progress(NamedTuple):
    """How far a preparation, or another long reading, has come."""

    doing: str
    """"checksum", "wait for another process", "vocabulary", "ids" or "order"."""
    done: int
    """Bytes of files that were read for it; of a text in memory, characters."""
    total: int
    """Of all files or characters; of archives, less than what they hold."""


def finished(progress: Generator[Any, None, Result]) -> Result:
    """What a generator returns once it has yielded everything."""
    while True:
        try:
            next(progress)
        except StopIteration as done:
            return done.value


def data_folder() -> Path:
    """Where prepared data are kept."""
    return cache_folder() / "data"


def prepare(
    files: Sequence[Path],
    *,
    is_text: bool,
    lowercase: bool,
    columns: Columns | None = WHOLE_LINES,
    save_every: int = SAVE_EVERY,
) -> Generator[Progress, None, Store]:
    """Prepare texts or lists of names, or find them prepared; returns them.

    Lists may be tables with these `columns`. Where that is None, comments are names, too, as in
    earlier versions of dinojax. While another process prepares the same, this waits.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not suitable (see `sources.opened` and `composed`), changes while it
            is read or holds a name that is too long; the files hold no character or no name,
            or names with labels; or the cache cannot be written.
    """
    columns = None if is_text else columns
    if columns and columns.label_column:
        raise ValueError(
            "names with labels must fit into memory; give a part of them, or divide their counts"
        )
    total = sum(file.stat().st_size for file in files)
    checksums, done = [], 0
    for file in files:
        yield Progress("checksum", done, total)
        checksums.append(sources.checksum(file))
        done += file.stat().st_size
    sha256 = sources.joint_checksum(checksums)
    key = _key(files, checksums, is_text, lowercase, columns)
    if store := find(key):
        return store
    place = data_folder()
    draft = place / f"{key}.part"
    try:
        with ExitStack() as stack:
            while True:
                # The other process renames the folder in the end.
                draft.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(locked(draft / ".lock", "locked"))
                    break
                except ValueError:
                    yield Progress("wait for another process", 0, total)
                    time.sleep(0.2)
            if store := find(key):
                shutil.rmtree(draft, ignore_errors=True)
                return store
            remove_leftovers(draft)
            reader = TextReader() if is_text else NameReader(columns)
            meta = {
                "format": FORMAT,
                "is_text": is_text,
                "lowercase": lowercase,
                "files": [str(file.absolute()) for file in files],
                "sha256": sha256,
                "columns": columns,
            }
            before = [_stamp(file) for file in files]
            yield from _read_twice(files, reader, lowercase, draft, save_every)
            if before != [_stamp(file) for file in files]:
                shutil.rmtree(draft)
                raise ValueError("the data changed while they were read; prepare them again")
            yield Progress("order", total, total)
            _finish(draft, meta, reader)
            if (place / key).exists():
                # A damaged one.
                shutil.rmtree(place / key)
            os.rename(draft, place / key)
            sync_folder(place)
            (place / key / ".lock").unlink(missing_ok=True)
    except OSError as error:
        if error.filename and not str(error.filename).startswith(str(place)):
            raise
        raise ValueError(
            f"{place}: {error.strerror}; data of this size are prepared there, in about as many "
            "bytes; make room, or set XDG_CACHE_HOME to another folder"
        ) from None
    store = find(key)
    if store is None:
        raise ValueError(f"{place / key} was removed while it was made; prepare the data again")
    return store


def find(key: str) -> Store | None:
    """Prepared data by their key; None if there are none, or if they are damaged."""
    folder = data_folder() / key
    try:
        content = json.loads((folder / "meta.json").read_bytes())
        meta = content["meta"]
        if digest(json.dumps(meta).encode()) != content["checksum"] or any(
            sources.checksum(folder / name) != x for name, x in meta["checksums"].items()
        ):
            return None
        vocab = Vocab(meta["characters"])
        ids = np.memmap(folder / "ids.bin", vocab.dtype, "r")
        empty = np.zeros(0, np.uint32)
        lengths, order, ranks = (
            empty if meta["is_text"] else np.memmap(folder / name, kind, "r")
            for name, kind in TYPES.items()
        )
        starts = np.cumsum(lengths, dtype=np.int64) - lengths
        if meta["is_text"]:
            starts = np.array(meta["starts"], np.int64)
        counts, columns = empty, meta.get("columns")
        if COUNTS in meta["checksums"]:
            counts = np.memmap(folder / COUNTS, np.uint32, "r")
        return Store(
            key,
            tuple(map(Path, meta["files"])),
            meta["sha256"],
            vocab,
            ids,
            tuple(meta["notes"]),
            starts,
            lengths,
            order,
            ranks,
            counts,
            None if columns is None else Columns(*columns),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def whole(store: Store) -> Text | NameList:
    """All that a store holds."""
    if not len(store.lengths):
        return Text(store.vocab, store.ids, store.starts, store)
    return NameList(store, store.with_counts(np.arange(len(store.lengths))), store.vocab)


def _key(
    files: Sequence[Path],
    checksums: Sequence[str],
    is_text: bool,
    lowercase: bool,
    columns: Columns | None,
) -> str:
    kinds = [file.suffix if sources.is_compressed(file) else "" for file in files]
    rules = [FORMAT, unicodedata.unidata_version, is_text, lowercase, kinds, *checksums]
    if columns is not None:
        rules.append(columns)
    return sources.joint_checksum([json.dumps(rules), ""])[:32]


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _read_twice(
    files: Sequence[Path],
    reader: TextReader,
    lowercase: bool,
    draft: Path,
    save_every: int,
) -> Generator[Progress]:
    """Gather the characters in one pass and write ids in another; both go on where they were."""
    file_of_state, sizes = draft / "state.json", [file.stat().st_size for file in files]
    state: dict[str, Any] = {"pass": 0, "file": 0, "byte": 0, "line": 1}
    # Where it says nothing, nothing that is there counts.
    with suppress(FileNotFoundError, ValueError):
        found = json.loads(file_of_state.read_bytes())
        reader.restore(found.pop("reader"))
        state = found

    def save() -> None:
        content = json.dumps(state | {"reader": reader.save()})
        write_atomically(file_of_state, content.encode())

    for number in range(state["pass"], 2):
        doing, read = [("vocabulary", reader.look), ("ids", reader.write)][number]
        with ExitStack() as stack:
            reader.start_pass(number, draft, stack)
            for i in range(state["file"], len(files)):
                saved = state["byte"]
                if not saved:
                    reader.start_file(number)
                for block in sources.blocks(files[i], saved, reader.by_line):
                    text = sources.decoded(block.content, state["byte"], str(files[i]))
                    if not state["byte"]:
                        text = text.removeprefix("\ufeff")
                    if not number:
                        reader.state["num_invisible"] += sum(map(text.count, INVISIBLE))
                    with about(files[i]):
                        text = composed(text, lowercase, first_line=state["line"])
                        read(text, state["line"])
                    state |= {"byte": block.end, "line": state["line"] + text.count("\n")}
                    if block.end - saved >= save_every:
                        save()
                        saved = block.end
                    # Of an archive, what it holds may be more than its size.
                    done = sum(sizes[:i]) + min(block.end, sizes[i])
                    yield Progress(doing, done, sum(sizes))
                state |= {"file": i + 1, "byte": 0, "line": 1}
            if not number:
                with about(files[0] if len(files) == 1 else f"{files[0]} and others"):
                    reader.check()
            state |= {"pass": number + 1, "file": 0}
            save()


def _finish(draft: Path, meta: dict[str, Any], reader: TextReader) -> None:
    """Write what is left to write, and `meta.json` last."""
    vocab, names, num_repeated = Vocab(reader.state["characters"]), [*reader.files], 0
    if reader.by_line:
        lengths = np.fromfile(draft / "lengths.bin", np.uint16)
        ids = np.memmap(draft / "ids.bin", vocab.dtype, "r")
        order, ranks = sort_names(ids, np.cumsum(lengths, dtype=np.int64) - lengths, lengths)
        write_atomically(draft / "order.bin", order.tobytes())
        write_atomically(draft / "ranks.bin", ranks.tobytes())
        num_repeated = len(ranks) - int(ranks.max()) - 1
        names += ["order.bin", "ranks.bin"]
    meta |= {"characters": vocab.characters, **reader.described(num_repeated)}
    meta["checksums"] = {name: sources.checksum(draft / name) for name in names}
    content = {"meta": meta, "checksum": digest(json.dumps(meta).encode())}
    write_atomically(draft / "meta.json", json.dumps(content, indent=1).encode())
    (draft / "state.json").unlink()
