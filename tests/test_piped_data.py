"""Data that commands read from a pipe, once."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_scripts import ENVIRONMENT, SCRIPTS, TIMEOUT, here

from dinojax.cli.data import note_wait
from dinojax.data.corpus import read_names, shown
from dinojax.files import digest

NAMES = b"rex\nyi\nmei\n\nrex\n" + b"x" * 40 + b"\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run that learned from standard input."""
    folder = tmp_path_factory.mktemp("piped")
    flags = "--data=-", "--steps=20", "--hidden-size=4", "--out=run"
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "train.py"), *flags],
        cwd=folder, input=NAMES, env=ENVIRONMENT, capture_output=True, check=True, timeout=TIMEOUT,
    )  # fmt: skip
    (folder / "out.txt").write_bytes(done.stdout)
    (folder / "err.txt").write_bytes(done.stderr)
    (folder / "names.txt").write_bytes(NAMES)
    return folder


@contextmanager
def piped(path, content):
    """A named pipe into which a thread writes, once."""
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=[content], daemon=True)
    thread.start()
    yield
    thread.join()
    path.unlink()


def test_names_from_standard_input_are_noted_and_recorded(place):
    first = (place / "out.txt").read_text().split("\n")[0]
    notes = "1 blank line skipped, 1 duplicate kept, "
    notes += "line 6 is far longer than the others, 40 characters"
    assert first.startswith(f"5 names ({notes}), 7 symbols;")
    said = (place / "err.txt").read_text()
    assert said == "train.py: note: reading standard input until it is closed\n"
    config = json.loads((place / "run" / "config.json").read_text())
    assert (config["data"], config["data_sha256"]) == ("-", digest(NAMES))


@pytest.mark.parametrize("content", [NAMES, b"", NAMES + b"x"])
def test_a_resumed_run_knows_its_data_from_other_data(place, content):
    waits = "train.py: note: reading pipe until it is closed\n"
    with piped(place / "pipe", content):
        result = here("train.py", "--resume=run", "--data=pipe", cwd=place)
    says = "run has done all its 20 steps" if content == NAMES else "a resumed run keeps its data"
    assert result.err.startswith(f"{waits}train.py: error: ")
    assert says in result.err


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_a_terminal_is_noted_and_read_to_its_first_end(name):
    notes, before, (ours, terminal) = [], os.dup(0), pty.openpty()
    os.dup2(terminal, 0)
    try:
        os.write(ours, b"rex\nmei\n\x04yi\n\x04\x04")
        note_wait(SimpleNamespace(note=notes.append), Path(name))
        assert read_names(Path(name)).data == ["rex", "mei"]
    finally:
        os.dup2(before, 0)
        for each in before, ours, terminal:
            os.close(each)
    assert notes == [f"reading {shown(Path(name))} until it is closed"]


@pytest.mark.parametrize("flags", [["--resume=run", "--data=-"], ["--config=run/config.json"]])
def test_standard_input_with_other_data_is_called_so(place, flags):
    before, (end, other) = os.dup(0), os.pipe()
    os.write(other, b"abc")
    os.close(other)
    os.dup2(end, 0)
    try:
        said = here("train.py", *flags, cwd=place).err
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(end)
    assert re.search("error: .*standard input has (changed|ba7816bf8f01)", said)


def test_a_configuration_accepts_no_other_data(place):
    config = json.loads((place / "run" / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"data": "pipe"}))
    with piped(place / "pipe", b"abc"):
        result = here("train.py", "--config=config.json", "--out=new", cwd=place)
    assert "pipe has changed since config.json was written: its checksum is ba7816bf8f01" in (
        result.err
    )
    assert not (place / "new").exists()
