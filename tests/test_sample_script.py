"""Names under constraints, the most probable ones, and where they are written."""

import io
import json
import math
import os
import re
import signal
from collections import Counter
from contextlib import redirect_stderr
from functools import partial
from itertools import islice
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from test_sample import (
    MAX_LENGTH,
    VOCAB,
    chi_squared_limit,
    enumerate_names,
    model,
    params,
)
from test_scripts import (
    assert_one_line,
    checkpoints,
    compile_once,
    lines,
    place,
    run,
    sample,
    snapshot,
    trained,
    trap,
)

from dinojax.cli import sample as script_module
from dinojax.data.vocab import build_vocab
from dinojax.sampling.controls import Controls
from dinojax.sampling.draw import read_prompt

__all__ = ["compile_once", "model", "params", "place", "trained"]


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


LEARNED = ["abb", "ba", "aa"]
CONSTRAINTS = {
    "match": ("^B|bb", lambda name: re.search("^b|bb", name)),
    "min_length": (2, lambda name: len(name) >= 2),
    "novel": (True, lambda name: name not in LEARNED),
    "distance": (2, lambda name: min(distance(name, x) for x in LEARNED) >= 2),
    "max_length": (2, lambda name: len(name) <= 2),
    "unique": (True, lambda name: True),
}


def script_with(params, model):
    """The functions of the script, and what it takes for a run."""
    config = SimpleNamespace(lowercase=True)
    loaded = SimpleNamespace(params=params, model=model, vocab=VOCAB, config=config)
    return script_module, loaded


def accepted(script, loaded, blocks, **constraints):
    arguments = SimpleNamespace(**script.FOR_NAMES | constraints)
    with redirect_stderr(io.StringIO()):
        found = script.accept(iter(blocks), arguments, loaded, LEARNED)
        return [name for block in found for name in block.names]


@pytest.fixture(
    scope="module", params=[{}, {"temperature": 1.5, "top_p": 0.97, "min_p": 0.01}], ids=str
)
def ab_draws(request, params, model):
    """Five blocks of each length, the first small; how to accept of them; the law of what ended."""
    script, loaded = script_with(params, model)
    start = read_prompt(params, model, jnp.zeros(0, int))
    blocks = {}
    for max_length in (2, MAX_LENGTH):
        arguments = SimpleNamespace(seed=3, max_length=max_length, devices=0)
        drawn = script.draw_names(loaded, arguments, "", start, Controls(**request.param), 10**6)
        blocks[max_length] = list(islice(drawn, 5))
    ended, _ = enumerate_names(params, model, **request.param)
    return blocks, partial(accepted, script, loaded), ended


@pytest.mark.parametrize("prompt", ["", "ab"])
def test_a_name_depends_on_the_seed_and_its_place_alone(prompt, params, model):
    """Not on how many are wanted, which is how many a stream writes."""
    script, loaded = script_with(params, model)
    start = read_prompt(params, model, jnp.asarray(VOCAB.encode(prompt), int))
    arguments = SimpleNamespace(seed=3, max_length=MAX_LENGTH, devices=0)
    drawn = []
    for most in (10, 5000, 10**6):
        blocks = script.draw_names(loaded, arguments, prompt, start, Controls(), most)
        drawn.append(list(islice(blocks, 3)))
    for few in drawn[:2]:
        for x, y in zip(few[:2], drawn[2], strict=False):
            assert x.names == y.names
            assert all(name.startswith(prompt) for name in x.names)
            for values, others in zip(x[1:], y[1:], strict=True):
                np.testing.assert_allclose(values, others, rtol=1e-6)
    blocks = [set(block.names) for block in drawn[2]]
    assert len(drawn[2][2].names) == len(drawn[2][1].names) == 4096
    # The same law, other draws.
    assert drawn[2][1].names != drawn[2][2].names
    assert len(set.intersection(*blocks)) > 5


def test_a_name_does_not_depend_on_the_number_of_devices(params, model):
    script, loaded = script_with(params, model)
    # A stream a block.
    script.draw_names.__globals__["STREAM"] = MAX_LENGTH * script.BLOCK
    start = read_prompt(params, model, jnp.zeros(0, int))
    drawn = []
    for num_devices in (1, 2):
        arguments = SimpleNamespace(seed=3, max_length=MAX_LENGTH, devices=num_devices)
        blocks = script.draw_names(loaded, arguments, "", start, Controls(), 10**6)
        drawn.append(list(islice(blocks, 4)))
    for x, y in zip(*drawn, strict=True):
        assert x.names == y.names
        np.testing.assert_array_equal(x.log_probabilities, y.log_probabilities)
    assert len({tuple(block.names) for block in drawn[0]}) == 4


def test_names_are_decoded_as_one_by_one():
    script = script_module
    vocab = build_vocab(["a\u2028\x85", "щ日\U0001f995", "\ud800"])
    generator = np.random.default_rng(0)
    ids = generator.integers(1, vocab.size, (200, 7)).astype(vocab.dtype)
    lengths = generator.integers(0, 8, 200)
    ids[np.arange(7) >= lengths[:, None]] = vocab.newline
    names = script.decode_names(vocab, ids, lengths, "щa")
    assert names == ["щa" + vocab.decode(row[:n]) for row, n in zip(ids, lengths, strict=True)]
    assert vocab.newline == 0


def assert_drawn_by(law, names):
    """Chi-squared, all that are rare as one."""
    num, observed = len(names), Counter(names)
    total = sum(law.values())
    expected = {name: num * p / total for name, p in law.items() if p > 0}
    assert observed.keys() <= expected.keys()
    often = [name for name, count in expected.items() if count >= 5]
    assert len(often) > 2
    pairs = [(observed[name], expected[name]) for name in often]
    rest = num - sum(x for x, _ in pairs), num - sum(x for _, x in pairs)
    statistic = sum((x - y) ** 2 / max(y, 1e-9) for x, y in [*pairs, rest] if (x, y) != (0, 0))
    assert statistic < chi_squared_limit(len(often))


@pytest.mark.parametrize("flag", CONSTRAINTS)
def test_names_under_a_constraint_come_as_often_as_the_model_says(flag, ab_draws):
    """Against the exact law, given that they are as wanted."""
    blocks, accept, ended = ab_draws
    value, is_wanted = CONSTRAINTS[flag]
    law = {name: p for name, p in ended.items() if is_wanted(name)}
    if flag == "unique":
        # The second of those that differ: each of the others may have been the first.
        total = sum(law.values())
        second = {
            name: sum(p * q / (total - q) for other, q in law.items() if other != name)
            for name, p in law.items()
        }
        parts = [
            accept([block._make(values[i : i + 16] for values in block)], unique=True)
            for block in blocks[MAX_LENGTH]
            for i in range(0, len(block.names), 16)
        ]
        assert all(len(set(part)) == len(part) for part in parts)
        assert_drawn_by(law, [part[0] for part in parts if part])
        # So seldom is there no second that it does not count.
        assert sum(len(part) < 2 for part in parts) < len(parts) / 200
        assert_drawn_by(second, [part[1] for part in parts if len(part) > 1])
        return
    max_length = value if flag == "max_length" else MAX_LENGTH
    names = accept(blocks[max_length], **{flag: value})
    assert 500 < len(names) < 16_640
    assert_drawn_by(law, names)


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


# Newlines that may be and need not, advice for later versions of Python, and é in two characters.
@pytest.mark.parametrize(
    "pattern", [r"[^\n]", r"x?\n*", r"^(z|\n)", r"\s?", "[[z]", "e\u0308", "(?!\\n)a"]
)
def test_what_may_be_matched(pattern, trained, draws):
    result = run("sample.py", trained.folder, f"--match={pattern}", "--num=20", cwd=trained.cwd)
    expected = re.compile(pattern.replace("e\u0308", "ë").replace("[[", r"[\["))
    wanted = [r["name"] for r in draws if r["ended"] and expected.search(r["name"].lower())]
    assert len(wanted) > 20
    assert (result.code, lines(result.out)) == (0, wanted[:20])
    assert_one_line(result, "sample.py", code=0)


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


def test_what_is_not_a_file_is_not_replaced(place):
    os.mkfifo(place / "pipe")
    failed = run("sample.py", "run", "--out=pipe", cwd=place)
    assert_one_line(failed, "sample.py", code=2)
    assert "--out: pipe is a directory or a device, not a file" in failed.err
    assert (place / "pipe").is_fifo()


def test_a_link_leads_to_the_file_that_is_written(trained, place):
    (place / "link.txt").symlink_to(place / "other" / "out.txt")
    result = run("sample.py", "run", "--num=20", "--out=link.txt", cwd=place)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert (place / "link.txt").is_symlink()
    assert lines((place / "other" / "out.txt").read_text("utf-8")) == sample(
        place / "run", "--num=20"
    )


@pytest.mark.parametrize("what", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_file_that_is_not_finished(what, place, tmp_path_factory):
    """The signal comes once the file is open and names were drawn: when it needs distances."""
    environment = trap(tmp_path_factory.mktemp("trap"), "import", "<dinojax.distances>", [1], what)
    before = snapshot(place)
    result = run("sample.py", "run", "--distance=1", "--out=out.txt", cwd=place, **environment)
    assert result.code == {signal.SIGINT: 130}.get(what, -what)
    assert result.out == ""
    assert snapshot(place) == before
