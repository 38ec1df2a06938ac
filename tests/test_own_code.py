"""Cells, losses and optimizers of the user's own: equal to ours to the bit, checked, trusted."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest

import dinojax
from dinojax.cli.terminal import Program
from dinojax.config import TrainConfig
from dinojax.data.vocab import build_vocab
from dinojax.files import digest
from dinojax.models import code
from dinojax.models.code import pinned
from dinojax.own import OwnCode, brief, own_code
from dinojax.runs import checkpoint, sweeping
from dinojax.runs import folder as runs
from dinojax.runs.description import describe, facts
from dinojax.runs.experiment import make_experiment

from conftest import ROOT
from in_process import call_here

SOURCE = (ROOT / "tests" / "own_code.py").read_text("utf-8")
NAMES = [a + b + "d" for a in "bdfh" for b in "bdf"]
SIZES = "--data=names.txt", "--hidden-size=4", "--steps=6", "--validation-fraction=0.25"
OWN = "--cell=mine.py:elman", "--loss=mine.py:mean", "--optimizer=mine.py:descent"
SHA256 = digest(SOURCE.encode())
COPY = f"code-{SHA256[:16]}.py"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A user's cache that holds no code yet. Users' code may broadcast as it likes."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    with jax.numpy_rank_promotion("allow"):
        yield folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run of ours, and the same of the user's own code."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(SOURCE)
    (folder / "names.txt").write_text("\n".join(NAMES))
    with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion("allow"):
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        succeed("train", *SIZES, "--loss=mean", "--out=ours", cwd=folder)
        succeed("train", *SIZES, *OWN, "--keep=9", "--save-every=3", "--out=own", cwd=folder)
    return folder


@pytest.fixture
def place(made, tmp_path, cache):
    """The same, in a folder that a test may change, where the code is kept."""
    shutil.copytree(made, tmp_path / "place")
    code.keep(SOURCE.encode())
    return tmp_path / "place"


def command(name, *arguments, cwd):
    return call_here(Program(name, "dinojax"), *arguments, cwd=cwd)


def succeed(name, *arguments, cwd):
    result = command(name, *arguments, cwd=cwd)
    assert result.code == 0, result.err
    return result.out


def refused(name, *arguments, cwd):
    result = command(name, *arguments, cwd=cwd)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result.err
    return result.err


def last_of(folder):
    return runs.find_checkpoints(folder)[-1]


def test_own_code_like_ours_gives_the_same_bits(place):
    (_, ours), (_, own) = (checkpoint.load(last_of(place / name)) for name in ("ours", "own"))
    assert ours.keys() == own.keys()
    for name, array in ours.items():
        assert own[name].tobytes() == array.tobytes(), name
    config = json.loads((place / "own" / "config.json").read_text())
    assert config["cell"] == f"mine.py:elman@{SHA256}"
    assert (place / "own" / COPY).read_text() == SOURCE
    assert "code" not in str(sorted(x.name for x in (place / "ours").iterdir()))


def test_a_run_stands_alone_when_the_file_has_changed(place):
    (place / "mine.py").write_text("raise ValueError")
    whole, last = last_of(place / "own").read_bytes(), last_of(place / "own").name
    succeed("train", "--config=own/config.json", "--out=again", cwd=place)
    assert (place / "again" / last).read_bytes() == whole
    for path in runs.find_checkpoints(place / "own")[-1:]:
        path.unlink()
    succeed("train", "--resume=own", cwd=place)
    assert last_of(place / "own").read_bytes() == whole
    # Of a run that begins with it, too, which has another file beside it.
    succeed("train", "--init-from=own", SIZES[0], "--steps=2", "--out=more", cwd=place)
    assert (place / "more" / COPY).read_text() == SOURCE
    said = refused("train", "--resume=own", "--cell=mine.py:elman", "--steps=9", cwd=place)
    assert f"--cell: the run has mine.py:elman@{SHA256[:8]}, got mine.py:elman@" in said


def test_other_commands_work_and_what_holds_no_code_refuses(place):
    ours, own = (succeed("sample", name, "--seed=1", cwd=place) for name in ("ours", "own"))
    assert ours == own
    for name, *flags in ("score", "--names", "bdd"), ("evaluate",):
        assert succeed(name, "own", *flags, cwd=place).replace("own", "ours") == succeed(
            name, "ours", *flags, cwd=place
        )
    succeed("mix", "own", "--ngram=2", "--out=mixed", cwd=place)
    assert (place / "mixed" / COPY).is_file()
    succeed("score", "mixed", "--names", "bdd", cwd=place)
    for form in "safetensors", "torch", "numpy":
        pytest.importorskip("safetensors")
        said = refused("export", "own", f"--format={form}", "--out=export", cwd=place)
        assert f"mine.py:elman@{SHA256[:8]} is code of the user's own" in said
    assert "a page holds cells of dinojax" in refused("page", "own", cwd=place)


def test_code_is_executed_only_where_it_was_trusted(place, cache):
    shutil.rmtree(cache / "dinojax")
    for name, *arguments in (
        ("sample", "own"),
        ("evaluate", "own"),
        ("train", "--resume=own", "--steps=9"),
        ("train", "--config=own/config.json"),
        ("train", "--init-from=own", "--steps=2"),
    ):
        said = refused(name, *arguments, cwd=place)
        assert f"own has code of its own, which would be executed: {COPY}; read it" in said
    with pytest.raises(ValueError, match="which would be executed"):
        dinojax.load(place / "own")
    (place / "own" / COPY).rename(place / "copy")
    assert f"own/{COPY} is missing, the code of mine.py:" in refused("sample", "own", cwd=place)
    assert "own has no code of its own" in refused("trust", "own", cwd=place)
    assert "nowhere is not a folder" in refused("trust", "nowhere", cwd=place)
    (place / "own" / COPY).write_text("print('hello')\n")
    assert f"own/{COPY} was changed after it was written" in refused("sample", "own", cwd=place)
    assert f"own/{COPY} was changed after it was written" in refused("trust", "own", cwd=place)
    (place / "copy").replace(place / "own" / COPY)
    assert f"From now on, own/{COPY} may be executed\n" == succeed("trust", "own", cwd=place)
    assert dinojax.trust(str(place / "own")) == [place / "own" / COPY]
    succeed("sample", "own", cwd=place)


def test_a_file_that_settings_name_without_its_checksum_is_not_trusted(place):
    path = place / "own" / "config.json"
    path.write_text(path.read_text().replace(f"@{SHA256}", ""))
    said = refused("train", "--config=own/config.json", cwd=place)
    assert "expected code with its checksum, got 'mine.py:elman'" in said


def test_what_is_kept_is_executed_only_as_it_was(place, cache):
    (kept,) = (cache / "dinojax" / "code").iterdir()
    kept.write_text("raise SystemExit")
    assert "which would be executed" in refused("sample", "own", cwd=place)


def test_a_sweep_compares_own_code_and_ours(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(SOURCE)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    monkeypatch.chdir(tmp_path)
    results = dinojax.sweep(
        "sweep", data="names.txt", seeds=1, cell=["vanilla", "mine.py:elman"], hidden_size=4,
        steps=3, jobs=2,
    )  # fmt: skip
    losses = {each["setting"]: each["mean"] for each in results["settings"]}
    own = f"cell=mine.py:elman@{SHA256[:8]}"
    assert losses[own] == losses["cell=vanilla"]
    (tmp_path / "mine.py").unlink()
    assert sweeping.replicas_left(tmp_path / "sweep") == []
    copies = sorted(str(x.relative_to(tmp_path)) for x in tmp_path.rglob("code-*"))
    assert copies == [f"sweep/{own}/seed-0/{COPY}", f"sweep/{COPY}"]
    settings = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["values"]
    assert settings == {"cell": ["vanilla", f"mine.py:elman@{SHA256}"]}


def test_processes_compare_the_checksum_of_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE)
    description, *_ = describe(TrainConfig(**pinned({"cell": "mine.py:elman"})), NAMES)
    assert facts(description)["cell"] == f"mine.py:elman@{SHA256}"


def test_names_of_code():
    for text in ("a/b c.py:größe", "C:/x.py:f", ".py.py:_f1"):
        assert str(own_code(text)) == brief(text) == text
        whole = f"{text}@{'0123456789abcdef' * 4}"
        assert str(own_code(whole)) == whole
        assert brief(whole) == f"{text}@01234567"
    for text in ("a.py", "a.py:", ".py:f", "a.py:1", "a.py:f g", "a.txt:f", "a.py:f@12", 3, None):
        assert own_code(text) is None
        assert brief(text) == str(text)
    code = OwnCode("a.py", "f", "")
    assert own_code("a.py:f") == code


# What is wrong with a file.


def error_of(tmp_path, monkeypatch, source, **settings):
    """What making an experiment of own code says."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(source)
    config = TrainConfig(**{"hidden_size": 4, "steps": 1, "devices": 1} | pinned(settings))
    with pytest.raises(ValueError, match=r"mine\.py") as error:
        make_experiment(*describe(config, NAMES))
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"@{digest(source.encode())[:8]}", "")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1", "mine.py has no function elman"),
        ("elman = 1", "mine.py has no function elman"),
        ("def elman(:", "mine.py: SyntaxError in line 1: invalid syntax"),
        ("x = 1\n\nx / 0\n", "mine.py: ZeroDivisionError in line 3: division by zero"),
        ("import sys\nsys.exit(3)", "mine.py: SystemExit in line 2: 3"),
        ("def elman(a, b): raise SystemExit(3)", "mine.py:elman: SystemExit in line 1: 3"),
        ("import not_there", "mine.py: ModuleNotFoundError in line 1: No module named 'not_there'"),
        ("def elman(): pass", "cell: mine.py:elman: TypeError: elman() takes 0 positional"),
        (
            "def elman(a, b): return 3",
            "cell: mine.py:elman: expected a Cell or a LinearCell of din",
        ),
        ("def elman(a, b):\n    return a / 0", "cell: mine.py:elman: ZeroDivisionError in line 2:"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(source, expected, tmp_path, monkeypatch):
    assert expected in error_of(tmp_path, monkeypatch, source, cell="mine.py:elman")


BREACHES = {
    "hidden_size": ("return Cell(hidden_size", "return Cell(7", "expected 4, got 7"),
    "init": ("init_gates(key,", "init_gates(kay,", "NameError in line 13: name 'kay' is not"),
    "initial_state": ("zeros((*batch_shape, ", "zeros((", "expected arrays [2, 3, ..], got"),
    "project": ("[inputs]", "[0]", "expected arrays [4, 2, 3, ..], got float32[4]"),
    "preactivate": ('params["rec', 'params["Rec', "KeyError in line 27: 'Recurrent_kernel'"),
    "update": (
        "jnp.tanh(preactivations)", "preactivations[..., :2]",
        "expected float32[2, 3, 4], like the state, got float32[2, 3, 2]",
    ),
    "output": ("return state\n\n    return", "return 1\n\n    return", "float32[2, 3, 4], like"),
}  # fmt: skip
"""For each part of a cell: what is replaced by what, and what is said."""


@pytest.mark.parametrize("part", BREACHES)
def test_a_breach_of_the_contract_names_the_part_of_the_cell(part, tmp_path, monkeypatch):
    good, bad, expected = BREACHES[part]
    assert SOURCE.count(good) == 1
    said = error_of(tmp_path, monkeypatch, SOURCE.replace(good, bad), cell="mine.py:elman")
    assert said.startswith(f"cell: mine.py:elman: {part}: ")
    assert expected in said


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"coefficients": "lambda params, projected: (state,)"}, "coefficients: expected a pair"),
        (
            {"coefficients": "lambda params, projected: ((projected[0],) * 2, projected[:1])"},
            "coefficients, decays: expected (float32[2, 3, 4],), like the state, got (float32",
        ),
        ({"output": "lambda params, state: state[0]"}, "output: TypeError"),
    ],
)
def test_a_breach_names_the_part_of_a_linear_cell(changed, expected, tmp_path, monkeypatch):
    ((part, function),) = changed.items()
    source = SOURCE.replace(
        "return mingru(input_size, hidden_size)",
        f"state = 1\n    return mingru(input_size, hidden_size)._replace({part}={function})",
    )
    said = error_of(tmp_path, monkeypatch, source, cell="mine.py:minimal")
    assert said.startswith("cell: mine.py:minimal: ")
    assert expected in said


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("lambda logits, targets, weights: logits.sum()", "expected a pair, got float32[]"),
        ("lambda logits, targets, weights: (logits, 1)", "expected a total, float32[], and a num"),
        ("lambda logits, targets: 1", "TypeError"),
    ],
)
def test_a_loss_that_returns_something_else_is_refused(function, expected, tmp_path, monkeypatch):
    said = error_of(tmp_path, monkeypatch, f"loss = {function}", loss="mine.py:loss")
    assert said.startswith("loss: mine.py:loss: ")
    assert expected in said


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("lambda rate: rate", "expected an optax.GradientTransformation, got float"),
        ("lambda: 1", "TypeError"),
        ("lambda rate: optax.sgd(rate)._replace(init=lambda x: x.y)", "init: AttributeError"),
        (
            "lambda rate: optax.sgd(rate)._replace(update=lambda g, s, p: (p['layers'], s))",
            "update, updates: expected",
        ),
        (
            "lambda rate: optax.sgd(rate)._replace(update=lambda g, s, p: (g, (s, g)))",
            "like the state before, got",
        ),
    ],
)
def test_an_optimizer_that_is_none_is_refused(function, expected, tmp_path, monkeypatch):
    source = f"import optax\nrule = {function}"
    said = error_of(tmp_path, monkeypatch, source, optimizer="mine.py:rule")
    assert said.startswith("optimizer: mine.py:rule: ")
    assert expected in said


LATE = """
import jax
from own_code import mean

def late(logits, targets, weights):
    if logits.shape[1] != 2:
        {}
    return mean(logits, targets, weights)

def fail(total):
    raise KeyError("a callback")
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("assert not 1", "AssertionError in line 7\n"),
        ("raise ValueError('a\\nb')", "ValueError in line 7: a b\n"),
        ("raise SystemExit(5)", "SystemExit in line 7: 5\n"),
        ("jax.debug.callback(fail, 1)", "JaxRuntimeError in line 11: "),
    ],
)
def test_what_fails_once_training_has_begun_is_one_line(line, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [str(ROOT / "tests"), *sys.path])
    (tmp_path / "mine.py").write_text(LATE.format(line))
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    result = command("train", *SIZES, "--loss=mine.py:late", "--out=run", cwd=tmp_path)
    assert result.code == 2
    assert f"dinojax train: error: mine.py: {expected}" in result.err
    assert result.err.count("\n") == 1


def test_a_missing_file_and_a_cell_without_an_option_are_said(made):
    said = refused("train", *SIZES, "--cell=none.py:elman", cwd=made)
    assert "error: none.py: No such file" in said
    said = refused("train", *SIZES, OWN[0], "--dtype=bfloat16", "--out=none", cwd=made)
    assert "--cell: mine.py:elman@" in said
    assert "unexpected keyword argument 'product_dtype'" in said
    assert not (made / "none").exists()
    said = refused("train", *SIZES, OWN[0], "--gate=hard_sigmoid", cwd=made)
    assert f"--gate: a mine.py:elman@{SHA256[:8]} cell has no choice of gates" in said
    said = refused("train", *SIZES, "--schedule=mine.py:elman", cwd=made)
    assert "--schedule: invalid choice" in said


def test_a_linear_cell_of_ones_own_trains_like_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE)
    sizes = {"hidden_size": 4, "steps": 3, "num_layers": 2}
    ours, own = (dinojax.train(NAMES, cell=x, **sizes) for x in ("mingru", "mine.py:minimal"))
    for left, right in zip(*map(jax.tree.leaves, (ours.params, own.params)), strict=True):
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()
    assert ours.vocab == build_vocab(NAMES)
