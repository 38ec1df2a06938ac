"""The sources of Python's standard library, a text that every machine with Python has."""

import platform
import re
import sysconfig
from pathlib import Path

MODULES = [
    "__future__", "_collections_abc", "_compat_pickle", "_markupbase", "_py_abc", "_pydecimal",
    "_pyio", "_strptime", "_threading_local", "_weakrefset", "abc", "argparse", "ast", "base64",
    "bdb", "bisect", "bz2", "cProfile", "calendar", "cmd", "code", "codecs", "codeop", "colorsys",
    "compileall", "configparser", "contextlib", "contextvars", "copy", "copyreg", "csv",
    "dataclasses", "decimal", "difflib", "dis", "doctest", "enum", "filecmp", "fileinput",
    "fnmatch", "fractions", "ftplib", "functools", "genericpath", "getopt", "getpass", "gettext",
    "glob", "graphlib", "gzip", "hashlib", "heapq", "hmac", "imaplib", "inspect", "io",
    "ipaddress", "keyword", "linecache", "locale", "lzma", "mailbox", "mimetypes", "modulefinder",
    "netrc", "ntpath", "numbers", "opcode", "operator", "optparse", "os", "pdb", "pickle",
    "pickletools", "pkgutil", "platform", "plistlib", "poplib", "posixpath", "pprint", "profile",
    "pstats", "pty", "py_compile", "pyclbr", "pydoc", "queue", "quopri", "random", "reprlib",
    "rlcompleter", "runpy", "sched", "secrets", "selectors", "shelve", "shutil", "signal", "site",
    "smtplib", "socket", "socketserver", "ssl", "stat", "statistics", "stringprep", "struct",
    "subprocess", "symtable", "tabnanny", "tarfile", "tempfile", "textwrap", "threading",
    "timeit", "token", "tokenize", "trace", "traceback", "tracemalloc", "tty", "types", "typing",
    "uuid", "warnings", "wave", "weakref", "webbrowser", "zipapp", "zipimport",
]  # fmt: skip
"""The modules that are read, sorted: files of Python 3.11 to 3.14, four megabytes in all."""
_PATH = re.compile(r"Python (\S+) standard library")


def library_path() -> Path:
    """What stands for these files in place of a path; it says which Python they belong to."""
    return Path(f"Python {platform.python_version()} standard library")


def is_library(path: Path | str) -> bool:
    """Whether a path stands for the standard library, be it that of another Python."""
    return _PATH.fullmatch(str(path)) is not None


def library_files(path: Path | str, folder: Path | str | None = None) -> list[Path]:
    """The files that `path` stands for: those of `MODULES`, in their order, in a `folder`.

    By default, that is the folder of Python's standard library.

    Raises:
        ValueError: `path` is that of another Python, or a file is not there, as where the library
            is kept in an archive.
    """
    if Path(path) != library_path():
        raise ValueError(
            f"expected the {path}, but this is Python {platform.python_version()}; use that one or "
            "give another text"
        )
    folder = Path(folder or sysconfig.get_path("stdlib"))
    files = [folder / f"{module}.py" for module in MODULES]
    if missing := [file.name for file in files if not file.is_file()]:
        raise ValueError(
            f"the {path} in {folder} is incomplete: {missing[0]} is missing; give another text"
        )
    return files
