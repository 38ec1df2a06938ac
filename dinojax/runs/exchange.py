"""Replace the run in a folder by a new one; at any moment, the folder holds all of one of them.

The files of the new run, and those of its selection if it has one, are first written into `.new`, a
folder within that of the run, and the checkpoint of the run comes last. Until it is there, the run
is the earlier one, all of which is still in its place, and `.new` does not count. From then on, the
run and its selection are the new ones: a file is read from `.new` or, if it is no longer there,
from its place. The selection of the earlier run is removed, and so are its pictures and event
files, and its files that the new run does not have. The others are replaced one by one, the
checkpoint last, and `.new` is removed. The process that next locks the folder completes what a
killed one has left.

`.new` also holds a list of the new files. It is written first and removed last, and its first line
tells this folder from a user's of the same name. All functions raise an OSError if a file cannot be
read or written. The folder must be locked while it is changed.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from dinojax import files
from dinojax.files import read_regular, remove_leftovers, sync_folder
from dinojax.runs.description import PARTS
from dinojax.runs.selection import SELECTION

CONFIG_FILE, METRICS_FILE, LOCK_FILE = "config.json", "metrics.jsonl", ".lock"
CHECKPOINT = re.compile(r"checkpoint-\d{9,}\.npz")
"""Name of a checkpoint."""
CODE = re.compile(r"code-[0-9a-f]{16}\.py")
"""Name of a copy of the user's own code; see `code`."""
RUN_FILE = re.compile(
    rf"{CHECKPOINT.pattern}|(?:{'|'.join(PARTS)})\.(?:txt|json)|{CODE.pattern}|{CONFIG_FILE}"
    rf"|{METRICS_FILE}"
)
"""Name of any file of a run but the lock."""
LISTED = re.compile(rf"(?:{SELECTION}/)?(?:{RUN_FILE.pattern})")
"""The same, or that of a file of its selection."""
DERIVED = re.compile(
    r"(?:loss|surprisal|activations)\.(?:png|svg)|events\.out\.tfevents\.\d+\..+\.\d+"
)
"""Name of a picture or an event file, which shows a run and goes with it."""
NEW, LIST = ".new", "files.txt"
FIRST_LINE = b"Files of a new run of dinojax. They take the place of those of the run before.\n"


def not_a_run(folder: Path, missing: str) -> str:
    """What is wrong with a folder that lacks a file of a run, and which run there is in it."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    found = (
        path for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/{CONFIG_FILE}"))
    )
    inside = next((f"; a run in it is {path.parent}" for path in found), "")
    return f"{folder} is not a run: it has no {missing}{inside}"


@contextmanager
def locked(folder: Path | str) -> Iterator[None]:
    """Lock the folder of a run, and tidy up what a process that was killed has left there.

    The lock of a process that has died does not count.

    Raises:
        OSError: the lock file cannot be made.
        ValueError: another process has locked it.
    """
    folder = Path(folder)
    if folder.name == SELECTION and is_decided(folder.parent):
        with _locked(folder.parent):
            pass
    with _locked(folder):
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with _lock(folder):
        finish(folder)
        remove_leftovers(folder)
        yield


def _lock(folder: Path) -> AbstractContextManager[None]:
    message = "wait until it has ended, or choose another folder"
    return files.locked(folder / LOCK_FILE, f"another process trains in {folder}; {message}")


def begin(folder: Path, names: Sequence[str]) -> Path:
    """Make `.new` for the files `names` of a new run, and return it.

    Once the last of them is there, the run is the new one. Names of files of its selection follow
    that of its config.json.

    Raises:
        ValueError: another process trains the selection of the earlier run.
    """
    if has_selection(folder) and (folder / SELECTION).is_dir():
        with _lock(folder / SELECTION):
            pass
    new = folder / NEW
    new.mkdir()
    with open(new / LIST, "xb") as file:
        file.write(FIRST_LINE + "".join(f"{name}\n" for name in names).encode())
        file.flush()
        os.fsync(file.fileno())
    if any(name.startswith(f"{SELECTION}/") for name in names):
        (new / SELECTION).mkdir()
    sync_folder(folder)
    return new


def finish(folder: Path) -> None:
    """Put the files of a new run in their places, or remove them if the last one is missing."""
    names, new = _listed(folder), folder / NEW
    if names is None:
        return
    if is_decided(folder):
        # The file of the earlier run is there until the new one has taken its place.
        if (new / CONFIG_FILE).exists() and has_selection(folder):
            _remove_run(folder / SELECTION)
        _remove_files(folder, but=names)
        for name in names:
            if (new / name).exists():
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(new / name, folder / name)
        for parent in {(folder / name).parent for name in names}:
            sync_folder(parent)
    if (new / SELECTION).is_dir():
        shutil.rmtree(new / SELECTION)
    for path in sorted(new.iterdir(), key=lambda path: path.name == LIST):
        path.unlink()
    new.rmdir()


def is_ours(folder: Path) -> bool:
    """Whether there is a `.new` that `begin` made, not a folder of the user's of that name."""
    return _listed(folder) is not None


def is_decided(folder: Path) -> bool:
    """Whether the run of a folder is the new one, whose files are not all in their places yet."""
    names = _listed(folder) or []
    return bool(names) and (folder / NEW / names[-1]).exists()


def place(folder: Path) -> Path:
    """Where the checkpoints of the run in a folder are now, and perhaps other files of it."""
    places = [(folder, folder / NEW)]
    if folder.name == SELECTION:
        places.append((folder.parent, folder.parent / NEW / SELECTION))
    for outer, new in places:
        if is_decided(outer) and new.is_dir() and any(new.iterdir()):
            return new
    return folder


def find_checkpoints(folder: Path | str) -> list[Path]:
    """The checkpoints of the run in a folder, oldest first."""
    found = [path for path in place(Path(folder)).iterdir() if CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(path: Path | str) -> int:
    """The number of steps of a checkpoint, from its name."""
    return int(Path(path).stem.split("-")[1])


def current(folder: Path, name: str) -> Path:
    """Where a file of the run in a folder is now."""
    path = place(folder) / name
    return path if path.exists() else folder / name


def home(path: Path) -> Path:
    """The folder of the run whose file is now at `path`."""
    folder = path.parent
    if folder.name == NEW:
        return folder.parent
    is_new = folder.name == SELECTION and folder.parent.name == NEW
    return folder.parent.parent / SELECTION if is_new else folder


def has_selection(folder: Path) -> bool:
    """Whether a run has a selection, by its config.json in a folder."""
    try:
        return json.loads(read_regular(folder / CONFIG_FILE))["refit"] is True
    except (FileNotFoundError, KeyError, RecursionError, TypeError, ValueError):
        return False


def _remove_run(folder: Path) -> None:
    """Remove the run in a folder, and the folder unless it holds other files."""
    if not folder.is_dir():
        return
    with _locked(folder):
        _remove_files(folder)
    (folder / LOCK_FILE).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _remove_files(folder: Path, but: Sequence[str] = ()) -> None:
    """Remove the files of a run, and what shows it, from a folder."""
    for path in folder.iterdir():
        is_ours = RUN_FILE.fullmatch(path.name) or DERIVED.fullmatch(path.name)
        if is_ours and path.name not in but and not path.is_dir():
            path.unlink()


def _listed(folder: Path) -> list[str] | None:
    """The names of the files of a new run; None if there is no `.new`, or a user's."""
    new = folder / NEW
    try:
        found = set(os.listdir(new))
    except (FileNotFoundError, NotADirectoryError):
        return None
    content = read_regular(new / LIST) if LIST in found else b""
    if not content.startswith(FIRST_LINE):
        # A process may have been killed before the list was whole; then there is nothing else.
        return [] if found <= {LIST} and FIRST_LINE.startswith(content) else None
    lines = content.decode(errors="replace").split("\n")
    return [line for line in lines if LISTED.fullmatch(line)]
