"""Names of a run as it learned, in a still picture and in an animated one."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import jax
import numpy as np
import pytest

pytest.importorskip("matplotlib")

from test_plots import no_other_fonts  # noqa: F401

from dinojax.cli.terminal import Program
from dinojax.data.text import capitalized
from dinojax.evaluation.strings import names_nats
from dinojax.plots.animation import MAX_NAME, animate_growth
from dinojax.plots.growth import plot_growth
from dinojax.runs import folder as runs
from dinojax.runs.growth import Moment, growth, spread
from dinojax.sampling.strings import draw_names

from conftest import QUICK, ROOT, USERS_ENVIRONMENT
from in_process import call_here

NAMES = ["ada", "bob", "carol", "dave", "eve", "bo"] * 3
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run that kept all its checkpoints, one that kept few, and one of a text."""
    place = tmp_path_factory.mktemp("growth")
    (place / "names.txt").write_text("\n".join(NAMES), "utf-8")
    flags = "--data=names.txt", "--hidden-size=8", "--steps=80"
    for arguments in (
        (*flags, "--keep=100", "--save-every=4", "--out=kept"),
        (*flags, "--out=few"),
        (
            "text",
            "--data=names.txt",
            "--steps=1",
            "--hidden-size=4",
            "--batch-size=2",
            "--out=text",
        ),
    ):
        result = call_here(Program("train", "dinojax"), *arguments, cwd=place)
        assert result.code == 0, result.err
    return place


def test_moments_are_those_of_the_checkpoints(place):
    moments = growth(place / "kept", 4, num_names=3, seed=5)
    assert [moment.step for moment in moments] == [0, 4, 20, 80]
    drawn, last = [], runs.load_run(place / "kept").trained
    for moment in moments:
        # With one model, little is compiled.
        trained = last._replace(params=runs.load_run(place / "kept", str(moment.step)).params)
        nats = np.concatenate(names_nats(trained, NAMES))
        assert moment.loss == pytest.approx(nats.mean(), rel=1e-5)
        drawn.append(next(draw_names(jax.random.key(5), trained, 12)).names)
    rows = [row for row in range(12) if all(names[row] for names in drawn)][:3]
    for moment, names in zip(moments, drawn, strict=True):
        assert [name.rstrip("…") for name in moment.names] == [
            capitalized(names[row]) for row in rows
        ]
        assert moment.is_new == [names[row] not in NAMES for row in rows]
    assert growth(place / "kept", 4, num_names=3, seed=5) == moments


@pytest.mark.parametrize(
    ("steps", "num", "expected"),
    [
        (range(0, 1001, 10), 4, [0, 10, 100, 1000]),
        (range(0, 1001, 10), 1, [1000]),
        (range(0, 1001, 10), 2, [0, 1000]),
        ([7], 5, [7]),
        ([0, 3, 5], 12, [0, 3, 5]),
        (range(0, 81, 10), 7, [0, 10, 20, 30, 40, 50, 80]),
    ],
)
def test_checkpoints_are_spread_evenly_on_a_log_scale(steps, num, expected, tmp_path):
    paths = [tmp_path / f"checkpoint-{step:09d}.npz" for step in steps]
    assert [runs.step_of(path) for path in spread(paths, num)] == expected


def test_the_picture_has_the_names_at_their_losses():
    moments = [Moment(10**i, 3.0 / (i + 1), [f"Ab{i}", "Cd"], [True, False]) for i in range(5)]
    (axes,) = plot_growth(moments).axes
    curve, *_ = axes.get_lines()
    np.testing.assert_allclose(curve.get_ydata(), [moment.loss for moment in moments])
    assert [text.get_text() for text in axes.texts] == [f"Ab{i}\nCd" for i in range(5)]
    assert [text.xy[0] for text in axes.texts] == curve.get_xdata().tolist()
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["1", "10", "100", "1,000", "10,000"]


def test_the_animation_shows_each_moment_and_stays_at_the_last():
    names = ["A<&>\x1b", "B" * MAX_NAME, "C" * (MAX_NAME + 1)]
    moments = [Moment(10 * i, 3.0 - i, [*names, f"D{i}"], [True] * 4) for i in range(3)]
    picture = animate_growth(moments)
    root = ElementTree.fromstring(picture)
    groups = [each for each in root.iter(f"{SVG}g") if each.get("class") == "moment"]
    # Where nothing is animated, these attributes hold.
    assert [group.get("opacity") for group in groups] == ["0", "0", "1"]
    style = root.find(f"{SVG}style").text
    for i, (group, moment) in enumerate(zip(groups, moments, strict=True)):
        assert f"moment{i}" in group.get("style")
        shown = [text.text for text in group.iter(f"{SVG}text") if text.get("class") == "name"]
        assert shown == ["A<&>\\x1b", "B" * MAX_NAME, "C" * MAX_NAME + "…", f"D{i}"]
        said = " ".join(text.text for text in group.iter(f"{SVG}text"))
        assert f"step {moment.step}" in said
        assert f"{moment.loss:.2f} nats a character" in said
        # At each time, one moment is shown.
        keyframes = re.search(rf"@keyframes moment{i} {{(.*)}}\n", style)[1]
        frames = re.findall(r"([\d.]+)% { opacity: ([01]) }", keyframes)
        begins = [0, 0.9, 1.8, 5.8][i : i + 2]
        duration = 5.8
        for middle in (0.5, 1.4, 3.0):
            (before,) = [x for at, x in frames if float(at) <= 100 * middle / duration][-1:]
            assert before == str(int(begins[0] <= middle < begins[1]))
    (dot,) = root.iter(f"{SVG}circle")
    last_place = root.find(f"{SVG}polyline").get("points").split()[-1].split(",")
    assert "translate({}px, {}px)".format(*last_place) in dot.get("style")
    assert "prefers-color-scheme: dark" in style


def test_one_moment_and_equal_losses_can_be_drawn():
    for num in 1, 2:
        moments = [Moment(i, 1.0, ["Ab"], [True]) for i in range(num)]
        ElementTree.fromstring(animate_growth(moments))
        assert len(plot_growth(moments).axes[0].texts) == num


def plot(*arguments, cwd):
    return call_here(Program("plot", "dinojax"), *arguments, cwd=cwd)


def test_the_command_draws_names(place):
    result = plot("kept", "--names", 4, "--out", "pictures", cwd=place)
    assert (result.code, result.err) == (0, "")
    files = [f"pictures/{name}.{kind}" for name in ("loss", "names") for kind in ("png", "svg")]
    assert result.out.splitlines() == files
    content = (place / "pictures" / "names.svg").read_text("utf-8")
    for moment in growth(place / "kept", 4, num_names=2):
        assert all(f"<!-- {name} -->" in content for name in moment.names if len(name) <= 16)
    result = plot("few", "--names", 4, cwd=place)
    assert result.code == 0
    note = "the run has only 2 checkpoints; train with a larger --keep for more"
    assert result.err == f"dinojax plot: note: {note}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text", "--names", "4"], "expected a run of names, but text learned a text"),
        (["kept", "few", "--names", "4"], "--names is for one run, got 2"),
        (["kept", "--names", "0"], "--names: expected a number from 1 to 12, got 0"),
    ],
)
def test_bad_input_is_one_line(arguments, message, place):
    result = plot(*arguments, cwd=place)
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert message in result.err


def test_the_script_writes_an_animation(place):
    command = [sys.executable, str(ROOT / "scripts" / "animate.py"), "kept", "growing.svg"]
    result = subprocess.run(
        [*command, "--checkpoints=3", "--names=2", "--seed=1"], cwd=place,
        env=USERS_ENVIRONMENT | QUICK, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (0, "growing.svg\n", "")
    moments = growth(place / "kept", 3, num_names=2, seed=1)
    assert (place / "growing.svg").read_text("utf-8") == animate_growth(moments)
