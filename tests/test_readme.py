"""Every command and every line of Python in the README runs; its two set-up lines run in CI."""

import re
import shlex
import subprocess
import sys

import jax
import pytest
from test_architecture import FILES, STOREYS, imports_of

from dinojax.cli.main import COMMANDS
from dinojax.cli.terminal import Program

from conftest import QUICK, ROOT, USERS_ENVIRONMENT
from in_process import call_here
from keras_writer import make_model, write

README = (ROOT / "README.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like a clone, with the run that the first command makes, but shorter."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("scripts", "data", "tests", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    # Stand-ins for what is not in the repository.
    for name in ("tinyshakespeare.txt", "names.txt"):
        (folder / name).symlink_to(ROOT / "data" / "dinos.txt")
    sonnets = "Forsooth this maketh no sense\n" * 200
    (folder / "sonnets.txt").write_text(sonnets)
    num_symbols = len(set(sonnets.lower()))
    model = make_model("LSTM", num_symbols=num_symbols, units=16, gate="hard_sigmoid")
    write(folder / "poems.h5", model)
    dinojax("train", "--steps", "2000", cwd=folder)
    return folder


def dinojax(command, *arguments, cwd):
    """What a command prints."""
    if command in ("export", "import", "page"):
        # Other tests start the other commands as a user would.
        return python("-m", "dinojax", command, *arguments, cwd=cwd)
    # Code of the user's own may broadcast as it likes.
    with jax.numpy_rank_promotion("allow"):
        result = call_here(Program(command, "dinojax"), *arguments, cwd=cwd)
    assert result.code == 0, result.err
    return result.out


def python(*arguments, cwd):
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, check=True, capture_output=True, text=True,
        timeout=300, env=USERS_ENVIRONMENT | QUICK,
    ).stdout  # fmt: skip


FEWER = {
    "--seeds 5": "--seeds 2",
    "--search 20": "--search 2 --jobs 1",
    "--samples 10000": "--samples 500",
    "--out runs/own": "--steps 100 --out runs/own",
    "--out runs/mine": "--epochs 3 --out runs/mine",
    "--label-column 2": "--label-column 2 --epochs 1 --hidden-size 16",
}
"""What shortens a command."""
SLOW = {
    "python scripts/bench.py": "test_bench.py",
    "dinojax doctor": "test_doctor.py",
    "dinojax advise data/dinos.txt --minutes 0.5": "test_advise.py",
    "python scripts/board.py --data texts --out runs/board "
    "--recipes auto names names-best text text-best": "test_board.py",
}
"""Commands that take long, and the tests that run them on little work."""


def test_commands(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    set_up = [line for line in commands if line.startswith("python3 -m venv .venv && ")]
    assert len(set_up) == 2
    for line in commands:
        if line in set_up:
            continue
        for long, short in FEWER.items():
            line = line.replace(long, short)
        if line in SLOW or line == "dinojax data/dinos.txt":
            # The last makes a run like runs/mine.
            continue
        program, *arguments = shlex.split(line)
        if program == "awk":
            subprocess.run(line, shell=True, cwd=place, check=True)
            continue
        assert program in ("dinojax", "python")
        if program == "dinojax" and arguments[0] not in COMMANDS:
            arguments.insert(0, "train")
        trains = arguments[0] in ("train", "sweep")
        if trains and arguments[1] in ("names", "names-best", "text", "text-best"):
            length = [] if "--steps" in arguments else ["--epochs", "1"]
            arguments += [*length, "--hidden-size", "16"]
        if arguments[-2:] == ["--epochs", "15"]:
            # One more than the run above.
            arguments[-1] = "2"
        run = dinojax if program == "dinojax" else python
        assert run(*arguments, cwd=place), line


def test_python(place):
    first, *others = blocks("python")
    output = python("-c", first, cwd=place).splitlines()
    assert len(output) == 13
    parts = "\n".join(others).replace("steps=35_000", "steps=2_000")
    output = python("-c", parts, cwd=place).splitlines()
    names, over_seeds, reports = output[:10], output[10], output[11:]
    assert over_seeds.endswith("nats a name over 8 seeds")
    assert all(re.fullmatch("[a-z]*", name) for name in names)
    assert reports[-1].startswith("step 300: ")
    assert float(reports[-1].split()[2]) < 2.6


def test_files_are_listed_in_reading_order():
    """Each file imports only from those listed above it, and none is missing."""
    listed = re.findall(r"^\| \[([\w/]+)\.py\]\(dinojax/\1\.py\)", README, re.MULTILINE)
    listed = [file.replace("/", ".") for file in listed]
    assert sorted(listed) == sorted(FILES)
    for place, file in enumerate(listed):
        assert {x for x in imports_of(file) if x in FILES} <= set(listed[:place]), file
    order = [name for storey in STOREYS for name in storey]
    places = [order.index(file.split(".")[0]) for file in listed]
    assert places == sorted(places)


def test_links_lead_somewhere():
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^):]+)\)", README)]
    assert links
    assert all((ROOT / link).exists() for link in links if link)
