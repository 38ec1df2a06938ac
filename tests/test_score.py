"""Scores of strings under a model, and the command `score` from end to end."""

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache, partial
from itertools import pairwise, product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from test_scripts import (
    ENVIRONMENT,
    SCRIPTS,
    TERMINAL,
    assert_one_line,
    finish,
    flip_byte,
    here,
    lines,
    start,
)

from dinojax.cli.colours import width
from dinojax.cli.main import call
from dinojax.cli.terminal import Program
from dinojax.data.batches import Batch, pad_names
from dinojax.data.vocab import Vocab, build_vocab
from dinojax.evaluation import losses as evaluate
from dinojax.evaluation import strings
from dinojax.evaluation.losses import log_probability
from dinojax.evaluation.strings import share_below
from dinojax.models.cells import gru, lstm, vanilla
from dinojax.models.layers import from_cell
from dinojax.models.model import char_model
from dinojax.models.trained import Trained
from dinojax.runs import folder as runs
from dinojax.sampling.draw import sample_names
from dinojax.sampling.stream import stream_names
from dinojax.training.loss import mean_cross_entropy

from in_process import Output

NAMES = ["rex", "triceratops", "yi", "mei", "iguanodon"]
VOCAB = build_vocab(NAMES)
SMALL = Vocab("\nab")


@cache
def make_model(dtype="float32"):
    layers = [from_cell(gru(VOCAB.size, 6, dtype)), from_cell(lstm(6, 5, dtype))]
    # Dropout is for training alone.
    return char_model(layers, VOCAB, dtype=dtype, dropout=0.5)


@cache
def make_small_model():
    return char_model([from_cell(vanilla(SMALL.size, 6))], SMALL)


def make_params(model, seed=0):
    """Parameters large enough that a state matters to all that follows."""
    return jax.tree.map(lambda x: 2 * x + 0.1, model.init(jax.random.key(seed)))


@cache
def compiled_step(model):
    return jax.jit(model.step)


@cache
def compiled(model):
    return jax.jit(partial(log_probability, model=model))


def score_all(params, model, examples):
    return np.asarray(compiled(model)(params, examples=examples), float)


def slow(params, model, ids):
    """The log-probability of each character, one step of the model at a time."""
    step, state, previous = compiled_step(model), model.initial_state(()), model.vocab_size
    found = []
    for target in map(int, ids):
        state, logits = step(params, state, previous)
        logits = np.asarray(logits, float)
        largest = logits.max()
        found.append(logits[target] - largest - math.log(np.exp(logits - largest).sum()))
        previous = target
    return np.array(found)


# In the library.


def test_log_probabilities_are_those_of_single_steps(x64):
    model = make_model("float64")
    params, examples = make_params(model), pad_names(NAMES, VOCAB)
    each = score_all(params, model, examples)
    assert each.shape == examples.weights.shape
    for name, column in zip(NAMES, each.T, strict=True):
        expected = slow(params, model, [*VOCAB.encode(name), VOCAB.newline])
        np.testing.assert_allclose(column[: len(name) + 1], expected, rtol=0, atol=1e-12)
        assert not column[len(name) + 1 :].any()


def test_one_string_and_a_batch_are_the_same_code():
    model, examples = make_model(), pad_names(NAMES, VOCAB)
    params = make_params(model)
    each = score_all(params, model, examples)
    for i in range(len(NAMES)):
        alone = score_all(params, model, Batch(*(field[:, i] for field in examples)))
        np.testing.assert_allclose(alone, each[:, i], rtol=1e-5, atol=1e-6)


def test_weights_scale_the_scores():
    model, examples = make_model(), pad_names(NAMES, VOCAB)
    params = make_params(model)
    half = score_all(params, model, examples._replace(weights=examples.weights / 2))
    np.testing.assert_allclose(half, score_all(params, model, examples) / 2, rtol=1e-6)


def test_scores_equal_the_log_probabilities_of_the_sampler():
    model = make_small_model()
    params = make_params(model)
    # Of 9 characters at most: some are cut.
    sizes = {"num": 300, "max_length": 9}
    write = jax.jit(partial(sample_names, model=model, **sizes))
    samples = jax.device_get(write(jax.random.key(0), params))
    assert 20 < samples.ended.sum() < 300
    names = [
        SMALL.decode(ids[:length])
        for ids, length, ended in zip(samples.ids, samples.lengths, samples.ended, strict=True)
        if ended
    ]
    totals = score_all(params, model, pad_names(names, SMALL)).sum(axis=0)
    expected = samples.log_probabilities[samples.ended]
    np.testing.assert_allclose(totals, expected, rtol=0, atol=1e-5)


def test_the_probabilities_of_all_strings_sum_to_one():
    """The strings that end within a length, and those that are cut there."""
    model = make_small_model()
    params = make_params(model)

    names = ["".join(letters) for length in range(8) for letters in product("ab", repeat=length)]
    whole = pad_names(names, SMALL)
    # The same without their newlines.
    weights = np.where(whole.targets == SMALL.newline, 0, whole.weights)
    ended, begun = (
        np.exp(score_all(params, model, whole._replace(weights=x)).sum(axis=0))
        for x in (whole.weights, weights)
    )
    lengths = np.array(list(map(len, names)))
    for length in range(7):
        total, cut = ended[lengths <= length].sum(), begun[lengths == length + 1].sum()
        assert 0.01 < total < 1
        assert cut > 0.01
        assert total + cut == pytest.approx(1, abs=1e-5)


def test_the_gradient_is_that_of_the_mean_loss(x64):
    model, examples = make_model("float64"), pad_names(NAMES, VOCAB)
    params = make_params(model)

    def mean(params):
        return -log_probability(params, model, examples).sum() / float(examples.weights.sum())

    def loss(params):
        inputs, targets, weights = map(jnp.asarray, examples)
        _, logits = model.unroll(params, model.initial_state((len(NAMES),)), inputs)
        total, num = mean_cross_entropy(logits, targets, weights)
        return total / num

    value, gradient = jax.jit(jax.value_and_grad(mean))(params)
    expected_value, expected = jax.jit(jax.value_and_grad(loss))(params)
    assert float(value) == pytest.approx(float(expected_value), rel=1e-12)
    assert any(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(gradient))
    for ours, theirs in zip(*map(jax.tree.leaves, (gradient, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-14)
    check_grads(jax.jit(mean), (params,), order=1, modes=["rev"])


def test_one_compilation_for_all_parameters():
    model, examples = make_model(), pad_names(NAMES, VOCAB)
    traces = []

    @jax.jit
    def total(params):
        traces.append(None)
        return log_probability(params, model, examples).sum()

    assert len({float(total(make_params(model, seed))) for seed in range(3)}) == 3
    assert len(traces) == 1


def test_shares_below_by_counting():
    generator = np.random.default_rng(0)
    samples, values = generator.integers(0, 20, 101), np.arange(-1, 22)
    expected = [
        sum(1.0 if sample < value else 0.5 * (sample == value) for sample in samples) / 101
        for value in values
    ]
    actual = share_below(values, samples)
    np.testing.assert_allclose(actual, expected, rtol=1e-15)
    assert {0.0, 1.0} < set(actual.tolist())
    # Shares of the samples themselves are uniform, with a mean of exactly one half.
    assert share_below(samples, samples).mean() == pytest.approx(0.5, rel=1e-14)


def test_ranks_are_shares_of_new_names():
    trained = Trained(make_small_model(), make_params(make_small_model()), SMALL)
    names = ["ab", "", "aabb", "ab"]
    scores = strings.score(trained, names, seed=3, num_samples=500)
    assert scores.names == names
    columns = pad_names(names, SMALL)
    each = -score_all(trained.params, trained.model, columns)
    np.testing.assert_allclose(scores.log_probabilities, -each.sum(axis=0), rtol=1e-5)
    lengths = columns.weights.sum(axis=0)
    bits = each.sum(axis=0) / math.log(2) / lengths
    np.testing.assert_allclose(scores.bits_per_character, bits, rtol=1e-5)
    for nats, column, length in zip(scores.character_nats, each.T, lengths, strict=True):
        np.testing.assert_allclose(nats, column[: int(length)], rtol=1e-4, atol=1e-5)
    write = jax.jit(partial(stream_names, model=trained.model, num=500, max_length=1_000))
    samples = jax.device_get(write(jax.random.key(3), trained.params))
    drawn = [
        (SMALL.decode(ids[:length]), total)
        for ids, length, total in zip(
            samples.ids, samples.lengths, samples.log_probabilities, strict=True
        )
    ]
    for name, rank, total in zip(names, scores.ranks, scores.log_probabilities, strict=True):
        ties = sum(other == name for other, _ in drawn)
        below = sum(x < total for other, x in drawn if other != name)
        assert rank == pytest.approx((below + ties / 2) / 500)
    # Without training names there is nothing to compare with.
    assert (len(scores.in_training_data), scores.nearest, len(scores.distances)) == (0, [], 0)


def test_strings_without_a_score_are_refused():
    trained = Trained(make_model(), make_params(make_model()), VOCAB)
    unknown = "'k' at position 2 is not in the vocabulary"
    for score in strings.score, strings.names_nats:
        with pytest.raises(ValueError, match=f"^'mek': {unknown}"):
            score(trained, ["rex", "mek"])
        with pytest.raises(ValueError, match=r"without newlines, got 'me\\ni'"):
            score(trained, ["rex", "me\ni"])
        with pytest.raises(ValueError, match="at least one name, got none"):
            score(trained, [])
    with pytest.raises(ValueError, match="expected a list of names, got the string 'rex'"):
        strings.score(trained, "rex")
    with pytest.raises(ValueError, match=f"^{unknown}"):
        strings.score_text(trained, "mek")
    with pytest.raises(ValueError, match="expected a text, got an empty one"):
        strings.score_text(trained, "")


# The script.

# The flags of this process, which compile faster.
FLAGS = {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}
ODD_NAMES = [
    "áda",
    "щит",
    "x\u0301a",
    "日本語",
    "a\u2028b",
    "zoë",
    "\U0001f995é",
    "e\x1b[1mx",
    "a\tb",
]
ESCAPES = str.maketrans({"\x1b": r"\x1b", "\u2028": r"\u2028"})
POEM = "Forsooth this maketh no sense\nÁnd yet it rhymes\x1b\n\nx\u0301" * 30
FIGURES = [
    "name", "log_probability", "bits_per_character", "rank", "in_training_data", "nearest",
    "distance",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on odd names, which it memorises, and one on a text."""
    folder = tmp_path_factory.mktemp("score")
    (folder / "odd.txt").write_text("\n".join(ODD_NAMES) + "\n", "utf-8")
    (folder / "poem.txt").write_text(POEM, "utf-8")
    small = "--hidden-size=12", "--learning-rate=0.03"
    trainings = {
        "names": ("--data=odd.txt", "--steps=1000", *small),
        "text": ("text", "--data=poem.txt", "--steps=40", "--batch-size=4", "--window=16", *small),
    }
    for name, arguments in trainings.items():
        result = here("train.py", *arguments, f"--out={name}", cwd=folder)
        assert (result.code, result.err) == (0, ""), result.err
    return folder


def score(place, *arguments, terminal=False, **environment):
    """What the script says, in this process, which saves it the start."""
    out, err = Output(terminal), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        patch.chdir(place)
        # JAX has started.
        patch.setattr("dinojax.cli.score.start_jax", lambda: None)
        patch.delenv("NO_COLOR", raising=False)
        patch.setenv("TERM", "xterm-256color")
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            code = call(Program("score", "score.py"), [*map(str, arguments)])
        except SystemExit as end:
            code = end.code
    return SimpleNamespace(code=code, out=out.text(), err=err.getvalue())


def refused(place, *arguments):
    """The one-line message for bad input."""
    result = score(place, *arguments)
    assert_one_line(result, "score.py", code=2)
    assert result.out == ""
    return result.err


def rows_of(result):
    assert (result.code, result.err) == (0, ""), result.err
    return [json.loads(line, parse_constant=pytest.fail) for line in lines(result.out)]


def load(place, name):
    return runs.load_run(place / name)


def trained_of(loaded):
    return Trained(loaded.model, loaded.params, loaded.vocab)


def costs(loaded, names):
    """Minus the log-probability of each name and its newline in nats."""
    return evaluate.column_evaluation(loaded.model, pad_names(names, loaded.vocab))(
        loaded.params
    ).nats


@pytest.fixture(scope="module")
def drawn(place):
    """The 10,000 names of seed 3: name, whether it ended, and log-probability."""
    loaded = load(place, "names")
    write = jax.jit(lambda key: stream_names(key, loaded.params, loaded.model, 10_000, 1_000))
    samples = jax.device_get(write(jax.random.key(3)))
    names = [
        loaded.vocab.decode(ids[:n]) for ids, n in zip(samples.ids, samples.lengths, strict=True)
    ]
    return list(zip(names, samples.ended, samples.log_probabilities.tolist(), strict=True))


@pytest.fixture(scope="module")
def answers(place):
    """Output of processes: names as --json and in a terminal with colours; a text."""
    # Names as a person may write them; an unknown one occurs twice.
    names = ["ZOË", " a\u0301da ", "X\u0301A", "\U0001f995é", "E\x1b[1mX", "zab", "щи", "zab"]
    command = "names", "--characters", "--seed=3", "--names", *names
    processes = [start("score.py", "--json", *command, cwd=place, **FLAGS)]
    in_colour = {name: x for name, x in ENVIRONMENT.items() if name != "NO_COLOR"}
    in_colour["TERM"] = "xterm-256color"
    terminal = [sys.executable, "-c", TERMINAL, sys.executable, str(SCRIPTS / "score.py"), *command]
    processes.append(
        subprocess.Popen(
            terminal,
            cwd=place,
            env=in_colour | FLAGS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    )
    as_json, in_terminal = map(finish, processes)
    text = start(
        "score.py", "text", "--file=poem.txt", "--json", "--characters", cwd=place, **FLAGS
    )
    assert in_terminal.code == 0
    return SimpleNamespace(
        rows=rows_of(as_json),
        terminal=in_terminal.out.replace("\r\n", "\n"),
        command=command,
        text=rows_of(finish(text)),
    )


def test_scores_of_names_equal_those_of_the_library(place, answers, drawn):
    loaded = load(place, "names")
    names = [row["name"] for row in answers.rows]
    expected = ["zoë", "áda", "x\u0301a", "\U0001f995é", "e\x1b[1mx", "zab", "щи", "zab"]
    assert names == expected
    for row, nats in zip(answers.rows, costs(loaded, names), strict=True):
        assert list(row) == [*FIGURES, "bits"]
        bits = nats / math.log(2)
        assert row["log_probability"] == pytest.approx(-nats, rel=2e-5)
        assert row["bits_per_character"] == pytest.approx(bits / (len(row["name"]) + 1), rel=2e-5)
        ids = [*loaded.vocab.encode(row["name"]), loaded.vocab.newline]
        each = -slow(loaded.params, loaded.model, ids) / math.log(2)
        np.testing.assert_allclose(row["bits"], each, rtol=1e-4, atol=1e-5)
        assert row["in_training_data"] == (row["name"] in ODD_NAMES)
    assert answers.rows[5] == answers.rows[7]
    nearest = [(row["nearest"], row["distance"]) for row in answers.rows]
    assert nearest[:5] == [(name, 0) for name in names[:5]]
    # "zoë" and "a\tb" are as near to "zab", but come later in the file.
    assert nearest[5:7] == [("a\u2028b", 2), ("щит", 1)]
    # A name ties only with its own copies among the draws.
    for row in answers.rows:
        ties = sum(ended and name == row["name"] for name, ended, _ in drawn)
        below = sum(
            total < row["log_probability"]
            for name, ended, total in drawn
            if not (ended and name == row["name"])
        )
        assert row["rank"] == pytest.approx((below + ties / 2) / 10_000, abs=3e-4)
    assert sum(name == "zoë" for name, *_ in drawn) > 200
    assert 0.9 > answers.rows[0]["rank"] > answers.rows[5]["rank"]


def test_the_table_is_the_json_rounded(place, answers):
    table, *_ = answers.terminal.split("\n\nbits  ")
    title, blank, head, *body, _, _, _ = table.split("\n")
    assert title == f"names after {load(place, 'names').step:,} steps"
    assert blank == ""
    assert head.split("  ")[-1] == "nearest (edits)"
    for row, line in zip(answers.rows, body, strict=True):
        name = row["name"].translate(ESCAPES)
        assert line.startswith(name)
        expected = [
            f"{row['log_probability']:.3f}",
            f"{row['bits_per_character']:.4f}",
            f"{row['rank']:.2%}",
            "yes" if row["in_training_data"] else "no",
        ]
        nearest = row["nearest"].translate(ESCAPES)
        assert line.removeprefix(name).split(maxsplit=4) == [
            *expected,
            f"{nearest} ({row['distance']})",
        ]
    # Columns are aligned by displayed width, not by code points.
    ends = [line.index("%") for line in body]
    shown = {"zoë": 3, "x\u0301a": 2, "\U0001f995é": 3, "e\x1b[1mx": 9}
    for row, end in zip(answers.rows, ends, strict=True):
        name = row["name"].translate(ESCAPES)
        missing = shown.get(row["name"], len(name)) - len(name)
        assert end + missing == head.index("rank") + 3


def luminance(colour):
    """Luminance of a colour of the 256-colour cube, from 0 to 1 (WCAG 2)."""
    digits = (colour - 16) // 36, (colour - 16) // 6 % 6, (colour - 16) % 6
    levels = [[0, 95, 135, 175, 215, 255][digit] / 255 for digit in digits]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in levels]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_in_a_terminal(answers):
    scale, *body = answers.terminal.split("\n\nbits  ")[1].rstrip("\n").split("\n")
    cell = re.compile(r"\x1b\[48;5;(\d+);38;5;(\d+)m([^\x1b]+)\x1b\[0m")
    legend = cell.findall(scale)
    assert [text.strip() for *_, text in legend] == ["0", "1", "2", "3", "4", "5", "6+"]
    colours = [int(background) for background, *_ in legend]
    lights = list(map(luminance, colours))
    # Lightness increases, so the order does not depend on hue, and the text is legible.
    assert all(b > a + 0.02 for a, b in pairwise(lights))
    inks = {}
    for (_, ink, _), light in zip(legend, lights, strict=True):
        dark, bright = sorted([light, luminance(int(ink))])
        assert (bright + 0.05) / (dark + 0.05) > 4.5
        inks[len(inks)] = ink
    assert body.pop(0) == ""
    assert len(body) == len(answers.rows)
    used = set()
    for row, line in zip(answers.rows, body, strict=True):
        found = cell.findall(line)
        # Nothing else is printed, and no name sends control sequences to the terminal.
        assert "\x1b" not in cell.sub("", line)
        assert cell.sub("", line) == ""
        shown = [
            {"\x1b": "\\x1b", "\n": "\\n", "\u0301": "◌\u0301"}.get(c, c)
            for c in f"{row['name']}\n"
        ]
        assert [text for *_, text in found] == shown
        levels = [min(int(bits), 6) for bits in row["bits"]]
        assert [int(background) for background, *_ in found] == [colours[i] for i in levels]
        assert [ink for _, ink, _ in found] == [inks[i] for i in levels]
        used.update(levels)
    assert len(used) > 3


def test_numbers_elsewhere_and_where_colours_are_not_wanted(place, answers):
    plain = score(place, *answers.command)
    assert (plain.code, plain.err) == (0, "")
    assert "\x1b" not in plain.out
    body = plain.out.removesuffix("\n").split("bits of each character\n\n")[1].split("\n")
    for row, line in zip(answers.rows, body, strict=True):
        marks = {"\x1b": "\\x1b", "\n": "\\n", "\u0301": "◌\u0301"}
        expected = [marks.get(c, c) for c in f"{row['name']}\n"]
        found = [cell.split(" ") for cell in line.split("  ")]
        assert [text for text, _ in found] == expected
        np.testing.assert_allclose([float(x) for _, x in found], row["bits"], atol=6e-3)
    of_text = "text", "--file=poem.txt", "--characters"
    expected = score(place, *of_text)
    assert "\x1b" not in expected.out
    for plain in {"NO_COLOR": "1"}, {"TERM": "dumb"}:
        assert score(place, *of_text, terminal=True, COLUMNS="1000", **plain) == expected
    # An empty one does not count.
    assert "\x1b[48;5;" in score(place, *of_text, terminal=True, NO_COLOR="").out
    assert "\x1b[48;5;" in score(place, *of_text, terminal=True).out


@pytest.mark.parametrize("looks", [{}, {"NO_COLOR": "1"}])
def test_rows_of_characters_fit_the_terminal(place, looks):
    of_text = "text", "--file=poem.txt", "--characters"

    def rows(columns):
        out = score(place, *of_text, terminal=True, COLUMNS=str(columns), **looks).out
        *_, shown = re.sub("\x1b.*?m", "", out).removesuffix("\n").split("\n\n")
        return shown.split("\n")

    lines_of_poem, narrow = rows(10_000), rows(20)
    assert max(map(width, narrow)) <= 20 < max(map(width, lines_of_poem))
    # Each row but the last of a line has no room for what begins the next.
    at = iter(narrow)
    for line in lines_of_poem:
        joined, row = next(at), None
        while joined != line:
            between = "  " if looks else ""
            row = next(at)
            joined += between + row
            assert line.startswith(joined)


def test_names_in_python_have_the_scores_that_the_command_prints(place, answers):
    loaded, names = load(place, "names"), [row["name"] for row in answers.rows]
    scores = strings.score(trained_of(loaded), names, learned=ODD_NAMES, seed=3)
    assert scores._fields == (
        "names", "character_nats", "log_probabilities", "bits_per_character", "ranks",
        "in_training_data", "nearest", "distances", "labels", "label_probabilities",
    )  # fmt: skip
    assert len(scores.labels) == len(scores.label_probabilities) == 0
    close = {"rtol": 1e-4, "atol": 1e-4}
    for i, row in enumerate(answers.rows):
        np.testing.assert_allclose(scores.character_nats[i] / math.log(2), row["bits"], **close)
        floats = scores.log_probabilities[i], scores.bits_per_character[i], scores.ranks[i]
        expected = row["log_probability"], row["bits_per_character"], row["rank"]
        np.testing.assert_allclose(floats, expected, **close)
        assert scores.in_training_data[i] == row["in_training_data"]
        assert (scores.nearest[i], scores.distances[i]) == (row["nearest"], row["distance"])


def test_a_text_in_python_has_the_score_that_the_command_prints(place, answers):
    score = strings.score_text(trained_of(load(place, "text")), POEM)
    expected = answers.text[0]
    found = score._asdict()
    np.testing.assert_allclose(found.pop("character_nats") / math.log(2), expected["bits"], 1e-4)
    assert found == pytest.approx({name: expected[name] for name in found}, rel=2e-5)
    assert list(expected) == ["file", *found, "bits"]


def test_a_file_of_names_is_read_as_the_run_reads_it(place, answers, tmp_path):
    content = "\ufeffZOË\r\n\r\n  a\u0301da\t\r\nX\u0301A\n\U0001f995é\nE\x1b[1mX\nzab\nЩИ\nzab"
    (tmp_path / "some.txt").write_text(content, "utf-8", newline="")
    command = "names", "--file", tmp_path / "some.txt", "--json", "--seed=3"
    result = score(place, *command)
    stripped = "white space at the ends of 1 line dropped"
    note = f"1 blank line skipped, {stripped}, 1 duplicate kept"
    assert result.err == f"score.py: note: {tmp_path / 'some.txt'}: {note}\n"
    result.err = ""
    for row, expected in zip(rows_of(result), answers.rows, strict=True):
        assert list(row) == FIGURES
        assert row == {
            name: pytest.approx(expected[name], rel=1e-4, abs=3e-4)
            if isinstance(expected[name], float)
            else expected[name]
            for name in FIGURES
        }


@pytest.mark.parametrize("at_once", [25, 100])
def test_a_long_name_does_not_pad_the_short_ones(place, at_once):
    loaded, shapes = load(place, "names"), []

    def unroll(params, state, inputs, **options):
        shapes.append(inputs.shape)
        return loaded.model.unroll(params, state, inputs, **options)

    trained = trained_of(loaded)._replace(model=loaded.model._replace(unroll=unroll))
    names = [*["zoë", "x", "щитщитщит", "zab"] * 9, "áda" * 90, *["日本語", "a\tb"] * 7]
    found = strings.names_nats(trained, names, at_once)
    assert [len(each) for each in found] == [len(name) + 1 for name in names]
    totals = [each.sum() for each in found]
    np.testing.assert_allclose(totals, costs(loaded, names), rtol=2e-5)
    # The long name by itself, the others in blocks of bounded size; each shape compiles once.
    long, *others = shapes
    assert long == (512, 1)
    assert max(time * num for time, num in others) <= at_once
    assert len(set(shapes)) == len(shapes)


def test_the_seed_decides_which_names_are_drawn(place, answers):
    command = "names", "--json", "--names", "zoë"
    default, one = (rows_of(score(place, *command, *flag))[0] for flag in ([], ["--seed=1"]))
    assert len({default["rank"], one["rank"], answers.rows[0]["rank"]}) == 3
    # Each share of 10,000 has a standard deviation of at most half a percent.
    assert abs(one["rank"] - default["rank"]) < 0.03
    assert one["log_probability"] == default["log_probability"]


def text_nats(loaded):
    ids = jnp.asarray(loaded.vocab.encode(POEM))
    read = jax.jit(lambda params: evaluate.nats_carried(params, loaded.model, ids))
    return np.asarray(read(loaded.params), float)


def test_best_last_or_any_checkpoint(place, tmp_path):
    shutil.copytree(place / "text", tmp_path / "text")
    command = "text", "--json", f"--file={place / 'poem.txt'}"
    *_, older, newest = runs.find_checkpoints(tmp_path / "text")
    step = str(int(older.stem.split("-")[1]))
    totals = [text_nats(runs.load_run(place / "text", each)).sum() for each in (step, "last")]
    assert totals[0] > 1.001 * totals[1]
    for which, total in zip((step, "last"), totals, strict=True):
        (row,) = rows_of(score(place, *command, f"--which={which}"))
        assert row["nats"] == pytest.approx(total, rel=2e-5)
    flip_byte(newest)
    result = score(tmp_path, *command, "--which=last")
    path = newest.relative_to(tmp_path)
    assert result.err == f"score.py: note: {path} could not be read; using {older.name}\n"
    assert json.loads(result.out)["nats"] == pytest.approx(totals[0], rel=2e-5)


def test_the_score_of_a_text_equals_that_of_the_library(place, answers):
    loaded, (row,) = load(place, "text"), answers.text
    nats = text_nats(loaded)
    figures = evaluate.summarize(evaluate.in_blocks(nats))
    assert row.pop("file") == "poem.txt"
    np.testing.assert_allclose(row.pop("bits"), nats / math.log(2), rtol=1e-4, atol=1e-5)
    names = "nats_per_character", "bits_per_character", "perplexity"
    expected = {"num_characters": len(POEM), "nats": nats.sum()}
    expected |= {name: figures[name] for name in names}
    assert row == pytest.approx(expected, rel=2e-5)
    result = score(place, "text", "--file=poem.txt", "--characters")
    title, _, first, second, *_ = result.out.split("\n")
    assert title == f"text after {loaded.step} steps"
    assert first == f"poem.txt: {len(POEM):,} characters, {row['nats']:,.2f} nats"
    assert second == (
        f"{row['nats_per_character']:.4f} nats and {row['bits_per_character']:.4f} bits a "
        f"character, perplexity {row['perplexity']:.3f}"
    )
    body = result.out.split("bits of each character\n\n")[1].removesuffix("\n").split("\n")
    marks = {"\x1b": "\\x1b", "\n": "\\n", "\u0301": "◌\u0301"}
    shown = ["".join(re.findall(r"(\S+| ) \d+\.\d\d(?:  |$)", line)) for line in body]
    written = "".join(marks.get(c, c) + ("\n" if c == "\n" else "") for c in POEM)
    assert shown == written.split("\n")


def test_names_may_stand_among_the_flags(place):
    expected = rows_of(score(place, "names", "--json", "--names", "zoë", "áda", "x"))
    for command in (
        ["names", "zoë", "áda", "x", "--json"],
        ["--json", "names", "zoë", "áda", "x"],
        ["names", "--json", "zoë", "áda", "x"],
        ["names", "zoë", "--json", "áda", "x"],
        ["names", "zoë", "--json", "--names", "áda", "x"],
    ):
        assert rows_of(score(place, *command)) == expected, command
    lines = score(place, "names", "zoë").out.split("\n")
    assert lines[2].split()[:4] == ["log-probability", "bits", "a", "character"]
    assert float(lines[3].split()[1]) < 0


def test_a_text_on_the_command_line_scores_as_in_a_file(place):
    command = "text", "--json", "--characters"
    (row,) = rows_of(score(place, *command, "--text", POEM))
    (expected,) = rows_of(score(place, *command, "--file=poem.txt"))
    assert row.pop("text") == POEM
    assert expected.pop("file") == "poem.txt"
    assert row == expected
    first = score(place, "text", "--text", "sense\n").out.split("\n")[2]
    assert first.startswith("'sense\\n': 6 characters, ")


def test_bad_input_is_one_line(place, tmp_path):
    files = {
        "empty.txt": "", "blank.txt": "\n \r\n", "odd.txt": "zoë\náda!\n", "long.txt": "a" * 1001
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(content, "utf-8")
    (tmp_path / "bytes.txt").write_bytes(b"zo\xff")
    (tmp_path / "no run").mkdir()
    unknown = "'!' at position 3 is not in the vocabulary"
    cases = [
        (["names"], "nothing to score: give names, --file FILE, --text TEXT"),
        (["names", "--names", "zoë", "--file=odd.txt"], "names and --file FILE exclude each other"),
        (["names", "zoë", "--file=odd.txt"], "names and --file FILE exclude each other"),
        (["text", "--text=a", "--file=odd.txt"], "--file FILE and --text TEXT exclude each other"),
        (["names", "zoë", "-x"], "unknown argument -x; see --help"),
        (["names", "--text=zoë"], "--text is for runs of a text; names learned names"),
        (["text", "--text="], "--text: expected a text, got an empty one"),
        (["text", "--text=ada\0"], "--text: line 1 holds NUL"),
        (["text", "--text=ah☃"], "--text: '☃' at position 2 is not in the vocabulary"),
        (["text", "And"], "text learned a text: names are for runs of names; give --text TEXT"),
        (["names", "--names"], "--names: expected at least one argument"),
        (["names", "--names", "zoë", ""], "error: name 2 is empty; expected a name"),
        (["names", "--names", " \t "], "error: name 1 is empty"),
        (["names", "--names", "zoë", "ÁDA!"], f"error: 'áda!': {unknown}"),
        (["names", "--names", "-5", "-6"], "error: '-5': '-' at position 0"),
        (["names", "--names=--a", "--names=b"], "error: '--a': '-' at position 0"),
        (["names", "--names", "zo\udcff"], "'zo\\udcff': '\\udcff' at position 2 is not in"),
        (["names", "--names", "zoë\náda"], "names without newlines, got 'zoë\\náda'"),
        (["names", "--names", "a" * 1001], "name 1 has 1,001 characters; names may have up to"),
        (["names", "--file", tmp_path / "odd.txt"], f"error: 'áda!': {unknown}"),
        (["names", "--file", tmp_path / "empty.txt"], "empty.txt: no names"),
        (["names", "--file", tmp_path / "blank.txt"], "blank.txt: no names"),
        (["names", "--file", tmp_path / "long.txt"], "long.txt: line 1: a name of 1,001"),
        (["names", "--file", tmp_path / "bytes.txt"], "bytes.txt is not UTF-8 text"),
        (["names", "--file=missing.txt"], "missing.txt: No such file"),
        (["names", "--names", "zoë", "--seed=-1"], "--seed"),
        (["names", "--names", "zoë", f"--seed={2**32}"], "--seed"),
        (["names", "--names", "zoë", "--which=first"], "expected best, last or a number of steps"),
        (["names", "--names", "zoë", "--which=7"], "has no checkpoint of step 7"),
        (["names", "--name", "zoë"], "did you mean --names?"),
        (["missing", "--names", "zoë"], "missing is not a folder"),
        ([tmp_path / "no run", "--names", "zoë"], "no run is not a run"),
        (["--file=odd.txt"], "required: RUN"),
        (["text", "--names", "And"], "text learned a text: names are for runs of names; give --t"),
        (["text", "--file=poem.txt", "--seed=1"], "--seed is for runs of names; text learned"),
        (["text", "--file", tmp_path / "empty.txt"], "empty.txt is empty; expected a text"),
        (["text", "--file", tmp_path / "odd.txt"], "odd.txt: 'z' at position 0 is not in the"),
    ]
    for command, says in cases:
        assert says in refused(place, *command), command


def test_changed_training_data_is_refused(place, tmp_path):
    shutil.copytree(place / "names", tmp_path / "names")
    (tmp_path / "names" / "train.txt").write_text("rex\n")
    said = refused(tmp_path, "names", "--names", "zoë")
    assert "train.txt was changed after training" in said
