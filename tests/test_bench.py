import json
import math
import re
import subprocess
import sys
from importlib.util import find_spec

import bench
import jax
import numpy as np
import pytest

from dinojax.data.vocab import Vocab
from dinojax.models.cells import gru, lstm
from dinojax.models.layers import from_cell
from dinojax.models.model import char_model

from bench_sides import large, ours, scaling, scaling_model
from bench_sides.work import (
    BFLOAT16,
    LSTM,
    OURS,
    PYTORCH,
    VOCAB_SIZE,
    WORKS,
    Network,
    Task,
    Work,
    nested,
    operations_per_character,
)
from conftest import QUICK, ROOT, USERS_ENVIRONMENT

SCRIPT = ROOT / "scripts" / "bench.py"


def run_bench(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=USERS_ENVIRONMENT | QUICK,
    )


def test_all_work_is_measured_and_equal_between_sides(tmp_path):
    log = tmp_path / "bench.json"
    result = run_bench("--tiny", "--rounds", 1, "--json", log)
    assert result.returncode == 0, result.stderr
    lines = {(x["work"], x["side"]): x for x in json.loads(log.read_text("utf-8"))["lines"]}
    has_torch = find_spec("torch") is not None
    assert ("PyTorch is not installed" in result.stdout) != has_torch
    expected = {(name, side) for name, work in WORKS.items() for side in work.amounts}
    measured = {key for key in lines if key[0] in WORKS}
    assert measured == {key for key in expected if has_torch or key[1] != PYTORCH}
    programs = {side for work, side in lines if work not in WORKS}
    assert programs == {"train.py, nothing compiled yet", "train.py", "sample.py, one name"}
    for (work, side), line in lines.items():
        assert all(math.isfinite(rate) and rate > 0 for rate in line["rates"])
        assert line["peak_memory"] > 10
        # An LSTM beside a minGRU is another network.
        ours = lines[work, OURS if work in WORKS and side != LSTM else side]["shown"]
        # The mean of about a hundred names in a small run: 0.6 of it is 5 standard errors.
        tolerance = 0.6 if line["shown_as"] == "characters a name" else 0.01
        if work.startswith("score"):
            # A slow side scores the first names alone.
            tolerance = 0.1
        assert line["shown"] is None or line["shown"] == pytest.approx(ours, rel=tolerance)
        # In the table: the title of its work, then its own line.
        assert re.search(rf"^{re.escape(work)}\b(.*\n)+?{re.escape(side)}  ", result.stdout, re.M)


def test_the_share_of_the_machine_counts_all_products():
    # By hand: h @ [4, 12], then two layers of [4, 12] above, and a readout [4, 5].
    network = Network("gru", 2, 4)
    work = Work("characters", "", {}, network, products=3)
    assert operations_per_character(work, 5) == 2 * 3 * (3 * 4 * 12 + 4 * 5)
    # No product depends on the state of a minGRU: h @ [4, 8] is left, and the readout.
    linear = work._replace(network=Network("mingru", 2, 4))
    assert operations_per_character(linear, 5) == 2 * 3 * (4 * 8 + 4 * 5)
    # In its place, an LSTM has three products with [4, 16].
    assert operations_per_character(linear, 5, LSTM) == 2 * 3 * (3 * 4 * 16 + 4 * 5)


def test_parameters_are_nested_as_the_library_nests_them():
    key = jax.random.key(0)
    model = char_model([from_cell(gru(5, 4)), from_cell(gru(4, 4))], Vocab("\nabcd"))
    params = model.init(key)
    leaves, _ = jax.tree_util.tree_flatten_with_path({"params": params})
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    found = nested(flat, "params/")
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_a_side_trains_in_bfloat16_what_the_other_trains_in_float32(tmp_path, monkeypatch):
    # JAX has started.
    monkeypatch.setattr(ours.startup, "start_jax", lambda *_: None)
    task = Task(OURS, "train vanilla 1 x 256", 2, tmp_path, tmp_path, tmp_path / "x", (0, 2), True)
    with jax.numpy_dtype_promotion("standard"):
        loss, in_bfloat16 = (
            ours.training(task._replace(side=side))[1]().shown for side in (OURS, BFLOAT16)
        )
    assert in_bfloat16 != loss
    assert in_bfloat16 == pytest.approx(loss, rel=1e-3)


def test_a_side_that_fails_is_one_line(tmp_path, capfd):
    task = Task(OURS, "train nothing", 1, tmp_path, tmp_path, tmp_path / "none.npz", (0, 1))
    with pytest.raises(OSError, match="the side dinojax failed; what it said is above"):
        list(bench.time_sides([task], 1))
    assert "train nothing" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds: expected a number from 1 to 1,000, got 0"),
        (["--data", "none.txt"], "none.txt: No such file or directory"),
        (["--data", "tab.txt"], "tab.txt: a name holds a tab, which the NumPy loop cannot read"),
        (["--json", "none/log.json"], "--json: there is no folder none; make it first"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tab.txt").write_text("a\tb\n")
    result = run_bench(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"bench.py: error: {message}\n"


def test_scaling_is_measured_here_and_computed_beyond(tmp_path):
    log = tmp_path / "scaling.json"
    result = run_bench("--scaling", "--tiny", "--rounds", 1, "--json", log)
    assert result.returncode == 0, result.stderr
    found = json.loads(log.read_text("utf-8"))
    assert [line["kind"] for line in found["measured"]] == ["strong"] * len(found["measured"])
    for line in found["measured"]:
        assert line["step_ms"] > 0
        assert line["compute_ms"] > 0
    assert found["measured"][0]["efficiency"] == 1
    assert "Measured here" in result.stdout
    assert "Computed, not measured" in result.stdout
    assert len(found["computed"]) == len(scaling_model.WIDTHS) * len(scaling_model.COUNTS)


def test_large_data_are_measured_and_removed(tmp_path, monkeypatch):
    monkeypatch.setitem(USERS_ENVIRONMENT, "TMPDIR", str(tmp_path))
    log = tmp_path / "large.json"
    result = run_bench("--large", "names", "--tiny", "--rounds", 2, "--json", log)
    assert result.returncode == 0, result.stderr
    found = json.loads(log.read_text("utf-8"))
    assert found["size"] == large.TINY_SIZES["names"]
    assert found["prepare_seconds"] > 0
    assert found["first_step_seconds"] > 0
    assert len(found["relative_speeds"]) == 2
    assert all(each > 0 for each in found["relative_speeds"])
    assert "A list of 0.02 million names" in result.stdout
    assert "speed relative to small data in memory" in result.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["large.json"]


def test_large_data_have_the_size_that_is_asked_for(tmp_path):
    large.write_text(tmp_path / "text", 10_000)
    assert len((tmp_path / "text").read_text()) == 10_000
    large.write_names(tmp_path / "names", 10_000)
    names = (tmp_path / "names").read_text().splitlines()
    assert len(names) == 10_000
    assert {len(name) for name in names} == set(range(3, 13))


def test_layouts_have_as_many_devices_as_cores_or_fewer():
    found = scaling.layouts(4, is_tiny=False)
    assert {layout[1:3] for layout in found} == {(1, 1), (1, 2), (2, 1), (1, 4), (4, 1)}
    rows = {(layout.kind, scaling.num_devices(layout)): layout.batch_size for layout in found}
    assert rows[("strong", 4)] == rows[("strong", 1)]
    assert rows[("weak", 4)] == 4 * rows[("strong", 1)]


def test_a_step_is_computed_from_bytes_latency_and_bandwidth():
    letters = Vocab("\n" + "".join(chr(ord("A") + i) for i in range(VOCAB_SIZE - 1)))
    network = char_model([from_cell(lstm(VOCAB_SIZE, 32))], letters)
    params = jax.eval_shape(network.init, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert scaling_model.num_parameters(32) == size
    machine = scaling_model.Accelerator(1e9, 1e-3, 1e8, 1e7, 1e-5, 1e-4, per_host=8)
    compute, within = scaling_model.step_costs(8, 32, 5, machine, window=10)
    assert compute == pytest.approx(10 * max(1e-3, 6 * size * 5 / 1e9))
    assert within == pytest.approx(2 * 7 / 8 * 4 * size / 1e8 + 2 * 3 * 1e-5)
    _, beyond = scaling_model.step_costs(64, 32, 5, machine, window=10)
    assert beyond - within == pytest.approx(2 * 7 / 8 * (4 * size / 8) / 1e7 + 2 * 3 * 1e-4)
    for line in scaling_model.compute_all(machine):
        rows = line.rows_to_hide
        compute, shared = scaling_model.step_costs(
            line.accelerators, line.hidden_size, rows, machine
        )
        assert compute >= shared
        if rows > 1:
            fewer, _ = scaling_model.step_costs(
                line.accelerators, line.hidden_size, rows - 1, machine
            )
            assert fewer < shared
