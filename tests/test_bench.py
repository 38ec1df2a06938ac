import json
import math
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "scripts" / "bench.py"


def run_bench(*arguments):
    return subprocess.run(
        [sys.executable, BENCH, *map(str, arguments)], capture_output=True, text=True
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
    (loss,) = rows["train", "dinojax", "nats a name, step 200"]
    for who in trainers:
        assert math.isclose(rows["train", who, "nats a name, step 200"][0], loss, rel_tol=1e-3)
    # Names are near 11.7 +- 6 characters long at that stage: a hundred of them tell 5 from 12.
    assert math.isclose(
        rows["sample", streamed, "characters a name"][0],
        rows["sample", "NumPy", "characters a name"][0],
        rel_tol=0.3,
    )
    table = result.stdout.splitlines()[-len(rows) :]
    assert {
        tuple(filter(None, (cell.strip() for cell in line.split("  "))))[:3] for line in table
    } == (set(rows))


def test_bad_input_is_one_line(tmp_path):
    tab = tmp_path / "tab.txt"
    tab.write_text("a\tb\n")
    for arguments, message in (
        (("--rounds", 0), "--rounds: expected a number from 1 to 1000, got 0"),
        (("--data", tmp_path / "none.txt"), "none.txt: No such file or directory"),
        (("--data", tab), "tab.txt: a name holds a tab"),
        (("--json", tmp_path / "none" / "x.json"), "x.json: No such file or directory"),
    ):
        result = run_bench("--tiny", *arguments)
        assert result.returncode == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert not result.stdout
