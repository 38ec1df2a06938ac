import json
import re
import shutil
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from signal import SIGINT
from types import SimpleNamespace

import board
import jax
import numpy as np
import pytest

import dinojax
from dinojax.cli.terminal import Program, run
from dinojax.evaluation.compare import compare, network_costs
from dinojax.evaluation.losses import summarize
from dinojax.models.mixture import learn_weights
from dinojax.runs import folder as runs

from boards import recipes
from boards import runs as board_runs
from boards import table as tables
from boards.recipes import Recipe
from in_process import Output

RATE = 5e4
SETTINGS = {"hidden_size": 4, "steps": 12, "batch_size": 4, "evaluate_every": 4}
RECIPES = [
    Recipe("tiny", ["names", "sonnets"], "auto", SETTINGS),
    Recipe("other", ["names"], "dinos", SETTINGS | {"cell": "gru", "learning_rate": 0.1}),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a small list, whose names have a few beginnings, and a small text."""
    folder, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    beginnings = ["Ala", "Bero", "Cu", "Dimi"]
    names = {
        draw.choice(beginnings) + "".join(draw.choice(list("aeinst"), draw.integers(1, 6)))
        for _ in range(200)
    }
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in sorted(names)))
    words = draw.choice(["the", "rose", "of", "May,\n", "is", "fair"], 3_000)
    (folder / "sonnets.txt").write_text(" ".join(words))
    return folder


def make_board(*arguments, made_of=RECIPES, signals=(), rate=lambda: RATE):
    """The code of `board.py` and what it printed, in this process and with little work."""
    out, err = Output(), Output()

    @contextmanager
    def signalled(_):
        yield signals

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["board.py", *map(str, arguments)])
        patch.setattr("signal.signal", lambda *_: None)
        patch.setattr(board, "start_jax", lambda *_: None)
        patch.setattr(board, "stop_on_signal", signalled)
        patch.setattr(board, "RECIPES", made_of)
        patch.setattr(board_runs, "product_rate", rate)
        patch.setattr(board_runs, "NUM_NAMES", 60)
        for module in (board_runs, tables):
            patch.setattr(module, "NUM_CHARACTERS", 300)
        try:
            with jax.numpy_dtype_promotion("standard"):
                run(Program("board", board.__file__), board.main)
        except SystemExit as end:
            code = end.code
    return SimpleNamespace(code=code, out=out.text(), err=err.text())


def lines_of(folder):
    return [json.loads(line) for line in (folder / "board.jsonl").read_text().splitlines()]


def rows_of(out, name):
    """The rows of the table of some data, each a dictionary of cells by column, by model."""
    table = out.split(f"**{name}**")[1].split("\n\n")[1]
    head, _, *rows = [[x.strip() for x in row.split("|")[1:-1]] for row in table.split("\n")]
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A board on the list and the text, made at once."""
    out = tmp_path_factory.mktemp("whole") / "board"
    made = make_board("--data", data, "--out", out, "--seeds", 2, "--only", "names", "sonnets")
    assert made.code == 0, made.err
    return SimpleNamespace(out=out, table=made.out, err=made.err)


def test_every_finished_run_is_a_line_and_an_ordinary_run(whole):
    lines = lines_of(whole.out)
    expected = [(x, "tiny", seed) for x in ("names", "sonnets") for seed in (0, 1)]
    expected[2:2] = [("names", "other", seed) for seed in (0, 1)]
    assert [(x["data"], x["recipe"], x["seed"]) for x in lines] == expected
    for line in lines:
        folder = whole.out / line["data"] / line["recipe"] / f"seed-{line['seed']}"
        loaded = runs.load_run(folder)
        part = runs.read_part(folder, loaded.description, "test")
        context = "carry" if line["data"] == "sonnets" else None
        direct = summarize(network_costs(loaded.trained, part, context))
        assert line["test"] == pytest.approx(direct, rel=1e-5)
        assert line["parameters"] == sum(x.size for x in jax.tree.leaves(loaded.params))
        assert line["validation"]["nats_per_character"] == pytest.approx(
            loaded.tally.best_loss, rel=0.05 if context else 1e-5
        )
        assert line["seconds"] > 0
        assert 0 <= line["share"] <= 1
    assert "board.py: names, tiny, seed 0: " in whole.err


def test_new_names_are_in_no_part_of_the_list(whole, data):
    line = lines_of(whole.out)[2]
    drawn = dinojax.sample(dinojax.load(whole.out / "names" / "other" / "seed-0"), 60, seed=0).names
    known = (data / "names.txt").read_text().split("\n")
    distinct = sorted(set(drawn))
    assert line["share"] == sum(name not in known for name in distinct) / len(distinct)


def test_a_table_has_the_means_of_seeds_and_both_errors(whole):
    rows, lines = rows_of(whole.table, "names"), lines_of(whole.out)[2:4]
    nats = [line["test"]["nats_per_character"] for line in lines]
    row = {name: float(x.replace(",", "")) for name, x in rows["other"].items() if name != "model"}
    assert row["nats"] == pytest.approx(np.mean(nats), abs=1e-4)
    assert row["bits"] == pytest.approx(np.mean(nats) / np.log(2), abs=1e-4)
    # The standard error of two is half their distance.
    assert row["± seeds"] == pytest.approx(abs(nats[0] - nats[1]) / 2, abs=1e-4)
    assert row["new"] == pytest.approx(np.mean([line["share"] for line in lines]), abs=1e-3)
    seconds = np.mean([line["seconds"] for line in lines])
    assert row["s"] == pytest.approx(seconds, abs=0.1)
    spent = np.mean([line["training_seconds"] for line in lines])
    assert row["Tflop"] == pytest.approx(spent * RATE / 1e3, abs=0.01)


def test_differences_are_of_the_same_pieces(whole):
    """Their standard error by the jackknife."""
    costs = []
    for recipe in ("tiny", "other"):
        folder = whole.out / "names" / recipe
        seeds = [np.load(folder / f"seed-{seed}.npz")["test"] for seed in (0, 1)]
        costs.append(np.mean(seeds, axis=0))
    description = runs.load_run(folder / "seed-0").description
    test = runs.read_part(folder / "seed-0", description, "test")
    sizes = [len(name) + 1 for name in test]
    pieces = np.split(costs[1] - costs[0], np.cumsum(sizes)[:-1])
    totals = np.array([piece.sum() for piece in pieces])
    row = rows_of(whole.table, "names")["other"]
    assert float(row["- tiny"]) == pytest.approx(totals.sum() / sum(sizes), abs=1e-4)
    num = len(test)
    left = [(totals.sum() - totals[i]) / (sum(sizes) - sizes[i]) for i in range(num)]
    error = np.sqrt((num - 1) * np.var(left))
    # Student's t for 95 % and 18 degrees of freedom, about the number of names, is 2.1.
    assert float(row["95 % names"]) == pytest.approx(2.1 * error, rel=0.15)


def test_rows_of_ngrams_and_mixtures_are_those_of_the_library(whole, tmp_path):
    folders = [whole.out / "names" / "tiny" / f"seed-{seed}" for seed in (0, 1)]
    rows, loaded = rows_of(whole.table, "names"), runs.load_run(folders[0])
    names = "train", "validation", "test"
    train, validation, test = (runs.read_part(folders[0], loaded.description, x) for x in names)
    found = [compare(loaded.trained, train, part, max_order=10)[1:] for part in (validation, test)]
    best = int(np.argmin([each.figures["nats_per_character"] for each in found[0]])) + 1
    for order, each in enumerate(found[1], start=1):
        row = rows[f"{order}-gram{', best' if order == best else ''}"]
        assert float(row["nats"]) == pytest.approx(each.figures["nats_per_character"], abs=1e-4)
    (both,) = (name for name in rows if name.startswith("mean of 2 tiny + "))
    order = int(re.findall(r"(\d+)-gram", both)[0])
    for ngram, name in (0, "mean of 2 tiny"), (order, both):
        weights = None if ngram else [1, 1]
        mixed = dinojax.mix(folders, tmp_path / f"{ngram}", ngram=ngram, weights=weights).trained
        figures = summarize(network_costs(mixed, test, None))
        assert float(rows[name]["nats"]) == pytest.approx(figures["nats_per_character"], abs=2e-4)


def test_a_mixture_takes_the_ngram_model_that_suits_it(tmp_path):
    """The one that is better alone knows nothing that the network does not know."""
    costs = {"network": [1, 3], "2-gram": [1.5, 1.5], "3-gram": [4, 0.2]}
    costs = {name: np.array([each]) for name, each in costs.items()}
    file = tmp_path / "seed-0.npz"
    np.savez(file, validation=costs["network"][0], test=costs["network"][0])
    line = dict.fromkeys(("seconds", "training_seconds", "gflops", "share", "parameters"), 1)
    line |= {"recipe": "own", "seed": 3}
    ngrams = [tables.Row(name, costs[name], costs[name], 0) for name in ("2-gram", "3-gram")]
    made = tables.rows_of([(line, SimpleNamespace(costs_file=file))], ngrams)
    assert [row.name for row in made] == ["own", "own + 3-gram"]
    assert [row.seeds for row in made] == [[3], [3]]
    weight = learn_weights(np.concatenate([costs["network"], costs["3-gram"]])).weights[0]
    direct = -np.log(weight * np.exp([-1, -3]) + (1 - weight) * np.exp([-4, -0.2]))
    np.testing.assert_allclose(made[1].test[0], direct, rtol=1e-12)


def test_pairs_are_of_the_same_seed():
    """Of a recipe of which a run diverged, only the other seeds are compared."""
    ours, theirs = np.random.default_rng(0).random((2, 3, 3))

    def margin(seeds, base_seeds):
        row = tables.Row("row", ours[seeds], ours[seeds], 1, seeds)
        base = tables.Row("base", theirs[base_seeds], theirs[base_seeds], 1, base_seeds)
        return tables.difference(row, base, ["a", ""])[2]

    apart = (ours - theirs).mean(axis=1)
    for seeds, base_seeds, common in (
        ([0, 1], [0, 1, 2], [0, 1]),
        ([0, 2], [0, 1, 2], [0, 2]),
        ([0, 1, 2], [1, 2], [1, 2]),
        ([2, 0], [0, 2], [0, 2]),
    ):
        # Student's t for 95 % and one degree of freedom.
        expected = 12.706 * abs(np.subtract(*apart[common])) / 2
        assert float(margin(seeds, base_seeds)) == pytest.approx(expected, abs=1e-3)
    # No interval follows from less than two pairs.
    assert margin([0, 1], [1, 2]) == margin([0], [1]) == ""
    base = tables.Row("base", theirs, theirs, 1, [0, 1, 2])
    assert tables.difference(tables.Row("mean", ours[:1], ours[:1], 1), base, ["a", ""])[2] == ""


def test_a_stopped_board_goes_on_and_ends_alike(whole, data, tmp_path):
    out, signals, calls = tmp_path / "board", [], []

    def rate():
        # Measured before and after the first run, and before the second, which is then stopped.
        calls.append(1)
        if len(calls) == 3:
            signals.append(SIGINT)
        return RATE

    arguments = "--data", data, "--out", out, "--seeds", 2, "--only", "names", "--recipes", "tiny"
    stopped = make_board(*arguments, signals=signals, rate=rate)
    assert (stopped.code, stopped.out) == (130, "")
    assert re.search(r"go on with: \S*python", stopped.err)
    (first,) = (out / "board.jsonl").read_bytes().splitlines()
    assert 0 < runs.load_run(out / "names" / "tiny" / "seed-1", "last").step < 12
    ended = make_board(*arguments)
    assert ended.code == 0
    assert (out / "board.jsonl").read_bytes().startswith(first)
    assert "seed 0" not in ended.err

    def without_time(folder):
        return [x | {"seconds": 0, "training_seconds": 0} for x in lines_of(folder)][:2]

    assert without_time(out) == without_time(whole.out)
    for seed in 0, 1:
        file = Path("names", "tiny", f"seed-{seed}.npz")
        assert (out / file).read_bytes() == (whole.out / file).read_bytes()
    # Nothing is left to train.
    again = make_board(*arguments)
    assert (again.code, again.err) == (0, "")
    assert again.out == ended.out


def test_a_run_whose_costs_are_gone_is_measured_again(whole, data, tmp_path):
    """It is not trained again, and a run that diverged has none to lose."""
    out = shutil.copytree(whole.out, tmp_path / "board")
    folder = out / "names" / "tiny"
    lines, costs = lines_of(out), (folder / "seed-1.npz").read_bytes()
    checkpoints = {file: file.stat().st_mtime_ns for file in folder.glob("*/*.npz")}
    assert checkpoints
    diverged = {x: lines[0][x] for x in ("settings", "keep_window", "data_sha256")}
    diverged |= {"data": "names", "recipe": "tiny", "seed": 0, "diverged": "a loss of NaN"}
    lines[0] = diverged
    (out / "board.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for seed in 0, 1:
        (folder / f"seed-{seed}.npz").unlink()
    arguments = "--data", data, "--out", out, "--seeds", 2, "--only", "names", "--recipes", "tiny"
    made = make_board(*arguments)
    assert made.code == 0, made.err
    assert [line for line in made.err.splitlines() if "seed 0" in line] == []
    assert "names, tiny, seed 1: " in made.err
    assert (folder / "seed-1.npz").read_bytes() == costs
    assert {file: file.stat().st_mtime_ns for file in checkpoints} == checkpoints
    after = {(x["data"], x["recipe"], x["seed"]): x for x in lines_of(out)}
    assert after["names", "tiny", 0] == diverged
    assert after["names", "tiny", 1] == lines[1]


@pytest.mark.parametrize(
    ("arguments", "made_of", "said"),
    [
        (["--recipes", "tinny"], RECIPES, "did you mean tiny?"),
        (["--only", "dino"], RECIPES, "did you mean dinos?"),
        (["--seeds", "0"], RECIPES, "--seeds: expected a number from 1"),
        (["--only", "tinyshakespeare"], RECIPES, "none of tinyshakespeare is there"),
        (["--data", "nowhere"], RECIPES, "--data: nowhere is not a folder"),
        ([], [RECIPES[0]._replace(settings={"refit": True})], "refit: the same for all recipes"),
        (["--only", "dinos"], RECIPES, "none of these recipes is for dinos"),
        ([], [RECIPES[0]._replace(settings={"steps": 0})], "recipe tiny on names: steps"),
        ([], [RECIPES[0]._replace(settings={"test_fraction": 0.2})], "the same for all recipes"),
        ([], [RECIPES[0]._replace(preset="text")], "expected settings for names, got some for a"),
        ([], [RECIPES[0]._replace(settings=SETTINGS | {"hidden_size": 5})], "(hidden_size) since"),
    ],
)
def test_bad_input_and_a_changed_recipe_are_one_line(arguments, made_of, said, whole, data):
    before = (whole.out / "board.jsonl").read_bytes()
    result = make_board("--data", data, "--out", whole.out, *arguments, made_of=made_of)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    errors = [line for line in result.err.splitlines() if line.startswith("board.py: error: ")]
    assert len(errors) == 1
    assert "Traceback" not in result.err
    assert (whole.out / "board.jsonl").read_bytes() == before


def test_only_data_that_are_wanted_are_noted_as_missing(tmp_path):
    dinos = [RECIPES[0]._replace(data=["dinos"], settings=SETTINGS | {"steps": 0})]
    for only, missing in ([], []), (["--only", "dinos", "names"], ["names"]):
        result = make_board("--out", tmp_path / "board", *only, made_of=dinos)
        assert result.code == 2
        *notes, error = result.err.splitlines()
        assert notes == [f"board.py: note: {x}: no folder given with --data" for x in missing]
        assert "recipe tiny on dinos: steps" in error


def test_changed_data_are_noticed(whole, data, tmp_path):
    (tmp_path / "names.txt").write_text((data / "names.txt").read_text() + "Zoe\n")
    result = make_board("--data", tmp_path, "--out", whole.out, "--only", "names")
    assert result.code == 2
    assert "recipe tiny on names has changed (data) since" in result.err


def test_help_lists_the_recipes():
    result = make_board("--help", made_of=recipes.RECIPES)
    assert result.code == 0
    for name in ("auto, names, names-best, dinos", "tinyshakespeare", "default: 3"):
        assert name in " ".join(result.out.split())
