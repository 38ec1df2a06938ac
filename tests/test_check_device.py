"""The parts of `scripts/check_device.sh`; what they call has tests of its own."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import check_device
import pytest
from check_device import Part

from dinojax.presets import PRESETS

from bench_sides.work import BFLOAT16, NUMPY, ON_DEVICES, OURS, PYTORCH, STACKS, WORKS, sides_of
from conftest import ROOT, USERS_ENVIRONMENT


def python(code, seconds=60, **more):
    return Part([sys.executable, "-c", code], seconds, **more)


def test_a_part_has_its_result_its_time_and_its_environment(tmp_path):
    # Its time is rounded to hundredths of a second.
    code = (
        "import os, json, time; time.sleep(0.01); print(json.dumps([os.environ['A'], os.getcwd()]))"
    )
    found = check_device.run_part(python(code, read=json.loads, environment={"A": "b"}), tmp_path)
    assert (found["ok"], found["code"], found["timed_out"]) == (True, 0, False)
    assert found["result"] == ["b", str(tmp_path)]
    assert found["seconds"] > 0
    assert found["limit"] == 60


def test_a_part_out_of_time_keeps_what_it_printed_and_leaves_no_process(tmp_path, monkeypatch):
    class OnceItHasPrinted(subprocess.Popen):
        """A process whose time begins after two lines, however long it takes to start."""

        def wait(self, timeout=None):
            while timeout is not None and (tmp_path / "stdout").read_bytes().count(b"\n") < 2:
                assert self.poll() is None
                time.sleep(0.01)
            return super().wait(timeout)

    child = "import time; time.sleep(60)"
    code = (
        "import subprocess, sys; print('begun', flush=True); "
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}]); "
        "print(p.pid, flush=True); p.wait()"
    )
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", OnceItHasPrinted)
        found = check_device.run_part(python(code, seconds=1), tmp_path)
    assert (found["ok"], found["timed_out"]) == (False, True)
    begun, child = found["result"]
    assert begun == "begun"
    for _ in range(100):
        state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True)
        if not state.stdout.strip() or state.stdout.startswith("Z"):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the child runs on")


def test_the_log_holds_every_part_that_ran_and_says_why_one_failed(tmp_path, capsys):
    out, log = tmp_path / "out.json", {}

    def read(_):
        log.update(json.loads(out.read_text("utf-8")))
        return 1

    parts = {
        "good": python("print(1)"),
        "bad": python("import sys; sys.exit('no device')"),
        "unreadable": python("print('{')", read=json.loads),
        "last": python("", read=read),
    }
    assert check_device.run_all(parts, tmp_path, out, False) == 1
    assert list(log["parts"]) == ["good", "bad", "unreadable"]
    log = json.loads(out.read_text("utf-8"))
    assert [part["ok"] for part in log["parts"].values()] == [True, False, False, True]
    assert log["parts"]["bad"]["errors"] == "no device\n"
    assert log["parts"]["unreadable"]["output"] == "{\n"
    assert log["ok"] is False
    assert log["seconds"] >= max(part["seconds"] for part in log["parts"].values())
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said[:2]] == [["good", "ok"], ["bad", "FAILED"]]


def test_all_parts_together_have_a_limit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check_device, "SECONDS", 1)
    # Each part takes a second of this clock, however long it takes to start and to end it.
    times = [0.0]
    monkeypatch.setattr(check_device, "time", SimpleNamespace(monotonic=lambda: times[-1]))
    sleep = python("import time; time.sleep(60)", read=lambda _: times.append(times[-1] + 1))
    parts = dict.fromkeys(("long", "late"), sleep)
    out = tmp_path / "out.json"
    assert check_device.run_all(parts, tmp_path, out, False) == 1
    log = json.loads(out.read_text("utf-8"))["parts"]
    assert [part["timed_out"] for part in log.values()] == [True, True]
    assert [part["limit"] for part in log.values()] == [1, 0]
    assert capsys.readouterr().out.count("out of time") == 2


@pytest.mark.parametrize(
    "output",
    [
        "tests/test_a.py::test_x[1-a] PASSED   [ 20%]\n"
        "tests/test_a.py::test_y SKIPPED (no device)   [ 40%]\n"
        "tests/test_b.py::test_z[b] FAILED   [ 60%]\n"
        "tests/test_b.py::test_w ERROR   [ 80%]\n"
        "ERROR tests/test_c.py\n"
        "tests/test_b.py::test_cut_short ",
        "created: 2/2 workers\n"
        "tests/test_a.py::test_x[1-a] \n"
        "[gw0] [ 20%] PASSED tests/test_a.py::test_x[1-a] \n"
        "[gw1] [ 40%] SKIPPED tests/test_a.py::test_y \n"
        "[gw1] [ 60%] FAILED tests/test_b.py::test_z[b] \n"
        "[gw0] [ 80%] ERROR tests/test_b.py::test_w \n"
        "FAILED tests/test_b.py::test_z[b] - AssertionError\n"
        "ERROR tests/test_b.py::test_w - KeyError\n"
        "ERROR tests/test_c.py - ImportError: no rapidfuzz\n",
    ],
)
def test_tests_are_counted_as_far_as_they_ran(output):
    failed = ["tests/test_b.py::test_z[b]", "tests/test_b.py::test_w"]
    found = check_device.count_tests(output)
    assert found.pop("not_imported") == ["tests/test_c.py"]
    assert found == {"passed": 1, "skipped": 1, "failed": failed}


def test_training_has_milliseconds_a_step():
    line = {"work": "train LSTM 1 x 256", "unit": "characters", "rates": [4.0e6, 4.096e6, 5.0e6]}
    other = {"work": "sample many names", "unit": "characters", "rates": [1.0]}
    lines = check_device.figures_of({"machine": "", "lines": [line, other]})["lines"]
    # 64 rows of 64 characters.
    assert lines[0]["step_milliseconds"] == pytest.approx(1.0)
    assert "step_milliseconds" not in lines[1]


def test_the_time_of_a_whole_run_follows_from_that_of_its_beginning(tmp_path):
    steps = PRESETS["text-best"].steps
    lines = [{"step": 1, "seconds": 9}, {"step": steps // 4, "seconds": 20.0}]
    lines.append({"event": "out of time", "step": steps // 4})
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = check_device.course_of(tmp_path / "metrics.jsonl")
    assert found == {"last": lines[1], "steps": steps, "seconds": 80.0}


def test_on_a_device_bfloat16_is_beside_float32_and_numpy_is_not():
    assert sides_of("train LSTM 1 x 256", on_device=True) == [OURS, PYTORCH, BFLOAT16]
    assert sides_of("sample many names", on_device=True) == [OURS, PYTORCH]
    assert set(sides_of("train replicas of the exercise", on_device=True)) == {OURS, *STACKS}
    for name, work in WORKS.items():
        assert sides_of(name, on_device=False) == list(work.amounts)
    assert set(ON_DEVICES) <= set(WORKS)
    assert NUMPY in WORKS["sample many names"].amounts


def test_what_it_runs_exists():
    parts = check_device.make_parts(ROOT, ROOT / "README.md", False)
    for part in parts.values():
        files = [word for word in part.command if word.endswith(".py")]
        assert all((ROOT / file).exists() for file in files)
    assert sum(name.endswith(".py") for name in parts["tests"].command) >= 8


def test_an_unknown_part_is_one_line(tmp_path):
    command = ["bash", ROOT / "scripts" / "check_device.sh", "--only", "nothing", "--", "out.json"]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env=USERS_ENVIRONMENT | {"PYTHON": sys.executable},
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (2, "")
    assert "unknown part nothing; expected some of doctor, tests, train" in result.stderr
    assert not list(tmp_path.iterdir())
