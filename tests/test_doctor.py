"""Each check of `dinojax doctor` finds a planted fault, and a sound machine has none."""

import json
import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.config import CellName, TrainConfig
from dinojax.data.vocab import Vocab
from dinojax.doctor import computations, gradients, machine
from dinojax.doctor.examination import examine
from dinojax.models.cells import gru
from dinojax.models.layers import from_cell
from dinojax.models.model import char_model
from dinojax.runs import checkpoint
from dinojax.runs.description import build_model
from dinojax.sampling.controls import Controls
from dinojax.sampling.stream import stream_names

from conftest import CACHE, QUICK_TO_COMPILE, ROOT, USERS_ENVIRONMENT

NAMES, VOCAB = computations.some_names(8)


@pytest.fixture(autouse=True)
def ordinary_types():
    """As in commands: optax's schedules and float64 on the side need these types."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def answer():
    """The findings by name on this machine."""
    flags = {"XLA_FLAGS": QUICK_TO_COMPILE, "JAX_COMPILATION_CACHE_DIR": str(CACHE)}
    code, found, said = run_doctor(**flags)
    assert (code, said) == (0, ""), [each for each in found.values() if each["state"] == "fault"]
    return found


def test_a_sound_machine_has_no_fault_and_all_is_reported(answer):
    found = answer
    cells = {f"cell {cell}" for cell in get_args(CellName)}
    speeds = {"speed: the exercise", "speed: LSTM of 256 units", "speed: stream of names"}
    assert set(found) == cells | speeds | {
        "versions", "packages", "extras", "machine", "settings", "devices", "accelerator", "cache",
        "same seed twice", "names drawn", "names in a stream", "checkpoint",
    }  # fmt: skip
    for each in found.values():
        assert set(each) == {"name", "state", "said", "figures", "seconds"}
        assert "\n" not in each["said"]
    assert found["versions"]["figures"]["jax"] == jax.__version__
    assert found["devices"]["figures"]["platform"] == "cpu"
    assert all(found[name]["figures"]["rate"] > 0 for name in speeds)
    assert all(
        0 < found[name]["figures"]["gradient_error"] <= gradients.GRADIENT_BOUND for name in cells
    )


def planted(damage):
    """A model in which the gradient of the preactivations is too large by the share `damage`."""

    @jax.custom_jvp
    def same(x):
        return x

    @same.defjvp
    def _(primals, tangents):
        return primals[0], tangents[0] * (1 + damage)

    cell = gru(VOCAB.size, 8)
    wrong = cell._replace(
        update=lambda state, preactivations: cell.update(state, jax.tree.map(same, preactivations))
    )
    return char_model([from_cell(wrong)], VOCAB)


def test_a_wrong_gradient_is_found_even_if_all_ways_share_it():
    find = partial(gradients.check_cell, "gru", vocab=VOCAB, names=NAMES)
    assert find(planted(0.0)).state == "ok"
    finding = find(planted(0.01))
    assert finding.state == "fault"
    assert finding.figures["loss_error"] < 1e-5
    assert gradients.GRADIENT_BOUND < finding.figures["gradient_error"] < 0.1


def test_a_wrong_value_is_found():
    model = build_model(TrainConfig(hidden_size=8), VOCAB)

    def unroll(params, state, inputs, length=None, resets=False):
        state, logits = model.unroll(params, state, inputs, length, resets)
        return state, logits * (1.001 if resets else 1)

    finding = gradients.check_cell("vanilla", model._replace(unroll=unroll), VOCAB, NAMES)
    assert finding.state == "fault"
    assert finding.figures["loss_error"] > 1e-5


def test_training_that_differs_from_call_to_call_is_found():
    calls = []

    def train():
        calls.append(0)
        return {"kernel": jnp.ones(3), "bias": jnp.ones(2).at[1].add(len(calls) * 1e-7)}

    finding = computations.check_repeats(train)
    assert (finding.state, finding.figures["differing"]) == ("fault", ["bias"])


def test_a_wrong_law_of_sampling_is_found():
    vocab = Vocab("\nab")
    model = build_model(TrainConfig(hidden_size=8), vocab)
    params = computations.drawn_params(model, 0.7)

    def find(temperature):
        def write(key):
            num, length = computations.NUM_NAMES, computations.LENGTH
            controls = Controls(temperature=temperature)
            return stream_names(key, params, model, num, length, controls=controls)

        return computations.check_sampling(params, "names", model, vocab, jax.jit(write))

    assert find(1.0).state == "ok"
    wrong = find(1.2)
    assert wrong.state == "fault"
    assert wrong.figures["chi_squared"] > wrong.figures["bound"]


def test_the_bound_of_the_law_is_exceeded_once_in_a_million(answer):
    figures = answer["names drawn"]["figures"]
    chance = jax.scipy.stats.chi2.sf(figures["bound"], figures["degrees_of_freedom"])
    assert 0.7e-6 < chance < 1.5e-6


def load_other(path):
    metadata, arrays = checkpoint.load(path)
    return metadata, {name: array + (name == "params") for name, array in arrays.items()}


def save_other(path, state, metadata):
    checkpoint.save(path, state | {"params": state["params"] * 2}, metadata)


def load_anything(path):
    values = np.random.default_rng(3).normal(size=(64, 16)).astype(np.float32)
    state = {"params": values, "key": jax.random.key(4)}
    path = path.with_name("other.npz")
    checkpoint.save(path, state, {"step": 1})
    return checkpoint.load(path)


def save_nothing(path, state, metadata):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        ({"load": load_other}, "params was read otherwise than written"),
        ({"save": save_other}, "params was read otherwise than written"),
        ({"save": save_nothing}, "it cannot be written and read: "),
        ({"load": load_anything}, "a flipped byte was not noticed"),
    ],
)
def test_a_checkpoint_that_reads_back_otherwise_is_found(functions, said, tmp_path):
    if "save" not in functions and functions["load"] is load_anything:
        (tmp_path / "checkpoint.npz").touch()
    finding = computations.check_checkpoint(tmp_path, **functions)
    assert finding.state == "fault"
    assert finding.said.startswith(said)


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path):
    assert computations.check_checkpoint(tmp_path / "none").state == "fault"


def test_a_missing_package_is_a_fault_and_a_missing_extra_a_note():
    packages, extras = machine.check_packages(["numpy", "no-such"], {"plot": ["no_such_module"]})
    assert (packages.state, extras.state) == ("fault", "note")
    assert packages.said == "missing: no-such; install them: pip install no-such"
    assert extras.said.endswith("pip install 'dinojax[plot]'")
    assert extras.figures == {"installed": [], "missing": ["plot"]}


def test_packages_and_extras_are_those_of_the_project():
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]

    def names(requirements):
        return {re.match(r"[\w-]+", each)[0] for each in requirements}

    assert set(machine.NEEDED) == names(project["dependencies"])
    extras = {name: names(x) for name, x in project["optional-dependencies"].items()}
    del extras["dev"]
    assert {name: set(modules) for name, modules in machine.EXTRAS.items()} == extras


def test_a_gpu_that_jax_does_not_use_is_a_fault_unless_the_user_wants_that(tmp_path):
    driver = tmp_path / "version"
    find = partial(machine.check_accelerator, driver=driver, command="no-such-program")
    assert find("cpu").state == "ok"
    driver.touch()
    finding = find("cpu")
    assert finding.state == "fault"
    assert "pip install 'jax[cuda" in finding.said
    assert find("cpu", "cpu").state == "note"
    assert find("cpu", "cuda,cpu").state == "fault"
    assert find("gpu").state == "ok"


def run_doctor(**environment):
    """The exit code of `dinojax doctor`, its findings by name, and what it said of errors."""
    result = subprocess.run(
        [sys.executable, "-m", "dinojax", "doctor", "--json"],
        capture_output=True, text=True, timeout=240, env=USERS_ENVIRONMENT | environment,
    )  # fmt: skip
    answer = json.loads(result.stdout)
    found = {each["name"]: each for each in answer["findings"]}
    assert len(found) == len(answer["findings"])
    assert answer["ok"] is (result.returncode == 0)
    return result.returncode, found, result.stderr


@pytest.mark.parametrize("name", ["JAX_PLATFORMS", "XLA_FLAGS"])
def test_jax_that_cannot_start_is_a_line(name):
    code, found, said = run_doctor(**{name: "--nonsense"})
    assert (code, said) == (1, "")
    assert found["JAX"]["state"] == "fault"
    assert found["JAX"]["said"].startswith("JAX cannot start: ")
    assert name in found["JAX"]["said"]
    assert found["settings"]["figures"][name].startswith("--nonsense")
    assert "versions" in found
    assert "devices" not in found


@pytest.mark.parametrize(
    ("place", "environment", "state"),
    [
        ("file", {}, "fault"),
        ("folder", {}, "ok"),
        ("folder", {"JAX_ENABLE_COMPILATION_CACHE": "false"}, "note"),
    ],
)
def test_a_cache_that_cannot_be_written_is_a_fault(place, environment, state, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    program = (
        "from dinojax.startup import start_jax; start_jax(); "
        "from dinojax.doctor.machine import check_cache; print(*check_cache()[1:3])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True,
        env=USERS_ENVIRONMENT | environment | {"XDG_CACHE_HOME": str(tmp_path / place)},
    )  # fmt: skip
    assert result.stdout.split()[0] == state
    assert ("set XDG_CACHE_HOME" in result.stdout) == (state == "fault")


def test_a_check_that_fails_is_a_fault_that_says_why(monkeypatch):
    def fail(*_):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(machine, "find_devices", fail)
    found = []
    for finding in examine(lambda: None):
        found.append(finding)
        if finding.name == "machine" and finding.state == "fault":
            break
    assert found[-1].said == "the check failed: RuntimeError: out of memory"


def test_nothing_private_is_shown(monkeypatch):
    home = str(Path.home())
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to={home}/dump,{home}.old")
    finding = machine.find_settings()
    assert "hunter2" not in str(finding)
    expected = f"--xla_dump_to=~/dump,{home}.old"
    assert finding.figures["XLA_FLAGS"] == expected
    assert set(finding.figures) == {x for x in finding.figures if x.startswith(machine.SETTINGS)}


def test_lines_for_a_reader():
    """What is printed without --json, for a machine on which JAX does not start."""
    result = subprocess.run(
        [sys.executable, "-m", "dinojax", "doctor"],
        capture_output=True, text=True, timeout=60,
        env=USERS_ENVIRONMENT | {"JAX_PLATFORMS": "nonsense"},
    )  # fmt: skip
    *lines, empty, last = result.stdout.splitlines()
    assert (result.returncode, result.stderr, empty) == (1, "", "")
    assert all(line.split()[0] in ("ok", "note", "fault") for line in lines)
    assert last == "1 fault: JAX"
