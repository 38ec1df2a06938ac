"""Names under constraints, the most probable ones, and where they are written."""

import json
import math
import re

import pytest
from test_scripts import (
    assert_one_line,
    checkpoints,
    compile_once,
    lines,
    place,
    run,
    snapshot,
    trained,
)

__all__ = ["compile_once", "place", "trained"]


def rows_of(result):
    return [json.loads(line) for line in lines(result.out)]


@pytest.fixture(scope="module")
def draws(trained):
    """What is drawn without a constraint: 5,000 names, over two blocks."""
    result = run("sample.py", trained.folder, "--num=4000", "--json", cwd=trained.cwd)
    return rows_of(result)


def distance(a, b):
    """Levenshtein's, by the table that defines it."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def test_constraints_accept_just_the_draws_that_are_as_wanted(trained, draws):
    learned = {"áda", "щит", "x", "日本語", "a\u2028b", "zoë", "\U0001f995é"}
    wanted = {
        "--match=^Z": lambda name: name.startswith("z"),
        "--match=[aexë]$": lambda name: re.search("[aexë]$", name),
        "--min-length=3": lambda name: len(name) >= 3,
        "--max-length=3": lambda name: len(name) <= 3,
        "--novel": lambda name: name not in learned,
        "--distance=2": lambda name: min(distance(name, x) for x in learned) >= 2,
        "--unique": lambda name: True,
    }
    for flags in (
        ["--match=^Z"],
        ["--match=[aexë]$", "--min-length=3"],
        ["--novel", "--max-length=3", "--unique"],
        ["--distance=2"],
    ):
        expected, seen = [], set()
        for row in draws:
            name = row["name"].lower()
            is_new = name not in seen or "--unique" not in flags
            if row["ended"] and is_new and all(wanted[flag](name) for flag in flags):
                seen.add(name)
                expected.append(row["name"])
        assert len(expected) > 5
        num = min(len(expected), 25)
        result = run("sample.py", trained.folder, f"--num={num}", *flags, cwd=trained.cwd)
        assert result.code == 0
        assert lines(result.out) == expected[:num]
        assert re.fullmatch(
            r"sample\.py: [\d,]+ of [\d,]+ draws are as wanted \([\d.e-]+\)\n", result.err
        )


def test_what_is_too_rare_ends_with_what_was_found(trained, draws):
    result = run("sample.py", trained.folder, "--match=qqqq", "--max-draws=1000", cwd=trained.cwd)
    assert (result.code, result.out) == (1, "")
    assert result.err == "sample.py: 0 of 1,000 draws are as wanted (0)\n"
    flags = "--unique", "--max-length=1", "--max-draws=4000", "--num=1000"
    result = run("sample.py", trained.folder, *flags, cwd=trained.cwd)
    expected = {row["name"] for row in draws if row["ended"] and len(row["name"]) <= 1}
    assert result.code == 1
    assert set(lines(result.out)) == expected
    assert f"{len(expected)} of 4,000 draws" in result.err


def test_the_best_are_those_that_are_drawn_most(trained, draws):
    result = run("sample.py", trained.folder, "--best=40", "--json", cwd=trained.cwd)
    best = rows_of(result)
    totals = [row["log_probability"] for row in best]
    assert len({row["name"] for row in best}) == 40
    assert totals == sorted(totals, reverse=True)
    drawn = {row["name"]: row["log_probability"] for row in draws if row["ended"]}
    ranked = sorted(drawn, key=drawn.get, reverse=True)
    found = {row["name"]: row["log_probability"] for row in best}
    assert all(drawn[name] <= totals[-1] + 1e-4 for name in ranked if name not in found)
    assert all(
        found[name] == pytest.approx(drawn[name], abs=1e-4) for name in found if name in drawn
    )
    share = math.fsum(map(math.exp, totals))
    assert f"the 40 most probable names have {share:.3%}" in result.err
    flags = "--best=3", "--prompt=ZO"
    result = run("sample.py", trained.folder, *flags, cwd=trained.cwd)
    assert all(name.startswith("Zo") for name in lines(result.out))


def test_a_file_is_written_whole_or_not_at_all(trained, place):
    result = run("sample.py", "run", "--num=300", cwd=place)
    (place / "out.txt").write_text("old")
    assert run("sample.py", "run", "--num=300", "--out=out.txt", cwd=place).out == ""
    assert (place / "out.txt").read_bytes() == result.out.encode()
    before = snapshot(place)
    checkpoints(place / "run")[-1].write_bytes(b"")
    checkpoints(place / "run")[0].write_bytes(b"")
    failed = run("sample.py", "run", "--out=out.txt", cwd=place)
    assert_one_line(failed, "sample.py", code=2)
    assert snapshot(place)["out.txt"] == before["out.txt"]
    assert snapshot(place).keys() == before.keys()
