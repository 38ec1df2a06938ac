"""Every command and every line of Python in the README runs; its two set-up lines run in CI."""

import re
import shlex
import subprocess
import sys

from test_architecture import READING_ORDER

from conftest import ROOT, USERS_ENVIRONMENT

README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(arguments, folder):
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, check=True, capture_output=True, text=True,
        timeout=300, env=USERS_ENVIRONMENT,
    ).stdout  # fmt: skip


def test_commands(tmp_path):
    for name in ("scripts", "data", "tests", "README.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    run(["scripts/train.py", "--steps", "2000"], tmp_path)
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    set_up = [line for line in commands if line.startswith("python3 -m venv .venv && ")]
    assert len(set_up) == 2
    for line in commands:
        if line in set_up:
            continue
        python, *arguments = shlex.split(line)
        assert python == ".venv/bin/python"
        if arguments[0] == "scripts/bench.py":
            arguments += ["--tiny", "--rounds", "1"]
        if arguments[1:2] in (["names"], ["text"]):
            arguments += ["--epochs", "1"]
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
