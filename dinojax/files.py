"""Files: written completely or not at all, read only if they end, locked, and named in errors."""

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

TEMPORARY = re.compile(
    # Earlier versions named a temporary file after the file that it was to become.
    r"\.(?:dinojax-[0-9a-f]{16}|checkpoint-\d{9,}\.npz|(?:train|validation|test)\.txt|config\.json"
    r"|metrics\.jsonl|loss\.(?:png|svg))\.(\d{1,9})\.tmp"
)
"""Name of a temporary file of the process with that number; see `atomic_file`."""
TEMPORARY_FOLDER = re.compile(r"\.dinojax-[0-9a-f]{16}\.(\d{1,9})\.new")
"""Name of a temporary folder of the process with that number; see `new_folder`."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a file, all of it or nothing; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to. `path` always holds all of the old content or all of the new.

    A file that is replaced keeps its permissions. A process that is killed may leave a temporary
    file, which `remove_leftovers` finds.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    temporary = _temporary(path)
    with named_errors(path, temporary):
        mode = None
        with suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.stat().st_mode)

        def create(name: str, flags: int) -> int:
            return os.open(name, flags, 0o666 if mode is None else mode)

        try:
            # "x" neither opens an existing file nor follows a link.
            with open(temporary, "xb", opener=create) as file:
                if mode is not None:
                    os.chmod(temporary, mode)
                yield file
                flush(file)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def flush(file: BinaryIO) -> None:
    """Wait until all that was written to a file is on disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk; before, a power cut may undo a rename."""
    # Windows cannot open a folder.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which gets the name `path` once it is complete.

    A process that is killed may leave a hidden folder beside it, which the next call removes.

    Raises:
        OSError: the folder cannot be made or filled; nothing is left behind.
        ValueError: `path` exists.
    """
    if os.path.lexists(path):
        raise ValueError(f"{path} exists; choose a new name for the folder")
    if not path.parent.exists():
        raise FileNotFoundError(errno.ENOENT, "no such folder; make it first", str(path.parent))
    for left in path.parent.glob(".dinojax-*.new"):
        found = TEMPORARY_FOLDER.fullmatch(left.name)
        if found and not _is_running(int(found[1])):
            # Does nothing to a file or a link.
            shutil.rmtree(left, ignore_errors=True)
    temporary = _temporary(path).with_suffix(".new")
    with named_errors(path, temporary):
        temporary.mkdir()
        try:
            yield temporary
            if os.path.lexists(path):
                raise ValueError(f"{path} was made by another process; choose a new name")
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while writing into a folder."""
    for file in folder.iterdir():
        found = TEMPORARY.fullmatch(file.name)
        if found and not _is_running(int(found[1])):
            file.unlink(missing_ok=True)


def read_regular(path: Path) -> bytes:
    """The content of a file; see `open_regular`."""
    with open_regular(path) as file:
        return file.read()


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A file to read. A pipe or a device, which may never end, is refused without waiting.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """

    def open_at_once(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    with open(path, "rb", opener=open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            message = "expected a regular file, got a pipe or a device"
            raise OSError(errno.EINVAL, message, str(path))
        yield file


@contextmanager
def named_errors(path: Path, written: Path) -> Iterator[None]:
    """Make an OSError name `path` if it names no file, or names `written` or what is inside."""
    try:
        yield
    except OSError as error:
        named = written if error.filename is None else Path(str(error.filename))
        if error.errno and named.is_relative_to(written):
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
    """Raise an OSError if `atomic_file` cannot write `path`, before any work is done."""
    temporary = _temporary(path)
    with named_errors(path, temporary):
        with suppress(FileNotFoundError):
            # Unbuffered, as a buffer would look for a position, which a terminal does not have.
            path.open("r+b", buffering=0).close()
        temporary.open("xb").close()
        temporary.unlink()


def digest(content: bytes) -> str:
    """The SHA-256 checksum of `content` as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _temporary(path: Path) -> Path:
    # A short name, as that of `path` may be as long as names can be, and one that nobody foresees.
    return path.with_name(f".dinojax-{os.urandom(8).hex()}.{os.getpid()}.tmp")


def _is_running(process: int) -> bool:
    """Whether another process has this number."""
    # After a restart in a container, this process may have the number of the one that was killed.
    if process == os.getpid():
        return False
    try:
        # Elsewhere than on POSIX systems, this would end the process.
        if os.name == "posix":
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
