"""Names or a text from one file or several: in memory if they are small, else prepared."""

from collections.abc import Generator, Sequence
from pathlib import Path

from dinojax.data import sources
from dinojax.data.corpus import (
    STANDARD_INPUT,
    Corpus,
    check_total,
    joined,
    num_characters_of,
    parsed,
    read_bytes,
    read_names,
    read_running_text,
    rows_in,
)
from dinojax.data.looks import LOOKED, hints
from dinojax.data.prepared import Progress, prepare, whole
from dinojax.data.stored import NameList, Text, joined_documents
from dinojax.data.tables import WHOLE_LINES, Columns, Rows
from dinojax.data.vocab import build_vocab
from dinojax.files import digest
from dinojax.messages import about

IN_MEMORY = 2**25
"""Most bytes of data, archives unpacked, that are read into memory.

What is made of a text in memory takes some 20 times its size for a moment, and training keeps about
ten times: with this limit, well under one gigabyte.
"""

Data = str | list[str] | Text | NameList


def checksum_of(paths: Sequence[Path | str]) -> str:
    """The checksum that `read` gives for these files, of which pipes are read to their end."""
    files = sources.data_files(paths)
    if len(files) == 1 and not files[0].is_file():
        return digest(read_bytes(files[0]))
    return sources.joint_checksum(list(map(sources.checksum, files)))


def read(
    paths: Sequence[Path | str],
    *,
    is_text: bool,
    lowercase: bool,
    columns: Columns = WHOLE_LINES,
    labels: Sequence[str] = (),
    in_memory: int = IN_MEMORY,
) -> Generator[Progress, None, Corpus[Data]]:
    """Read a text or names from files, or from those of folders; see `sources.data_files`.

    Each file of a text is a document; empty ones are skipped. Lists of names are joined; each of
    them may be a table with these `columns`. Data of more than `in_memory` bytes, or with names
    that have more characters by their counts, are prepared, see `prepared`; from a pipe they are
    read into memory. The generator yields how far the preparation has come, and returns the data:
    names or a text, which is a `Text` if it has several documents; of prepared data, a `NameList`
    or a `Text`. Names with labels must fit into memory; for those known as `labels`, see
    `with_labels`.

    Raises:
        OSError: a file cannot be read.
        ValueError: see `prepare`, and for data in memory `read_names` and `read_text`.
    """
    files = sources.data_files(paths)
    if files[1:] and STANDARD_INPUT in files:
        raise ValueError("standard input cannot be read together with files; write it to a file")
    if len(files) == 1 and not files[0].is_file():
        if is_text:
            return read_running_text(files[0], lowercase)
        return read_names(files[0], lowercase, labels=labels, **columns._asdict())

    def prepared() -> Generator[Progress, None, Corpus[Data]]:
        store = yield from prepare(files, is_text=is_text, lowercase=lowercase, columns=columns)
        content = sources.beginning(files[0], LOOKED)
        more = hints(content, None if is_text else columns)
        return Corpus(whole(store), store.sha256, [*store.notes, *more])

    contents, room = list[bytes](), in_memory
    for file in files:
        content = sources.read_whole(file, room)
        if content is None:
            return (yield from prepared())
        contents.append(content)
        room -= len(content)
    sha256 = sources.joint_checksum(
        [
            sources.checksum(file) if sources.is_compressed(file) else digest(content)
            for file, content in zip(files, contents, strict=True)
        ]
    )
    found = [parsed(x, str(file), lowercase) for x, file in zip(contents, files, strict=True)]
    notes = [note for _, more in found for note in more]
    hint = hints(contents[0], None if is_text else columns)
    name = files[0] if len(files) == 1 else f"{files[0]} and others"
    if not is_text:
        lists = list[Rows]()
        for (text, _), file in zip(found, files, strict=True):
            with about(file):
                lists.append(rows_in(text, columns))
        with about(name):
            check_total(sum(sum(rows.counts or ()) for rows in lists))
        if columns.count_column and sum(map(num_characters_of, lists)) > in_memory:
            return (yield from prepared())
        with about(name):
            names, more = joined(lists, labels)
        return Corpus(names, sha256, [*notes, *more, *hint])
    documents = [text for text, _ in found if text]
    if not documents:
        raise ValueError(f"{name} is empty; expected a text")
    if len(documents) == 1:
        return Corpus(documents[0], sha256, [*notes, *hint])
    return Corpus(joined_documents(documents, build_vocab(documents)), sha256, [*notes, *hint])
