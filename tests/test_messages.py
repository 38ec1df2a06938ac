"""What reaches a terminal: one line, visible and short, whatever a user, a file or a name holds."""

import io
import json
import sys
import unicodedata
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dinojax.cli import (
    advise,
    evaluate,
    export,
    import_,
    jobs,
    mix,
    ngram,
    page,
    plot,
    reproduce,
    sample,
    score,
    search,
    sweep,
)
from dinojax.cli import next as next_
from dinojax.cli.colours import painted
from dinojax.cli.main import COMMANDS, answer, call
from dinojax.cli.terminal import MOST_SAID, Program, json_encoder, run
from dinojax.config import TrainConfig, config_from
from dinojax.data.vocab import build_vocab
from dinojax.evaluation import exercise
from dinojax.evaluation.exercise import Progress
from dinojax.messages import JOINERS, MOST_QUOTED, quoted, shortened, visible
from dinojax.runs import checkpoint

STEERING = (
    "\x00\t\n\r\x1b\x7f\x9b\xad\u061c\u200b\u200e\u200f\u2028\u2029\u202e\u2066\ufeff\U000e0041"
)
HOSTILE = st.one_of(
    st.text(st.sampled_from("ab /.-=" + STEERING[1:] + "é日\u200d"), min_size=1, max_size=20),
    st.builds(str.__mul__, st.sampled_from(["a", "\u202e", "ab ", "\x1b[31m"]), st.just(5_000)),
)
"""Texts such as an argument or a file may hold: no argument holds NUL."""
QUICK = settings(
    derandomize=True,
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def is_safe(text):
    """Whether a text may stand in a line of a terminal, by the categories of Unicode alone."""
    special = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return all(unicodedata.category(c) not in special or c in JOINERS for c in text)


def test_what_steers_a_terminal_is_escaped_and_scripts_are_not():
    assert visible("a\x1b[31mb\tc\x9bd\u202e\u2028\U000e0041") == (
        r"a\x1b[31mb\tc\x9bd\u202e\u2028\U000e0041"
    )
    assert all(is_safe(visible(c)) and visible(c) != c for c in [*STEERING, "\udcff"])
    for text in (
        "Щит é 日本語 \U0001f995",
        "\u06cc\u200c\u062e",
        "\U0001f469\u200d\U0001f52c",
        "\u3000",
    ):
        assert visible(text) == text


@QUICK
@given(st.text())
def test_any_text_becomes_visible_and_its_json_is_the_same_text(text):
    assert is_safe(visible(text))
    assert len(quoted(text * 1000)) <= MOST_QUOTED + 6
    for encoding in "utf-8", "ascii":
        encoded = json_encoder(encoding)({"x": [text]})
        assert is_safe(encoded)
        assert json.loads(encoded) == {"x": [text]}


def test_json_has_no_number_that_is_not_finite():
    values = {"a": float("nan"), "b": [float("inf"), {"c": -float("inf")}], "d": 1.5}
    for indent in None, 1:
        written = json_encoder(indent=indent)(values)
        assert json.loads(written, parse_constant=pytest.fail) == {
            "a": None, "b": [None, {"c": None}], "d": 1.5
        }  # fmt: skip
    assert json_encoder("ascii")("é") == '"\\u00e9"'


def test_a_long_text_keeps_its_ends():
    assert shortened("abc", 3) == "abc"
    assert shortened("abcdefgh", 4) == "ab [..] gh"


@pytest.mark.parametrize("bits", [float("nan"), float("inf"), 1e300, 0.0])
def test_any_surprisal_has_a_colour(bits):
    assert "x" in painted("x", bits)


def test_a_closed_input_is_an_empty_one(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def main():
        with sys.stdin as file:
            return len(file.read())

    with pytest.raises(SystemExit) as end:
        run(Program("sample", "dinojax"), main)
    assert end.value.code == 0


def test_a_loss_that_is_not_finite_is_shown_as_such_and_null_in_json(
    tmp_path, no_jax, monkeypatch, capsys
):
    monkeypatch.setattr(exercise, "replay", lambda *_: [Progress(0, float("nan"), ["a\u202e"])])
    file = tmp_path / "log.json"
    assert call(Program("reproduce", "dinojax"), ["--json", str(file)]) == 0
    assert json.loads(file.read_text(), parse_constant=pytest.fail) == {
        "smooth_loss": {"0": None}, "names": {"0": ["A\u202e"]}
    }  # fmt: skip
    assert "Loss: nan" in capsys.readouterr().out


# Messages of commands.


def said_by(command, *arguments):
    """What a command prints before it would start JAX, in this process; it must fail."""
    out, err = io.StringIO(), io.StringIO()
    program = Program(command, "dinojax")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        # `run` would leave Ctrl-C without an effect.
        patch.setattr("signal.signal", lambda *_: None)
        with pytest.raises(SystemExit) as end:
            run(program, lambda: call(program, arguments))
    assert end.value.code == 2
    return err.getvalue()


def assert_one_safe_line(said):
    assert said.endswith("\n")
    assert is_safe(said[:-1]), said
    assert len(said) <= MOST_SAID + 50


@pytest.fixture
def no_jax(monkeypatch):
    for module in (
        advise, evaluate, export, import_, jobs, mix, next_, ngram, page, plot, reproduce, sample,
        score, search, sweep,
    ):  # fmt: skip
        monkeypatch.setattr(module, "start_jax", lambda *_: None)


CASES = [
    ("train", ["{}"]),
    ("train", ["names", "{}"]),
    ("train", ["{}", "--data=none"]),
    ("train", ["--{}"]),
    ("train", ["--data={}"]),
    ("train", ["--data=http://{}"]),
    ("train", ["--config={}"]),
    ("train", ["--init-from={}"]),
    ("train", ["--resume={}"]),
    ("train", ["--steps={}"]),
    ("train", ["--cell={}"]),
    ("train", ["--column={}"]),
    ("train", ["--count-column={}"]),
    ("train", ["--label-column={}"]),
    ("train", ["text", "--column={}"]),
    ("train", ["--loss={}.py:f"]),
    ("train", ["--learning-rate={}"]),
    ("train", ["ngram", "--data={}"]),
    ("sweep", ["--data={}"]),
    ("sweep", ["--resume={}"]),
    ("sweep", ["--baseline={}"]),
    ("sweep", ["--baseline={}=1"]),
    ("sweep", ["--search=2", "--learning-rate={}:1"]),
    ("sweep", ["--search=2", "--learning-rate=1e-3:1", "--data={}"]),
    ("advise", ["--data={}"]),
    ("advise", ["--data=none", "--minutes={}"]),
    ("prepare", ["--data={}"]),
    ("prepare", ["--data=none", "--column={}"]),
    ("doctor", ["{}"]),
    ("sample", ["{}"]),
    ("sample", ["none", "{}"]),
    ("sample", ["none", "--match=({}"]),
    ("sample", ["none", "--label={}"]),
    ("sample", ["none", "--which={}"]),
    ("sample", ["none", "--out=none/{}"]),
    ("next", ["{}"]),
    ("next", ["none", "{}"]),
    ("next", ["none", "--which={}"]),
    ("next", ["none", "--out=none/{}"]),
    ("next", ["none", "--out={}.pdf"]),
    ("score", ["{}", "--names", "a"]),
    ("score", ["none", "--file={}"]),
    ("score", ["none", "--names=a", "--column={}"]),
    ("evaluate", ["{}"]),
    ("evaluate", ["none", "--context={}"]),
    ("evaluate", ["none", "--split={}"]),
    ("evaluate", ["none", "--column={}"]),
    ("mix", ["{}", "--out=none"]),
    ("mix", ["none", "--out=none", "--weights={}"]),
    ("mix", ["none", "--out=none", "--cache={}"]),
    ("plot", ["none", "{}"]),
    ("plot", ["none", "--names={}"]),
    ("plot", ["none", "--out={}/none"]),
    ("import", ["{}", "--data=none", "--out=none"]),
    ("export", ["{}", "--format=numpy", "--out=none"]),
    ("export", ["none", "--format={}", "--out=none"]),
    ("page", ["{}"]),
    ("page", ["none", "--out=none/{}"]),
    ("reproduce", ["--data={}"]),
    ("reproduce", ["--json=none/{}"]),
    ("trust", ["{}"]),
    ("completion", ["{}"]),
]


@pytest.mark.parametrize(("command", "arguments"), CASES)
@QUICK
@given(HOSTILE)
def test_errors_of_arguments_are_one_safe_line(command, arguments, no_jax, hostile):
    # Whatever begins with a dash would be a flag, such as --help.
    arguments = [each.format(f"x{hostile}y") for each in arguments]
    assert_one_safe_line(said_by(command, *arguments))


@QUICK
@given(HOSTILE)
def test_an_unknown_command_is_one_safe_line(hostile):
    err = io.StringIO()
    with redirect_stderr(err):
        assert answer(Program("", "dinojax"), f"x{hostile}") == 2
    assert_one_safe_line(err.getvalue())


def test_a_path_that_is_not_utf_8_is_one_line(no_jax):
    said = said_by("train", "--data=caf\udce9.txt")
    assert_one_safe_line(said)
    assert "expected a path in UTF-8" in said
    assert "codec" not in said


@QUICK
@given(HOSTILE)
def test_errors_of_files_are_one_safe_line(tmp_path, no_jax, hostile):
    file = tmp_path / "config.json"
    for content in (
        {hostile: 1},
        {"data": hostile, "data_sha256": "", "init_from": ""},
        {"data": "", "data_sha256": "", "init_from": "", "cell": hostile},
        {"data": "", "data_sha256": "", "init_from": "", hostile: 1},
    ):
        file.write_text(json.dumps(content))
        assert_one_safe_line(said_by("train", f"--config={file}"))


@QUICK
@given(HOSTILE)
def test_errors_of_checkpoints_are_one_safe_line(tmp_path, no_jax, hostile):
    path = tmp_path / "run" / "checkpoint-000000001.npz"
    path.parent.mkdir(exist_ok=True)
    for metadata in (
        {},
        {"config": {hostile: 1}},
        {"config": {"cell": hostile}},
        {"config": {}, "characters": hostile},
    ):
        checkpoint.save(path, {"params": np.zeros(2)}, metadata)
        assert_one_safe_line(said_by("sample", str(path.parent)))
    text = np.array(json.dumps({"format": hostile}))
    np.savez(path, metadata=text)
    assert_one_safe_line(said_by("sample", str(path.parent)))


@pytest.mark.parametrize("size", [30, 6_000])
def test_messages_of_the_library_quote_little(size):
    characters = "".join(map(chr, range(0x4E00, 0x4E00 + size)))
    with pytest.raises(ValueError, match=f"'!' at position 0 .* {size + 1:,} characters") as known:
        build_vocab([characters]).encode("!")
    with pytest.raises(ValueError, match="unknown setting") as unknown:
        config_from({characters: 1})
    with pytest.raises(ValueError, match="expected one of") as choice:
        TrainConfig(cell=characters)
    for found in known, unknown, choice:
        assert is_safe(str(found.value))
        assert len(str(found.value)) < 800


def test_every_command_is_tested_here():
    assert {command for command, _ in CASES} == set(COMMANDS)
