"""`dinojax FILE`: what it takes a file for, what it learns with, and what it prints at its end."""

import gzip
import os
import re

import jax
import numpy as np
import pytest

from dinojax.cli import auto, main
from dinojax.cli.reports import MOST_BATCHES, Written, describe_names
from dinojax.cli.terminal import Program
from dinojax.config import TrainConfig
from dinojax.data import standard_library
from dinojax.data.corpus import bundled_names
from dinojax.data.standard_library import library_path
from dinojax.recipes import recipe
from dinojax.runs import folder as runs
from dinojax.runs import session
from dinojax.runs.suited import recipe_for

from in_process import call_here

NAMES = [f"{a}{b}{c}" for a in ("Al", "Be", "Ca", "Do") for b in "nrst" for c in ("a", "is")]
POEM = "The cat sat down upon the mat,\nand no one knew the reason why,\nuntil it rose.\n" * 12
TINY = "--steps=20", "--hidden-size=8", "--cell=vanilla"


def train(*arguments, cwd):
    return call_here(Program("train", "dinojax"), *arguments, cwd=cwd)


def succeed(*arguments, cwd):
    result = train(*arguments, cwd=cwd)
    assert result.code == 0, result.err
    return result


@pytest.fixture
def place(tmp_path):
    """A folder with files of each kind."""
    (tmp_path / "villages.old.txt").write_text("".join(f"{name}\n" for name in NAMES))
    (tmp_path / "poem.txt").write_text(POEM)
    rows = [f"{name};{i}" for i, name in enumerate(NAMES)]
    (tmp_path / "table.csv").write_text("\n".join(["name;born", *rows]))
    (tmp_path / "empty.txt").touch()
    (tmp_path / "names").write_text("ada\nbob\neve\n")
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems" / "a.txt").write_text("Poems\n")
    (tmp_path / "poems" / "b.txt").write_text(POEM)
    return tmp_path


def test_copies_that_make_a_part_too_large_are_reported(tmp_path):
    (tmp_path / "two.txt").write_text("ada\nbob\n" * 120)
    (tmp_path / "few.txt").write_text("ada\nbob\neve\n")
    counted = succeed("ngram", "--data=two.txt", cwd=tmp_path).out
    crowded = "(1 distinct name, with all copies: more than a share of 0.1)"
    assert counted.startswith(f"120 names, 120 for validation {crowded} (238 duplicates kept), ")
    assert "distinct" not in succeed("ngram", "--data=few.txt", cwd=tmp_path).out


def test_a_list_trains_a_named_run_in_its_own_case(place):
    result = succeed("villages.old.txt", *TINY, cwd=place)
    run = runs.load_run(place / "runs" / "villages")
    expected = recipe(sum(len(name) + 1 for name in NAMES), len(NAMES))
    given = {"steps": 20, "hidden_size": 8, "cell": "vanilla", "epochs": 0.0}
    for name, value in (expected | given).items():
        assert getattr(run.config, name) == value, name
    assert set("ABCD") < set(run.vocab.characters)
    assert result.out.startswith("29 names, 3 for validation, ")
    # Few names: one line says what helps.
    assert result.err.count("\n") == 1
    assert f"note: a network learns little from {len(NAMES)} names; what helps: more" in result.err
    mix = re.search(r"afterwards: (?:.* )?(mix .*)\n", result.err)[1].split()
    mixed = call_here(Program("mix", "dinojax"), *mix[1:], cwd=place)
    assert (mixed.code, mixed.err) == (0, "")
    assert (place / "runs" / "villages-mixed").is_dir()


def test_a_column_makes_a_list_of_a_table(place):
    succeed("table.csv", "--column=name", *TINY, cwd=place)
    run = runs.load_run(place / "runs" / "table")
    assert set(runs.read_part(run.folder, run.description, "train")) < set(NAMES)


def test_a_folder_of_texts_ends_with_a_text(place):
    result = succeed("poems", *TINY, cwd=place)
    config = runs.load_run(place / "runs" / "poems").config
    assert config.is_text
    assert config.batch_size == recipe(len(POEM) + len("Poems\n"))["batch_size"]
    assert "\nNew text:\n" in result.out
    assert result.err == ""


def test_names_of_presets_win_and_files_may_follow_them(place):
    succeed("dinos", "villages.old.txt", *TINY, cwd=place)
    run = runs.load_run(place / "runs" / "dinos")
    assert (run.config.optimizer, run.description.data) == ("sgd", "villages.old.txt")
    # Also where flags stand between them.
    succeed("dinos", *TINY, "villages.old.txt", "--out=again", cwd=place)
    assert runs.load_run(place / "again").description == run.description
    succeed("./names", *TINY, "--out=ada", cwd=place)
    assert runs.load_run(place / "ada").description.data == "names"
    counted = succeed("ngram", "villages.old.txt", cwd=place)
    assert "of up to 5 characters" in counted.out


def test_without_a_file_auto_learns_the_dinosaurs(place):
    out = succeed("auto", *TINY, "--seed=1", cwd=place).out
    config = runs.load_run(place / "runs" / "auto").config
    num = len(bundled_names().read_text().split())
    assert config.dropout == recipe(1, num)["dropout"]
    assert "Better names" not in out


def test_the_exercise_ends_with_the_command_that_writes_better_names(place):
    flags = "--steps=20", "--hidden-size=8"
    columns = ["--column", "2", "--label-column", "kind"]
    (place / "table.csv").write_text("kind,name\nx,ada\ny,bob\nx,eve\n")
    for data, words in (
        ([], ["auto"]),
        (["--data=villages.old.txt"], ["villages.old.txt"]),
        (["--data=table.csv", *columns], ["table.csv", *columns]),
    ):
        out = succeed(*data, *flags, cwd=place).out
        line = re.search(r"^Better names: (.*)\nMore names: .*\n\Z", out, re.M)[1]
        assert line.split()[-1 - len(words) :] == ["train", *words]
    out = succeed("--config=runs/dinos/config.json", "--out=again", cwd=place).out
    assert "Better names" not in out


def test_a_resumed_run_and_one_made_again_have_the_same_bits(place):
    data = "villages.old.txt"
    whole, part, again = place / "whole", place / "part", place / "runs" / "villages"
    # An average over a share of the steps, and a warm-up, depend on how many steps there are.
    options = *TINY[1:], "--average-share=0", "--warmup=0", "--evaluate-every=5"
    succeed(data, *options, "--steps=20", f"--out={whole}", cwd=place)
    succeed(data, *options, "--steps=10", f"--out={part}", cwd=place)
    succeed("--resume", part, "--steps=20", cwd=place)
    # The folder has the name of the file.
    succeed("--config", whole / "config.json", cwd=place)
    name = runs.find_checkpoints(whole)[-1].name
    for folder in part, again:
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_to_begin_with_says_what_the_file_holds(place):
    (place / "names").write_text("ada bob\neve\ndove\n")
    succeed("--data=names", "--steps=5", "--hidden-size=8", "--out=base", cwd=place)
    # It looks like a text, but the earlier run learned names.
    (place / "more.txt").write_text("a bad dove bade bob\nada voe ebbed a bee\nodd bee dodo dad\n")
    assert auto.holds_text([place / "more.txt"])
    succeed("more.txt", "--init-from=base", "--steps=5", cwd=place)
    config = runs.load_run(place / "runs" / "more").config
    assert (config.is_text, config.hidden_size, config.cell) == (False, 8, "vanilla")
    assert (config.lowercase, config.optimizer) == (True, "adamw")
    # So does the library, which lower-cases likewise.
    names, made = (place / "more.txt").read_text().splitlines(), place / "made"
    with jax.numpy_dtype_promotion("standard"):
        session.train(names, "auto", init_from=place / "base", folder=made, steps=5)
    assert runs.load_run(made).config == config


def test_a_preset_that_is_unknown_to_the_library():
    with pytest.raises(ValueError, match="unknown preset 'nams'; expected one of auto, dinos, "):
        session.train(NAMES, "nams")


def test_one_call_of_the_library_does_the_same(place):
    succeed("villages.old.txt", *TINY, "--seed=3", cwd=place)
    run = runs.load_run(place / "runs" / "villages")
    with jax.numpy_dtype_promotion("standard"):
        made = session.train(NAMES, "auto", seed=3, steps=20, hidden_size=8, cell="vanilla")
    for a, b in zip(map(np.asarray, leaves(run.params)), leaves(made.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert recipe_for(POEM) == recipe(len(POEM))


def leaves(params):
    return [x for layer in params["layers"] for x in layer.values()] + [*params["readout"].values()]


ERRORS = [
    (["none.txt"], "none.txt: No such file or directory"),
    (["none/names"], "none/names: No such file or directory"),
    (["empty.txt"], "empty.txt: no names; expected one name a line"),
    (["table.csv"], "table.csv looks like a table; give --column with the name or number"),
    (["nmaes"], "'nmaes' is neither a file nor one of the presets auto, dinos, "),
    (["nmaes"], "did you mean names?"),
    ([os.devnull], f"{os.devnull} can be read only once; say what it holds by a preset"),
    (["-"], "standard input can be read only once; say what it holds by a preset"),
    (["poem.txt", "--data=poem.txt"], "give all files after --data, or none; 'poem.txt' p"),
    (["names", "none.txt"], "none.txt: No such file or directory"),
    (["table.csv", "--column=home"], "there is no column 'home'; the first row has "),
]


@pytest.mark.parametrize(("arguments", "says"), ERRORS)
def test_what_cannot_be_learned_from_is_one_line(arguments, says, place):
    result = train(*arguments, cwd=place)
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert says in result.err
    assert not (place / "runs").exists()


def test_a_file_in_place_of_a_command_is_trained_on(place, monkeypatch):
    monkeypatch.chdir(place)
    called = []

    def run(program, work):
        called.append((program.name, work.func, work.args))
        raise SystemExit

    monkeypatch.setattr(main, "run", run)
    for words, command in (
        (["names", "--steps", "3"], "train"),
        (["./poem.txt"], "train"),
        (["poems"], "train"),
        (["none.txt"], "train"),
        (["train"], "train"),
        (["trian"], ""),
        (["--data=poem.txt"], ""),
    ):
        monkeypatch.setattr("sys.argv", ["dinojax", *words])
        with pytest.raises(SystemExit):
            main.main()
        name, function, arguments = called.pop()
        assert name == f"dinojax {command}".strip()
        assert function is (main.call if command else main.answer)
        if command and words != ["train"]:
            assert arguments[1] == words


def test_a_text_without_a_file_is_the_standard_library(place, monkeypatch):
    monkeypatch.setattr(standard_library, "MODULES", ["abc", "bisect"])
    library = str(library_path())
    out = succeed("text", *TINY, cwd=place).out
    assert f"for validation ({library}), " in out.split("\n")[0]
    run = runs.load_run(place / "runs" / "text")
    assert run.description.data == library
    succeed("--config=runs/text/config.json", cwd=place)
    assert runs.load_run(place / "runs" / "text-2").description == run.description
    counted = succeed("ngram", "--batches=windows", cwd=place)
    assert runs.load_run(place / "runs" / "ngram").description.data == library
    assert "of up to 5 characters" in counted.out
    # Other sources, and another Python.
    monkeypatch.setattr(standard_library, "MODULES", ["abc", "heapq"])
    result = train("--config=runs/text/config.json", cwd=place)
    assert result.code == 2
    assert f"error: {library} has changed since runs/text/config.json was written" in result.err
    config = place / "config.json"
    other = (
        (run.folder / "config.json").read_text().replace(library, "Python 2.7.1 standard library")
    )
    config.write_text(other)
    result = train("--config=config.json", cwd=place)
    assert result.code == 2
    assert "error: expected the Python 2.7.1 standard library, but this is Python 3." in result.err


def test_a_short_text_gets_fewer_rows_and_says_so(place):
    (place / "short.txt").write_text(POEM[:500])
    flags = "--steps=5", "--hidden-size=8"
    result = succeed("text", "short.txt", *flags, cwd=place)
    config = runs.load_run(place / "runs" / "text").config
    # 450 characters to learn from fill 14 windows of 32.
    assert (config.batch_size, config.window) == (14, 32)
    assert "note: the text is short: a batch has 14 rows of 32 characters, not 64" in result.err
    again = succeed("--config=runs/text/config.json", "--out=again", cwd=place)
    assert again.err == ""
    assert runs.load_run(place / "again").config == config
    (place / "short.txt").write_text(POEM[:20])
    succeed("text", "short.txt", *flags, "--out=shorter", cwd=place)
    config = runs.load_run(place / "shorter").config
    assert (config.batch_size, config.window) == (1, 18)
    result = train("text", "short.txt", *flags, "--batch-size=64", "--window=32", cwd=place)
    assert result.code == 2
    assert "one window of 32 in each of 64 rows" in result.err
    result = train("text", "short.txt", *flags, "--batch-size=1", "--window=5000", cwd=place)
    assert "one window of 5,000 in each of 1 row, got 18;" in result.err


# Parts.


def test_the_largest_file_says_what_all_hold(place):
    assert auto.holds_text([place / "poem.txt"])
    assert not auto.holds_text([place / "names"])
    assert auto.holds_text([place / "names", place / "poem.txt"])
    packed = place / "poem.gz"
    packed.write_bytes(gzip.compress(POEM.encode()))
    assert auto.holds_text([packed])
    assert auto.run_name([packed]) == "poem"


def write_from(names):
    """A writer of these names, of which those in capitals are not new, ten at a time."""

    def write(params, step, batch=0):
        texts = names[10 * batch : 10 * batch + 10]
        return Written(texts, [not text.isupper() for text in texts])

    return write


def test_a_run_ends_with_new_names_none_empty_or_twice():
    config = TrainConfig(loss="mean")
    names = ["ada", "BOB", "", "ada", "eve", *["ZOE"] * 5, *"abcdefgh", "late", "x"]
    said = describe_names(write_from(names), {}, 3, config)
    heading, *shown = said.split("\n  ")
    assert heading == "Names, all new (6 of the first 18 drawn were copies of the list):"
    assert shown == ["ada", "eve", *"abcdefgh"]
    said = describe_names(write_from([*"abcdefghij"]), {}, 3, config)
    assert said.split("\n  ") == ["Names, all new:", *"abcdefghij"]
    num = 10 * MOST_BATCHES
    said = describe_names(write_from(["BOB"] * num), {}, 3, config)
    assert said == f"Names, none new ({num} of the first {num} drawn were copies of the list):"
    # The exercise shows what it draws.
    said = describe_names(write_from(names), {}, 3, TrainConfig())
    assert said.split("\n  ") == ["Names, 4 of 10 new:", *names[:10]]


def test_names_held_out_are_of_the_list_too(tmp_path):
    (tmp_path / "letters.txt").write_text("".join(f"{letter}\n" for letter in "abcdefgh"))
    flags = "--steps=2", "--hidden-size=4", "--cell=vanilla", "--validation-fraction=0.5"
    said = succeed("letters.txt", *flags, "--seed=3", cwd=tmp_path).out
    shown = re.search(r"copies of the list\):\n((  .+\n)+)", said)[1].split()
    assert len(shown) == 10
    assert not set(shown) & set("abcdefgh")
