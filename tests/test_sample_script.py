"""Names under constraints, the most probable names, and the file that they are written to."""

import io
import json
import math
import os
import re
import signal
import sys
import warnings
from argparse import ArgumentParser
from collections import Counter
from functools import partial
from itertools import islice

import jax
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
    here,
    lines,
    place,
    run,
    sample,
    snapshot,
    trained,
    trap,
)

from dinojax.cli import sample as command
from dinojax.cli.data import write_names
from dinojax.cli.terminal import Program
from dinojax.data.vocab import Vocab, build_vocab
from dinojax.evaluation.compare import compare_samples
from dinojax.evaluation.strings import score
from dinojax.models.trained import Trained
from dinojax.runs.folder import load_run, read_part
from dinojax.sampling.accept import Constraints, accept, continue_text
from dinojax.sampling.accept import sample as sample_by_call
from dinojax.sampling.controls import Controls
from dinojax.sampling.patterns import compile_pattern, found_in
from dinojax.sampling.search import most_probable_names
from dinojax.sampling.stream import stream_names
from dinojax.sampling.strings import BLOCK, FIRST_BLOCK, Names, decode_names, draw_names

from in_process import call_here

__all__ = ["model", "params", "place", "trained"]


def rows_of(result):
    return [json.loads(line) for line in lines(result.out)]


@pytest.fixture(scope="module")
def draws(trained):
    """What is drawn without a constraint: 5,000 names, over two blocks."""
    result = here("sample.py", trained.folder, "--num=4000", "--json", cwd=trained.cwd)
    return rows_of(result)


def distance(a, b):
    """Levenshtein's, by the table that defines it."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def test_just_the_draws_that_meet_the_constraints_are_accepted(trained, draws):
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
        result = here("sample.py", trained.folder, f"--num={num}", *flags, cwd=trained.cwd)
        assert result.code == 0
        assert lines(result.out) == expected[:num]
        assert re.fullmatch(
            r"sample\.py: [\d,]+ of [\d,]+ draws were accepted \([\d.e-]+\)\n", result.err
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


def accepted(blocks, **constraints):
    wanted = Constraints(ignore_case=True, **constraints)
    found = accept(blocks, 10**9, wanted, LEARNED)
    return [name for block in found for name in block.names.names]


@pytest.fixture(scope="module")
def tiny(params, model):
    return Trained(model, params, VOCAB)


@pytest.fixture(
    scope="module", params=[{}, {"temperature": 1.5, "top_p": 0.97, "min_p": 0.01}], ids=str
)
def ab_draws(request, tiny):
    """Five blocks of each length, the first small; and the law of the names that ended."""
    controls = Controls(**request.param)
    blocks = {}
    for max_length in (2, MAX_LENGTH):
        drawn = draw_names(jax.random.key(3), tiny, 10**6, max_length=max_length, controls=controls)
        blocks[max_length] = list(islice(drawn, 5))
    ended, _ = enumerate_names(tiny.params, tiny.model, **request.param)
    return blocks, ended


@pytest.mark.parametrize("prompt", ["", "ab"])
def test_a_name_depends_only_on_the_seed_and_its_position(prompt, tiny):
    """The number of names drawn, which sets the length of a stream, does not matter."""
    draw = partial(draw_names, jax.random.key(3), tiny, prompt=prompt, max_length=MAX_LENGTH)
    drawn = [list(islice(draw(num), 3)) for num in (10, FIRST_BLOCK + BLOCK, 5000, 10**6)]
    sizes = [[len(block.names) for block in blocks] for blocks in drawn]
    assert sizes == [[10], [256, 4096], [256, 4096, 648], [256, 4096, 4096]]
    for few in drawn[:3]:
        for x, y in zip(few, drawn[3], strict=False):
            assert x.names == y.names[: len(x.names)]
            assert all(name.startswith(prompt) for name in x.names)
            for values, others in zip(x[1:4], y[1:4], strict=True):
                np.testing.assert_allclose(values, others[: len(values)], rtol=1e-6)
    blocks = [set(block.names) for block in drawn[3]]
    # The same law, other draws.
    assert drawn[3][1].names != drawn[3][2].names
    assert len(set.intersection(*blocks)) > 5


def test_a_name_does_not_depend_on_the_number_of_devices(tiny):
    drawn = []
    for num_devices in (1, 2):
        # A stream a block.
        blocks = draw_names(
            jax.random.key(3),
            tiny,
            10**6,
            max_length=MAX_LENGTH,
            num_devices=num_devices,
            stream_size=MAX_LENGTH * BLOCK,
        )
        drawn.append(list(islice(blocks, 4)))
    for x, y in zip(*drawn, strict=True):
        assert x.names == y.names
        np.testing.assert_array_equal(x.log_probabilities, y.log_probabilities)
    assert len({tuple(block.names) for block in drawn[0]}) == 4


def test_names_are_decoded_as_one_by_one():
    vocab = build_vocab(["a\u2028\x85", "щ日\U0001f995", "\ud800"])
    generator = np.random.default_rng(0)
    ids = generator.integers(1, vocab.size, (200, 7)).astype(vocab.dtype)
    lengths = generator.integers(0, 8, 200)
    ids[np.arange(7) >= lengths[:, None]] = vocab.newline
    names = decode_names(vocab, ids, lengths, "щa")
    assert names == ["щa" + vocab.decode(row[:n]) for row, n in zip(ids, lengths, strict=True)]
    assert vocab.newline == 0


def assert_drawn_by(law, names):
    """Chi-squared test, with rare names pooled."""
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
    """Against the exact law, conditioned on the constraint."""
    blocks, ended = ab_draws
    value, is_wanted = CONSTRAINTS[flag]
    law = {name: p for name, p in ended.items() if name and is_wanted(name)}
    if flag == "unique":
        # Distribution of the second distinct name: any other name may have been the first.
        total = sum(law.values())
        second = {
            name: sum(p * q / (total - q) for other, q in law.items() if other != name)
            for name, p in law.items()
        }
        parts = [
            accepted([block._make(values[i : i + 16] for values in block)], unique=True)
            for block in blocks[MAX_LENGTH]
            for i in range(0, len(block.names), 16)
        ]
        assert all(len(set(part)) == len(part) for part in parts)
        assert_drawn_by(law, [part[0] for part in parts if part])
        # Parts without a second name are too rare to matter.
        assert sum(len(part) < 2 for part in parts) < len(parts) / 200
        assert_drawn_by(second, [part[1] for part in parts if len(part) > 1])
        return
    max_length = value if flag == "max_length" else MAX_LENGTH
    # The blocks have the maximum length; a name that was cut is never accepted.
    constraint = {} if flag == "max_length" else {flag: value}
    names = accepted(blocks[max_length], **constraint)
    assert 500 < len(names) < 16_640
    assert_drawn_by(law, names)


def test_a_search_for_rare_names_ends_with_what_was_found(trained):
    result = here("sample.py", trained.folder, "--match=qqqq", "--max-draws=1000", cwd=trained.cwd)
    assert (result.code, result.out) == (1, "")
    assert result.err == "sample.py: 0 of 1,000 draws were accepted (0); loosen --match\n"
    flags = "--unique", "--max-length=1", "--max-draws=4000", "--num=1000"
    result = here("sample.py", trained.folder, *flags, cwd=trained.cwd)
    drawn = draw_names(jax.random.key(0), load_run(trained.folder).trained, 4000, max_length=1)
    expected = {
        name
        for block in drawn
        for name, ended in zip(block.names, block.ended, strict=True)
        if ended and name
    }
    assert result.code == 1
    assert set(lines(result.out)) == expected
    assert f"{len(expected)} of 4,000 draws" in result.err


def test_no_more_than_one_draw_a_name_is_tried_where_all_are_equal(trained):
    flags = "--match=qqqq", "--temperature=0", "--num=7", "--seed=0"
    result = here("sample.py", trained.folder, *flags, cwd=trained.cwd)
    assert result.code == 1
    assert result.err == "sample.py: 0 of 7 draws were accepted (0); loosen --match\n"


def test_the_best_names_are_those_drawn_most_often(trained, draws):
    result = here("sample.py", trained.folder, "--best=40", "--json", cwd=trained.cwd)
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
    result = here("sample.py", trained.folder, *flags, cwd=trained.cwd)
    assert all(name.startswith("zo") for name in lines(result.out))


# Optional newlines, patterns with a FutureWarning, and an accented letter in two characters.
@pytest.mark.parametrize(
    "pattern", [r"[^\n]", r"x?\n*", r"^(z|\n)", r"\s?", "[[z]", "e\u0308", "(?!\\n)a"]
)
def test_valid_patterns_are_accepted(pattern, trained, draws):
    result = here("sample.py", trained.folder, f"--match={pattern}", "--num=20", cwd=trained.cwd)
    expected = re.compile(pattern.replace("e\u0308", "ë").replace("[[", r"[\["))
    wanted = [r["name"] for r in draws if r["ended"] and expected.search(r["name"].lower())]
    assert len(wanted) > 20
    assert (result.code, lines(result.out)) == (0, wanted[:20])
    assert_one_line(result, "sample.py", code=0)


def test_a_file_is_written_whole_or_not_at_all(trained, place):
    result = here("sample.py", "run", "--num=300", cwd=place)
    (place / "out.txt").write_text("old")
    assert here("sample.py", "run", "--num=300", "--out=out.txt", cwd=place).out == ""
    assert (place / "out.txt").read_bytes() == result.out.encode()
    before = snapshot(place)
    checkpoints(place / "run")[-1].write_bytes(b"")
    checkpoints(place / "run")[0].write_bytes(b"")
    failed = here("sample.py", "run", "--out=out.txt", cwd=place)
    assert_one_line(failed, "sample.py", code=2)
    assert snapshot(place)["out.txt"] == before["out.txt"]
    assert snapshot(place).keys() == before.keys()


def test_what_is_not_a_file_is_not_replaced(place):
    os.mkfifo(place / "pipe")
    failed = here("sample.py", "run", "--out=pipe", cwd=place)
    assert_one_line(failed, "sample.py", code=2)
    assert "--out: pipe is a directory or a device, not a file" in failed.err
    assert (place / "pipe").is_fifo()


def test_a_link_is_followed_to_the_file_that_is_written(trained, place):
    (place / "link.txt").symlink_to(place / "other" / "out.txt")
    result = here("sample.py", "run", "--num=20", "--out=link.txt", cwd=place)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert (place / "link.txt").is_symlink()
    assert lines((place / "other" / "out.txt").read_text("utf-8")) == sample(
        place / "run", "--num=20"
    )


@pytest.mark.parametrize("what", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_file_that_is_not_finished(what, place, tmp_path_factory):
    """The signal comes once the file is open and names were drawn: when it needs distances."""
    environment = trap(
        tmp_path_factory.mktemp("trap"), "import", "<dinojax.data.distances>", [1], what
    )
    before = snapshot(place)
    result = run("sample.py", "run", "--distance=1", "--out=out.txt", cwd=place, **environment)
    assert result.code == {signal.SIGINT: 130}.get(what, -what)
    assert result.out == ""
    assert snapshot(place) == before


# The same by one call.


@pytest.fixture(scope="module")
def odd(trained):
    loaded = load_run(trained.folder)
    return Trained(loaded.model, loaded.params, loaded.vocab)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num": 300},
        {"num": 7, "seed": 5, "prompt": "ZO", "max_length": 6},
        {"num": 40, "temperature": 0.7, "top_k": 4, "top_p": 0.9, "min_p": 0.01},
        {"num": 30, "match": "^Щ|e\u0308$", "min_length": 2, "unique": False},
        {"num": 500, "novel": True, "unique": True, "distance": 2, "max_draws": 900},
        {"match": "qqqq", "max_draws": 300},
    ],
    ids=str,
)
def test_names_by_a_call_are_those_of_the_command(arguments, trained, odd):
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in arguments.items()
        if value is not False
    ]
    result = here("sample.py", trained.folder, *flags, "--json", cwd=trained.cwd)
    rows = rows_of(result) if result.out else []
    description = load_run(trained.folder).description
    learned = read_part(trained.folder, description, "train") if "novel" in arguments else ()
    found = sample_by_call(odd, **arguments, learned=learned)
    assert found.names == [row["name"] for row in rows]
    assert found.ended.tolist() == [row["ended"] for row in rows]
    for name in "log_probabilities", "drawn_log_probabilities":
        values = [row[name.replace("ies", "y")] for row in rows]
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-5)
    assert result.code == (len(rows) < arguments.get("num", 10))


def test_without_a_constraint_names_may_be_cut_and_with_one_they_are_not(odd):
    assert sample_by_call(odd).names == sample_by_call(odd, 20).names[:10]
    cut = next(draw_names(jax.random.key(0), odd, 100, max_length=2))
    assert not cut.ended.all()
    whole = sample_by_call(odd, 30, max_length=2)
    assert whole.ended.all()
    kept = [name for name, ended in zip(cut.names, cut.ended, strict=True) if ended]
    assert kept[:30] == whole.names[: len(kept[:30])]


def test_a_model_that_knows_capitals_is_asked_for_them(params, model):
    trained = Trained(model, params, Vocab("\nAb"))
    names = sample_by_call(trained, 20, prompt="A", match="^Ab").names
    assert len(names) == 20
    assert all(name.startswith("Ab") for name in names)
    with pytest.raises(ValueError, match="the prompt: 'a' at position 0"):
        sample_by_call(trained, prompt="a")
    assert sample_by_call(trained, match="^a", max_draws=2000).names == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num": 0}, "num: expected a number from 1"),
        ({"max_length": 0}, "max_length: expected a number from 1"),
        ({"temperature": -1}, "temperature: expected a number from 0"),
        ({"top_k": 0}, "top_k: expected a number from 1"),
        ({"top_p": 0}, "top_p: expected"),
        ({"min_p": 2}, "min_p: expected a number from 0 to 1"),
        ({"prompt": "c"}, "the prompt: 'c' at position 0"),
        ({"prompt": "a\n"}, "the prompt: a name holds no newline"),
        ({"match": "a("}, r"position 1 of 'a\('"),
        ({"match": r"\n"}, "a name holds no newline"),
        ({"novel": True}, "novel and distance need the names"),
        ({"distance": 2}, "novel and distance need the names"),
    ],
    ids=str,
)
def test_a_call_refuses_bad_arguments(arguments, says, tiny):
    with pytest.raises(ValueError, match=says):
        sample_by_call(tiny, **arguments)


def test_too_many_devices_are_refused(tiny):
    with pytest.raises(ValueError, match=f"expected up to {jax.device_count()}"):
        draw_names(jax.random.key(0), tiny, 10**6, num_devices=99, stream_size=50 * BLOCK)


def test_the_most_probable_names_by_a_call(tiny):
    found = most_probable_names(tiny, 5, prompt="a", max_length=3)
    ended, _ = enumerate_names(tiny.params, tiny.model)
    ranked = sorted((x for x in ended if x.startswith("a")), key=ended.get, reverse=True)[:5]
    assert found.names.names == ranked
    expected = np.log([ended[name] for name in ranked])
    np.testing.assert_allclose(found.names.log_probabilities, expected, rtol=1e-5)
    assert found.share == pytest.approx(sum(ended[name] for name in ranked), rel=1e-5)
    assert np.isnan(found.names.drawn_log_probabilities).all()
    assert found.names.ended.all()
    with pytest.raises(ValueError, match="the prompt"):
        most_probable_names(tiny, 5, prompt="c")


def test_a_text_by_a_call(tiny):
    whole = continue_text(tiny, "AB", 200, seed=4, temperature=0.9)
    assert whole.startswith("ab")
    assert len(whole) == 202
    assert continue_text(tiny, "ab", 30, seed=4, temperature=0.9) == whole[:32]
    assert continue_text(tiny, "ab", 30, seed=5) != continue_text(tiny, "ab", 30, seed=4)
    stop = whole[30:40]
    stopped = continue_text(tiny, "ab", 200, seed=4, temperature=0.9, stop=stop)
    assert stopped == whole[: whole.index(stop, 2) + len(stop)]
    with pytest.raises(ValueError, match="the prompt: 'c'"):
        continue_text(tiny, "c")
    with pytest.raises(ValueError, match="top_p"):
        continue_text(tiny, top_p=2)


def test_patterns_are_composed_and_may_ignore_case():
    assert compile_pattern("e\u0308").search("zoë")
    assert not compile_pattern("^Z").search("zoë")
    assert compile_pattern("^Z", ignore_case=True).search("zoë")


# Names in other characters than those that were drawn.


@pytest.fixture(scope="module")
def marks(params, model):
    """A model that writes two marks in any order, where NFC keeps one order."""
    return Trained(model, params, Vocab("\n\u0301\u0323"))


def ordered(name):
    return "".join(sorted(name, reverse=True))


def test_names_are_composed_and_come_with_the_spelling_of_the_model(marks):
    found = sample_by_call(marks, 300)
    assert found.names == list(map(ordered, found.drawn_as))
    assert found.names != found.drawn_as
    scores = score(marks, found.drawn_as)
    np.testing.assert_allclose(
        scores.log_probabilities[found.ended], found.log_probabilities[found.ended], rtol=1e-4
    )
    best = most_probable_names(marks, 30).names
    assert best.names == list(map(ordered, best.drawn_as))
    assert best.names != best.drawn_as


def test_names_are_compared_composed(marks):
    found = sample_by_call(marks, 300, unique=True, max_draws=300)
    assert len(set(found.names)) == len(found.names) < len(set(sample_by_call(marks, 300).drawn_as))
    learned = ["\u0323\u0301"]
    others = sample_by_call(marks, 300, novel=True, max_draws=300, learned=learned)
    assert "\u0301\u0323" not in others.drawn_as
    assert "\u0323\u0301" in sample_by_call(marks, 300).names
    assert sample_by_call(marks, 3, match="^\u0323\u0301$").names == learned * 3
    figures = compare_samples(marks, learned, [], 300).models[0].figures
    whole = [name for name, ended in zip(*drawn_again(marks, 300), strict=True) if ended]
    assert figures["uniqueness"] == len(set(map(ordered, whole))) / len(whole)


def drawn_again(trained, num):
    """The names of `compare_samples`, as they were spelled, and whether each ended."""
    draw = jax.jit(partial(stream_names, model=trained.model, num=num, max_length=50))
    samples = jax.device_get(draw(jax.random.key(0), trained.params))
    ids = zip(samples.ids, samples.lengths, strict=True)
    return [trained.vocab.decode(row[:length]) for row, length in ids], samples.ended


def test_a_model_scores_the_names_that_it_drew(params, model):
    """Though it knows no composed letter, and names are composed."""
    trained = Trained(model, params, Vocab("\ne\u0301"))
    found = sample_by_call(trained, 60, max_length=5)
    assert any("\u00e9" in name for name in found.names)
    scores = score(trained, found.names)
    np.testing.assert_allclose(scores.log_probabilities, found.log_probabilities, rtol=1e-4)


def test_a_prompt_does_not_end_a_word(params, model):
    trained = Trained(model, params, Vocab("\n\u03bf\u03c3"))
    start = "\u03bf\u03c3"
    names = sample_by_call(trained, 9, prompt=start.upper()).names
    assert all(name.startswith(start) for name in names)
    text = continue_text(trained, f"\ufeff\r\n{start.upper()}", 60, stop=start.upper())
    assert text.startswith(f"\n{start}")
    assert text.index(start, 3) == len(text) - 2


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("make", [io.StringIO, Terminal])
def test_only_a_terminal_shows_capitals(make, as_json, lowercase):
    names = ["rex", "\u00e9os", "Yi"]
    arrays = np.zeros(3), np.zeros(3), np.full(3, True)
    block = Names(names, *arrays, ["rex", "e\u0301os", "Yi"])
    file, options = make(), {"as_json": as_json, "lowercase": lowercase}
    assert write_names([block], file, {"rex"}, **options) == 3
    written = file.getvalue().splitlines()
    if as_json:
        rows = [json.loads(line) for line in written]
        assert [row["name"] for row in rows] == names
        assert [row.get("drawn_as") for row in rows] == [None, "e\u0301os", None]
    else:
        shown = ["Rex", "\u00c9os", "Yi"] if lowercase and make is Terminal else names
        assert written == shown


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(" * 600 + ")" * 600, "recursion"),
        ("(?:(?:(?:a?){999}){999}){999}", "fewer repetitions"),
        ("(a)(?(1)(?:b{999}){999}|c)", "fewer repetitions"),
        ("(" + "x" * 5_000, r"missing \), .* position 0 of '.{100,120}$"),
    ],
)
def test_patterns_too_large_to_search_for_are_refused(pattern, says):
    with pytest.raises(ValueError, match=says):
        compile_pattern(pattern)


def test_patterns_are_found_where_python_finds_them():
    names = ["ada", "щит", "щЯ", "x y", "a1b2", "zoé", "aab", "", "mm[a", "٣", "abc" * 9]
    for pattern in (
        r"^\w+$", r"\bщ", r"(.)\1", "(?<!a)b", r"^(?=.*a)(?!.*z).{3,5}$", r"\d|\s", "[^a-m]$",
        "(?i)я", "(?P<x>a)+(?(x)b|c)", "(.+)+z$", "[[z]", r"\Aa|b\Z", "(?>a+)b", "é", "",
    ):  # fmt: skip
        with warnings.catch_warnings(action="ignore"):
            expected = [re.search(pattern, name) is not None for name in names]
        assert found_in(compile_pattern(pattern), names) == expected, pattern


def test_a_search_that_does_not_end_is_an_error(monkeypatch):
    monkeypatch.setattr("dinojax.sampling.patterns.SECONDS", 0.05)
    pattern = compile_pattern(r"(.*)*(.*)*(.*)*\1\d$")
    with pytest.raises(TimeoutError, match=r"too long to search .* simpler pattern"):
        found_in(pattern, ["ab" * 500] * 50)


def test_without_a_pattern_the_package_for_patterns_is_not_needed(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "regex", None)
    parser = ArgumentParser()
    command.add_arguments(parser)
    command.check_arguments(parser.parse_args(["run", "--unique"]))
    assert len(set(sample_by_call(tiny, 3, unique=True).names)) == 3


def test_names_are_cut_by_default_where_the_model_says(tiny, odd):
    assert odd.max_length == 50
    short = sample_by_call(tiny._replace(max_length=2), 60)
    assert max(map(len, short.names)) == 2
    assert not short.ended.all()
    drawn = next(draw_names(jax.random.key(0), tiny, 200, max_length=2))
    assert short.names == [name for name in drawn.names if name][:60]
    best = most_probable_names(tiny._replace(max_length=2), 30).names.names
    assert best == most_probable_names(tiny, 30, max_length=2).names.names


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_cut_name_is_marked_in_a_terminal(is_terminal, tiny):
    names = next(draw_names(jax.random.key(0), tiny, 60, max_length=2))
    file = io.StringIO()
    file.isatty = lambda: is_terminal
    assert write_names([names], file, set(), as_json=False, lowercase=False) == 60
    marks = ["" if ended or not is_terminal else "…" for ended in names.ended]
    assert "…" in marks or not is_terminal
    expected = [name + mark for name, mark in zip(names.names, marks, strict=True)]
    assert file.getvalue() == "".join(f"{name}\n" for name in expected)


MOLECULES = ["c1ccccc1O", "CCO", "c1ccccc1", "CC(=O)O", "c1ccncc1", "CCN"] * 3


def test_names_whose_case_has_a_meaning_are_printed_as_drawn(tmp_path):
    """An aromatic c is another atom than an aliphatic C."""
    (tmp_path / "smiles.txt").write_text("\n".join(MOLECULES))
    flags = "--data=smiles.txt", "--no-lowercase", "--steps=700", "--out=run"
    out = here("train.py", *flags, cwd=tmp_path).out
    drawn = sample_by_call(load_run(tmp_path / "run").trained, 40, seed=5).names
    assert any(name[:1].islower() for name in drawn)
    printed = here("sample.py", "run", "--num=40", "--seed=5", cwd=tmp_path)
    assert printed.out == "".join(f"{name}\n" for name in drawn)
    records = here("sample.py", "run", "--num=40", "--seed=5", "--json", cwd=tmp_path)
    assert [json.loads(line)["name"] for line in records.out.splitlines()] == drawn
    reported = re.split(r"new:\n", out)[1].split("\n\n")[0]
    assert re.search("^  c", reported, re.M)


# Names that are empty.


def test_no_name_is_empty_and_all_others_come_as_often_as_the_model_says(tiny):
    """Also where so many are empty that a longer stream is drawn than was expected."""
    law, cut = enumerate_names(tiny.params, tiny.model)
    assert law[""] > 0.1
    whole = tiny._replace(max_length=MAX_LENGTH)
    found = sample_by_call(whole, 4300, seed=4)
    assert len(found.names) == 4300
    law = {x: law.get(x, 0) + cut.get(x, 0) for x in law.keys() | cut.keys() if x}
    assert_drawn_by(law, found.names)
    drawn = draw_names(jax.random.key(4), whole, 10**5)
    expected = [name for block in islice(drawn, 4) for name in block.names if name]
    assert found.names == expected[:4300]
    assert sample_by_call(whole, FIRST_BLOCK, seed=4).names == expected[:FIRST_BLOCK]


def test_what_is_refused_is_counted_up_to_the_last_name_asked_for(tiny):
    drawn = list(islice(draw_names(jax.random.key(1), tiny, 600), 2))
    names = [name for block in drawn for name in block.names]
    for num in (1, 10, FIRST_BLOCK, 300):
        *_, last = accept(drawn, num, Constraints(cut=True))
        shown = [name for name in names if name][:num]
        place = [i for i, name in enumerate(names) if name][num - 1]
        assert last.num_refused == place + 1 - num
        assert last.names.names == shown[-len(last.names.names) :]


def test_names_are_stripped_as_data_are(params, model):
    blanks = Trained(model, params, Vocab("\n b"))
    found = sample_by_call(blanks, 200, seed=2)
    assert found.names == [name.strip() for name in found.drawn_as]
    assert all(found.names)
    assert any(name != spelled for name, spelled in zip(found.names, found.drawn_as, strict=True))
    scores = score(blanks, found.drawn_as)
    ended = found.ended
    np.testing.assert_allclose(
        scores.log_probabilities[ended], found.log_probabilities[ended], rtol=1e-4
    )


# Seeds.


def fresh(trained, *arguments):
    return call_here(Program("sample", "dinojax"), trained.folder, *arguments, cwd=trained.cwd)


def test_another_call_gives_other_names_and_says_how_to_have_the_same(trained):
    results = [fresh(trained, "--num=20") for _ in range(2)]
    assert results[0].out != results[1].out
    for result in results:
        seed = re.match(
            r"dinojax sample: note: seed (\d+); give --seed \1 for the same again\n", result.err
        )[1]
        again = fresh(trained, "--num=20", f"--seed={seed}")
        assert again.out == result.out
        assert "seed" not in again.err
    rows = fresh(trained, "--json")
    assert all("name" in row for row in rows_of(rows))
    assert "note: seed" in rows.err
    # Nothing is drawn.
    assert "seed" not in fresh(trained, "--best=3").err
    # One line for an error.
    failed = fresh(trained, "--prompt=#")
    assert failed.code == 2
    assert failed.err.count("\n") == 1


def test_empty_names_are_left_out_and_counted_once(trained):
    rows = [fresh(trained, "--num=2000", "--seed=7", *more) for more in ((), ("--json",))]
    names = lines(rows[0].out)
    assert len(names) == 2000
    assert all(names)
    assert [row["name"] for row in rows_of(rows[1])] == names
    drawn = draw_names(jax.random.key(7), load_run(trained.folder).trained, 5000)
    every = [name for block in islice(drawn, 2) for name in block.names]
    assert names == [name for name in every if name][:2000]
    num = [i for i, name in enumerate(every) if name][1999] + 1 - 2000
    assert num > 1
    said = f"dinojax sample: note: {num} empty names drawn and left out\n"
    assert rows[0].err == rows[1].err == said
    assert all(lines(fresh(trained, "--best=30").out))
