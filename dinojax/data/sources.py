"""The files that data come from: which they are, what they hold, and where they can be cut."""

import codecs
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dinojax.data.standard_library import is_library, library_files
from dinojax.files import open_regular
from dinojax.messages import about, quoted

BLOCK = 2**22
"""About how many bytes are read and composed at a time."""
BOM = b"\xef\xbb\xbf"
_IN_A_WORD = re.compile(
    # Between two letters or digits of ASCII, or two of the Chinese characters from U+4000 on.
    rb"[0-9A-Za-z](?=[0-9A-Za-z])|[\xe4-\xe9][\x80-\xbf]{2}(?=[\xe4-\xe9][\x80-\xbf]{2})"
)


class Block(NamedTuple):
    """Part of a file, cut where it can be composed by itself."""

    content: bytes
    end: int
    """Where it ends in the file, in bytes; of a compressed file, in what it holds."""


def data_files(paths: Sequence[Path | str]) -> list[Path]:
    """The files at `paths`, in their order.

    Those of a folder are the regular files in it, sorted by name, except for hidden ones. Folders
    within it are not searched. For the standard library of Python, see `library_files`.

    Raises:
        OSError: a folder cannot be read.
        ValueError: there is no path, or no file in a folder; or see `library_files`.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(x for x in path.iterdir() if x.is_file() and x.name[0] != ".")
            if not inside:
                raise ValueError(f"{path} is a folder without files; expected texts or lists")
            found += inside
        elif is_library(path):
            found += library_files(path)
        else:
            found.append(path)
    if not found:
        raise ValueError("expected at least one file, got none")
    return found


def is_compressed(file: Path) -> bool:
    """Whether a file is read as an archive, by the end of its name: .gz or .zst."""
    return file.suffix in (".gz", ".zst")


def checksum(file: Path) -> str:
    """The SHA-256 checksum of the bytes of a file, as hexadecimal digits."""
    with open_regular(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # typeshed


def joint_checksum(checksums: Sequence[str]) -> str:
    """The checksum of several files, from that of each; that of one file is its own."""
    if len(checksums) == 1:
        return checksums[0]
    return hashlib.sha256("".join(f"{each}\n" for each in checksums).encode()).hexdigest()


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO | Iterator[bytes]]:
    """A file as a stream of bytes; what an archive holds, as chunks.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no archive of the kind that its name says, or is damaged or ends early,
            or zstandard is missing.
    """
    with open_regular(file) as stream, about(file):
        if file.suffix == ".gz":
            yield _gzip_chunks(stream)
        elif file.suffix == ".zst":
            yield _zstd_chunks(stream)
        else:
            yield stream


def read_whole(file: Path, most: int) -> bytes | None:
    """What a file holds, an archive unpacked; None if that is more than `most` bytes."""
    content = bytearray()
    with opened(file) as stream:
        for chunk in _chunks(stream):
            content += chunk
            if len(content) > most:
                return None
    return bytes(content)


def beginning(file: Path, most: int) -> bytes:
    """The first bytes of what a file holds, up to `most`."""
    content = b""
    with opened(file) as stream:
        for chunk in _chunks(stream):
            content += chunk
            if len(content) >= most:
                break
    return content[:most]


def blocks(file: Path, start: int, by_line: bool, size: int = BLOCK) -> Iterator[Block]:
    """What a file holds from the byte `start` on, in blocks of about `size` bytes.

    A block can be decoded and composed by itself: put together, they give what the whole file gives
    (see `composed`), as no character before a cut has to do with one after it. Cuts are before
    white space, or else within a word of ASCII or of Chinese characters; with `by_line`, only after
    the ends of lines. A file with no such place in it is read at once.
    """
    with opened(file) as stream:
        rest, position, reached = b"", start, 0
        if hasattr(stream, "seek"):
            stream.seek(start)
            reached = start
        for chunk in _chunks(stream):
            reached += len(chunk)
            # An archive is unpacked from its beginning.
            rest += chunk[max(0, len(chunk) - (reached - start)) :] if reached > start else b""
            if len(rest) < size:
                continue
            cut = _last_line_end(rest) if by_line else _last_cut(rest)
            if cut:
                position += cut
                yield Block(rest[:cut], position)
                rest = rest[cut:]
        if rest:
            yield Block(rest, position + len(rest))


def decoded(content: bytes, start: int, file: str) -> str:
    """UTF-8 as text; a ValueError gives the offset of a bad byte in `file`, from `start` on."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        remedy = "convert the file to UTF-8"
        if not start and content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            remedy = "it begins as UTF-16 does; convert it from that to UTF-8"
        elif b"\0" in content:
            remedy = "it is no text file, or one in UTF-16, as it holds NUL"
        raise ValueError(
            f"{file} is not UTF-8 text: byte 0x{content[error.start]:02x} at offset "
            f"{start + error.start}; {remedy}"
        ) from None


def _chunks(stream: BinaryIO | Iterator[bytes], size: int = 2**20) -> Iterator[bytes]:
    if isinstance(stream, Iterator) and not hasattr(stream, "read"):
        yield from stream
        return
    while chunk := stream.read(size):
        yield chunk


def _last_cut(content: bytes) -> int:
    """The last place before which a text can be cut; 0 if there is none."""
    place = max(content.rfind(space) for space in (b" ", b"\n", b"\r", b"\t"))
    if content[place : place + 1] == b"\n" and content[place - 1 : place] == b"\r":
        place -= 1
    if place > 0:
        return place
    return max(
        (found.end() for found in _IN_A_WORD.finditer(content, max(0, len(content) - 2**16))),
        default=0,
    )


def _last_line_end(content: bytes) -> int:
    """The last place that follows the end of a line; 0 if there is none."""
    # What follows the last byte is not known: after "\r" it may be "\n".
    return max(content.rfind(b"\n"), content.rfind(b"\r", 0, len(content) - 1)) + 1


def _gzip_chunks(stream: BinaryIO) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=stream) as unpacked:
            while chunk := unpacked.read(2**20):
                yield chunk
    except EOFError:
        raise ValueError("the archive ends early; make or copy it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"expected a gzip archive, got {quoted(str(error))}") from None


def _zstd_chunks(stream: BinaryIO) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        remedy = "install it: pip install 'dinojax[zst]'"
        raise ValueError(f"to read it, zstandard is missing; {remedy}") from None
    unpacker, is_whole = zstandard.ZstdDecompressor().decompressobj(), False
    try:
        while chunk := stream.read(2**17):
            while chunk:
                if is_whole:
                    unpacker, is_whole = zstandard.ZstdDecompressor().decompressobj(), False
                yield unpacker.decompress(chunk)
                is_whole, chunk = unpacker.eof, unpacker.unused_data if unpacker.eof else b""
    except zstandard.ZstdError as error:
        raise ValueError(f"expected a zstd archive, got {quoted(str(error))}") from None
    if not is_whole:
        raise ValueError("the archive ends early; make or copy it again")
