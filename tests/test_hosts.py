"""Several processes on this machine that train one model, against one process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
import several_processes

from dinojax import processes
from dinojax.cli.terminal import Program
from dinojax.runs.folder import find_checkpoints, load_checkpoint
from dinojax.startup import best_share

from conftest import QUICK, ROOT
from in_process import call_here

LIMIT = 150
"""Seconds after which what a test started is killed."""
TRAIN = Program("train", "dinojax")
SMALL = "dinos", "--batch-size", "8", "--hidden-size", "6", "--validation-fraction", "0.1"
STEP_OF_SLURM = "SLURM_JOB_ID=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_STEP_NODELIST=a"
START = "from dinojax.cli.main import main; main()"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def started(num, arguments, cwd, program=("-c", START)):
    """`num` processes, given a function from port and number to more arguments."""
    port = free_port()
    environment = os.environ | QUICK | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        all_of_them = []
        for number in range(num):
            command = [sys.executable, *program, *map(str, arguments(port, number))]
            one = subprocess.Popen(command, cwd=cwd, env=environment, **pipes)
            all_of_them.append(stack.enter_context(one))
            # Before the pipes are waited for, at the end of a failed test too.
            stack.callback(one.kill)
        yield all_of_them


def ends(all_of_them):
    """The code, output and errors of each process."""
    found = []
    for one in all_of_them:
        out, err = one.communicate(timeout=LIMIT)
        found.append((one.returncode, out, err))
    return found


def together(num, *arguments):
    """Arguments of `dinojax train` in each of several processes."""

    def of_each(port, number):
        where = "--coordinator", f"127.0.0.1:{port}", "--num-processes", num
        return ["train", *arguments, *where, "--process-id", number]

    return of_each


def wait_for(condition, all_of_them):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end
        assert all(one.poll() is None for one in all_of_them), ends(all_of_them)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes that train all presets have written."""
    folder = tmp_path_factory.mktemp("pair")
    program = (str(ROOT / "tests" / "several_processes.py"),)
    with started(2, lambda port, i: [port, 2, i, 2, folder], folder, program) as both:
        for code, _, err in ends(both):
            assert code == 0, err
    return folder


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("preset", several_processes.KINDS)
def test_two_processes_train_what_one_trains(preset, devices, pair):
    # Optax's schedules need these types.
    with jax.numpy_dtype_promotion("standard"):
        own = several_processes.train(preset, devices)
    with np.load(pair / f"{preset}.npz") as theirs:
        assert theirs.keys() == own.keys()
        for name in own:
            error = np.linalg.norm(theirs[name] - own[name])
            # Two devices add up alike, wherever they are. The state of rows magnifies what differs
            # in parameters: 3e-7 of them are 1.3e-6 of it with JAX 0.12, 1e-6 with JAX 0.10.
            bound = 1e-5 if name.startswith("recurrent") else 1e-6
            assert error <= (bound if devices == 1 else 0) * np.linalg.norm(own[name])


def test_two_processes_stop_together_when_patience_ends(pair):
    said = [json.loads((pair / f"said-{number}.json").read_text()) for number in (0, 1)]
    assert said[0]["patient"] == said[1]["patient"]
    # Both found the end, or they would have waited for each other for ever.
    run, _ = load_checkpoint(pair / "run", "last")
    assert run.tally.validations_since == several_processes.PATIENT["patience"]
    assert run.step < several_processes.PATIENT["steps"]
    best = load_checkpoint(pair / "run", "best")[0].params["readout"]["bias"]
    assert said[0]["patient"] == best.tolist()
    assert not (pair / "not made").exists()


def test_processes_that_differ_end_with_the_same_words(pair):
    said = [json.loads((pair / f"said-{number}.json").read_text()) for number in (0, 1)]
    for each in said:
        assert re.match(
            r"data: process 0 has '\w{12}', process 1 has '\w{12}'; start", each["data"]
        )
        assert each["settings"].startswith("learning rate: process 0 has 0.1, process 1 has 1.1;")
        assert (
            each["rows"] == "batch size: expected a multiple of 2, the number of processes, got 7"
        )
    assert (
        said[0]["folder"] == f"{pair / 'run'} holds a run; choose another folder, or overwrite it"
    )
    assert said[1]["folder"] == f"process 0 has ended: {said[0]['folder']}"


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    straight = call_here(TRAIN, *SMALL, "--steps", 60, "--out", "straight", cwd=tmp_path)
    assert straight.code == 0
    # Two devices in each.
    first = together(2, *SMALL, "--steps", 20, "--devices", 4, "--out", "run")
    with started(2, first, tmp_path) as both:
        (code, out, err), other = ends(both)
    assert (code, err) == (0, "")
    # Not a word of libraries, nor of the second process.
    assert re.match(
        r"1,384 names, 154 for validation, 27 symbols; .*\n(step .*\n)+\nNames, .*\n(  .+\n)+", out
    )
    assert other == (0, "", "")
    alone = call_here(TRAIN, "--resume", "run", "--steps", 40, cwd=tmp_path)
    assert alone.code == 0
    assert "the run had 4 devices and goes on with 2" in alone.err
    resume = together(4, "--resume", "run", "--steps", 60)
    with started(4, resume, tmp_path) as four:
        (code, _, err), *others = ends(four)
    assert code == 0
    note = "the run had 2 devices and goes on with 4; its numbers may differ in their last digits"
    assert err == f"dinojax train: note: {note}\n"
    assert others == [(0, "", "")] * 3
    (_, expected), (_, arrays) = (
        load_checkpoint(tmp_path / name, "last") for name in ("straight", "run")
    )
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """A function that resumes one run in two processes, and returns them once they train."""
    folder = tmp_path_factory.mktemp("long")
    arguments = [*SMALL, "--steps", 10**6, "--evaluate-every", 10**6, "--out", "run"]

    @contextmanager
    def begun():
        there = (folder / "run").exists()
        begin = ["--resume", "run"] if there else arguments
        before = checkpoints(folder)
        with started(2, together(2, *begin, "--save-every", 50), folder) as both:
            # The signals are for what trains.
            wait_for(lambda: len(checkpoints(folder) - before) > 1, both)
            yield folder, both

    return begun


def checkpoints(folder):
    found = find_checkpoints(folder / "run") if (folder / "run").exists() else []
    return {path.name for path in found}


@pytest.mark.parametrize(
    ("number", "to"), [(signal.SIGINT, 1), (signal.SIGTERM, 0)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_to_one_process_saves_and_ends_all(number, to, long_run):
    with long_run() as (folder, both):
        both[to].send_signal(number)
        (code, _, err), other = ends(both)
    assert code == 128 + number
    last = max(checkpoints(folder))
    # It may take more than the half second after which the process that got the signal says what it
    # waits for.
    waits = r"(\ndinojax train: stopping as soon as this step is done .*\n)?"
    line = rf"\ndinojax train: interrupted; saved run/{last}; resume with: .* train --resume run\n"
    assert re.fullmatch(("" if to else waits) + line, err)
    assert other[:2] == (128 + number, "")
    assert re.fullmatch(waits if to else "", other[2])


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_process_is_killed_the_other_ends_with_one_line(killed, long_run):
    with long_run() as (folder, both):
        both[killed].kill()
        code, _, err = ends(both)[1 - killed]
    assert code not in (0, -signal.SIGKILL)
    line = r"dinojax train: error: (cannot go on with|another process has ended).*; start all .*\n"
    assert re.fullmatch(line, err)
    # What was saved is whole.
    run, arrays = load_checkpoint(folder / "run", "last")
    assert run.damaged == ()
    if killed:
        # It is also what processes that never ended come to.
        straight = *SMALL, "--evaluate-every", 10**6, "--steps", run.step, "--out", "straight"
        with started(2, together(2, *straight), folder) as both:
            assert [code for code, *_ in ends(both)] == [0, 0]
        _, expected = load_checkpoint(folder / "straight", "last")
        assert arrays.keys() == expected.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_processes_that_read_different_data_end_with_one_line(tmp_path):
    for number in (0, 1):
        names = "".join(f"{a}{b}\n" for a in "abc" for b in "xyz")
        (tmp_path / f"{number}.txt").write_text(names + "d\n" * number)
    both_with = together(2, *SMALL, "--out", "run")

    def arguments(port, number):
        return [*both_with(port, number), "--data", f"{number}.txt"]

    with started(2, arguments, tmp_path) as both:
        for code, out, err in ends(both):
            line = (
                r"dinojax train: error: data: process 0 has '\w+', process 1 has '\w+'; start .*\n"
            )
            assert (code, out) == (2, "")
            assert re.fullmatch(line, err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("a:1", None, None), "--coordinator, --num-processes and --process-id go together"),
        (("a:1", 2, 2), "--process-id: expected 0 to 1"),
        (("a:1", 0, 0), "--num-processes: expected 1 to"),
        (("a", 2, 0), "--coordinator: expected HOST:PORT"),
        (("a:0", 2, 0), "--coordinator: expected HOST:PORT"),
    ],
)
def test_what_describes_no_processes_is_an_error_of_one_line(values, said, tmp_path):
    names = "--coordinator", "--num-processes", "--process-id"
    given = [x for pair in zip(names, values, strict=True) if pair[1] is not None for x in pair]
    result = call_here(TRAIN, *given, cwd=tmp_path)
    assert result.code == 2
    assert result.err.startswith(f"dinojax train: error: {said}")
    assert result.err.count("\n") == 1


def test_a_port_in_use_is_an_error_of_one_line(tmp_path):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} of the coordinator cannot be used: Addr"):
            processes.join(processes.Cluster(f"127.0.0.1:{port}", 2, 0))


def test_who_finds_no_coordinator_says_how_long_it_waited(monkeypatch):
    monkeypatch.setattr(processes, "WAIT", 0.1)
    place = f"127.0.0.1:{free_port()}"
    with pytest.raises(ValueError, match=f"no process answers at {place} within 0.1 s .*refused"):
        processes.join(processes.Cluster(place, 2, 1))


def test_a_first_process_to_which_no_other_comes_says_how_long_it_waited(tmp_path):
    code = f"from dinojax import processes; processes.WAIT = 2; {START}"
    arguments = together(2, *SMALL, "--out", "run")
    with started(1, arguments, tmp_path, ("-c", code)) as one:
        ((code, out, err),) = ends(one)
    assert code not in (0, None)
    assert out == ""
    expected = "not all processes have come within 2 s; start all of them, each once"
    assert err == f"dinojax train: error: {expected}\n"


def test_who_has_done_all_ends_well_although_others_are_gone(tmp_path):
    code = "from dinojax import processes\ndef leave(): raise RuntimeError('gone')\n"
    code += f"processes.leave = leave; {START}"
    with started(
        1, together(1, *SMALL, "--steps", 2, "--out", "run"), tmp_path, ("-c", code)
    ) as one:
        ((code, out, err),) = ends(one)
    assert (code, err) == (0, "")
    assert "saved in run" in out


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ("", False),
        ("SLURM_JOB_ID=1 SLURM_NTASKS=4", False),
        (f"{STEP_OF_SLURM} SLURM_NTASKS=4", True),
        (f"{STEP_OF_SLURM} SLURM_NTASKS=1", False),
        ("OMPI_MCA_orte_hnp_uri=1 OMPI_COMM_WORLD_SIZE=2", True),
        ("OMPI_MCA_orte_hnp_uri=1 OMPI_COMM_WORLD_SIZE=1", False),
        ("KUBERNETES_SERVICE_HOST=a", False),
        ("TPU_WORKER_HOSTNAMES=a,b", False),
    ],
)
def test_launchers_are_recognised_by_what_they_set(variables, expected, monkeypatch):
    for name in [*os.environ]:
        if re.match("SLURM|OMPI|KUBE|TPU|JOB", name):
            monkeypatch.delenv(name)
    for each in variables.split():
        monkeypatch.setenv(*each.split("="))
    assert processes.is_recognised() == expected


def test_processes_that_are_told_other_numbers_of_them_end_with_one_line(tmp_path):
    def arguments(port, number):
        return together(2 + number, *SMALL, "--out", "run")(port, number)

    with started(2, arguments, tmp_path) as both:
        for number, (code, out, err) in enumerate(ends(both)):
            theirs, mine = 3 - number, 2 + number
            line = f"expected {mine} processes in all, process {1 - number} expects {theirs}"
            assert (code, out, err) == (2, "", f"dinojax train: error: {line}\n")


@pytest.mark.parametrize(("uri", "reason"), [("a", "ValueError"), ("1.0;tcp://a:1", "KeyError")])
def test_a_launcher_that_says_too_little_is_an_error_of_one_line(
    uri, reason, tmp_path, monkeypatch
):
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", uri)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with started(1, lambda *_: ["train"], tmp_path) as one:
        ((code, out, err),) = ends(one)
    assert (code, out) == (2, "")
    line = rf"dinojax train: error: JAX cannot read .* \({reason}\(.*\)\); give coordinator, .*\n"
    assert re.fullmatch(line, err)


def test_the_number_of_devices_is_that_of_all_processes_together():
    assert best_share(32, 4, 2) == 4
    assert best_share(12, 4, 3) == 1
    with pytest.raises(ValueError, match="batch size: expected a multiple of 3"):
        best_share(32, 4, 3)


def test_the_others_hear_of_a_file_what_a_command_would_say(monkeypatch):
    heard = []
    monkeypatch.setattr(processes, "num_processes", lambda: 2)
    monkeypatch.setattr(processes, "_give_up", heard.append)
    with pytest.raises(FileNotFoundError), processes.together("start"):
        Path("none/file").read_bytes()
    assert heard == ["none/file: No such file or directory"]
