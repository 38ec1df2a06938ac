"""Every command and every line of Python in the README runs; its two set-up lines run in CI."""

import re
import shlex
import subprocess
import sys

import pytest
from test_architecture import READING_ORDER

from conftest import ROOT, USERS_ENVIRONMENT

ENVIRONMENT = dict(USERS_ENVIRONMENT)
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(arguments, folder):
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, check=True, capture_output=True, text=True,
        timeout=300, env=ENVIRONMENT,
    ).stdout  # fmt: skip


@pytest.fixture(autouse=True)
def compile_once(tmp_path_factory):
    """Let all commands share what XLA compiled."""
    ENVIRONMENT["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.getbasetemp() / "compiled")
    ENVIRONMENT["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def test_commands(tmp_path):
    for name in ("scripts", "data", "tests", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    # Stand-ins for what is not in the repository.
    for name in ("tinyshakespeare.txt", "names.txt"):
        (tmp_path / name).symlink_to(ROOT / "data" / "dinos.txt")
    run(["scripts/train.py", "--steps", "2000"], tmp_path)
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    set_up = [line for line in commands if line.startswith("python3 -m venv .venv && ")]
    assert len(set_up) == 2
    for line in commands:
        if line in set_up:
            continue
        python, *arguments = shlex.split(line)
        assert python == ".venv/bin/python"
        if "50000" in arguments:
            arguments[arguments.index("50000")] = "5000"
        if arguments[0] == "scripts/bench.py":
            # It takes minutes; test_bench.py runs it on little work.
            continue
        if arguments[1:2] in (["names"], ["text"], ["text-best"]):
            arguments += ["--epochs", "1", "--hidden-size", "16"]
        assert run(arguments, tmp_path)


def test_python(tmp_path):
    output = run(["-c", "\n".join(blocks("python"))], tmp_path).splitlines()
    names, reports = output[:10], output[10:]
    assert all(re.fullmatch("[a-z]*", name) for name in names)
    assert reports[-1].startswith("step 300: ")
    assert float(reports[-1].split()[2]) < 2.6


def test_files_are_listed_in_reading_order():
    listed = re.findall(r"^\| \[(\w+)\.py\]\(dinojax/\1\.py\)", README, re.MULTILINE)
    assert listed == READING_ORDER


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^):]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)
