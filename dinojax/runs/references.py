"""What the folder of a run holds of prepared data: where they are, and which of them a part has.

A part of data that were prepared (see `prepared`) is not copied. In place of `train.txt`, a file
`train.json` holds the key of the data, the paths that they were made from, and of a text where the
part begins and how long it is, of a list which names are in it. The data are found by their key or,
where the cache was emptied, prepared again from the same files; these must not have changed.
"""

import base64
import json
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from dinojax.data.prepared import Progress, find, prepare, whole
from dinojax.data.stored import NameList, Store, Text, in_vocab
from dinojax.data.tables import Columns
from dinojax.data.vocab import Vocab


def reference_to(part: Any) -> bytes:
    """The reference to a part of prepared data as JSON; see `referenced`."""
    store = part.store
    content: dict[str, Any] = {"key": store.key, "files": list(map(str, store.files))}
    if isinstance(part, Text):
        content |= {"first": part.first, "num": len(part)}
    else:
        chosen = np.zeros(len(store.lengths), bool)
        # All copies of a name are in one part.
        chosen[part.rows] = True
        bits = zlib.compress(np.packbits(chosen).tobytes())
        content["names"] = base64.b64encode(bits).decode()
        if store.columns is not None:
            content["columns"] = store.columns
    return json.dumps(content, indent=1).encode()


def find_store(
    content: bytes, *, is_text: bool, lowercase: bool
) -> Generator[Progress, None, Store]:
    """The data that a reference refers to, which are prepared again if they are not there.

    Raises:
        ValueError: they are not there, and neither are the files, or these have changed.
    """
    reference = json.loads(content)
    key, files = reference["key"], list(map(Path, reference["files"]))
    if store := find(key):
        return store
    gone = next((file for file in files if not file.is_file()), None)
    if gone:
        raise ValueError(
            f"the prepared data of the run are not in the cache, and {gone}, from which they were "
            "made, is gone; put it back"
        )
    columns = Columns(*reference["columns"]) if "columns" in reference else None
    store = yield from prepare(files, is_text=is_text, lowercase=lowercase, columns=columns)
    if store.key != key:
        raise ValueError(
            f"the prepared data of the run are not in the cache, and {files[0]}"
            f"{' or another of its files' if files[1:] else ''} has changed since; put it back"
        )
    return store


def referenced(content: bytes, store: Store, vocab: Vocab) -> Text | NameList:
    """The part of the data in a store that a reference names, in the ids of `vocab`."""
    reference, data = json.loads(content), in_vocab(whole(store), vocab)
    if isinstance(data, Text):
        return data[reference["first"] : reference["first"] + reference["num"]]
    bits = np.frombuffer(zlib.decompress(base64.b64decode(reference["names"])), np.uint8)
    rows = np.flatnonzero(np.unpackbits(bits, count=len(store.lengths)))
    return NameList(store, store.with_counts(rows), data.vocab)
