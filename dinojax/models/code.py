"""Code of the user's own, in Python files: kept on this machine, and executed.

A run records which file it trained with by its checksum; see `own`. The files that this user has
trained with, or said to trust, are kept as ~/.cache/dinojax/code/SHA256.py. Only they are executed,
so nobody else's run executes code when it is loaded. A file stands alone: it may import what is
installed, but no file beside it.
"""

import re
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from dinojax.config import WITH_CODE
from dinojax.files import digest, read_regular, write_atomically
from dinojax.messages import quoted, shortened
from dinojax.own import OwnCode, own_code
from dinojax.startup import cache_folder

EXECUTED: dict[str, str] = {}
"""The names of the files that were executed, by their checksums."""


def pinned(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings`, with the checksum of the file wherever one names code; the files are kept.

    This is for what the user gives: a setting without a checksum, read from a file, is not trusted.
    A setting may also have a list of values. Those with a checksum stay as they are.

    Raises:
        OSError: a file cannot be read, or not be kept.
    """

    def pin(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [*map(pin, value)]
        code = own_code(value)
        if code is None or code.sha256:
            return value
        path = Path(code.file)
        return str(OwnCode(path.name, code.name, keep(read_regular(path))))

    return {name: pin(x) if name in WITH_CODE else x for name, x in settings.items()}


def keep(source: bytes) -> str:
    """Keep the content of a file, so that it may be executed; returns its checksum."""
    sha256 = digest(source)
    if not is_kept(sha256):
        path = _path(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, source)
    return sha256


def is_kept(sha256: str) -> bool:
    """Whether the file with this checksum is kept."""
    path = _path(sha256)
    return path.is_file() and digest(read_regular(path)) == sha256


def source_of(code: OwnCode) -> bytes:
    """The content of the file of recorded code.

    Raises:
        ValueError: it is not kept.
    """
    if not is_kept(code.sha256):
        raise ValueError(
            f"the file {code.file} with the checksum {code.sha256[:8]}.. was never used on this "
            "machine; if you trust the folder that it is from, say so: dinojax trust FOLDER"
        )
    return read_regular(_path(code.sha256))


def load(value: str) -> Callable[..., Any]:
    """The function that a setting names, from the file with its checksum, which is executed.

    Raises:
        ValueError: the file is not kept, it raises an exception, or has no such function.
    """
    code = own_code(value)
    if code is None or not code.sha256:
        raise ValueError(f"expected code with its checksum, got {quoted(value)}")
    found = getattr(_module(code.file, code.sha256), code.name, None)
    if not callable(found):
        raise ValueError(f"{code.file} has no function {code.name}")
    return found


@cache
def _module(file: str, sha256: str) -> ModuleType:
    """The file with this checksum as a module, executed once."""
    source = source_of(OwnCode(file, "", sha256))
    module = ModuleType(f"dinojax_own_{sha256[:16]}")
    module.__file__ = str(_path(sha256))
    # Data classes look up the module that they are in.
    sys.modules[module.__name__] = module
    EXECUTED[sha256] = file
    try:
        exec(compile(source, module.__file__, "exec"), module.__dict__)
    # Of any type: a file may also ask Python to exit.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ValueError(f"{file}: {said(error, sha256)}") from None
    return module


def call(value: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a function of the code that a setting names returns.

    Raises:
        ValueError: it raises an exception of any type; says where.
    """
    code = own_code(value)
    try:
        return function(*arguments, **options)
    # It may also ask Python to exit.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ValueError(said(error, code.sha256 if code else "")) from None


def said(error: BaseException, sha256: str) -> str:
    """What an error in the file with this checksum says, in one line, and where it arose."""
    words = " ".join(str(error).split())
    lines = [line for found, line in _places(error) if found == sha256]
    if isinstance(error, SyntaxError) and error.filename == str(_path(sha256)):
        lines, words = [str(error.lineno)], error.msg
    where = f" in line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}{where}{': ' if words else ''}{shortened(words, 200)}"


def blamed(error: BaseException) -> str:
    """What an error says that arose in code that was executed, and where; empty for any other.

    JAX executes functions when it compiles them, which may be at any time.
    """
    found = [sha256 for sha256, _ in _places(error) if sha256 in EXECUTED]
    return f"{EXECUTED[found[-1]]}: {said(error, found[-1])}" if found else ""


def _places(error: BaseException) -> list[tuple[str, str]]:
    """The checksums of the files that an error went through, with numbers of lines."""
    frames = traceback.extract_tb(error.__traceback__)
    # JAX reports an error of a callback as a text.
    text = "\n".join([*(f'"{x.filename}", line {x.lineno}' for x in frames), str(error)])
    folder = re.escape(str(_path("").parent))
    return re.findall(rf"{folder}[/\\]([0-9a-f]{{64}})\.py(?:\", line |:)(\d+)", text)


def _path(sha256: str) -> Path:
    return cache_folder() / "code" / f"{sha256}.py"
