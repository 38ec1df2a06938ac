import json
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dinojax.cli.terminal import STOPPING, Program
from dinojax.data.batches import pad_names, padded
from dinojax.data.corpus import bundled_names
from dinojax.data.text import capitalized
from dinojax.data.vocab import build_vocab
from dinojax.evaluation.losses import nats_per_column
from dinojax.messages import visible
from dinojax.models.trained import Trained
from dinojax.presets import PRESETS
from dinojax.runs import checkpoint
from dinojax.runs import folder as runs
from dinojax.runs.description import build_model
from dinojax.sampling.accept import continue_text
from dinojax.sampling.draw import read_prompt, sample_text
from dinojax.training import loop, optimizers
from dinojax.training import step as train

from conftest import QUICK, QUICK_TO_COMPILE
from in_process import call_here, seeded

SCRIPTS = Path(__file__).parents[1] / "scripts"
TIMEOUT = 300
"""Seconds after which a process is taken to hang; no test depends on how fast one is."""

ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("JAX_", "XLA_", "TQDM_", "COLUMNS"))
    and name not in ("PYTHONIOENCODING", "PYTHONUTF8", "PYTHONUNBUFFERED")
} | {"PYTHONIOENCODING": "utf-8", **QUICK}

ODD_FILE = "\ufeffÁda\r\n\r\nЩит\nx\n  \n日本語\na\u2028b\nÁda\r\nzoë\n\U0001f995é".encode()
"""A byte order mark, three kinds of line end, blank lines, scripts, a duplicate, one letter."""
ODD_NAMES = ["áda", "щит", "x", "日本語", "a\u2028b", "áda", "zoë", "\U0001f995é"]
FLAGS = {"steps": 2500, "hidden-size": 20, "learning-rate": 0.01, "clip-value": 2.0, "seed": 3}

# Sends a signal to its own process at a chosen event, so that no test depends on timing.
TRAP = """
import atexit, json, os, sys
event, text, counts, signal = json.loads(os.environ["TRAP"])
seen = 0
def hook(name, arguments):
    global seen
    if name == event and any(text in f"<{each}>" for each in arguments):
        seen += 1
        if seen in counts:
            os.kill(os.getpid(), signal)
if event == "exit":
    atexit.register(os.kill, os.getpid(), signal)
class Last:
    def __del__(self, kill=os.kill, pid=os.getpid()):
        kill(pid, self.signal)
if event == "teardown":
    last = Last()
    last.signal = signal
sys.addaudithook(hook)
"""

TERMINAL = """
import os, pty, sys
command = ["sh", "-c", 'stty rows 24 cols 100; exec "$@"', *sys.argv]
sys.exit(os.waitstatus_to_exitcode(pty.spawn(command)))
"""


def program_of(script):
    return Program(script.removesuffix(".py"), str(SCRIPTS / script))


def start(script, *arguments, cwd, **environment):
    arguments = seeded(program_of(script), arguments)
    return subprocess.Popen(
        [sys.executable, str(SCRIPTS / script), *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process, read=""):
    out, err = process.communicate(timeout=TIMEOUT)
    # Undecodable bytes are replaced, so output that is not UTF-8 fails the comparison.
    return SimpleNamespace(
        code=process.returncode, out=read + out.decode("utf-8", "replace"), err=err.decode()
    )


def run(script, *arguments, cwd, **environment):
    return finish(start(script, *arguments, cwd=cwd, **environment))


def said_by(result):
    """What a script printed on standard error besides a note that some names were empty."""
    return re.sub(r"^sample\.py: note: [\d,]+ empty names? drawn and left out\n", "", result.err)


def succeed(script, *arguments, cwd, **environment):
    """Standard output of a script that must succeed and has nothing to say."""
    result = run(script, *arguments, cwd=cwd, **environment)
    assert (result.code, said_by(result)) == (0, "")
    return result.out


def here(script, *arguments, cwd):
    """The result of a script without a process of its own."""
    program = program_of(script)
    return call_here(program, *seeded(program, arguments), cwd=cwd)


def succeed_here(script, *arguments, cwd):
    """Like `succeed`, without a process."""
    result = here(script, *arguments, cwd=cwd)
    assert (result.code, said_by(result)) == (0, "")
    return result.out


def lines(text):
    # Not splitlines, which splits at U+2028 too.
    assert text.endswith("\n")
    return text[:-1].split("\n")


def sample(folder, *arguments):
    return lines(succeed_here("sample.py", folder, *arguments, cwd=folder.parent))


def assert_one_line(result, script, code):
    assert "Traceback" not in result.err
    assert (result.code, len(result.err.strip("\n").split("\n"))) == (code, 1), result.err
    assert result.err.strip("\n").startswith(f"{script}: ")


def snapshot(folder):
    """Every file in a folder with its content, and every folder in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def checkpoints(folder):
    return sorted(folder.glob("checkpoint-*.npz"))


def step_of(path):
    return checkpoint.load(path)[0]["step"]


def starting_with(code, folder):
    """The environment in which a script runs some code, kept in a folder, before its own."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(code)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {"PYTHONPATH": path}


def trap(folder, event, text, counts, what):
    """The environment in which a script gets signal `what` at given occurrences of an event."""
    return starting_with(TRAP, folder) | {"TRAP": json.dumps([event, text, counts, int(what)])}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on an odd file in an odd place, with every flag but --overwrite, and its output."""
    cwd = tmp_path_factory.mktemp("scripts") / "an ödd $HOME's 日"
    cwd.mkdir()
    (cwd / "the names.txt").write_bytes(ODD_FILE)
    flags = [text for name, value in FLAGS.items() for text in (f"--{name}", value)]
    arguments = "dinos", "--data", "the names.txt", *flags, "--out", "my runs/a run"
    out = succeed("train.py", *arguments, cwd=cwd)
    return SimpleNamespace(cwd=cwd, folder=cwd / "my runs" / "a run", out=out, flags=flags)


@pytest.fixture
def place(trained, tmp_path):
    """A working directory with a run and all sorts of files."""
    shutil.copytree(trained.folder, tmp_path / "run")
    for name, content in {
        "names.txt": b"ada\nbob\neve\n",
        "empty.txt": b"",
        "blank.txt": b"\n \r\n\t\n\n",
        "mark.txt": b"\xef\xbb\xbf\n",
        "bytes.txt": b"ada\nb\xffb\n",
        "utf16.txt": "ada\nbob\n".encode("utf-16-le"),
        "long.txt": b"ada\n" + b"x" * 100_000 + b"\n",
        "other/mine.txt": b"mine",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "hollow").mkdir()
    return tmp_path


# What training says and leaves behind.


def test_training_reports_its_data_and_its_progress(trained):
    first = lines(trained.out)[0]
    symbols = len(build_vocab(ODD_NAMES).characters)
    for part in (
        "8 names",
        "(2 blank lines skipped, 1 duplicate kept)",
        f"{symbols} symbols",
        "20 hidden units",
        "2,500 steps",
    ):
        assert part in first
    reports = re.findall(r"^step +([\d,]+) +(\d+\.\d+) nats a name  (.+)$", trained.out, re.M)
    steps = [int(step.replace(",", "")) for step, _, _ in reports]
    # There is a report at least every 1,000 steps, where a compiled call ends.
    assert len(steps) >= 2
    assert steps == sorted(set(steps))
    assert steps[-1] < 2500
    assert float(reports[-1][1]) < float(reports[0][1])


def test_training_ends_with_ten_names_and_the_exact_loss(trained):
    loaded = runs.load_run(trained.folder)
    num_new, shown = re.search(r"Names, (\d+) of 10 new:\n(.*?)\n\n", trained.out, re.S).groups()
    names = shown.split("\n")
    assert len(names) == 10
    assert all(name.startswith("  ") for name in names)
    learned = [f"  {visible(capitalized(name))}" for name in ODD_NAMES]
    assert int(num_new) == sum(name not in learned for name in names)
    allowed = set(build_vocab(ODD_NAMES).characters)
    shown = "".join(name[2:].lower() for name in names).replace(r"\u2028", "\u2028")
    assert set(shown) <= allowed
    batch = pad_names(ODD_NAMES, loaded.vocab)
    nats = float(nats_per_column(loaded.params, loaded.model, batch).sum())
    a_name, a_character = map(
        float,
        re.search(
            r"([\d.]+) nats a name, ([\d.]+) ± [\d.]+ nats a character", trained.out
        ).groups(),
    )
    assert a_name == pytest.approx(nats / len(ODD_NAMES), abs=6e-4)
    num_characters = sum(len(name) + 1 for name in ODD_NAMES)
    assert a_character == pytest.approx(nats / num_characters, abs=6e-5)
    assert re.search(r"^2,500 steps in \d+\.\d+ s\b", trained.out, re.M)


def test_the_command_at_the_end_works_when_pasted(trained):
    (command,) = re.findall(r"^More names: (.+)$", trained.out, re.M)
    result = subprocess.run(
        f"{command} --seed 0",
        shell=True,
        cwd=trained.cwd,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert result.stdout.decode() == succeed_here("sample.py", trained.folder, "--num", 20, cwd="/")


def test_the_run_holds_the_settings_the_names_and_two_checkpoints(trained):
    loaded = runs.load_run(trained.folder)
    for name, value in FLAGS.items():
        assert getattr(loaded.config, name.replace("-", "_")) == value
    assert runs.read_part(trained.folder, loaded.description, "train") == ODD_NAMES
    assert loaded.step == 2500
    assert len(checkpoints(trained.folder)) == 2
    others = {
        path.name for path in set(trained.folder.iterdir()) - set(checkpoints(trained.folder))
    }
    expected = {".lock", "config.json", "loss.png", "loss.svg", "metrics.jsonl", "train.txt"}
    assert others == expected
    (said,) = re.findall("^Losses drawn in (.+)$", trained.out, re.M)
    pictures = {trained.cwd / each for each in said.split(" and ")}
    assert pictures == {*trained.folder.glob("loss.*")}


def test_training_is_that_of_the_library(trained):
    """From the last checkpoint but one, the library arrives at the last."""
    loaded = runs.load_run(trained.folder)
    optimizer = optimizers.clipped_sgd(FLAGS["learning-rate"], FLAGS["clip-value"])
    key = jax.random.key(0)
    like = train.init_train_state(key, loaded.params, loaded.model, optimizer)
    before, after = (
        checkpoint.restore(checkpoint.load(path)[1], like) for path in checkpoints(trained.folder)
    )
    assert int(before.step) < int(after.step)
    train_step = train.make_train_step(loaded.model, optimizer)
    dataset = padded(ODD_NAMES, loaded.vocab)
    *_, (state, *_) = loop.run(train_step, before, dataset, steps=FLAGS["steps"])
    for ours, theirs in zip(
        jax.tree.leaves(after.params), jax.tree.leaves(state.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert float(after.smoothed_loss) == pytest.approx(float(state.smoothed_loss), rel=1e-5)


def test_the_same_seed_gives_the_same_bytes(trained):
    arguments = "--data=the names.txt", *trained.flags, "--out=again"
    succeed("train.py", *arguments, cwd=trained.cwd, JAX_ENABLE_COMPILATION_CACHE="false")
    last = "checkpoint-000002500.npz"
    assert (trained.cwd / "again" / last).read_bytes() == (trained.folder / last).read_bytes()


def test_one_call_of_the_library_learns_the_same(trained):
    names = re.split("\r\n|\n", ODD_FILE.decode().removeprefix("\ufeff"))
    settings = {name.replace("-", "_"): value for name, value in FLAGS.items()}
    program = (
        "import pickle, sys\n"
        "from dinojax.startup import start_jax\n"
        "start_jax()\n"
        "from dinojax.runs.session import train\n"
        "names, settings = pickle.load(sys.stdin.buffer)\n"
        "pickle.dump(train(names, **settings)[1:], sys.stdout.buffer)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps((names, settings)),
        env=ENVIRONMENT,
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    params, vocab, _ = pickle.loads(process.stdout)
    loaded = runs.load_run(trained.folder)
    assert vocab == loaded.vocab
    jax.tree.map(np.testing.assert_array_equal, params, loaded.params)


def test_default_folders_default_data_and_another_seed(tmp_path):
    outs = [
        succeed_here("train.py", "--steps", 300, *more, cwd=tmp_path) for more in ([], ["--seed=1"])
    ]
    first, second = (tmp_path / "runs" / name for name in ("dinos", "dinos-2"))
    assert sorted((tmp_path / "runs").iterdir()) == [first, second]
    num_names = len(bundled_names().read_text().split())
    for out in outs:
        assert out.startswith(f"{num_names:,} names, 27 symbols; 50 hidden units; 300 steps\n")
    names = [re.search(r"Names, .* new:\n(.*?)\n\n", out, re.S)[1] for out in outs]
    assert names[0] != names[1]
    params = [runs.load_run(folder).params["readout"]["kernel"] for folder in (first, second)]
    assert not np.allclose(*params)


def test_one_name_of_one_letter(tmp_path):
    (tmp_path / "one.txt").write_text("É", "utf-8")
    # A folder whose name looks like a flag: the suggested command must still work.
    out = succeed_here("train.py", "--data=one.txt", "--steps=60", "--out=-run", cwd=tmp_path)
    assert out.startswith("1 name, 2 symbols;")
    command = out.split("More names: ")[1]
    result = subprocess.run(
        command, shell=True, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, timeout=TIMEOUT
    )
    assert result.returncode == 0
    names = {"é" * length for length in range(1, 51)}
    assert set(lines(result.stdout.decode())) <= names


def test_overwrite_replaces_the_run_and_no_other_file(place):
    (place / "run" / "notes.txt").write_bytes(b"mine")
    old = snapshot(place / "run")
    succeed_here(
        "train.py", "--data=names.txt", "--steps=20", "--out=run", "--overwrite", cwd=place
    )
    new = snapshot(place / "run")
    assert new["notes.txt"] == b"mine"
    assert new["train.txt"] == b"ada\nbob\neve\n"
    assert "checkpoint-000002500.npz" in old.keys() - new.keys()
    assert runs.load_run(place / "run").step == 20


# Sampling.


def test_a_name_depends_on_the_seed_and_not_on_the_number_of_names(trained):
    names = sample(trained.folder, "--num", 600, "--seed", 3)
    assert len(names) == 600
    assert len(set(names[:256])) > 10
    assert names[256:512] != names[:256]
    for num in (1, 20, 300):
        assert sample(trained.folder, f"--num={num}", "--seed=3") == names[:num]
    others = sample(trained.folder, "--num=60", "--seed=0")
    assert sample(trained.folder) == others[:10] != names[:10]


def json_lines(folder, *arguments):
    return [json.loads(line) for line in sample(folder, "--json", *arguments)]


@pytest.mark.parametrize("flags", [[], ["--temperature=0.6", "--top-k=3"]])
def test_json(flags, trained):
    """One object a line; the log-probability is the model's at temperature 1, nats."""
    arguments = "--num=300", "--seed=3", *flags
    rows = json_lines(trained.folder, *arguments)
    keys = ["name", "log_probability", "drawn_log_probability", "ended", "in_training_data"]
    # Where the model drew a separator at an end, which is no part of a name, the row has one more.
    assert all(list(row) == keys + ["drawn_as"] * (len(row) - len(keys)) for row in rows)
    loaded = runs.load_run(trained.folder)
    spelled = [row.get("drawn_as", row["name"]).lower() for row in rows]
    names = [row["name"].lower() for row in rows]
    assert names == [each.strip() for each in spelled]
    batch = pad_names(spelled, loaded.vocab)
    ended = np.array([row["ended"] for row in rows])
    # The last target of each name is its newline; that of a cut name does not count.
    last = np.array([len(name) for name in spelled])
    batch.weights[last[~ended], np.flatnonzero(~ended)] = 0
    nats = nats_per_column(loaded.params, loaded.model, batch)
    np.testing.assert_allclose(
        [-row["log_probability"] for row in rows], nats, rtol=1e-4, atol=1e-4
    )
    assert [row["in_training_data"] for row in rows] == [name in ODD_NAMES for name in names]
    assert len({row["in_training_data"] for row in rows}) == 2
    assert [row["name"] for row in rows] == sample(trained.folder, *arguments)
    drawn, whole = (
        np.array([row[key] for row in rows]) for key in ("drawn_log_probability", "log_probability")
    )
    if flags:
        assert np.mean(drawn > whole) > 0.9
    else:
        np.testing.assert_array_equal(drawn, whole)


def test_a_low_temperature_gives_the_likeliest_name_and_a_high_one_variety(trained):
    lowest, low, high = (
        len(set(sample(trained.folder, f"--temperature={t}", "--num=200"))) for t in (1e-6, 0.5, 3)
    )
    assert lowest == 1
    assert 2 * low < high


def test_a_reader_that_closes_the_pipe_early_is_no_error(trained):
    # More output than a pipe holds, so that writing fails once the reader has gone.
    with start("sample.py", trained.folder, "--num=30000", cwd=trained.cwd) as process:
        line = process.stdout.readline().decode()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT) == 0
    assert [line] == [name + "\n" for name in sample(trained.folder, "--num=1")]


# Surroundings.


def test_closed_streams(trained):
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        command = f'exec "$@" {closed}'
        process = subprocess.run(
            [
                *("sh", "-c", command, "sh", sys.executable, SCRIPTS / "sample.py"),
                *(trained.folder, "--seed=0"),
            ],
            env=ENVIRONMENT,
            capture_output=True,
            timeout=TIMEOUT,
        )
        assert (process.returncode, process.stderr) == (0, b""), closed


def test_an_ascii_terminal_gets_the_same_names_in_escapes(trained):
    names = sample(trained.folder, "--num=60")
    arguments = trained.folder, "--num=60"
    out = succeed("sample.py", *arguments, cwd=trained.cwd, PYTHONIOENCODING="ascii")
    escaped = lines(out)
    assert all(line.isascii() for line in escaped)
    assert [line.encode().decode("unicode_escape") for line in escaped] == names
    assert not all(name.isascii() for name in names)
    assert any("\U0001f995" in name for name in names)


def test_json_is_json_in_an_ascii_terminal(trained):
    arguments = trained.folder, "--num=60", "--json"
    out = succeed("sample.py", *arguments, cwd=trained.cwd, PYTHONIOENCODING="ascii")
    rows = [json.loads(line) for line in lines(out)]
    assert rows == json_lines(trained.folder, "--num=60")


def test_training_in_an_ascii_terminal_and_an_empty_folder(trained, tmp_path):
    (tmp_path / "ä").mkdir()
    out = succeed(
        "train.py",
        f"--data={trained.cwd / 'the names.txt'}",
        "--steps=40",
        "--out=ä",
        cwd=tmp_path,
        PYTHONIOENCODING="ascii",
    )
    assert out.isascii()
    assert runs.load_run(tmp_path / "ä").step == 40


def test_a_users_xla_flags_are_kept(trained, tmp_path):
    environment = {
        "XLA_FLAGS": f"{QUICK_TO_COMPILE} --xla_dump_to={tmp_path}",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    out = succeed("sample.py", trained.folder, cwd=trained.cwd, **environment)
    assert lines(out) == sample(trained.folder)
    assert list(tmp_path.iterdir())


def test_in_a_terminal_a_bar_shows_progress_and_control_c_saves(trained, tmp_path):
    arguments = f"--data={trained.cwd / 'the names.txt'}", "--steps=210_000", "--out=run"
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, sys.executable, SCRIPTS / "train.py", *arguments],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out = b""
    while not re.search(rb"step .+ nats a name  .*steps/s, [\d.]+ nats a name\]", out, re.S):
        block = os.read(process.stdout.fileno(), 65536)
        assert block, out.decode()
        out += block
    process.stdin.write(b"\x03")
    process.stdin.flush()
    out = (out + process.communicate(timeout=TIMEOUT)[0]).decode()
    assert process.returncode == 130
    assert "Traceback" not in out
    bars = [part for part in re.split(r"[\r\n]", out.replace("^C", "")) if "%|" in part]
    assert all(len(bar) <= 100 for bar in bars)
    done = [re.search(r" ([\d.,]+)(k?)/210[.,]?[0k]+ ", bar).groups() for bar in bars]
    steps = [float(number.replace(",", "")) * (1000 if kilo else 1) for number, kilo in done]
    assert steps == sorted(steps)
    # The rate is always in steps per second, never in seconds per step.
    assert not re.search(r"\ds/ ?step", out)
    (saved,) = re.findall(r"train\.py: interrupted; saved (\S+);", out)
    assert step_of(tmp_path / saved) >= max(steps) * 0.99
    assert len(sample(tmp_path / "run")) == 10


HELP = {
    "train.py": {
        "--data": ("name", "dinosaurs"),
        "--batches": ("packed", "dinos padded"),
        "--lowercase,": ("lower case", "dinos True"),
        "--column": ("names", "none"),
        "--count-column": ("counts", "none"),
        "--label-column": ("labels", "none"),
        "--cell": ("recurrent", "text lstm"),
        "--gate": ("gates", "sigmoid"),
        "--mogrifier-rounds": ("gate each other", 0),
        "--mogrifier-rank": ("matrices", 24),
        "--num-layers": ("layers", "dinos 1, names 2"),
        "--hidden-size": ("units", "dinos 50"),
        "--dropout": ("dropped", "names 0.5"),
        "--batch-size": ("rows", "dinos 1"),
        "--window": ("characters", "names 16"),
        "--reset-rate": ("state", PRESETS["text"].reset_rate),
        "--loss": ("characters", "dinos summed"),
        "--steps": ("step", "dinos 35000, names by its epochs"),
        "--epochs": ("passes", "dinos 0"),
        "--optimizer": ("updates", "names adamw"),
        "--learning-rate": ("updates", "dinos 0.01"),
        "--schedule": ("warm-up", "constant"),
        "--warmup": ("steps", "dinos 0.0"),
        "--weight-decay": ("adamw", "dinos 0.0"),
        "--clip-value": ("nats", "dinos 5.0"),
        "--clip-norm": ("nats", "dinos 0.0"),
        "--cooldown": ("falling", 0.0),
        "--average-share": ("average is then the model", 0.0),
        "--average-trigger": ("mean of the parameters", 0),
        "--validation-blocks": ("spread over a text", 0),
        "--refit,": ("train anew", "names-best True"),
        "--dtype": ("products", "float32"),
        "--recurrence": ("fused", "auto"),
        "--validation-fraction": ("validate", "names 0.1"),
        "--test-fraction": ("never reads", 0.0),
        "--evaluate-every": ("validations", 0),
        "--patience": ("validations", 0),
        "--devices": ("rows", 0),
        "--order": ("n-gram", 5),
        "--coordinator": ("first", ""),
        "--num-processes": ("how many", ""),
        "--process-id": ("from 0", ""),
        "--resume": ("stopped", ""),
        "--config": ("config.json", ""),
        "--keep": ("checkpoints", 2),
        "--save-every": ("checkpoints", "half a minute"),
        "--max-minutes": ("stop", ""),
        "--tensorboard": ("event", ""),
        "--seed": ("random", PRESETS["dinos"].seed),
        "--split-seed": ("hold out", 0),
        "--init-from": ("parameters", ""),
        "--out": ("folder", "runs/"),
        "--overwrite": ("replace", ""),
    },
    "sample.py": {
        "--which": ("checkpoint", "best"),
        "--label": ("with this label", "any"),
        "--num": ("names", 10),
        "--seed": ("random", "another each time"),
        "--temperature": ("logits", 1),
        "--top-k": ("likeliest", "all"),
        "--top-p": ("sum to P", 1),
        "--min-p": ("likely", 0),
        "--prompt": ("begins", ""),
        "--max-length": ("characters", 50),
        "--min-length": ("characters", "any"),
        "--match": ("Python", "any"),
        "--novel": ("learned", ""),
        "--unique": ("twice", ""),
        "--distance": ("edits", "any"),
        "--max-draws": ("give up", 1_000_000),
        "--best": ("most probable", ""),
        "--devices": ("core", "all"),
        "--out": ("all or nothing", ""),
        "--json": ("nats", ""),
        "--length": ("characters", 400),
        "--stop": ("stop", ""),
        "--context": ("fresh state", "the state is carried"),
    },
    "next.py": {
        "--which": ("checkpoint", "best"),
        "--label": ("labels", "how probable each label is"),
        "--num": ("likeliest", 10),
        "--json": ("bits", ""),
        "--out": ("PNG", ""),
        "--temperature": ("logits", 1),
        "--top-k": ("likeliest", "all"),
        "--top-p": ("sum", 1),
        "--min-p": ("times", 0),
    },
    "score.py": {
        "--names": ("more names", ""),
        "--file": ("one a line", ""),
        "--text": ("a text", ""),
        "--column": ("names", "those of the run"),
        "--label": ("labels", "sum"),
        "--which": ("checkpoint", "best"),
        "--characters": ("bits", ""),
        "--seed": ("new names", 0),
        "--json": ("nats", ""),
    },
    "reproduce.py": {
        "--data": ("name", str(bundled_names())),
        "--steps": ("step", 12_001),
        "--json": ("file", ""),
    },
}


@pytest.mark.parametrize("script", HELP)
def test_help_shows_every_default_and_unit(script, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = succeed_here(script, "--help", cwd=tmp_path)
    positional, options = out.split("options:")
    entries = re.split(r"\n +(?=--|-h)", options)[1:]
    shown = {entry.split()[0]: " ".join(entry.split()[1:]) for entry in entries}
    assert shown.keys() - {"-h,"} == HELP[script].keys()
    for flag, (meaning, default) in HELP[script].items():
        assert meaning in shown[flag]
        assert default == "" or f"{default}" in shown[flag].split("default")[1]
    # "default: None" tells the user nothing.
    assert "None" not in out
    assert {"train.py": "dinos", "sample.py": "folder"}.get(script, "") in positional


# Training that went wrong.


@pytest.mark.parametrize("flags", [["--steps=100"], ["--steps=20", "--clip-value=0"]])
def test_a_run_that_ends_worse_than_it_began_says_so_and_fails(flags, place):
    flags = "--data=names.txt", "--hidden-size=8", "--learning-rate=10", *flags, "--out=wild"
    result = here("train.py", *flags, cwd=place)
    assert_one_line(result, "train.py", code=1)
    cost = float(re.search(r"nats a name, ([\d.]+) ", result.out)[1])
    num = runs.load_run(place / "wild").vocab.size
    assert cost > 2 * np.log(num)
    said = f"costs {cost:,.2f} nats a character, and equal probabilities for all {num} symbols"
    assert f"{said} cost {np.log(num):.2f}; try a smaller --learning-rate" in result.err
    assert "if the loss in training was low, fewer --steps" in result.err
    # All is there, as after any other run.
    assert f"{'20' if len(flags) > 5 else '100'} steps in " in result.out
    assert runs.load_run(place / "wild").step == int(flags[3].split("=")[1])


@pytest.mark.parametrize("preset", ["dinos", "names"])
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_a_run_that_has_hardly_begun_has_not_failed(preset, steps, place):
    flags = "--data=names.txt", "--hidden-size=8", f"--steps={steps}", "--out=short"
    result = here("train.py", preset, *flags, cwd=place)
    assert (result.code, result.err) == (0, "")


def test_only_twice_the_loss_of_equal_probabilities_is_a_failure():
    from dinojax.cli.reports import describe_failure

    assert describe_failure(2 * np.log(27) - 1e-9, 27) == ""
    assert "6.60 nats" in describe_failure(2 * np.log(27) + 0.01, 27)
    # The only symbol there is costs nothing.
    assert describe_failure(0.0, 1) == ""


# reproduce.py: its numbers are tested elsewhere.


def test_reproduce_prints_and_writes_the_same_log(trained, tmp_path):
    data = trained.cwd / "the names.txt"
    arguments = f"--data={data}", "--json=log ä.json", "--steps"
    result = here("reproduce.py", *arguments, 2001, cwd=tmp_path)
    assert result.code == 0
    note = f"{data}: 2 blank lines skipped, 1 duplicate kept"
    assert result.err == f"reproduce.py: note: {note}\n"
    out = result.out
    log = json.loads((tmp_path / "log ä.json").read_text("utf-8"))
    assert list(log["smooth_loss"]) == list(log["names"]) == ["0", "2000"]
    assert log["smooth_loss"]["2000"] < log["smooth_loss"]["0"]
    assert out == "".join(
        f"Iteration: {step}, Loss: {loss:f}\n\n"
        + "".join(f"{n}\n" for n in log["names"][step])
        + "\n"
        for step, loss in log["smooth_loss"].items()
    )
    assert all(len(names) == 7 for names in log["names"].values())
    # Fewer steps: the same log up to there, and the file is replaced.
    ascii_only = {"cwd": tmp_path, "PYTHONIOENCODING": "ascii"}
    shorter = run("reproduce.py", *arguments, 2000, **ascii_only).out
    assert shorter.startswith("Iteration: 0, ")
    assert "Iteration: 2000" not in shorter
    log["smooth_loss"].pop("2000")
    log["names"].pop("2000")
    assert json.loads((tmp_path / "log ä.json").read_text("utf-8")) == log


# Texts, and names that begin as they should.

POEM = "Forsooth this maketh no sense\nÁnd yet it rhymes\x1b\n" * 12
TEXT_FLAGS = "--steps=60", "--batch-size=4", "--window=16", "--hidden-size=16", "--reset-rate=0.1"


@pytest.fixture(scope="module")
def poet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poet")
    (folder / "poem.txt").write_text(POEM, "utf-8")
    flags = *TEXT_FLAGS, "--num-layers=2", "--dropout=0.1", "--lowercase"
    out = succeed_here("train.py", "text", "--data=poem.txt", *flags, "--out=run", cwd=folder)
    return SimpleNamespace(folder=folder, run=folder / "run", out=out)


def test_training_on_a_text_reports_its_data_and_writes_a_text(poet):
    first, *_ = lines(poet.out)
    num_symbols, held_out = len(set(POEM.lower())), round(len(POEM) / 10)
    expected = (
        f"{len(POEM) - held_out} characters, {held_out} for validation, {num_symbols} symbols; "
        "16 hidden units in each of 2 layers"
    )
    assert first.startswith(expected)
    assert "New text:" in poet.out
    # Control characters do not reach the terminal, line ends do.
    assert "\x1b" not in poet.out
    loaded = runs.load_run(poet.run)
    assert (loaded.config.num_layers, loaded.config.dropout, loaded.step) == (2, 0.1, 60)
    (command,) = re.findall(r"^More text: (.+)$", poet.out, re.M)
    done = subprocess.run(
        shlex.split(command), cwd=poet.folder, env=ENVIRONMENT, capture_output=True, check=True
    )
    assert len(done.stdout.decode()) == 401


def test_a_text_continues_its_prompt(poet):
    texts = [
        succeed_here(
            "sample.py", "run", f"--prompt={prompt}", f"--length={n}", *more, cwd=poet.folder
        )
        for prompt, n, more in (
            ("FORSOOTH", 50, []),
            ("forsooth", 50, []),
            ("forsooth", 20, []),
            ("forsooth", 50, ["--seed=1"]),
            ("and", 50, []),
        )
    ]
    assert texts[0] == texts[1]
    assert texts[0].startswith("forsooth")
    assert len(texts[0]) == len("forsooth") + 50 + 1
    assert texts[0].startswith(texts[2][:-1])
    assert texts[3] != texts[0]
    assert texts[4][3:] != texts[0][8:]


def test_a_prompt_may_be_longer_than_any_window(poet):
    prompt = "\n".join(["forsooth", *["this maketh no sense"] * 30])
    out = succeed_here("sample.py", "run", f"--prompt={prompt}", "--length=9", cwd=poet.folder)
    assert out.startswith(prompt)
    assert len(out) == len(prompt) + 10


def test_a_text_equals_that_of_the_library(poet):
    loaded = runs.load_run(poet.run)
    prompt = jax.numpy.asarray(loaded.vocab.encode("this "), int)
    beginning = read_prompt(loaded.params, loaded.model, prompt)
    written = ""
    for block in range(2):
        key = jax.random.fold_in(jax.random.key(7), block)
        beginning, ids = sample_text(key, loaded.params, loaded.model, beginning, 16)
        written += loaded.vocab.decode(ids)
    out = succeed_here(
        "sample.py", "run", "--prompt=this ", "--length=32", "--seed=7", cwd=poet.folder
    )
    assert out == f"this {written}\n"
    trained = Trained(loaded.model, loaded.params, loaded.vocab)
    assert out == continue_text(trained, "this ", 32, seed=7) + "\n"
    flags = "--prompt=this ", "--length=32", "--seed=7", "--context=3"
    in_context = succeed_here("sample.py", "run", *flags, cwd=poet.folder)
    assert in_context == continue_text(trained, "this ", 32, seed=7, context=3) + "\n" != out


def test_a_text_stops_after_the_given_string(poet):
    whole = succeed_here("sample.py", "run", "--prompt=this", "--length=200", cwd=poet.folder)
    # The last two: longer than what one call draws, and typed in decomposed capitals.
    for start, end in ((15, 18), (40, 41), (60, 90), (1, 60), (30, 33)):
        stop = whole[4 + start : 4 + end]
        typed = unicodedata.normalize("NFD", stop.upper()) if start == 30 else stop
        arguments = "run", "--prompt=this", "--length=200", f"--stop={typed}"
        stopped = succeed_here("sample.py", *arguments, cwd=poet.folder)
        assert stopped == whole[: whole.index(stop, 4) + len(stop)] + "\n"


def test_a_stop_that_the_model_cannot_write_is_refused(poet):
    refuse(poet.folder, "sample.py", "run", "--stop=a☃", says=["--stop", "'☃' at position 1"])


def test_in_a_terminal_it_asks_how_the_text_begins(poet):
    arguments = sys.executable, "-c", TERMINAL, sys.executable, SCRIPTS / "sample.py"

    def answer(typed):
        process = subprocess.Popen(
            [*arguments, "run", "--length=9"],
            cwd=poet.folder,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        out, _ = process.communicate(typed, timeout=TIMEOUT)
        _, said = out.decode().split("How does it begin? ")
        return process.returncode, said.replace("\r\n", "\n")

    code, said = answer(b"maketh\n")
    assert code == 0
    assert "maketh" in said.replace("maketh\n", "", 1)
    # Control-D: no answer.
    code, said = answer(b"\x04")
    (error,) = re.findall(r"^sample\.py: error: .*--prompt.*$", said, re.M)
    assert code == 2
    assert said.strip("\n").split("\n")[-1] == error
    assert "Traceback" not in said


def test_text_and_names_have_flags_of_their_own(poet):
    for flags, says in (
        (["--num=3"], ["--num", "learned a text"]),
        (["--json"], ["--json", "learned a text"]),
        (["--prompt=zebra"], ["prompt", "'z' at position 0"]),
    ):
        result = here("sample.py", "run", *flags, cwd=poet.folder)
        assert_one_line(result, "sample.py", code=2)
        assert all(part in result.err for part in says)


def test_training_continues_from_a_run(poet):
    arguments = "text", "--data=poem.txt", "--lowercase", *TEXT_FLAGS[:3], "--init-from=run"
    succeed_here("train.py", *arguments, "--learning-rate=1e-9", "--out=on", cwd=poet.folder)
    before, after = runs.load_run(poet.run), runs.load_run(poet.folder / "on")
    assert after.config.num_layers == 2
    assert after.vocab == before.vocab
    for old, new in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)


def test_a_run_learns_for_one_more_epoch_and_reads_its_data_as_before(poet):
    arguments = "text", "--data=poem.txt", *TEXT_FLAGS[1:3], "--init-from=run", "--epochs=1"
    out = succeed_here("train.py", *arguments, "--out=longer", cwd=poet.folder)
    after = runs.load_run(poet.folder / "longer")
    assert after.config.lowercase
    num_learned = len(POEM) - round(len(POEM) / 10)
    assert after.config.steps == -(-num_learned // (4 * 16))
    costs = [float(re.findall(r"^([\d.]+).* nats", said, re.M)[-1]) for said in (poet.out, out)]
    assert costs[1] < costs[0]
    out = succeed_here("sample.py", "longer", "--prompt=FORSOOTH ", "--length=9", cwd=poet.folder)
    assert out.startswith("forsooth ")
    # Settings of the command line or of --config take precedence over the earlier run's.
    flags = f"--config={poet.folder / 'longer' / 'config.json'}", "--no-lowercase", "--out=capital"
    result = here("train.py", *flags, cwd=poet.folder)
    assert result.code == 0
    assert (
        "note: 2 characters that run did not know begin with random parameters: 'FÁ'" in result.err
    )


@pytest.mark.parametrize(
    ("preset", "cell"), [*((preset, None) for preset in PRESETS), ("dinos", "gru"), ("text", "gru")]
)
def test_every_preset_and_another_cell_lower_the_loss(preset, cell, tmp_path):
    words = ["rex", "yi", "mei", "iguanodon", "triceratops", "diplodocus"]
    (tmp_path / "data.txt").write_text("\n".join(words * 20))
    arguments = preset, "--data=data.txt", "--hidden-size=12"
    more = ["--learning-rate=0.05"] if preset == "dinos" else ["--batch-size=4", "--window=16"]
    more += [f"--cell={cell}"] if cell else []
    out = succeed_here("train.py", *arguments, *more, "--steps=300", "--out=run", cwd=tmp_path)
    cost = float(re.findall(r"([\d.]+) nats a character", out)[-1])
    assert cost < 0.8 * np.log(len(set("\n".join(words))))
    assert succeed_here("sample.py", "run", cwd=tmp_path)


def test_packed_rows_have_room_for_the_longest_name(tmp_path):
    (tmp_path / "data.txt").write_text("a\nmicropachycephalosaurus\n")
    flags = "--data=data.txt", "--steps=2", "--hidden-size=4", "--batch-size=1"
    succeed_here("train.py", "names", *flags, "--out=run", cwd=tmp_path)
    assert runs.load_run(tmp_path / "run").config.window == 24


def test_products_of_bfloat16(place):
    flags = "--data=names.txt", "--num-layers=2", "--steps=9", "--dtype=bfloat16"
    succeed_here("train.py", *flags, "--out=rounded", cwd=place)
    loaded = runs.load_run(place / "rounded")
    assert {x.dtype for x in jax.tree.leaves(loaded.params)} == {np.dtype("float32")}
    plain = build_model(replace(loaded.config, dtype="float32"), loaded.vocab)
    ids = jax.numpy.asarray(loaded.vocab.encode("adabobeve"))
    logits, expected = (
        model.unroll(loaded.params, model.initial_state(()), ids)[1]
        for model in (loaded.model, plain)
    )
    assert logits.dtype == np.float32
    assert 1e-5 < np.abs(np.asarray(logits - expected)).max() < 0.1
    assert len(sample(place / "rounded", "--prompt=a")) == 10


def test_names_begin_with_the_prompt(trained):
    records = [
        json.loads(line) for line in sample(trained.folder, "--prompt=ZO", "--json", "--num=30")
    ]
    assert all(record["name"].startswith("zo") for record in records)
    loaded = runs.load_run(trained.folder)
    for record in records[:5]:
        name = record["name"].lower()
        if record["ended"]:
            nats = nats_per_column(loaded.params, loaded.model, pad_names([name], loaded.vocab))
            assert -record["log_probability"] == pytest.approx(float(nats[0]), rel=1e-4)


# Bad input: one line, exit code 2, and nothing written or lost.

BAD_FILES = {
    "none.txt": ["No such file"],
    "hollow": ["without files"],
    "names.txt/x": ["Not a directory"],
    "empty.txt": ["no names", "one name a line"],
    "blank.txt": ["no names", "one name a line"],
    "mark.txt": ["no names", "one name a line"],
    "bytes.txt": ["UTF-8", "0xff", "offset 5"],
    "long.txt": ["100,000 characters", "line 2", "1,000"],
    "utf16.txt": ["line 1", "NUL", "UTF-16"],
    "/dev/zero": ["is a device", "a file or a pipe"],
}
NEED_NEWLINE = [
    "a\\nb",
    "a\nb",
    r"\x0a",
    r"\012",
    r"\u000a",
    r"\N{LINE FEED}",
    r"[\n]",
    r"a$\n",
    r"z(?:o|\n\n)\n+",
    r"(\n|e\n)?(\na|e\n)$",
    r"(?=a*\n)z",
    r"(?>\n)",
]
BAD_NUMBERS = ["-1", "nan", "1e400", "9" * 400, "abc", ""]
WHOLE, ZERO = ["1.5"], ["0"]
NUMBERS = {
    ("train.py", "--steps"): WHOLE + ZERO,
    ("train.py", "--hidden-size"): WHOLE + ZERO,
    ("train.py", "--learning-rate"): ZERO,
    ("train.py", "--clip-value"): [],
    ("train.py", "--num-layers"): WHOLE + ZERO,
    ("train.py", "--dropout"): ["1"],
    ("train.py", "--batch-size"): WHOLE + ZERO,
    ("train.py", "--epochs"): [],
    ("train.py", "--seed"): WHOLE,
    ("sample.py", "--num"): WHOLE + ZERO,
    ("sample.py", "--seed"): WHOLE,
    ("sample.py", "--temperature"): [],
    ("sample.py", "--top-k"): WHOLE + ZERO,
    ("sample.py", "--top-p"): [*ZERO, "2"],
    ("sample.py", "--min-p"): ["2"],
    ("sample.py", "--min-length"): WHOLE + ZERO,
    ("sample.py", "--distance"): WHOLE + ZERO,
    ("sample.py", "--max-draws"): WHOLE + ZERO,
    ("sample.py", "--best"): WHOLE + ZERO,
    ("sample.py", "--devices"): WHOLE + ZERO,
    ("sample.py", "--max-length"): WHOLE + ZERO,
    ("sample.py", "--length"): WHOLE + ZERO,
    ("reproduce.py", "--steps"): WHOLE + ZERO,
}
FIRST = {
    "train.py": ["--data=names.txt", "--out=new"],
    "sample.py": ["run"],
    "reproduce.py": ["--data=names.txt", "--json=new.json"],
}


def refuse(place, script, *arguments, says):
    before = snapshot(place)
    result = here(script, *arguments, cwd=place)
    assert_one_line(result, script, code=2)
    assert result.out == ""
    for part in says:
        assert re.search(part if isinstance(part, re.Pattern) else re.escape(part), result.err)
    assert snapshot(place) == before


@pytest.mark.parametrize("script", ["train.py", "reproduce.py"])
@pytest.mark.parametrize("file", BAD_FILES)
def test_bad_files(script, file, place):
    refuse(place, script, *FIRST[script], f"--data={file}", says=[file, *BAD_FILES[file]])


@pytest.mark.parametrize(("script", "flag"), NUMBERS)
def test_bad_numbers(script, flag, place):
    for value in BAD_NUMBERS + NUMBERS[script, flag]:
        # Whether it says "--hidden-size" or "hidden size".
        words = re.sub("^--", "", flag)
        says = re.compile(words.replace("-", "[- ]"))
        refuse(place, script, *FIRST[script], f"{flag}={value}", says=[says])


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("train.py", ["--hiden-size", "3"], ["--hiden-size", "did you mean --hidden-size"]),
        ("train.py", ["--hiden-size=3"], ["--hiden-size", "did you mean --hidden-size"]),
        ("train.py", ["--step=3"], ["--step", "did you mean --steps"]),
        ("train.py", ["dinos", "--overwite"], ["--overwite", "did you mean --overwrite"]),
        ("train.py", ["--learning_rate", "0.1"], ["did you mean --learning-rate"]),
        ("sample.py", ["--temprature", "2"], ["--temprature", "did you mean --temperature"]),
        ("reproduce.py", ["--setps", "3"], ["--setps", "did you mean --steps"]),
        ("sample.py", ["--qqqq"], ["--qqqq", "--help"]),
        ("train.py", ["dino"], ["'dino'", "dinos"]),
        ("train.py", ["dinos", "rest"], ["rest"]),
        ("sample.py", ["rest"], ["rest"]),
        ("train.py", ["--steps"], ["--steps"]),
        ("train.py", ["--overwrite"], []),
        ("train.py", ["--steps", "1e3"], ["--steps", "whole number", "'1e3'"]),
        ("train.py", ["--steps=" + "9" * 400], ["--steps", "400 characters"]),
        ("train.py", ["--learning-rate", "-1e-3"], ["--learning-rate", "-0.001"]),
        ("train.py", ["--learning-rate", "-.5"], ["--learning-rate", "-0.5"]),
        ("train.py", ["--learning-rate", "fast"], ["--learning-rate", "0.01", "'fast'"]),
        ("train.py", ["--seed", "-1"], ["seed", "-1"]),
        ("train.py", ["--out", ""], ["--out", "empty"]),
        ("train.py", ["--data="], ["--data", "empty"]),
        ("reproduce.py", ["--json", ""], ["--json", "empty"]),
        ("train.py", ["--cell", "rnn"], ["--cell", "vanilla", "gru", "lstm"]),
        ("train.py", ["--window", "9"], ["--window", "packed"]),
        ("train.py", ["--reset-rate", "0.1"], ["--reset-rate", "windows"]),
        ("train.py", ["names", "--window", "3"], ["window of 3", "larger window"]),
        (
            "train.py",
            ["text", "--batch-size", "4", "--window", "9"],
            ["batch size", "window", "got 11"],
        ),
        ("train.py", ["text", "--data=empty.txt"], ["empty.txt", "empty"]),
        ("train.py", ["--init-from=none"], ["none", "not a folder"]),
        ("train.py", ["--init-from=run", "--hidden-size=3"], ["--hidden-size", "20", "3"]),
        ("train.py", ["text", "--init-from=run"], ["--init-from", "a text", "a preset for names"]),
        ("train.py", ["--steps=9", "--epochs=2"], ["--epochs: they set the steps", "give one of"]),
        ("sample.py", ["--prompt", ""], ["--prompt", "empty"]),
        ("sample.py", ["--prompt", "zoQ"], ["prompt", "'q'", "position 2", "vocabulary"]),
        ("sample.py", ["--prompt", "z\no"], ["prompt", "newline"]),
        ("sample.py", ["--length", "5"], ["--length", "learned names"]),
        ("sample.py", ["--stop", "x"], ["--stop", "learned names"]),
        ("sample.py", ["--match", "a(b"], ["--match", "position 1", "'a(b'"]),
        *(
            ("sample.py", ["--match", pattern], ["--match", "holds no newline"])
            for pattern in NEED_NEWLINE
        ),
        ("sample.py", ["--match", "(?<=a*)b"], ["--match: look-behind", "of '(?<=a*)b'"]),
        ("sample.py", ["--match", f"a{{{2**70}}}"], ["--match", "repetition", "too large"]),
        ("sample.py", ["--match", "(" * 9999 + ")" * 9999], ["--match", "recursion"]),
        ("sample.py", ["--match", ""], ["--match", "empty"]),
        ("sample.py", ["--min-length=5", "--max-length=4"], ["--min-length 5", "--max-length 4"]),
        ("sample.py", ["--min-length=51"], ["--min-length 51", "--max-length 50", "default"]),
        ("sample.py", ["--prompt=zo", "--min-length=53"], ["--min-length 53", "--max-length 50"]),
        ("sample.py", ["--max-draws=9"], ["--max-draws", "constraint", "--match"]),
        ("sample.py", ["--best=5", "--top-k=4"], ["--best", "--top-k", "exclude"]),
        ("sample.py", ["--best=5", "--novel"], ["--best", "--novel", "exclude"]),
        ("sample.py", ["--best=5", "--devices=2"], ["--best", "--devices", "exclude"]),
        ("sample.py", ["--out=none/x"], ["--out: there is no folder none; make it first"]),
        ("sample.py", ["--out=other"], ["--out: other", "directory"]),
        ("sample.py", ["--out=run/train.txt"], ["--out: run/train.txt", "file of a run"]),
        ("sample.py", ["--devices=4096"], ["--devices", "4096", "as many devices as there are"]),
        (
            "train.py",
            ["--batch-size=4096", "--devices=4096"],
            ["--devices", "4096", "as many devices as there are"],
        ),
    ],
)
def test_bad_arguments(script, arguments, says, place):
    first = [] if arguments == ["--overwrite"] else FIRST[script]
    refuse(place, script, *first, *arguments, says=says)


def test_a_missing_run(place):
    refuse(place, "sample.py", says=["required"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--out=run"], ["run holds a run", "--overwrite"]),
        (["--out=other"], ["other holds other files"]),
        (["--out=other", "--overwrite"], ["other holds other files"]),
        (["--out=."], ["holds other files"]),
        (["--out=names.txt"], ["names.txt is a file"]),
        (["--out=names.txt", "--overwrite"], ["names.txt is a file"]),
        (["--out=names.txt/a/b"], ["names.txt/a"]),
        (["--out=run", "--overwrite", "--steps=-1"], ["steps"]),
        (["--out=run", "--overwrite", "--data=bytes.txt"], ["bytes.txt"]),
        (["--out=run", "--overwrite", "--data=none.txt"], ["none.txt"]),
    ],
)
def test_bad_folders_for_a_run(arguments, says, place):
    refuse(place, "train.py", "--data=names.txt", *arguments, says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--json=none/log.json"], ["none"]),
        (["--json=names.txt/log.json"], ["names.txt/log.json"]),
        # Reported before the work, not after it.
        (["--json=other"], ["other", "directory"]),
        # The file it reads is not one to write.
        (["--json=names.txt"], ["names.txt", "--json"]),
        (["--json=blank.txt", "--data=none.txt"], ["none.txt"]),
    ],
)
def test_bad_files_for_a_log(arguments, says, place):
    refuse(place, "reproduce.py", "--data=names.txt", "--steps=1", *arguments, says=says)


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("none", "not a folder"),
        ("names.txt", "not a folder"),
        ("names.txt/x", "not a folder"),
        ("other", "not a run"),
        (".", "not a run"),
    ],
)
def test_what_is_not_a_run(folder, says, place):
    refuse(place, "sample.py", folder, says=[folder, says, "training run"])


def edit_metadata(content, **changes):
    """A checkpoint file with other metadata, and a new checksum of the archive, not of its own."""
    path = Path(content)
    with np.load(path) as archive:
        arrays = dict(archive)
    metadata = json.loads(str(arrays["metadata"])) | changes
    np.savez(path, **arrays | {"metadata": np.array(json.dumps(metadata))})


def edit_array(path):
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["params/readout/bias"] += 1
    np.savez(path, **arrays)


class Payload:
    """Code that NumPy would run if it were allowed to unpickle a checkpoint."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def hide_code(path):
    np.savez(path, metadata=np.array([Payload()], dtype=object))


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "halved": (lambda path: os.truncate(path, path.stat().st_size // 2), "damaged"),
    "a byte flipped": (flip_byte, "damaged"),
    "code hidden in it": (hide_code, "damaged"),
    "an array edited": (edit_array, "checksum"),
    "its step edited": (lambda path: edit_metadata(path, step=1), "checksum"),
    "a newer format": (lambda path: edit_metadata(path, format=checkpoint.FORMAT + 1), "newer"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "directory"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoints(damage, place):
    newest = checkpoints(place / "run")[-1]
    spoil, says = DAMAGE[damage]
    spoil(newest)
    older = checkpoints(place / "run")[0]
    result = here("sample.py", "run", cwd=place)
    assert (result.code, len(lines(result.out))) == (0, 10)
    name = newest.relative_to(place)
    assert result.err == f"sample.py: note: {name} could not be read; using {older.name}\n"
    older.unlink()
    refuse(place, "sample.py", "run", says=[str(name), says])


def test_changed_names_matter_to_json_alone(place):
    names = place / "run" / "train.txt"
    names.write_bytes(names.read_bytes() + b"more\n")
    refuse(place, "sample.py", "run", "--json", says=["run/train.txt", "changed"])
    assert len(sample(place / "run")) == 10


# Interrupts, kills and numbers that blow up.


@pytest.mark.parametrize(
    ("script", "module"),
    [
        ("train.py", "dinojax.data"),
        ("train.py", "numpy"),
        ("train.py", "jax"),
        ("train.py", "jaxlib.xla_client"),
        ("train.py", "optax"),
        ("sample.py", "argparse"),
        ("sample.py", "dinojax.cli.terminal"),
        ("sample.py", "jax"),
        ("reproduce.py", "numpy"),
    ],
)
def test_an_interrupt_while_importing(script, module, place, tmp_path_factory):
    before = snapshot(place)
    folder = tmp_path_factory.mktemp("trap")
    environment = trap(folder, "import", f"<{module}>", [1], signal.SIGINT)
    result = run(script, *FIRST[script], cwd=place, **environment)
    assert_one_line(result, script, code=130)
    assert result.out == ""
    assert snapshot(place) == before


def test_an_interrupt_saves(place):
    """The real thing: a signal from outside, at some moment after the first report."""
    process = start("train.py", "--data=names.txt", "--steps=210_000", "--out=new", cwd=place)
    read = ""
    while not re.search("^step", read, re.M):
        read += process.stdout.readline().decode()
        assert process.poll() is None, read
    process.send_signal(signal.SIGINT)
    result = finish(process, read)
    assert_one_line(result, "train.py", code=130)
    newest = checkpoints(place / "new")[-1]
    said = f"train.py: interrupted; saved {newest.relative_to(place)}; resume with: "
    assert result.err.strip().startswith(said)
    reported = int(re.search(r"^step +([\d,]+)", read, re.M)[1].replace(",", ""))
    assert reported <= step_of(newest) < 210_000
    assert len(sample(place / "new")) == 10


@pytest.mark.parametrize("counts", [[1], [2], [3], [3, 4]])
def test_interrupts_while_saving(counts, place):
    """A new run is saved, then moved to its place; the next save is caused by Ctrl-C."""
    environment = trap(place / "trap", "os.rename", "checkpoint-", counts, signal.SIGINT)
    arguments = "--data=names.txt", "--steps=7000", "--out=new", "--save-every=1000"
    result = run("train.py", *arguments, cwd=place, **environment)
    assert_one_line(result, "train.py", code=130)
    found = checkpoints(place / "new")
    assert all(step_of(path) < 7000 for path in found)
    if counts[0] > 2:
        assert runs.load_run(place / "new").step == step_of(found[-1])
    if counts == [3]:
        assert f"saved new/{found[-1].name}" in result.err


def test_a_second_interrupt_does_not_save_twice(place):
    process = start("train.py", "--data=names.txt", "--steps=210_000", "--out=new", cwd=place)
    read = ""
    while not re.search("^step", read, re.M):
        read += process.stdout.readline().decode()
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.002)
    result = finish(process, read)
    assert_one_line(result, "train.py", code=130)
    assert f"interrupted; saved new/{checkpoints(place / 'new')[-1].name}" in result.err


@pytest.mark.parametrize("moment", ["exit", "teardown"])
def test_an_interrupt_while_the_process_ends(moment, place):
    """Before and after Python removes its handlers, where a second Ctrl-C often arrives."""
    environment = trap(place / "trap", moment, "", [1], signal.SIGINT)
    result = run("sample.py", "run", cwd=place, **environment)
    assert lines(result.out) == sample(place / "run")
    assert (result.err, result.code) in (("", 0), ("sample.py: interrupted\n", 130))


@pytest.mark.parametrize("what", [signal.SIGINT, signal.SIGKILL])
def test_signals_at_any_moment(what, place):
    generator = random.Random(0)
    # Interrupts while it compiles, kills while it trains.
    environment = {"JAX_ENABLE_COMPILATION_CACHE": str(what != signal.SIGINT).lower()}
    for folder in (place / "new 1", place / "new 2", place / "new 3"):
        arguments = "--data=names.txt", "--steps=400_000", f"--out={folder.name}"
        process = start("train.py", *arguments, cwd=place, **environment)
        read = process.stdout.readline().decode()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(generator.uniform(0, 1.5))
        process.send_signal(what)
        result = finish(process, read)
        assert read.startswith("3 names")
        if what == signal.SIGINT:
            # Where it compiles for long, a line before says that it will stop.
            result.err = result.err.replace(f"train.py: {STOPPING}\n", "")
            assert_one_line(result, "train.py", code=130)
        found = checkpoints(folder)
        assert all(step_of(path) < 400_000 for path in found)
        if found:
            assert runs.load_run(folder).step == step_of(found[-1])


@pytest.mark.parametrize(
    ("event", "count", "left"),
    [("os.rename", 1, 0), ("open", 11, 2), ("os.rename", 4, 2), ("os.remove", 1, 3)],
)
def test_a_kill_while_saving_loses_nothing(event, count, left, place):
    """Two events open a file. A new run has four files, of which the checkpoint is moved later."""
    text = ".dinojax-" if event == "open" else "checkpoint-"
    environment = trap(place / "trap", event, text, [count], signal.SIGKILL)
    arguments = "--data=names.txt", "--steps=7000", "--out=new", "--save-every=1000"
    result = run("train.py", *arguments, cwd=place, **environment)
    assert result.code == -signal.SIGKILL
    found = checkpoints(place / "new")
    assert len(found) == left
    steps = [step_of(path) for path in found]
    assert steps == sorted(set(steps))
    if found:
        assert runs.load_run(place / "new").step == steps[-1]
    else:
        assert_one_line(here("sample.py", "new", cwd=place), "sample.py", code=2)
    if event == "open":
        assert len(sample(place / "new")) == 10
    if event == "os.rename":
        # The leftovers of the kill belong to the run and are removed.
        succeed_here("train.py", *arguments, "--overwrite", cwd=place)
        assert not list((place / "new").glob(".*.tmp"))
        assert runs.load_run(place / "new").step == 7000


def test_a_loss_that_is_not_finite_stops_training_at_the_last_good_checkpoint(place, monkeypatch):
    # No valid setting diverges: tanh saturates long before float32 overflows.
    def make_optimizer(config):
        return optax.sgd(lambda step: jnp.where(step < 150, config.learning_rate, jnp.inf))

    monkeypatch.setattr("dinojax.runs.experiment.make_optimizer", make_optimizer)
    result = here("train.py", "--data=names.txt", "--steps=5000", "--out=new", cwd=place)
    assert_one_line(result, "train.py", code=1)
    # A parameter or the next step's loss shows it, depending on where the compiled call ended.
    assert re.search(r"step 15[12]\b", result.err)
    newest = checkpoints(place / "new")[-1]
    assert f"new/{newest.name}" in result.err
    assert 0 < step_of(newest) <= 150
    assert "Names, " not in result.out
    assert len(sample(place / "new")) == 10


@pytest.mark.parametrize("platform", ["nonsense", "cuda"])
@pytest.mark.parametrize("script", FIRST)
def test_an_unknown_jax_platform_is_one_line(script, platform, place):
    arguments = ["--out=run", "--overwrite"] if script == "train.py" else []
    before = snapshot(place)
    result = run(script, *FIRST[script], *arguments, cwd=place, JAX_PLATFORMS=platform)
    assert_one_line(result, script, code=2)
    assert f"JAX_PLATFORMS='{platform}'" in result.err
    assert snapshot(place) == before


def test_training_saves_its_state_when_its_reader_has_gone(place):
    process = start(
        "train.py", "--data=names.txt", "--steps=7000", "--out=new", cwd=place, PYTHONUNBUFFERED="1"
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0
    process.stderr.close()
    assert step_of(checkpoints(place / "new")[-1]) >= 1000
