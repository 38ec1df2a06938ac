import json
import subprocess
import sys

import numpy as np
import pytest

from dinojax.data.corpus import read_names
from dinojax.data.vocab import build_vocab
from dinojax.evaluation import exercise

import numpy_reference
from conftest import ROOT, USERS_ENVIRONMENT

SCRIPT = ROOT / "scripts" / "reproduce.py"

# The losses that the exercise was published with.
LOSSES = {
    "0": 23.087336,
    "2000": 27.884160,
    "4000": 25.901815,
    "6000": 24.608779,
    "8000": 24.070350,
    "10000": 23.844446,
    "12000": 23.291971,
}


def replay(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=True, env=USERS_ENVIRONMENT
    )


def test_replay_of_the_published_log(test_data, tmp_path):
    replay("--data", test_data / "dinos.txt", "--json", tmp_path / "log.json")
    log = json.loads((tmp_path / "log.json").read_text("utf-8"))
    reference = test_data.parent / "reference" / "course_log.json"
    published = json.loads(reference.read_text("utf-8"))
    assert published["smooth_loss"] == LOSSES
    for step, loss in LOSSES.items():
        assert log["smooth_loss"][step] == pytest.approx(
            loss, abs=1e-5 if step == "12000" else 1e-6
        )
    assert log["names"] == published["names"]
    assert sum(map(len, log["names"].values())) == 49


def test_replay_equals_the_numpy_reference_on_any_list(tmp_path):
    data = tmp_path / "names.txt"
    data.write_text("Ada\nGrace\nKatherine\nMary\nHypatia\n", "utf-8")
    output = replay("--data", data, "--steps", 2_001, "--json", tmp_path / "log.json").stdout
    log = json.loads((tmp_path / "log.json").read_text("utf-8"))

    names = read_names(data).data
    # The library gives the same without a process that computes in float64.
    reports = {str(x.step): x for x in exercise.replay(names, 2_001)}
    vocab = build_vocab(names)
    np.random.RandomState(0).shuffle(names)
    ids = [vocab.encode(name).tolist() for name in names]
    params, hidden = numpy_reference.exercise_params(vocab.size, 50), None
    smoothed = np.log(vocab.size) * 7
    for step, orders in {"0": range(1), "2000": range(1, 2001)}.items():
        params, hidden, _, smoothed = numpy_reference.train(
            params, ids, [j % len(ids) for j in orders], 0.01, 5.0, True, smoothed, hidden
        )
        written = []
        for k in range(7):
            draws = (np.random.RandomState(k + 2 * t).random_sample() for t in range(50))
            written.append(vocab.decode(numpy_reference.sample_name(params, draws, 50)))
        assert log["smooth_loss"][step] == pytest.approx(smoothed, rel=1e-9)
        assert [name.lower() for name in log["names"][step]] == written
        assert reports[step].smoothed_loss == pytest.approx(smoothed, rel=1e-9)
        assert reports[step].names == written
        assert f"Iteration: {step}, Loss: {smoothed:f}\n" in output
        assert "\n".join(log["names"][step]) in output
