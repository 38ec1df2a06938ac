"""How commands speak to the user, stop on a signal, and end."""

import errno
import json
import math
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from dinojax.messages import shortened, steers, visible

BAD_INPUT = 2
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
CUT = "…"
"""What follows, in a terminal, a name that was cut."""
MOST_SAID = 600
"""Longest message, in characters."""
PATIENCE = 0.5
"""Seconds after which a user who pressed Ctrl-C hears that it takes a while."""
STOPPING = "stopping as soon as this step is done and saved; Ctrl-C again ends at once"
IS_FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


class Program(NamedTuple):
    """The program that the user started. Messages, and commands to paste, name it."""

    command: str
    """Such as "train"."""
    started_as: str
    """What the user started, as in `sys.argv[0]`."""

    @property
    def is_script(self) -> bool:
        """Whether it is a file of `scripts/`, not the command `dinojax`."""
        return Path(self.started_as).name == f"{self.command}.py"

    @property
    def name(self) -> str:
        """What messages begin with: "train.py" or "dinojax train"."""
        return f"{self.command}.py" if self.is_script else f"dinojax {self.command}".strip()

    def line_to_sample(self, folder: Path, is_text: bool) -> str:
        """The line for a shell that samples from the run in a folder."""
        more = ("--length", "400") if is_text else ("--num", "20")
        return self.shell_line("sample", short_path(folder), *more)

    def shell_line(self, command: str, *arguments: str) -> str:
        """The line for a shell in this folder that starts another command in the same way."""
        started = Path(self.started_as)
        python = "python" if shutil.which("python") == sys.executable else sys.executable
        if self.is_script:
            words = [short_path(python), short_path(started.resolve().with_name(f"{command}.py"))]
        elif started.name == "__main__.py":
            words = [short_path(python), "-m", "dinojax", command]
        else:
            found = shutil.which("dinojax")
            is_found = found is not None and os.path.realpath(found) == os.path.realpath(started)
            words = ["dinojax" if is_found else short_path(started), command]
        return joined_for_shell([*words, *arguments])


def joined_for_shell(words: Sequence[str]) -> str:
    """Words as a line to paste into a shell; on Windows, into `cmd` or PowerShell."""
    if os.name == "nt":
        import subprocess

        return subprocess.list2cmdline(words)
    return shlex.join(words)


def tell(program: str, message: str) -> None:
    """Print a message of a program as one line on standard error, visible and not too long."""
    print(f"{program}: {shortened(visible(message), MOST_SAID)}", file=sys.stderr)


def json_encoder(encoding: str | None = "utf-8", indent: int | None = None) -> Callable[[Any], str]:
    """A function from a value to its JSON, for a file with this encoding.

    NaN and infinity, which JSON does not have, become null. Characters that could steer a terminal
    are escaped.
    """
    is_unicode = (encoding or "").lower() == "utf-8"
    encoder = json.JSONEncoder(ensure_ascii=not is_unicode, allow_nan=False, indent=indent)

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: finite(x) for name, x in value.items()}
        if isinstance(value, list):
            return [finite(x) for x in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def encode(value: Any) -> str:
        text = encoder.encode(finite(value))
        if text.isascii() or text.isprintable():
            return text
        # The newlines are those of the indentation.
        return "".join(json.dumps(c)[1:-1] if steers(c) and c != "\n" else c for c in text)

    return encode


def describe_error(error: Exception) -> str:
    """An exception as one line."""
    if isinstance(error, OSError) and error.strerror:
        # Every other file that is written has its name in the error.
        file = error.filename or ("standard output" if error.errno in IS_FULL else "")
        return f"{file}: {error.strerror}" if file else error.strerror
    return " ".join(str(error).split())


def short_path(file: str | Path) -> str:
    """The path, relative to the current folder if that is shorter."""
    short = str(file)
    # The current folder may be gone, or on another drive.
    with suppress(OSError, ValueError):
        short = min(short, os.path.relpath(file), key=len)
    # A leading dash would make it a flag.
    return os.path.join(os.curdir, short) if short.startswith("-") else short


def run(program: Program, main: Callable[[], int]) -> NoReturn:
    """Call `main` and exit with its code; an OSError is one line."""
    # They are closed after `<&-` or `>&-`, for example.
    sys.stdin = sys.stdin or os.fdopen(os.open(os.devnull, os.O_RDONLY))
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows its code point.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    code: Any = 0
    try:
        try:
            code = main()
        except SystemExit as end:
            code = BAD_INPUT if is_of_own_code(program, end) else end.code
        except Exception as error:
            if isinstance(error, OSError) or not is_of_own_code(program, error):
                raise
            code = BAD_INPUT
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader is gone, as after `| head`.
        code = 0
    except OSError as error:
        # A command that failed may have said so.
        if code != BAD_INPUT:
            tell(program.name, f"error: {describe_error(error)}")
        code = BAD_INPUT
    try:
        sys.stdout.flush()
    except OSError:
        # Keep Python from failing again in its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # Python takes a moment to end, in which Ctrl-C would change the exit code.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def is_of_own_code(program: Program, error: BaseException) -> bool:
    """Whether an error arose in code of the user's own; then it is one line."""
    # If it was not imported, no such code was executed.
    code = sys.modules.get("dinojax.models.code")
    if said := code.blamed(error) if code else "":
        tell(program.name, f"error: {said}")
    return bool(said)


@contextmanager
def stop_on_signal(program: str) -> Iterator[list[int]]:
    """A list to which Ctrl-C and SIGTERM are added; another Ctrl-C ends the process.

    That one counts after a second, so that a key that is held down counts once. Python calls a
    handler only between its own instructions, and XLA may compile for many seconds. So a thread
    answers meanwhile: it says what happens, and acts on the second Ctrl-C.
    """
    # It takes a while to import, and most commands do not need it.
    import socket

    signals: list[int] = []

    def handle(signal_number: int, frame: Any) -> None:
        if not signals:
            signals.append(signal_number)

    def answer() -> None:
        stopped = 0.0
        # Empty once the other end is closed.
        while number := received.recv(1):
            if not stopped:
                stopped = time.monotonic()
                if not is_over.wait(PATIENCE):
                    print(file=sys.stderr)
                    tell(program, STOPPING)
            elif number[0] == signal.SIGINT and time.monotonic() - stopped > 1:
                at_once(signal.SIGINT, None)

    received, sent = socket.socketpair()
    sent.setblocking(False)
    is_over, answers = threading.Event(), threading.Thread(target=answer, daemon=True)
    before = signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
    at_once: Any = signal.signal(signal.SIGINT, handle)
    terminate = signal.signal(signal.SIGTERM, handle)
    answers.start()
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, at_once)
        signal.signal(signal.SIGTERM, terminate)
        signal.set_wakeup_fd(before)
        is_over.set()
        sent.close()
        answers.join()
        received.close()
