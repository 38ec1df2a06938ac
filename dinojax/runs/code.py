"""Copies of the user's own code in the folders of runs: written, checked and trusted.

A copy is named after the first digits of its checksum, as in runs/mine/code-0123456789abcdef.py.
Code is executed only where it is kept on this machine; see `models.code`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dinojax.config import WITH_CODE, TrainConfig
from dinojax.files import digest, read_regular, write_atomically
from dinojax.models import code
from dinojax.own import OwnCode, brief, own_code
from dinojax.runs import exchange
from dinojax.runs.kinds import Kind, Mixture

DEPTHS = "", "*/", "*/*/"
"""Where copies are in a folder: in that of a run, or of a sweep, its settings and its replicas."""


def codes_in(settings: Mapping[str, Any]) -> set[OwnCode]:
    """The recorded code that settings name, each a value or a list of values."""
    found = set[OwnCode]()
    for name in WITH_CODE:
        value = settings.get(name)
        each = map(own_code, value if isinstance(value, list) else [value])
        found |= {code for code in each if code and code.sha256}
    return found


def codes_of(kind: Kind) -> set[OwnCode]:
    """The recorded code that a kind of model needs."""
    if isinstance(kind, Mixture):
        return set[OwnCode]().union(*map(codes_of, kind.members))
    return codes_in(asdict(kind)) if isinstance(kind, TrainConfig) else set()


def copies(codes: Iterable[OwnCode]) -> dict[str, bytes]:
    """The files that a folder must hold for code, by name."""
    return {_copy_name(each.sha256): code.source_of(each) for each in codes}


def write_copies(folder: Path | str, codes: Iterable[OwnCode]) -> None:
    """Write the files that the folder of a sweep or a search must hold for code."""
    for name, source in copies(codes).items():
        write_atomically(Path(folder) / name, source)


def check_copies(folder: Path | str, codes: Iterable[OwnCode]) -> None:
    """Check that the code of a run may be executed, and that its folder has no other.

    A copy may be missing if the file is kept on this machine.

    Raises:
        OSError: a copy cannot be read.
        ValueError: a copy was changed, or the file was never trusted on this machine.
    """
    folder = Path(folder)
    for each in codes:
        copy = exchange.current(folder, _copy_name(each.sha256))
        is_there = copy.exists()
        if is_there and digest(read_regular(copy)) != each.sha256:
            raise ValueError(
                f"{copy} was changed after it was written: its checksum does not match that of "
                f"{brief(each)}; put back what it was"
            )
        if code.is_kept(each.sha256):
            continue
        if not is_there:
            raise ValueError(f"{copy} is missing, the code of {brief(each)}; put it back")
        raise ValueError(
            f"{folder} has code of its own, which would be executed: {copy.name}; read it and, if "
            f"you trust it, say so: dinojax trust {folder}"
        )


def trust(folder: Path | str) -> list[Path]:
    """Trust the code in the folder of a run, a sweep or a search: it may be executed from now on.

    Returns the files.

    Raises:
        OSError: a file cannot be read, or not be kept.
        ValueError: there is no code, or a file was changed.
    """
    found = [x for depth in DEPTHS for x in sorted(Path(folder).glob(f"{depth}code-*"))]
    found = [path for path in found if exchange.CODE.fullmatch(path.name)]
    if not found:
        is_there = Path(folder).is_dir()
        raise ValueError(f"{folder} {'has no code of its own' if is_there else 'is not a folder'}")
    sources = [read_regular(path) for path in found]
    for path, source in zip(found, sources, strict=True):
        if path.name != _copy_name(digest(source)):
            raise ValueError(f"{path} was changed after it was written; put back what it was")
    for source in sources:
        code.keep(source)
    return found


def _copy_name(sha256: str) -> str:
    return f"code-{sha256[:16]}.py"
