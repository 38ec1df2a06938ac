"""Advice: figures against direct computations, the plan against its own arithmetic, the command."""

import json
import math
import os
import random
import re
import shlex
from dataclasses import replace

import jax
import numpy as np
import pytest

import dinojax
from dinojax.cli.settings import flags_for
from dinojax.cli.terminal import Program
from dinojax.config import config_from
from dinojax.data.corpus import bundled_names, read_names
from dinojax.data.splits import split_names
from dinojax.data.vocab import build_vocab
from dinojax.evaluation import baseline
from dinojax.evaluation.baseline import Baseline, measure_ngrams
from dinojax.evaluation.compare import joined
from dinojax.evaluation.ngram import fit_ngrams, nats
from dinojax.recipes import recipe
from dinojax.runs import advising
from dinojax.runs.advice import NUM_VALIDATIONS, Facts, Plan, facts_of, propose
from dinojax.runs.forecast import LONG_TEXT, NAMES, OF_THE_ERROR, SPREAD, TEXTS, Law, expected_loss
from dinojax.runs.speed import Speed, measured_rate, training_speed

from in_process import call_here

ADVISE, TRAIN = Program("advise", "dinojax"), Program("train", "dinojax")
DINOS = read_names(bundled_names()).data
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "and", "old"]


def sentences(num, seed=0):
    """A text of `num` characters."""
    draw = random.Random(seed)
    text = ""
    while len(text) < num:
        line = " ".join(draw.choices(WORDS, k=9))
        text += f"{line[0].upper()}{line[1:]}.\n"
    return text[:num]


# N-gram models.


def test_losses_of_all_orders_and_of_halves_are_those_of_models_fitted_alone():
    names = [*DINOS[::20], *DINOS[:9]]
    train, held_out = names[10:], names[:10]
    found = measure_ngrams(build_vocab(names), train, held_out, max_order=4)
    vocab = build_vocab(names)
    for order, each in enumerate(found.nats_per_character, 1):
        model = fit_ngrams(*joined(vocab, train), vocab.size, order)
        costs = nats(model, *joined(vocab, held_out))
        assert each == pytest.approx(costs.mean())
        assert found.nats_per_name[order - 1] == pytest.approx(costs.sum() / 10)
    assert found.loss == min(found.nats_per_character)
    assert found.nats_per_character[found.order - 1] == found.loss
    assert (found.num_counted, found.num_held_out) == (len(train), 10)
    one, other, _ = split_names(train, 0.5, 0, seed=0)
    assert not set(one) & set(other)
    best = [
        min(
            nats(fit_ngrams(*joined(vocab, half), vocab.size, n), *joined(vocab, held_out)).mean()
            for n in range(1, 5)
        )
        for half in (one, other)
    ]
    assert found.from_half == pytest.approx(np.mean(best))


def test_halves_of_a_text_are_made_of_alternate_blocks(monkeypatch):
    monkeypatch.setattr(baseline, "BLOCK", 3)
    assert baseline._halves("abcdefgh") == ["abcgh", "def"]
    assert not baseline._halves("abc")
    assert not baseline._halves(["a", "a"])


def test_of_much_data_a_sample_is_counted(monkeypatch):
    monkeypatch.setattr(baseline, "MOST_READ", 800)
    text = sentences(4_000)
    found = measure_ngrams(build_vocab(text), text, text)
    assert (found.num_counted, found.num_held_out) == (800, 100)
    found = measure_ngrams(build_vocab(DINOS), DINOS, DINOS)
    assert 600 < found.num_counted * 12.7 < 900


# What to expect.


MEASURED_NAMES = [
    (1223, 2.104, 0.196, 0.0, 2.144), (1273, 1.825, 0.194, 0.0, 1.980),
    (1321, 2.012, 0.179, 0.0, 2.051), (3801, 1.761, 0.082, 0.0, 1.802),
    (3801, 1.761, 0.082, 0.0, 1.843), (3842, 1.761, 0.080, 0.0, 1.841),
    (3842, 1.761, 0.080, 0.0, 1.864), (12693, 1.673, 0.050, 0.0, 1.686),
    (19528, 1.665, 0.051, 4.0, 1.918), (19528, 1.665, 0.051, 2.4, 1.769),
    (19528, 1.665, 0.051, 2.0, 1.735), (19528, 1.665, 0.051, 0.0, 1.650),
    (19528, 1.665, 0.051, 0.0, 1.650), (49235, 1.858, 0.029, 0.0, 2.028),
    (49235, 1.858, 0.029, 0.0, 1.970), (686, 2.607, 0.099, 0.0, 2.660),
    (705, 2.502, 0.172, 0.0, 2.395), (2161, 2.391, 0.099, 0.0, 2.325),
    (2161, 2.391, 0.099, 0.0, 2.307), (2167, 2.505, 0.084, 0.0, 2.350),
    (2167, 2.505, 0.084, 0.0, 2.344), (7211, 2.373, 0.045, 0.0, 2.312),
    (21291, 2.188, 0.029, 2.0, 2.158), (21444, 2.194, 0.030, 0.0, 2.141),
    (21444, 2.194, 0.030, 0.0, 2.130), (71171, 2.119, 0.017, 0.0, 2.095),
    (71171, 2.119, 0.017, 0.0, 2.073), (220980, 2.003, 0.009, 2.5, 2.136),
    (220980, 2.003, 0.009, 4.0, 2.141), (220980, 2.003, 0.009, 0.0, 2.024),
    (220980, 2.003, 0.009, 2.0, 2.066), (220980, 2.003, 0.009, 0.0, 1.998),
    (50142, 0.905, 0.034, 0.0, 1.058), (50142, 0.905, 0.034, 0.0, 1.037),
    (23496, 2.081, 0.029, 0.0, 2.091), (23496, 2.081, 0.029, 0.0, 2.077),
    (4355, 2.613, 0.061, 0.0, 2.611), (4355, 2.613, 0.061, 0.0, 2.578),
]  # fmt: skip
MEASURED_TEXTS = [
    (42523, 1.839, 0.129, 0.0, 2.110), (30000, 1.651, 0.024, 0.0, 1.823),
    (94275, 1.629, 0.040, 3.2, 2.259), (94275, 1.629, 0.040, 1.2, 1.840),
    (94275, 1.629, 0.040, 0.0, 1.701), (300000, 1.428, 0.024, 2.8, 2.042),
    (300000, 1.428, 0.024, 0.6, 1.470), (1003854, 1.493, 0.016, 3.1, 2.016),
    (1003854, 1.493, 0.016, 1.5, 1.616), (1003854, 1.493, 0.016, 0.0, 1.483),
    # Measured after the law was fitted.
    (10000, 1.889, math.nan, 0.0, 2.124), (20000, 1.837, 0.015, 0.0, 1.932),
    (40000, 1.649, 0.023, 0.0, 1.780), (9984, 1.812, math.nan, 0.0, 2.064),
    (20722, 2.258, 0.212, 0.0, 2.672), (45676, 1.829, 0.091, 0.0, 2.026),
]  # fmt: skip
"""Runs: characters, loss and standard error of the n-gram model, halvings, loss of the network."""


@pytest.mark.parametrize(("law", "runs"), [(NAMES, MEASURED_NAMES), (TEXTS, MEASURED_TEXTS)])
def test_nine_of_ten_measured_runs_ended_in_the_range_expected(law, runs):
    ranges = [expected_loss(law, loss, error, num, h) for num, loss, error, h, _ in runs]
    inside = [low < run[-1] < high for (low, high), run in zip(ranges, runs, strict=True)]
    assert sum(inside) >= 0.9 * len(runs)
    assert np.median([high - low for low, high in ranges]) < 0.25


def test_the_expected_loss_follows_its_law():
    law = Law(at_10k=0.2, per_decade=-0.1, per_nat=0.5, shortfall=0.05)
    low, high = expected_loss(law, 1.5, math.nan, 100_000, 0)
    assert ((low + high) / 2, high - low) == pytest.approx((1.5 + 0.2 - 0.1 - 0.25, 4 * SPREAD))
    shorter = expected_loss(law, 1.5, math.nan, 100_000, 4)
    assert shorter.low == pytest.approx(low + 0.05 * 8)
    uncertain = expected_loss(law, 1.5, 0.03 / OF_THE_ERROR, 100_000, 0)
    assert uncertain.high - uncertain.low == pytest.approx(4 * math.hypot(SPREAD, 0.03))


# What is proposed.

NGRAMS = Baseline((2.5, 2.0, 1.8), (), 3, 0.02, 1.9, 900, 100)
SPEED = Speed(steps=100.0, characters=50_000.0, first=2.0)
NUMS = 300, 3_000, 100_000, 3_000_000, 10**9


def planned(num, is_text):
    """Facts, and the plan of the recipe, of data of so many characters."""
    num_names = None if is_text else num // 10
    config = config_from(recipe(num, num_names))
    per_epoch = max(1, round(0.9 * num * SPEED.steps / SPEED.characters))
    steps = round(config.epochs * per_epoch) if config.epochs else config.steps
    facts = Facts(is_text, num, 30, num_names)
    plan = Plan(replace(config, steps=max(1, steps)), per_epoch, 10_000, min(num // 10, 2**20))
    return facts, plan


@pytest.mark.parametrize("num", NUMS)
@pytest.mark.parametrize("is_text", [False, True])
def test_what_is_proposed_fits_into_the_minutes(num, is_text):
    facts, plan = planned(num, is_text)
    whole = propose(facts, NGRAMS, plan, SPEED)
    assert (whole.is_ngram, whole.settings, whole.steps) == (False, {}, plan.config.steps)
    # By hand: compilation, steps, and validations of a third of the time a character.
    expected = 7 + plan.config.steps / 100 + NUM_VALIDATIONS * plan.num_validated / 150_000
    assert whole.seconds == whole.whole_seconds == pytest.approx(expected)
    before = None
    for minutes in (0.001, 0.1, 1, 10, 100, 10_000, 1e6):
        found = propose(facts, NGRAMS, plan, SPEED, minutes)
        assert found.whole_seconds == whole.seconds
        if found.is_ngram:
            assert (found.steps, found.expected) == (0, (1.8, 1.8))
            assert before is None or before.is_ngram
        else:
            assert 0 < found.seconds <= 60 * minutes
            assert found.settings == (
                {} if found.steps == plan.config.steps else {"steps": found.steps}
            )
            assert found.expected.low < found.expected.high
        if before and not before.is_ngram:
            assert found.steps >= before.steps
            assert found.expected.high <= before.expected.high
        before = found
    assert propose(facts, NGRAMS, plan, SPEED, 0.001).is_ngram
    # More time than all of it takes changes nothing for names; a text is read more often.
    assert found.steps >= whole.steps
    assert is_text or found == whole


def test_three_megabytes_of_text_get_as_many_steps_as_fit_or_as_help():
    facts, plan = planned(3_000_000, is_text=True)
    found = propose(facts, NGRAMS, plan, SPEED, 1)
    # 0.9 * 60 s, less 7 s and 11 validations of 2 s, at 100 steps of 500 characters a second.
    assert found.settings == {"steps": 2_500}
    assert found.epochs == pytest.approx(2_500 * 500 / 2_700_000)
    found = propose(facts, NGRAMS, plan, SPEED, 100)
    assert found.steps == pytest.approx(plan.config.steps * (3_000_000 / LONG_TEXT) ** 0.5, rel=0.1)


def test_facts_of_names_and_of_a_text():
    assert facts_of(["ab", "c", "ab"], 4) == Facts(False, 8, 4, 3, 2, 2, 5 / 3)
    assert facts_of("abab\n", 3) == Facts(True, 5, 3)


def test_a_rate_is_what_is_done_a_second(monkeypatch):
    clock = iter(np.arange(0.0, 100, 0.75))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    # A call takes 0.75 s, as the clock is read after each.
    assert measured_rate(lambda: 7.5, 2.0) == 10


def test_flags_give_the_settings_of_a_configuration():
    settings = {"lowercase": False, "steps": 30, "dropout": 0.5, "column": "-x"}
    words = ["--no-lowercase", "--steps", "30", "--dropout", "0.5", "--column=-x"]
    assert flags_for(settings) == words


# The command.


@pytest.fixture(autouse=True)
def ordinary_types():
    """As in commands: optax's schedules need these types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Speeds are measured for a moment."""
    monkeypatch.setattr(advising, "training_speed", lambda each, _: training_speed(each, 0.05))


def pasted(out):
    """The words after `dinojax` of the command that is proposed."""
    line = next(each for each in out.splitlines() if each.startswith("  ") and " train " in each)
    words = shlex.split(line)
    return words[words.index("train") + 1 :]


def test_the_command_proposed_for_few_names_trains_as_expected(tmp_path):
    (tmp_path / "few names.txt").write_text("".join(f"{name}\n" for name in DINOS[::38][:40]))
    result = call_here(ADVISE, "--data", "few names.txt", cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("few names.txt: 40 names, 40 distinct, ")
    assert "begin with its run (--init-from)" in result.out
    assert max(map(len, result.out.splitlines())) <= 100
    trained = call_here(TRAIN, *pasted(result.out), cwd=tmp_path)
    assert trained.code == 0
    found = json.loads(call_here(ADVISE, "--data", "few names.txt", "--json", cwd=tmp_path).out)
    assert "".join(f"{loss:9.4f}" for loss in found["ngrams"]["nats_per_character"]) in result.out
    low, high = found["proposal"]["expected"].values()
    validated = float(trained.out.split(" nats a character (newline")[0].split()[-3])
    assert low < validated < high
    # There is a run now in the folder proposed before.
    assert pasted(result.out)[-1] == "runs/few names"
    assert found["commands"]["train"].endswith("--out 'runs/few names-2'")


def test_the_command_proposed_for_a_text_trains(tmp_path):
    (tmp_path / "tale.txt").write_text(sentences(20_000))
    flags = "--data", "tale.txt", "--lowercase", "--validation-fraction", 0.2
    result = call_here(ADVISE, *flags, cwd=tmp_path)
    assert result.code == 0
    assert result.out.startswith("tale.txt: a text, 20,000 characters, ")
    words = pasted(result.out)
    assert words[-2:] == ["--out", "runs/tale"]
    assert {"--lowercase", "--validation-fraction"} < {*words}
    trained = call_here(TRAIN, *words, "--steps", 1, cwd=tmp_path)
    assert trained.code == 0
    assert ", 4,000 for validation" in trained.out


def test_in_too_short_a_time_an_ngram_model_is_proposed_that_has_the_loss_shown(tmp_path):
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in DINOS[::4]))
    result = call_here(ADVISE, "--data", "names.txt", "--minutes", 0.001, cwd=tmp_path)
    assert result.code == 0
    trained = call_here(TRAIN, *pasted(result.out), cwd=tmp_path)
    assert trained.code == 0
    # What takes the time is compiling, not reading such data.
    assert re.search(r"compiling and validating take about \d+ s,\n", result.out)
    assert "reading the data once 1 s, at" in result.out
    shown = next(line for line in result.out.splitlines() if line.startswith("loss:"))
    assert shown.split()[1] == trained.out.splitlines()[1].split()[0]


def test_a_column_of_a_table_is_passed_on(tmp_path):
    rows = "".join(f"{i};{name}\n" for i, name in enumerate(DINOS[::20]))
    (tmp_path / "table.csv").write_text(f"number;name\n{rows}")
    result = call_here(ADVISE, "--data", "table.csv", cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert "looks like a table; give --column" in result.err
    result = call_here(ADVISE, "--data", "table.csv", "--column", "name", cwd=tmp_path)
    assert result.code == 0
    assert pasted(result.out)[:5] == ["auto", "--data", "table.csv", "--column", "name"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "none.txt"], "none.txt"),
        (["--data", "empty.txt"], "no names; expected one name a line"),
        ([], "expected files of data"),
        (["one.txt", "--data", "two.txt"], "expected files of data"),
        (["one.txt"], "no data would be left to learn from, of 1 distinct name;"),
        (["--data", "one.txt"], "no data would be left"),
        (["--data", "-"], "expected a file to train on later, got standard input"),
        (["--data", os.devnull], f"expected a file to train on later, got {os.devnull}"),
        (["--data", "one.txt", "--minutes", 0], "--minutes: expected a number from 0.001"),
        (["--data", "two.txt", "--validation-fraction", 0], "above 0 to judge by, got 0"),
    ],
)
def test_bad_input_is_one_line(arguments, said, tmp_path):
    for name, content in {"empty": "", "one": "ada\n", "two": "ada\neve\n"}.items():
        (tmp_path / f"{name}.txt").write_text(content)
    result = call_here(ADVISE, *arguments, cwd=tmp_path)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("dinojax advise: error: ")
    assert said in result.err
    assert result.err.count("\n") == 1


def test_in_python_it_is_one_call():
    advice = dinojax.advise(DINOS[::10], minutes=0.2, hidden_size=8)
    assert advice.plan.config.hidden_size == 8
    assert advice.facts.num_names == len(DINOS[::10])
    with pytest.raises(ValueError, match="minutes: expected a number"):
        dinojax.advise(DINOS, minutes=-1)
    with pytest.raises(ValueError, match="validation fraction: expected a number above 0"):
        dinojax.advise(DINOS, validation_fraction=0.0)
    with pytest.raises(ValueError, match="no names"):
        dinojax.advise([""])
