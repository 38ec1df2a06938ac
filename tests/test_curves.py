"""Curves of several runs, smoothed; and where pictures of several runs go."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib")

# After the line above: without matplotlib, these could not be imported.
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from test_plots import no_other_fonts  # noqa: F401

from dinojax.cli.terminal import Program
from dinojax.plots import curves, fonts, heat_maps, losses, style

from in_process import call_here


def make_metrics(num, seed, *, start=0.0, training_time=False):
    generator = np.random.default_rng(seed)
    lines = []
    for i in range(1, num + 1):
        line = {"step": 5 * i, "characters": 100 * i, "seconds": start + 2.0 * i}
        line |= {"training_loss": 1 + 3 / i + generator.normal() / 10}
        line |= {"validation_loss": 2 + generator.normal() if i % 4 == 0 else None}
        lines.append(line | ({"training_seconds": 1.5 * i} if training_time else {}))
    return lines


def write_run(folder, metrics, **config):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def by_label(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def notes_of(figure):
    return figure.legends[0].get_title().get_text()


@pytest.mark.parametrize("num", [0, 1, 39, 40, 41, 97, 203])
def test_a_smoothed_curve_is_a_mean_over_neighbours(num):
    values = np.random.default_rng(num).normal(size=num)
    most, expected = num // 40, []
    for i in range(num):
        total, how_many = 0.0, 0
        for j in range(num):
            # As many before as after, but for the end.
            if abs(i - j) <= min(most, i):
                total, how_many = total + values[j], how_many + 1
        expected.append(total / how_many)
    np.testing.assert_allclose(curves.smoothed(values), expected, rtol=0, atol=1e-12)
    if num < 40:
        np.testing.assert_array_equal(curves.smoothed(values), values)


def test_long_training_curves_are_drawn_as_recorded_and_smoothed():
    metrics = make_metrics(120, 0)
    figure = losses.plot_losses({"run": metrics})
    assert "1/20" in notes_of(figure)
    recorded = np.array([line["training_loss"] for line in metrics])
    for axes in figure.axes:
        faint, strong = axes.get_lines()[:2]
        np.testing.assert_array_equal(faint.get_ydata(), recorded)
        np.testing.assert_array_equal(strong.get_ydata(), curves.smoothed(recorded))
        assert faint.get_alpha() < 0.5
        assert faint.get_color() == strong.get_color()
        assert strong.get_label() == "run, training"
    assert not notes_of(losses.plot_losses({"run": metrics[:39]}))


def test_runs_that_differ_in_their_seeds_alone_are_one_line_with_a_band(tmp_path):
    # The third is shorter, as if it were still being trained.
    metrics = {name: make_metrics(24 - 4 * (i == 2), i) for i, name in enumerate("abc")}
    folders = [
        write_run(tmp_path / name, lines, cell="gru", data=f"{i}/x.txt", data_sha256="1", seed=i)
        for i, (name, lines) in enumerate(metrics.items())
    ]
    folders.append(write_run(tmp_path / "d", metrics["a"], cell="lstm", data="", seed=0))
    # The same run again, and one of an unknown setting, stand for themselves.
    folders.append(
        write_run(tmp_path / "e", metrics["a"], cell="gru", data="", data_sha256="1", seed=0)
    )
    folders.append(write_run(tmp_path / "f", metrics["a"]))
    figure = losses.plot_runs(folders)
    over_characters, over_time = figure.axes
    names = ["a and 2 more", "d", "e", "f"]
    assert list(by_label(over_characters)) == [
        f"{name}, {loss}" for name in names for loss in ("training", "validation")
    ]
    assert "seeds" in notes_of(figure)
    for axes, across in (over_characters, "characters"), (over_time, "seconds"):
        for loss, band in zip(("training", "validation"), axes.collections, strict=True):
            table, x = [], []
            for place in range(20):
                lines = [metrics[name][place] for name in "abc"]
                if lines[0][f"{loss}_loss"] is not None:
                    table.append([line[f"{loss}_loss"] for line in lines])
                    x.append(lines[0][across])
            mean = [sum(row) / 3 for row in table]
            spread = [
                (sum((each - m) ** 2 for each in row) / 2) ** 0.5
                for row, m in zip(table, mean, strict=True)
            ]
            line = by_label(axes)[f"a and 2 more, {loss}"]
            np.testing.assert_allclose(line.get_ydata(), mean)
            (path,) = band.get_paths()
            for at, m, s in zip(x, mean, spread, strict=True):
                # The axis of time may be in another unit.
                place = path.vertices[:, 0] / path.vertices[:, 0].max() * max(x)
                edges = path.vertices[np.isclose(place, at), 1]
                assert edges.min() == pytest.approx(m - s / 3**0.5)
                assert edges.max() == pytest.approx(m + s / 3**0.5)


def test_time_leaves_out_compiling_and_pauses():
    # An hour of compiling, and a pause that the old key would have counted.
    metrics = make_metrics(20, 0, start=3600, training_time=True)
    for line in metrics[10:]:
        line["seconds"] += 1e6
    _, axes = losses.plot_losses({"run": metrics}).axes
    assert axes.get_xlabel() == "time in training steps, without compiling (seconds)"
    expected = [1.5 * i for i in range(1, 21)]
    np.testing.assert_allclose(by_label(axes)["run, training"].get_xdata(), expected)
    # A run that an earlier version began.
    for line in metrics[:10]:
        line["seconds"] -= 3600
        del line["training_seconds"]
    _, axes = losses.plot_losses({"run": metrics}).axes
    assert axes.get_xlabel() == "time in training (seconds)"
    expected = [2.0 * i for i in range(1, 11)] + [1.5 * i for i in range(11, 21)]
    np.testing.assert_allclose(by_label(axes)["run, training"].get_xdata(), expected)


@pytest.mark.parametrize("num", [1, 12])
def test_long_names_are_whole_in_the_picture(num):
    runs = {f"{'a long path/' * 6}{i}": make_metrics(50, i) for i in range(num)}
    figure = losses.plot_losses(runs)
    width, height = figure.get_size_inches() * figure.dpi
    texts = [*figure.legends[0].get_texts(), figure.legends[0].get_title()]
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label]
    figure.draw_without_rendering()
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


# Where pictures go.


def plot(*arguments, cwd):
    return call_here(Program("plot", "dinojax"), *arguments, cwd=cwd)


@pytest.fixture
def place(tmp_path):
    for name in "ab":
        folder = write_run(tmp_path / name, make_metrics(20, 0), cell=name)
        (folder / "loss.png").write_bytes(b"its own picture")
        (folder / "loss.svg").write_bytes(b"its own picture")
    return tmp_path


def files_in(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        (["a", "b"], ["a/loss-compared.png", "a/loss-compared.svg"]),
        (
            ["a", "b", "--out", "new/dir"],
            ["new/dir/loss-compared.png", "new/dir/loss-compared.svg"],
        ),
        (["a", "b", "--out", "b"], ["b/loss-compared.png", "b/loss-compared.svg"]),
        (["a", "--out=."], ["loss.png", "loss.svg"]),
    ],
)
def test_what_is_printed_is_what_is_written_and_nothing_else_changes(arguments, written, place):
    before = files_in(place)
    result = plot(*arguments, cwd=place)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == written
    after = files_in(place)
    assert sorted(after.keys() - before.keys()) == written
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("out", "message"),
    [("b", "--out: b holds another run"), ("a/loss.png", "--out: a/loss.png is not a folder")],
)
def test_a_folder_that_does_not_suit_is_one_line(out, message, place):
    before = files_in(place)
    result = plot("a", "--out", out, cwd=place)
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert files_in(place) == before


# Fonts.


def make_font(path, name, characters):
    """A font that has these characters alone, all as a square."""
    pen = TTGlyphPen(None)
    for i, corner in enumerate([(100, 0), (100, 700), (800, 700), (800, 0)]):
        (pen.lineTo if i else pen.moveTo)(corner)
    pen.closePath()
    glyphs = [".notdef", *(f"uni{ord(each):04X}" for each in characters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(glyphs)
    font.setupCharacterMap(dict(zip(map(ord, characters), glyphs[1:], strict=True)))
    font.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (900, 100)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": name, "styleName": "Regular"})
    font.setupOS2(usWeightClass=400)
    font.setupPost()
    font.save(path)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Two fonts beside matplotlib's own, which does not know them yet."""
    monkeypatch.undo()
    manager = fonts.fontManager
    monkeypatch.setattr(manager, "ttflist", [x for x in manager.ttflist if "DejaVu" in x.name])
    files = {"Test B": "龍馬", "Test A": "馬国", "Test Color Emoji": "\U0001f995"}
    for name, characters in files.items():
        make_font(tmp_path / f"{name}.ttf", name, characters)
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    paths = [str(path) for path in tmp_path.glob("*.ttf")]
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: paths)
    fonts._installed.cache_clear()
    fonts._family.cache_clear()
    yield SimpleNamespace(folder=tmp_path)
    fonts._installed.cache_clear()
    fonts._family.cache_clear()


def test_other_fonts_draw_what_the_default_one_lacks(installed, caplog):
    assert fonts.families("abc") == ["DejaVu Sans"]
    assert fonts.families("a馬龍\n") == ["DejaVu Sans", "Test A", "Test B"]
    assert [fonts.is_drawable(each) for each in "a馬龍\U0001f995\n\u2028"] == [True] * 3 + [
        False
    ] * 3
    assert fonts.without_glyph("a\U0001f995馬\n龐\U0001f995") == "\U0001f995龐"
    figure = heat_maps.plot_surprisal(["馬龐"], [[1.0, 1.0]])
    first, second = figure.axes[0].texts
    assert first.get_text() == "馬"
    assert first.get_fontfamily() == ["DejaVu Sans", "Test A"]
    assert second.get_text() == "9F\n90"
    png, _ = style.save(figure, installed.folder / "picture")
    assert png.exists()
    assert losses.label_of("龍龐") == "龍\\u9f90"
    assert not caplog.records


def test_a_note_says_what_no_font_can_draw(installed, place):
    folder = write_run(place / "龍\U0001f995", make_metrics(20, 0))
    result = plot(folder.name, cwd=place)
    assert result.code == 0
    assert re.fullmatch(
        "dinojax plot: note: no installed font can draw '\U0001f995'; .*\n", result.err
    )
    assert plot("a", cwd=place).err == ""
