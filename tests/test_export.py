"""Runs in the formats of other programs: what is written computes what the run computes."""

import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.cli.main import call
from dinojax.cli.terminal import Program
from dinojax.config import TrainConfig
from dinojax.evaluation.compare import compare
from dinojax.files import new_folder
from dinojax.interchange import card, numpy_file, proof, safetensors, stablehlo
from dinojax.interchange.export import FORMATS, export
from dinojax.interchange.imported import Imported
from dinojax.interchange.page_data import make_page
from dinojax.interchange.torch import to_state_dict
from dinojax.models.linear_cells import LINEAR_CELLS
from dinojax.presets import PRESETS
from dinojax.runs import folder as runs
from dinojax.runs import session
from dinojax.runs.description import build_model, describe
from dinojax.runs.experiment import make_experiment
from dinojax.sampling.draw import sample_names

NAMES = ["rex", "triceratops", "yi", "mei", "iguanodon", "tarbo", "regina", "xi"]
TEXT = "the rex met a mei.\ntwo yi saw it,\nand an iguanodon too.\nnone of them minded.\n" * 5
CONFIGS = {
    "vanilla": TrainConfig(hidden_size=6),
    "gru": TrainConfig(
        hidden_size=5, num_layers=2, cell="gru", dtype="bfloat16", validation_fraction=0.3
    ),
    "gru_reset_before": TrainConfig(
        hidden_size=4, cell="gru_reset_before", gate="hard_sigmoid", validation_fraction=0.3
    ),
    "lstm": TrainConfig(
        hidden_size=7, num_layers=2, cell="lstm", batches="windows", lowercase=False, window=8,
        batch_size=2, validation_fraction=0.2, test_fraction=0.1,
    ),
    **{
        name: TrainConfig(hidden_size=5, num_layers=2, cell=name, validation_fraction=0.3)
        for name in LINEAR_CELLS
    },
}  # fmt: skip
CELLS = list(CONFIGS)
IN_TORCH = ["vanilla", "gru", "lstm"]
WITH_A_LAYOUT = [*IN_TORCH, "gru_reset_before"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of each cell before its first step, with parameters of which none is zero."""
    place, generator = tmp_path_factory.mktemp("export"), np.random.default_rng(0)
    for name, config in CONFIGS.items():
        experiment = make_experiment(*describe(config, TEXT if config.is_text else NAMES))
        like = jax.eval_shape(experiment.model.init, jax.random.key(0))
        params = jax.tree.map(lambda x: generator.normal(0, 0.7, x.shape).astype(x.dtype), like)
        (place / name).mkdir()
        session.start(experiment, place / name, params)
    return place


def in_float32(run):
    return run.trained._replace(model=build_model(replace(run.config, dtype="float32"), run.vocab))


def logits_of(run, string):
    """Logits by steps of the model itself."""
    model = in_float32(run).model
    state, rows = model.initial_state(()), []
    step = jax.jit(model.step)
    for character in [run.vocab.no_character, *run.vocab.encode(string).tolist()]:
        state, logits = step(run.params, state, jnp.asarray(character))
        rows.append(logits)
    return np.array(rows)


def assert_same_logits(logits, run):
    for string in ("", "the rex saw\n" if run.config.is_text else "mei\n"):
        np.testing.assert_allclose(logits(string), logits_of(run, string), atol=1e-5)


def in_namespace(code, file=""):
    namespace = {"__file__": str(file)}
    exec(code, namespace)
    return SimpleNamespace(**namespace)


def apart(code, cwd, *blocked):
    """The output of Python code in a process that cannot import the packages `blocked`."""
    code = f"import sys; sys.modules |= dict.fromkeys({blocked})\n{code}"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("cell", CELLS)
def test_numpy_is_a_short_program_that_needs_nothing_else(cell, place, tmp_path):
    run = runs.load_run(place / cell)
    exported = export(run, "numpy", tmp_path / "out")
    assert [file.name for file in exported.files] == ["model.npz", "model.py"]
    assert exported.difference < 1e-5
    file = tmp_path / "out" / "model.py"
    lines = file.read_text("utf-8").splitlines()
    assert len(lines) < 60
    assert max(map(len, lines)) <= 100
    program = in_namespace("\n".join(lines), file)
    assert_same_logits(program.logits, run)
    rows = np.asarray(jax.nn.log_softmax(logits_of(run, "mei\n")))
    score = float(sum(rows[np.arange(4), run.vocab.encode("mei\n")]))
    assert program.score("mei\n") == pytest.approx(score, rel=1e-5)
    num = 1 if run.config.is_text else 10
    code = f"import runpy; runpy.run_path({str(file)!r}, run_name='__main__')"
    written = apart(code, tmp_path, "jax", "dinojax")
    assert written == "".join(f"{program.sample(seed)}\n" for seed in range(num))
    assert (len(written) == 401) == run.config.is_text


def test_the_numpy_program_draws_by_its_probabilities(place, tmp_path):
    run = runs.load_run(place / "vanilla")
    file = export(run, "numpy", tmp_path / "out").files[1]
    program, num = in_namespace(file.read_text("utf-8"), file), 2000
    first = [program.sample(seed, length=1) or "\n" for seed in range(num)]
    counts = np.array([first.count(character) for character in run.vocab.characters])
    expected = num * np.asarray(jax.nn.softmax(logits_of(run, "")[0]))
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    # Mean and five standard deviations of this distribution.
    assert chi_squared < len(counts) - 1 + 5 * np.sqrt(2 * len(counts))
    assert "def sample(seed, length=77, " in numpy_file.program(run.config, max_length=77)


@pytest.mark.parametrize("cell", IN_TORCH)
def test_torch_reads_the_state_dict(cell, place, tmp_path):
    pytest.importorskip("safetensors")
    run = runs.load_run(place / cell)
    exported = export(run, "torch", tmp_path / "out")
    names = ["config.json", "model.safetensors", "vocab.json"]
    assert [file.name for file in exported.files] == names
    loaded = safetensors.load(tmp_path / "out" / "model.safetensors")
    leaves = zip(*map(jax.tree.leaves, (loaded.params, run.params)), strict=True)
    assert all(left.tobytes() == right.tobytes() for left, right in leaves)
    pytest.importorskip("torch")
    assert_same_logits(in_namespace(exported.code).logits, run)


@pytest.mark.parametrize("cell", WITH_A_LAYOUT)
def test_the_card_has_the_figures_of_evaluate_and_code_that_runs(
    cell, place, tmp_path, monkeypatch
):
    pytest.importorskip("safetensors")
    run = runs.load_run(place / cell)
    export(run, "safetensors", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    train, part = (
        runs.read_part(place / cell, run.description, name)
        for name in ("train", {"vanilla": "train", "lstm": "test"}.get(cell, "validation"))
    )
    rows = re.findall(r"^\| ([\w -]+).* \| ([\d.]+) ± [\d.na]+ \| [\d.]+ \|", text, re.MULTILINE)
    for (name, nats), row in zip(rows, compare(in_float32(run), train, part), strict=True):
        assert name == (f"{row.order}-gram" if row.order else "this model")
        assert float(nats) == pytest.approx(row.figures["nats_per_character"], abs=1e-4)
    assert ("No data were set apart" in text) == (cell == "vanilla")
    for name, checksum in run.description.parts.items():
        assert re.search(rf"^    {name} +\d", text, re.MULTILINE), checksum
    ours, *torch, numpy = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(torch) == (cell in IN_TORCH)
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.syspath_prepend(str(tmp_path / "out"))
    for code in [ours, numpy] + torch * bool(find_spec("torch")):
        out = StringIO()
        with redirect_stdout(out):
            exec(code, {})
        assert out.getvalue()
        sys.modules.pop("model", None)


def test_the_card_says_what_of_its_part_had_been_learned_before(place, monkeypatch):
    pytest.importorskip("safetensors")
    run = runs.load_run(place / "gru")
    says = {3: "names, runs before this one had learned 3", None: "It is not known how much of it"}
    for num, expected in says.items():
        monkeypatch.setattr(card, "num_learned", lambda *_, num=num: num)
        text = card.model_card(run, in_float32(run), run.config)
        assert [each in text for each in says.values()] == [expected == x for x in says.values()]


def test_the_card_claims_no_training_that_is_not_known(place):
    run = runs.load_run(place / "vanilla")
    later = run._replace(description=run.description._replace(init_from="other"))
    first, start = "was trained for", "the model that it started from"
    cases = {
        f", and {first} 0 steps. ": (run, "`config.json` has the settings of the training."),
        f", those of {start}. ": (later, "It is not known how that model was trained."),
        f", and {first} 2 steps, after those of {start}. ": (
            later._replace(step=2), "`config.json` has the settings of these steps.",
        ),
    }  # fmt: skip
    for says, (run, settings) in cases.items():
        text = card.model_card(run, in_float32(run), run.config)
        assert f" parameters{says}" in text
        assert f"\n\n{settings}\n\n" in text


def test_stablehlo_of_names_runs_without_the_source(place, tmp_path):
    pytest.importorskip("flatbuffers")
    run, num = runs.load_run(place / "gru"), 3
    exported = export(run, "stablehlo", tmp_path / "out")
    assert [file.name for file in exported.files] == ["sample.bin", "step.bin", "vocab.json"]
    code = exported.code + f"print([logits('mei').tolist(), samples(range({num}))])"
    logits, names = json.loads(apart(code, tmp_path, "dinojax").replace("'", '"'))
    np.testing.assert_allclose(logits, logits_of(run, "mei"), atol=1e-5)
    model = in_float32(run).model

    @jax.jit
    @jax.vmap
    def write(seed):
        return sample_names(jax.random.key(seed), run.params, model, 1, 50).ids[0]

    expected = [run.vocab.decode(ids) for ids in write(np.arange(num))]
    assert names == [name.split("\n")[0] for name in expected]


def test_stablehlo_of_a_text_is_for_any_batch_and_platform(place, tmp_path):
    pytest.importorskip("flatbuffers")
    run = runs.load_run(place / "lstm")
    loaded = in_namespace(export(run, "stablehlo", tmp_path / "out").code)
    assert [len(sample) for sample in loaded.samples([0, 1])] == [400, 400]
    program = jax.export.deserialize((tmp_path / "out" / "step.bin").read_bytes())
    assert program.platforms == ("cpu", "cuda", "tpu")
    state = [np.zeros((3, run.config.hidden_size), np.float32)] * 4
    _, rows = program.call(state, np.array([1, run.vocab.no_character, 2], np.int32))
    np.testing.assert_allclose(rows[1], logits_of(run, "")[0], atol=1e-5)


def without_order(params):
    """A layout with its gates in another order."""
    tensors = to_state_dict(params)
    return {x: np.roll(t, 7, 0) if "_l" in x else t for x, t in tensors.items()}


def command(*arguments, name="export"):
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        # JAX has started.
        module = f"dinojax.cli.{name}{'_' * (name == 'import')}"
        patch.setattr(f"{module}.start_jax", lambda *_: None)
        try:
            code = call(Program(name, "dinojax"), list(map(str, arguments)))
        except SystemExit as end:
            code = end.code
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


@pytest.mark.parametrize("form", FORMATS)
def test_a_wrong_export_fails_and_leaves_nothing(form, place, tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers" if form == "stablehlo" else "safetensors")
    monkeypatch.setattr(numpy_file, "to_state_dict", without_order)
    monkeypatch.setattr(safetensors, "to_state_dict", without_order)
    step_program = stablehlo.step_program

    def other_program(trained):
        return step_program(trained._replace(params=jax.tree.map(lambda x: -x, trained.params)))

    monkeypatch.setattr(stablehlo, "step_program", other_program)
    result = command(place / "lstm", "--format", form, "--out", tmp_path / "out")
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch("dinojax export: error: expected logits .*, got .*\n", result.err)
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_it_wrote_and_how_well_it_agrees(place, tmp_path):
    result = command(place / "gru", "--format=numpy", "--out", tmp_path / "out", "--which=last")
    assert (result.code, result.err) == (0, "")
    first, second, agreement = result.out.splitlines()
    size = (tmp_path / "out" / "model.npz").stat().st_size
    assert first == f"{tmp_path}/out/model.npz  {size:,} bytes"
    assert second.startswith(f"{tmp_path}/out/model.py  ")
    assert agreement.startswith("The logits of 2 strings of the validation part agree with ")


def test_nothing_is_written_over(place, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())
    cases = {
        tmp_path / "file": "exists",
        tmp_path / "folder": "exists",
        tmp_path / "link": "exists",
        place / "gru" / "train.txt": "exists",
        tmp_path / "none" / "out": "no such folder; make it first",
    }
    for out, message in cases.items():
        result = command(place / "gru", "--format", "numpy", "--out", out)
        assert (result.code, result.out) == (2, "")
        named = out.parent if "no such" in message else out
        assert re.fullmatch(f"dinojax export: error: {named}:? {message}.*\n", result.err)
    result = command(place / "gru", "--format=numpy", "--out", tmp_path / "out", "--which=7")
    assert (result.code, result.out) == (2, "")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "mine"


def test_a_package_that_is_missing_is_named(place, tmp_path, monkeypatch):
    for form, package in ("torch", "safetensors"), ("stablehlo", "flatbuffers"):
        monkeypatch.setitem(sys.modules, package, None)
        result = command(place / "gru", "--format", form, "--out", tmp_path / "out")
        message = f"{package} is missing; install it: pip install 'dinojax[export]'"
        assert (result.code, result.err) == (2, f"dinojax export: error: {message}\n")
    result = command("a.safetensors", "--data=a.txt", "--out=a", name="import")
    message = "safetensors is missing; install it: pip install 'dinojax[export]'"
    assert (result.code, result.err) == (2, f"dinojax import: error: {message}\n")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with new_folder(tmp_path / "out") as temporary:
        (temporary / "file").write_text("whole")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "file").read_text() == "whole"
    for read in Path.read_bytes, lambda folder: (folder / "none").read_bytes():
        errors = IsADirectoryError, FileNotFoundError
        with pytest.raises(errors) as caught, new_folder(tmp_path / "other") as temporary:
            read(temporary)
        # A full disk, for one, is that of the folder which the user named.
        assert caught.value.filename == str(tmp_path / "other")
    with (
        pytest.raises(ValueError, match="made by another process"),
        new_folder(tmp_path / "other"),
    ):
        (tmp_path / "other").mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_folders_of_killed_processes_are_removed_and_no_others(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    kept = {
        f".dinojax-{'0' * 16}.{os.getppid()}.new": "of a process that runs",
        f".dinojax-mine.{dead.pid}.new": "a user's own",
        f".dinojax-{'1' * 16}.{dead.pid}.new.old": "a user's own",
    }
    for name in [*kept, f".dinojax-{'a' * 16}.{dead.pid}.new"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("half")
    (link := tmp_path / f".dinojax-{'b' * 16}.{dead.pid}.new").symlink_to(tmp_path / min(kept))
    with new_folder(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {*kept, link.name, "out"}
    assert all((tmp_path / name / "file").exists() for name in kept)


def test_strings_of_a_proof_are_spread_over_the_part():
    names = [f"name{i}" * (1 + 40 * (i == 0)) for i in range(100)]
    strings = proof.choose_strings(names)
    assert (len(strings), len(strings[0]), strings[-1]) == (32, 64, "name99")
    assert proof.choose_strings(["a", "b"]) == ["a", "b"]
    pieces = proof.choose_strings(TEXT)
    assert all(piece in TEXT for piece in pieces)
    assert "".join(pieces) == TEXT


def test_a_proof_has_a_tolerance_that_grows_with_the_logits(place):
    run = runs.load_run(place / "vanilla")
    strings = ["rex", "yi"]
    for scale in (1, 1000):
        readout = jax.tree.map(lambda x, scale=scale: x * scale, run.params["readout"])
        trained = run.trained._replace(params=run.params | {"readout": readout})
        expected = dict(zip(strings, proof.model_logits(trained, strings), strict=True))
        largest = max(1, *(np.abs(each).max() for each in expected.values()))
        for share, is_equal in (5e-6, True), (2e-5, False), (np.nan, False):
            found = {name: each + share * largest for name, each in expected.items()}
            if is_equal:
                assert proof.prove(trained, strings, found.get) == pytest.approx(
                    share * largest, rel=0.1
                )
            else:
                with pytest.raises(ArithmeticError, match="got a difference of"):
                    proof.prove(trained, strings, found.get)


def test_an_exported_model_becomes_the_same_run_again(place, tmp_path):
    pytest.importorskip("safetensors")
    for cell in "gru_reset_before", "lstm":
        export(run := runs.load_run(place / cell), "safetensors", tmp_path / cell)
        is_text = run.config.is_text
        data, out = tmp_path / f"{cell}.txt", tmp_path / f"{cell}-run"
        data.write_text(TEXT if is_text else "\n".join(NAMES), "utf-8")
        file = tmp_path / cell / "model.safetensors"
        preset, other = ("text", "names") if is_text else ("names", "text")
        for more in [], [preset, "--lowercase", "--overwrite"]:
            result = command(file, *more, "--data", data, "--out", out, name="import")
            assert result.code == 0
            says = f"{data}: too short for 64 rows of 32 characters; batches have 12 rows of 32\n"
            assert (says in result.err) == (more != [] and is_text)
            assert f"{run.vocab.size} characters, newline as number 0 from 0\n" in result.out
            again = runs.load_run(out)
            config = run.config if not more else replace(PRESETS[preset], lowercase=True)
            kept = ["batches", "lowercase", "optimizer", "learning_rate", "dropout"]
            assert [getattr(again.config, x) for x in kept] == [getattr(config, x) for x in kept]
            kept = ["cell", "gate", "num_layers", "hidden_size"]
            assert all(getattr(again.config, x) == getattr(run.config, x) for x in kept)
            assert again.vocab == run.vocab
            leaves = zip(*map(jax.tree.leaves, (again.params, run.params)), strict=True)
            assert all(left.tobytes() == right.tobytes() for left, right in leaves)
        result = command(file, other, "--data", data, "--out", out, "--overwrite", name="import")
        assert (result.code, result.out) == (2, "")
        assert f"{file}: the model learned " in result.err
        assert runs.load_run(out).config == again.config


def test_what_an_import_refuses_names_the_file_and_no_flag(place, tmp_path):
    pytest.importorskip("safetensors")
    run, data = runs.load_run(place / "lstm"), tmp_path / "text.txt"
    for name, content in safetensors.files(run.trained, run.config).items():
        (tmp_path / name).write_bytes(content)
    arguments = [tmp_path / "model.safetensors", "--data", data, "--out", tmp_path / "out"]
    data.write_text(f"{TEXT}?", "utf-8")
    result = command(*arguments, name="import")
    assert f"error: {arguments[0]} cannot read {data}: '?' at position" in result.err
    data.write_text("a rex", "utf-8")
    result = command(*arguments, name="import")
    assert "too short for 2 rows of 8 characters; batches have 1 row of 5\n" in result.err
    assert result.code == 0
    wide = Imported({"dropout": 1.5}, run.params, run.vocab)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors, "read", lambda _: wide)
        result = command(*arguments, "--overwrite", name="import")
    assert f"error: {arguments[0]}: dropout: expected a number from 0 to 0.99" in result.err


def test_the_characters_of_a_foreign_model_are_those_of_the_data(place, tmp_path):
    pytest.importorskip("safetensors")
    run = runs.load_run(place / "vanilla")
    file, data = tmp_path / "foreign.safetensors", tmp_path / "names.txt"
    file.write_bytes(safetensors.files(run.trained, run.config)["model.safetensors"])
    arguments = [file, "dinos", "--data", data, "--out", tmp_path / "run"]
    data.write_text("\n".join(NAMES[2:]), "utf-8")
    result = command(*arguments, name="import")
    num = len(set("\n".join(NAMES[2:])))
    says = f"the model reads {run.vocab.size} different characters, the data have {num}, newline"
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    data.write_text("\n".join(NAMES), "utf-8")
    assert command(*arguments, name="import").code == 0
    again = runs.load_run(tmp_path / "run")
    assert again.vocab == run.vocab
    export(again, "safetensors", tmp_path / "card")
    text = (tmp_path / "card" / "README.md").read_text("utf-8")
    assert "    start       the parameters of foreign.safetensors\n" in text
    assert "these data and those of the model that it started from" in text


def test_what_cannot_be_written_is_refused(place, tmp_path):
    other = runs.load_run(place / "gru_reset_before")
    with pytest.raises(ValueError, match="PyTorch has no gru_reset_before cell with hard_sigmoid"):
        export(other, "torch", tmp_path / "out")
    with pytest.raises(ValueError, match="expected a format of safetensors, torch"):
        export(runs.load_run(place / "vanilla"), "onnx", tmp_path / "out")


def test_a_cell_that_the_program_lacks_is_refused(place, tmp_path, monkeypatch):
    run = runs.load_run(place / "mingru")
    monkeypatch.delitem(numpy_file._CELLS, "mingru")
    with pytest.raises(ValueError, match="numpy_file has no mingru cell; add it there, or"):
        export(run, "numpy", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_only_stablehlo_holds_is_refused_elsewhere(place, tmp_path):
    run, message = runs.load_run(place / "lstm"), "Mogrifier rounds"
    config = replace(run.config, mogrifier_rounds=2)
    run = run._replace(description=run.description._replace(config=config))
    for form in "safetensors", "torch", "numpy":
        with pytest.raises(ValueError, match=f"^this format has no {message}; export it as stabl"):
            export(run, form, tmp_path / "out")
    with pytest.raises(ValueError, match=f"^a page holds no network with {message}"):
        make_page(run, "", TEXT, TEXT)
