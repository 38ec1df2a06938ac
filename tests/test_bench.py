import json
import math
import re
import subprocess
import sys

import pytest

from conftest import ROOT, USERS_ENVIRONMENT

SCRIPT = ROOT / "scripts" / "bench.py"


def run_bench(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=USERS_ENVIRONMENT,
    )


def test_all_rows_are_measured_and_the_work_is_equal(tmp_path):
    log = tmp_path / "bench.json"
    result = run_bench("--tiny", "--rounds", 1, "--json", log)
    assert result.returncode == 0, result.stderr
    rows = {
        (row["work"], row["who"], row["unit"]): row["figures"]
        for row in json.loads(log.read_text("utf-8"))["rows"]
    }
    streamed, padded = "dinojax, stream_names", "dinojax, sample_names"
    trainers = {"dinojax", "NumPy", "NumPy, batched over time"}
    samplers = {streamed, padded, "NumPy"}
    assert set(rows) == {
        ("shell", "train.py, first round", "s"),
        ("shell", "train.py", "s"),
        ("shell", "sample.py", "s"),
        ("peak memory", "dinojax, train.py", "MB"),
        ("peak memory", "NumPy", "MB"),
        ("train", "dinojax", "s to compile"),
        ("sample", streamed, "s to compile"),
        ("sample", padded, "s to compile"),
        *(("train", who, "steps/s") for who in trainers),
        *(("train", who, "characters/s") for who in trainers),
        *(("train", who, "nats a name, step 200") for who in trainers),
        *(("sample", who, "names/s") for who in samplers),
        *(("sample", who, "characters/s") for who in samplers),
        *(("sample", who, "characters a name") for who in samplers),
    }
    for figures in rows.values():
        (figure,) = figures
        assert math.isfinite(figure)
        assert figure > 0
    for who in trainers:
        loss = rows["train", who, "nats a name, step 200"]
        assert loss == pytest.approx(rows["train", "dinojax", "nats a name, step 200"], rel=1e-3)
    # Their standard deviation is near 6, and NumPy writes a hundred: 0.3 of the mean is 6 sigma.
    length = rows["sample", "NumPy", "characters a name"]
    assert rows["sample", streamed, "characters a name"] == pytest.approx(length, rel=0.3)
    lines = result.stdout.splitlines()[-len(rows) :]
    assert {tuple(re.split(" {2,}", line)[:3]) for line in lines} == set(rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds: expected a number from 1 to 1,000, got 0"),
        (["--data", "none.txt"], "none.txt: No such file or directory"),
        (["--data", "tab.txt"], "tab.txt: a name holds a tab, which the NumPy loop cannot read"),
        (["--json", "none/log.json"], "none/log.json: No such file or directory"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tab.txt").write_text("a\tb\n")
    result = run_bench(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"bench.py: error: {message}\n"
