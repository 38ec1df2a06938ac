"""Files: written completely or not at all, locked, and named in errors."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a file, all of it or nothing; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to. `path` always holds all of the old content or all of the new.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with named_errors(path, temporary):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        # Until the folder is on disk too, a power cut may undo the rename. Windows cannot open it.
        if os.name == "posix":
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextmanager
def named_errors(path: Path, written: Path) -> Iterator[None]:
    """Make an OSError name `path` if it names no file, or names the file `written`."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename in (None, written, str(written)):
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold the lock file `path`. The lock of a process that has died does not count.

    Raises:
        OSError: the file cannot be made.
        ValueError: another process holds it; says `message`.
    """
    # Imported here, as most commands need no lock and it takes a while.
    from filelock import FileLock, Timeout

    try:
        lock = FileLock(path, blocking=False).acquire()
    except Timeout:
        raise ValueError(message) from None
    with lock:
        yield


def check_writable(path: Path) -> None:
    """Raise an OSError if `path` cannot be written, before any work is done."""
    is_new = not path.exists()
    path.open("a").close()
    if is_new:
        path.unlink()


def digest(content: bytes) -> str:
    """The SHA-256 checksum of `content` as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
