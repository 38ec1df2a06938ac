"""Ctrl-C where Python cannot answer it at once, and where nothing has been trained yet."""

import os
import signal
import subprocess
import sys
import time

import pytest
from test_scripts import ENVIRONMENT, TIMEOUT, finish, run, trap

from dinojax.cli.terminal import STOPPING, stop_on_signal

BLOCKED = """
import hashlib, signal, time
from dinojax.__main__ import interrupt
from dinojax.cli.terminal import stop_on_signal

signal.signal(signal.SIGINT, interrupt)
with stop_on_signal("dinojax train"):
    print("ready", flush=True)
    # Like XLA, this returns to no instruction of Python, and lets other threads work.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


def test_an_interrupt_is_answered_and_the_second_one_obeyed_where_python_is_blocked():
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == b"\n"
    assert process.stderr.readline().decode() == f"dinojax train: {STOPPING}\n"
    deadline = time.monotonic() + TIMEOUT
    # Those within the first second may be of a key that is held down.
    while process.poll() is None:
        assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    result = finish(process)
    assert result.code == 130
    assert result.err == "-c: interrupted\n"


def test_signals_are_collected_and_handled_as_before_afterwards(capsys):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signal("x") as signals:
        for what in signal.SIGTERM, signal.SIGINT, signal.SIGINT:
            os.kill(os.getpid(), what)
    assert signals == [signal.SIGTERM]
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    wakeup = signal.set_wakeup_fd(-1)
    assert wakeup == -1
    # It stopped before anybody had to wait.
    assert capsys.readouterr().err == ""


def test_a_search_that_is_interrupted_before_its_first_trial_says_how_to_resume(tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "names.txt").write_text("ada\nbob\neve\n")
    environment = trap(tmp_path / "trap", "sqlite3.connect", "study.db", [1], signal.SIGINT)
    flags = "--search=2", "--learning-rate=1e-3:1e-1", "--steps=40", "--jobs=1", "--out=found"
    result = run("sweep.py", "dinos", "--data=names.txt", *flags, cwd=tmp_path, **environment)
    said = result.err.replace(f"sweep.py: {STOPPING}\n", "")
    assert result.code == 130
    *_, last = said.strip().split("\n")
    assert last.startswith("sweep.py: interrupted; 0 of 2 trials ended, all others are saved; ")
    assert last.endswith("sweep.py --resume found")
