import json
import subprocess
import sys
import warnings
from types import SimpleNamespace
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")

# After the line above: without matplotlib, these could not be imported.
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from dinojax.cli.terminal import Program  # noqa: E402
from dinojax.data.vocab import Vocab  # noqa: E402
from dinojax.evaluation import probe  # noqa: E402
from dinojax.evaluation.strings import names_nats, text_nats  # noqa: E402
from dinojax.models.cells import CELLS  # noqa: E402
from dinojax.models.layers import from_cell  # noqa: E402
from dinojax.models.model import char_model  # noqa: E402
from dinojax.models.trained import Trained  # noqa: E402
from dinojax.plots import fonts, heat_maps, losses, style  # noqa: E402
from dinojax.runs import folder as runs  # noqa: E402

from conftest import ROOT, USERS_ENVIRONMENT  # noqa: E402
from in_process import call_here  # noqa: E402

VOCAB = Vocab("\n $abcdЩ")
PLOT = ROOT / "scripts" / "plot.py"
OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
ODD_TEXT = "a$x^{2}$ \n\tЩ龍\U0001f995é\u0301\x1b\u2028א-->&<\\$"


def make_metrics(num=30, every=5, offset=0.0, seconds=1.0):
    """Lines as training writes them, with one of another kind."""
    lines = [
        {
            "step": 10 * i,
            "characters": 1000 * i,
            "seconds": seconds * i,
            "training_loss": offset + 1 + 2 / i,
            "validation_loss": offset + 1.1 + 2 / i if i % every == 0 else None,
        }
        for i in range(1, num + 1)
    ]
    return [
        {"event": "resumed", "step": 7, "characters": 7, "seconds": 7, "training_loss": 7.0},
        *lines,
    ]


def curve(metrics, across, loss):
    lines = [line for line in metrics if "event" not in line and line[loss] is not None]
    return [line[across] for line in lines], [line[loss] for line in lines]


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


@pytest.fixture(autouse=True)
def no_other_fonts(monkeypatch):
    """As where only matplotlib's own fonts are installed."""
    monkeypatch.setattr(fonts, "_installed", list)
    fonts._family.cache_clear()
    yield
    fonts._family.cache_clear()


@pytest.fixture(scope="module", params=CELLS)
def model(request):
    cell = CELLS[request.param]
    return char_model([from_cell(cell(VOCAB.size, 12)), from_cell(cell(12, 12))], VOCAB)


@pytest.fixture(scope="module")
def params(model):
    return model.init(jax.random.key(0))


def walk(params, model, text):
    """Character by character: each one's cost in nats, and every layer's output after it."""
    step = jax.jit(model.step)
    state, logits = step(params, model.initial_state(()), jnp.array(VOCAB.no_character))
    nats, outputs = [], []
    for i in VOCAB.encode(text).tolist():
        weights = np.exp(np.asarray(logits, np.float64))
        nats.append(-np.log(weights[i] / weights.sum()))
        state, logits = step(params, state, jnp.array(i))
        outputs.append([layer[1] if isinstance(layer, tuple) else layer for layer in state])
    return nats, [np.stack(layer) for layer in zip(*outputs, strict=True)]


# Surprisals and hidden states of a text.


def test_surprisal_is_that_of_single_steps(params, model):
    strings = ["abc\n", "d", "Щ a$\nabcd dcba\n"]
    actual = [text_nats(Trained(model, params, VOCAB), string) for string in strings]
    for string, nats in zip(strings, actual, strict=True):
        np.testing.assert_allclose(nats, walk(params, model, string)[0], rtol=1e-4)


def test_hidden_states_are_those_of_single_steps(params, model):
    text = "abc d$\nЩЩ"
    actual = probe.hidden_states(Trained(model, params, VOCAB), text)
    _, expected = walk(params, model, text)
    assert len(actual) == len(expected) == 2
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == (len(text), 12)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_most_varying_units_come_first():
    activations = np.array([[0.1, -1, 0.3, 0, 0], [0.1, 1, -0.3, 0.9, 0]])
    assert probe.most_varying(activations, 3) == [1, 3, 2]
    assert probe.most_varying(activations, 10) == [1, 3, 2, 0, 4]


# The picture of losses.


def test_lines_are_the_metrics():
    # So few that they are not smoothed.
    metrics = {"first": make_metrics(), "second": make_metrics(39, 7, 0.5)}
    figure = losses.plot_losses(metrics)
    assert legend_of(figure) == [
        f"{name}, {loss}" for loss in ("training", "validation") for name in metrics
    ]
    over_characters, over_time = figure.axes
    for axes, across in (over_characters, "characters"), (over_time, "seconds"):
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert len(lines) == 4
        for name, lines_of_run in metrics.items():
            for loss in "training", "validation":
                x, y = curve(lines_of_run, across, f"{loss}_loss")
                line = lines[f"{name}, {loss}"]
                np.testing.assert_array_equal(line.get_xdata(), x)
                np.testing.assert_array_equal(line.get_ydata(), y)
    assert over_characters.get_xlabel() == "characters seen in training"
    assert over_time.get_xlabel() == "time in training (seconds)"
    assert over_characters.get_ylabel() == "loss (nats a character)"
    assert over_characters.get_ylim() == over_time.get_ylim()


@pytest.mark.parametrize(
    ("seconds", "unit", "scale"), [(9, "seconds", 1), (60, "minutes", 60), (3600, "hours", 3600)]
)
def test_time_is_in_a_readable_unit(seconds, unit, scale):
    figure = losses.plot_losses({"run": make_metrics(seconds=seconds)})
    _, axes = figure.axes
    assert axes.get_xlabel() == f"time in training ({unit})"
    np.testing.assert_allclose(
        axes.get_lines()[0].get_xdata() * scale, [seconds * i for i in range(1, 31)]
    )


def test_lines_without_a_finite_number_are_left_out():
    metrics = make_metrics(4, every=100)
    metrics[2]["training_loss"] = float("nan")
    metrics[3]["training_loss"] = None
    del metrics[4]["seconds"]
    figure = losses.plot_losses({"run": metrics})
    assert legend_of(figure) == ["run, training", "run, no validation"]
    over_characters, over_time = figure.axes
    assert over_characters.get_lines()[0].get_xdata().tolist() == [1000, 4000]
    assert over_time.get_lines()[0].get_xdata().tolist() == [1]
    # A single point needs a marker to be visible.
    assert over_time.get_lines()[0].get_marker() == "."


@pytest.mark.parametrize(
    "metrics", [[], [{"event": "x"}], [{"characters": 1, "seconds": 1, "training_loss": None}]]
)
def test_a_run_without_a_loss_is_an_error(metrics):
    with pytest.raises(ValueError, match="metrics of second hold no loss"):
        losses.plot_losses({"first": make_metrics(), "second": metrics})


def test_runs_can_be_told_apart_with_and_without_colours():
    figure = losses.plot_losses({str(i): make_metrics(6) for i in range(35)})
    lines = figure.axes[0].get_lines()
    training, validation = lines[::2], lines[1::2]
    okabe_ito = {to_rgb(colour) for colour in OKABE_ITO}
    assert {to_rgb(line.get_color()) for line in lines} <= okabe_ito
    dashes = [str(line._unscaled_dash_pattern) for line in training]
    looks = {(line.get_color(), dash) for line, dash in zip(training, dashes, strict=True)}
    assert len(looks) == 35
    for i in range(34):
        assert dashes[i] != dashes[i + 1]
        assert validation[i].get_marker() != validation[i + 1].get_marker()
    for thin, thick in zip(training, validation, strict=True):
        assert thin.get_color() == thick.get_color()
        assert thin.get_linewidth() < thick.get_linewidth()
        assert thick.get_marker()


# Heat maps.


def test_surprisal_is_drawn_in_bits_with_its_characters():
    strings = ["abc\n", "d $"]
    nats = [np.log(2) * np.array([1, 2, 3, 0.5]), np.log(2) * np.array([4, 0, 7])]
    figure = heat_maps.plot_surprisal(strings, nats)
    axes, bar = figure.axes
    (mesh,) = axes.collections
    grid = mesh.get_array()
    np.testing.assert_allclose(grid.filled(-1), [[1, 2, 3, 0.5], [4, 0, 7, -1]])
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0, pytest.approx(7))
    assert mesh.cmap.name == "cividis"
    cells = {tuple(text.xy): text.get_text() for text in axes.texts}
    assert cells == {
        (0, 0): "a", (1, 0): "b", (2, 0): "c", (3, 0): "↵",
        (0, 1): "d", (1, 1): "␣", (2, 1): "$",
    }  # fmt: skip
    assert [label.get_text() for label in axes.get_yticklabels()] == ["6.5", "11.0"]
    assert axes.get_ylabel() == "total (bits)"
    assert axes.get_xlabel() == "place in the string (characters); ␣ space, ↵ newline"
    assert bar.get_xlabel() == "surprisal (bits)"
    # The first row is on top.
    assert axes.yaxis_inverted()


def test_long_strings_continue_in_the_next_row():
    string = "abcd" * 30
    bits = np.arange(120.0)
    figure = heat_maps.plot_surprisal(["a", string], [[0.0], np.log(2) * bits])
    axes, _ = figure.axes
    grid = axes.collections[0].get_array()
    assert grid.shape == (4, heat_maps.COLUMNS)
    assert grid[0].compressed().tolist() == [0]
    np.testing.assert_allclose(grid[1:].compressed(), bits)
    assert axes.get_yticks().tolist() == [0, 1]
    assert axes.get_xlabel() == "place in the row (characters)"


def test_characters_can_be_read_in_their_cells():
    def luminance(colour):
        channels = np.array(to_rgb(colour))
        linear = np.where(channels < 0.04, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    figure = heat_maps.plot_surprisal(["a" * 200], [np.linspace(0, 9, 200)])
    axes, _ = figure.axes
    (mesh,) = axes.collections
    cells = mesh.to_rgba(mesh.get_array().ravel())[:, :3]
    for text, cell in zip(axes.texts, cells, strict=True):
        low, high = sorted([luminance(text.get_color()), luminance(cell)])
        assert (high + 0.05) / (low + 0.05) > 3.9


def test_activations_are_drawn_along_the_text():
    text = "ab c\n" * 20
    activations = np.random.default_rng(0).uniform(-1, 1, (100, 20))
    units = [17, 0, 3]
    figure = heat_maps.plot_activations(text, activations, units, layer=1)
    *panels, bar = figure.axes
    assert len(panels) == 3
    drawn = np.concatenate([axes.collections[0].get_array() for axes in panels], axis=1)
    np.testing.assert_array_equal(drawn, activations.T[units])
    labels = [label.get_text() for axes in panels for label in axes.get_xticklabels()]
    assert labels == ["a", "b", "␣", "c", "↵"] * 20
    for axes in panels:
        (mesh,) = axes.collections
        assert (mesh.norm.vmin, mesh.norm.vmax, mesh.cmap.name) == (-1, 1, "RdBu_r")
        assert [label.get_text() for label in axes.get_yticklabels()] == ["17", "0", "3"]
        assert axes.yaxis_inverted()
        assert axes.get_xlim() == panels[0].get_xlim()
    assert figure.get_supylabel() == "unit of layer 1"
    assert panels[-1].get_xlabel() == "the text, a character a column; ␣ space, ↵ newline"
    assert bar.get_xlabel().startswith("activation")


# What is written, and what may stand in it.


@pytest.mark.parametrize(
    ("character", "mark"),
    [
        ("a", "a"), ("$", "$"), ("\\", "\\"), ("Щ", "Щ"), ("א", "א"), (" ", "␣"), ("\n", "↵"),
        ("\t", "⇥"), ("\x1b", "00\n1B"), ("\u2028", "20\n28"), ("\xa0", "00\nA0"),
        ("龍", "9F\n8D"), ("\U0001f995", "1F9\n95"), ("\u0301", "◌\u0301"), ("\udcff", "DC\nFF"),
    ],
)  # fmt: skip
def test_every_character_is_shown_safely(character, mark):
    figure = heat_maps.plot_surprisal([character], [[1.0]])
    (text,) = figure.axes[0].texts
    assert text.get_text() == mark
    assert not text.get_parse_math()
    figure = heat_maps.plot_activations(character, [[0.5]], [0], 0)
    (label,) = figure.axes[0].get_xticklabels()
    assert label.get_text() == mark
    assert not label.get_parse_math()


def test_code_points_are_explained():
    figure = heat_maps.plot_surprisal(["a龍"], [[1.0, 1.0]])
    expected = "place in the string (characters);\nin small digits: code points"
    assert figure.axes[0].get_xlabel() == expected


def test_no_label_is_cut():
    text = "a \n\t\x1b"
    for figure in (
        heat_maps.plot_surprisal([text], [np.ones(5)]),
        heat_maps.plot_activations(text, np.zeros((5, 1)), [0], 0),
        heat_maps.plot_surprisal(["a\x1b"], [np.ones(2)]),
        heat_maps.plot_surprisal([" \n"], [np.ones(2)]),
    ):
        figure.draw_without_rendering()
        box = figure.axes[0].xaxis.label.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.get_size_inches()[0] * figure.dpi


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("_run", "_run"), ("$a_b$", "$a_b$"), ("ödd ДА", "ödd ДА"), ("a\n\x1b", "a\\n\\x1b"),
        ("龍", "\\u9f8d"), ("\udcff", "\\udcff"),
        ("x" * 20 + "middle" + "y" * 20, "x" * 16 + "…" + "y" * 15),
    ],
)  # fmt: skip
def test_every_name_is_shown_safely(name, shown):
    figure = losses.plot_losses({name: make_metrics(3, 1), "other": make_metrics(3, 1)})
    assert legend_of(figure)[0] == f"{shown}, training"
    assert not any(text.get_parse_math() for text in figure.legends[0].get_texts())


def all_pictures():
    num = len(ODD_TEXT)
    return {
        "loss": losses.plot_losses({ODD_TEXT: make_metrics(), "b": make_metrics()}),
        "surprisal": heat_maps.plot_surprisal([ODD_TEXT, "a"], [np.arange(num) / 5, [0.0]]),
        "activations": heat_maps.plot_activations(ODD_TEXT, np.zeros((num, 4)), [3, 1], 0),
    }


def test_the_same_picture_gives_the_same_bytes(tmp_path):
    settings = dict(matplotlib.rcParams)
    first, again = all_pictures(), all_pictures()
    # The user's own matplotlib settings neither change the pictures nor break them.
    own = {"text.usetex": True, "font.size": 30, "svg.hashsalt": None, "lines.linewidth": 9}
    with matplotlib.rc_context(own):
        others = all_pictures()
        for name, figure in others.items():
            style.save(figure, tmp_path / f"others.{name}")
    for name, figure in first.items():
        paths = style.save(figure, tmp_path / name)
        assert paths == [tmp_path / f"{name}.png", tmp_path / f"{name}.svg"]
        contents = [path.read_bytes() for path in paths]
        # Save the same figure again, then a newly drawn one.
        for other in figure, again[name]:
            style.save(other, tmp_path / name)
            assert [path.read_bytes() for path in paths] == contents
        for path, content in zip(paths, contents, strict=True):
            assert (tmp_path / f"others.{path.name}").read_bytes() == content
        png, svg = contents
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert b"<dc:date>" not in svg
    assert len(list(tmp_path.iterdir())) == 12
    assert dict(matplotlib.rcParams) == settings


def test_a_huge_picture_has_fewer_dots(tmp_path):
    png, _ = style.save(Figure(figsize=(0.1, 300)), tmp_path / "tall")
    height = int.from_bytes(png.read_bytes()[20:24], "big")
    assert style.MAX_PIXELS - 10 <= height <= style.MAX_PIXELS


def test_no_picture_warns(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, figure in all_pictures().items():
            style.save(figure, tmp_path / name)
    assert not caught


def test_pyplot_is_not_needed():
    code = (
        "import sys, dinojax.plots.losses, dinojax.plots.heat_maps; "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_losses_are_drawn_without_jax():
    code = "import sys, dinojax.plots.losses; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# The script.


def plot(*arguments, cwd):
    return call_here(Program("plot", str(PLOT)), *arguments, cwd=cwd)


def run_script(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, str(PLOT), *map(str, arguments)],
        cwd=cwd,
        env=USERS_ENVIRONMENT | {"PYTHONIOENCODING": "utf-8"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
        encoding="utf-8",
    )


def write_metrics(folder, metrics):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(line) for line in metrics]
    # The last line is torn, as where training was killed.
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 1']), "utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run with two layers, and folders that have metrics alone."""
    cwd = tmp_path_factory.mktemp("plots")
    flags = "--steps", 300, "--hidden-size", 8, "--cell", "lstm", "--num-layers", 2
    result = call_here(Program("train", "train.py"), *flags, "--out=run", cwd=cwd)
    assert result.code == 0, result.err
    write_metrics(cwd / "run", make_metrics())
    write_metrics(cwd / "other" / "run", make_metrics(20))
    write_metrics(cwd / "events", [{"event": "resumed", "step": 1}])
    (cwd / "empty").mkdir()
    return SimpleNamespace(cwd=cwd, folder=cwd / "run", loaded=runs.load_run(cwd / "run"))


def test_every_picture_of_one_run(trained):
    arguments = "run", "--strings", "Tyrannosaurus", "mangosaurus", "--text", "rex"
    files = [
        f"{name}.{kind}" for name in ("loss", "surprisal", "activations") for kind in ("png", "svg")
    ]
    result = run_script(*arguments, cwd=trained.cwd)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "".join(f"run/{file}\n" for file in files)
    contents = {file: (trained.folder / file).read_bytes() for file in files}
    # Another process writes the same bytes, and they are those of the library.
    result = run_script(*arguments, "--layer", 1, cwd=trained.cwd)
    assert {file: (trained.folder / file).read_bytes() for file in files} == contents
    model = trained.loaded.trained
    strings = ["tyrannosaurus\n", "mangosaurus\n"]
    nats = names_nats(model, [string[:-1] for string in strings])
    axes, _ = heat_maps.plot_surprisal(strings, nats).axes
    totals = [label.get_text() for label in axes.get_yticklabels()]
    for total in totals:
        # matplotlib writes every text as paths, and what it says beside them.
        assert f"<!-- {total} -->" in contents["surprisal.svg"].decode()
    *_, last = probe.hidden_states(model, "rex")
    for unit in probe.most_varying(last, 10):
        assert f"<!-- {unit} -->" in contents["activations.svg"].decode()
    assert "<!-- unit of layer 1 -->" in contents["activations.svg"].decode()


def test_one_call_draws_each_picture_of_the_command(trained, tmp_path):
    drawn = {
        "loss": losses.plot_runs([trained.folder]),
        "surprisal": heat_maps.plot_strings(
            trained.loaded.trained, ["tyrannosaurus", "mangosaurus"]
        ),
        "activations": heat_maps.plot_text(trained.loaded.trained, "rex"),
    }
    arguments = "run", "--strings", "Tyrannosaurus", "mangosaurus", "--text", "rex"
    assert plot(*arguments, cwd=trained.cwd).code == 0
    for name, figure in drawn.items():
        for path in style.save(figure, tmp_path / name):
            expected = (trained.folder / path.name).read_bytes()
            assert path.read_bytes() == expected


def test_of_a_run_that_waits_for_its_selection_the_selection_is_drawn(tmp_path):
    lines = "".join(json.dumps(line) + "\n" for line in make_metrics())
    for name, content in ("run", ""), ("run/selection", lines):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(content)

    def labels():
        figure = losses.plot_runs([tmp_path / "run"])
        return [text.get_text() for text in figure.legends[0].get_texts()]

    expected = ["selection, training", "selection, validation"]
    assert labels() == expected
    (tmp_path / "run/metrics.jsonl").write_text(lines)
    assert labels() == ["run, training", expected[0], "run, validation", expected[1]]


def test_layers_and_units_that_do_not_exist_are_errors(trained):
    for arguments in {"layer": 2}, {"units": [8]}:
        with pytest.raises(IndexError):
            heat_maps.plot_text(trained.loaded.trained, "rex", **arguments)


def test_chosen_units_of_a_chosen_layer(trained):
    flags = "--text", "rex", "--units", 7, 0, "--layer", 0
    result = plot("run", *flags, cwd=trained.cwd)
    assert (result.code, result.err) == (0, "")
    content = (trained.folder / "activations.svg").read_text("utf-8")
    assert "<!-- unit of layer 0 -->" in content
    assert "<!-- 7 -->" in content
    assert "<!-- 3 -->" not in content


def test_runs_of_equal_names_are_compared(trained):
    result = plot("other/run", trained.folder, cwd=trained.cwd)
    assert (result.code, result.err) == (0, "")
    assert result.out == "other/run/loss-compared.png\nother/run/loss-compared.svg\n"
    content = (trained.cwd / "other" / "run" / "loss-compared.svg").read_text("utf-8")
    for name in "other/run", f"{trained.cwd.name}/run":
        assert f"<!-- {name}, validation -->" in content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none is not a folder"),
        (["empty"], "empty is not a run: it has no metrics.jsonl"),
        (["events"], "the metrics of events hold no loss"),
        (["run", "run/."], "run is given twice"),
        (["run", "other/run", "--text", "rex"], "--text is for one run, got 2"),
        (["run", "other/run", "--strings", "rex"], "--strings is for one run, got 2"),
        (["run", "--text", ""], "--text: expected a text, got an empty one"),
        (["run", "--strings", "rex", ""], "--strings: expected a text, got an empty one"),
        (["run", "--units", "1"], "--units needs --text"),
        (
            ["run", "--text", "r" * 2_000, "--units", *["0"] * 11],
            "--units times characters of --text: expected a number from 0 to 20,000, got 22,000",
        ),
        (["run", "--layer", "1"], "--layer needs --text"),
        (["run", "--text", "x" * 2001], "--text: expected a number from 0 to 2,000, got 2,001"),
        (
            ["run", "--text", "rex", "--units", "0", "8"],
            "--units: expected a number from 0 to 7, got 8",
        ),
        (
            ["run", "--text", "rex", "--units", "-1"],
            "--units: expected a number from 0 to 7, got -1",
        ),
        (["run", "--text", "rex", "--layer", "2"], "--layer: expected a number from 0 to 1, got 2"),
        (["run", "--text", "rex!"], "--text: '!' at position 3 is not in the vocabulary"),
        (["run", "--strings", "r x"], "--strings: ' ' at position 1 is not in the vocabulary"),
        (["run", "--strings", "r\nx"], "--strings: a name holds no newline"),
        (["other/run", "--text", "rex"], "other/run is not a run"),
    ],
)
def test_bad_input_is_one_line(arguments, message, trained):
    result = plot(*arguments, cwd=trained.cwd)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("plot.py: error: ")
    assert result.err.count("\n") == 1
    assert message in result.err


def test_without_matplotlib_the_remedy_is_named(trained, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('matplotlib')")
    result = run_script("run", cwd=trained.cwd, PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stdout) == (2, "")
    expected = "plot.py: error: matplotlib is missing; install it: pip install 'dinojax[plot]'\n"
    assert result.stderr == expected


def test_a_setting_that_matplotlib_refuses_is_one_line(trained):
    result = run_script("run", cwd=trained.cwd, MPLBACKEND="nonsense")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("plot.py: error: Key backend: 'nonsense'")
    assert result.stderr.count("\n") == 1
