"""What may come next: the distribution, and the command from end to end."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from test_controls import slow
from test_scripts import assert_one_line

import dinojax
from dinojax.cli.colours import COLOURS, width
from dinojax.cli.terminal import Program
from dinojax.data.labels import with_labels
from dinojax.data.vocab import Vocab, build_vocab
from dinojax.models.labelled import labelled
from dinojax.models.trained import Trained
from dinojax.sampling.controls import Controls

from in_process import call_here
from model_kinds import KINDS, build, network

VOCAB = Vocab("\n abcé日")


def logits_after(trained, prompt):
    """The logits after a prompt, by a loop over `step`."""
    model, params, vocab, _ = trained
    state = model.initial_state(())
    for i in [vocab.no_character, *vocab.encode(prompt).tolist()]:
        state, logits = model.step(params, state, jnp.asarray(i))
    return np.asarray(logits, float)


@pytest.mark.parametrize(
    "function", [dinojax.sample, dinojax.next_characters, lambda run, _: dinojax.score(run, ["a"])]
)
def test_the_name_of_a_folder_is_no_run(function):
    with pytest.raises(TypeError, match=r"^expected a run, got 'runs/x'; load it first: dinojax"):
        function("runs/x", 3)


def test_a_prompt_is_a_string_and_a_number_is_whole():
    trained = Trained(*network(VOCAB), VOCAB)
    with pytest.raises(TypeError, match=r"^prompt: expected a string, got 3; "):
        dinojax.next_characters(trained, 3)
    with pytest.raises(TypeError, match=r"^prompt: expected a string, got 3; "):
        dinojax.sample(trained, prompt=3)
    with pytest.raises(TypeError, match=r"^num: expected a whole number, got '3'; "):
        dinojax.sample(trained, "3")


@pytest.mark.parametrize("kind", ["network", *KINDS])
@pytest.mark.parametrize("prompt", ["", "a", "b日 a", "ab\nc"])
def test_probabilities_are_the_softmax_of_a_loop_of_steps(kind, prompt):
    trained = Trained(*(network(VOCAB) if kind == "network" else build(kind, VOCAB)), VOCAB)
    found = dinojax.next_characters(trained, prompt)
    logits = logits_after(trained, prompt)
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert sorted(found.characters) == list(VOCAB.characters)
    assert (np.diff(found.probabilities) <= 0).all()
    order = [VOCAB.characters.index(c) for c in found.characters]
    np.testing.assert_allclose(found.probabilities, expected[order], rtol=1e-4)
    np.testing.assert_allclose(found.drawn_probabilities, found.probabilities, rtol=1e-5)


@pytest.mark.parametrize(
    "case",
    [
        {"temperature": 0.5},
        {"temperature": 0.0},
        {"top_k": 3},
        {"top_p": 0.6},
        {"temperature": 2.0, "top_k": 6, "top_p": 0.9, "min_p": 0.2},
    ],
)
def test_controls_are_those_of_sampling(case):
    trained = Trained(*network(VOCAB), VOCAB)
    found = dinojax.next_characters(trained, "ab", controls=Controls(**case))
    order = [VOCAB.characters.index(c) for c in found.characters]
    expected = slow(logits_after(trained, "ab"), **case)[order]
    np.testing.assert_allclose(found.drawn_probabilities, expected, rtol=1e-4)
    assert ((found.drawn_probabilities == 0) == (expected == 0)).all()


def test_prompts_that_cannot_be_read():
    trained = Trained(*network(VOCAB), VOCAB)
    with pytest.raises(ValueError, match="the prompt: 'x' at position 1 is not in the vocabulary"):
        dinojax.next_characters(trained, "ax")
    with pytest.raises(ValueError, match="a name holds no newline"):
        dinojax.next_characters(trained, "a\nb", is_name=True)


def test_a_name_begins_with_its_label_and_has_no_other():
    names = with_labels(["ada", "bob"], ["girl", "boy"])
    vocab = build_vocab(names, names.labels)
    model, params = network(vocab)
    trained = Trained(labelled(model, 2), params, vocab)
    girl, num = vocab.characters[-1], vocab.plain.size
    for found, read, places in (
        (dinojax.next_characters(trained), "", range(num, num + 2)),
        (dinojax.next_characters(trained, "a", label="girl"), f"{girl}a", range(num)),
    ):
        odds = np.exp(logits_after(Trained(model, params, vocab), read)[places])
        order = [places.index(vocab.characters.index(c)) for c in found.characters]
        assert sorted(order) == list(range(len(places)))
        np.testing.assert_allclose(found.probabilities, (odds / odds.sum())[order], rtol=1e-4)
    with pytest.raises(ValueError, match="give the label, too"):
        dinojax.next_characters(trained, "a")


# The command.


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of names, one of a text and an n-gram run."""
    folder = tmp_path_factory.mktemp("next")
    (folder / "names.txt").write_text(
        "ada\nbo b\nzo\u00e9\n日本\na\u0301e\u0323\u0301\n" * 3, "utf-8"
    )
    (folder / "text.txt").write_text("Forsooth\tthis\u00a0maketh no sense\n" * 20, "utf-8")
    (folder / "labels.tsv").write_text("ada\tgirl\nbob\tboy\neve\tgirl\n")
    small = "--steps=20", "--hidden-size=8"
    for name, arguments in {
        "labels": ("ngram", "--data=labels.tsv", "--label-column=2"),
        "names": ("--data=names.txt", *small),
        "text": ("text", "--data=text.txt", "--batch-size=2", "--window=16", *small),
        "counted": ("ngram", "--data=names.txt", "--order=3"),
    }.items():
        result = call_here(Program("train", "train.py"), *arguments, f"--out={name}", cwd=folder)
        assert result.code == 0, result.err
    return folder


def following(place, *arguments, is_terminal=False, **environment):
    """What the command prints; it must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NO_COLOR", raising=False)
        for name, value in ({"TERM": "xterm", "COLUMNS": "80"} | environment).items():
            patch.setenv(name, value)
        program = Program("next", "next.py")
        result = call_here(program, *arguments, cwd=place, is_terminal=is_terminal)
    assert (result.code, result.err) == (0, ""), result.err
    return result.out


def cells(line):
    """The label, the numbers and the bar of a row."""
    label, *rest = line.split()
    bar = rest.pop() if rest and set(rest[-1]) <= set("█▉▊▋▌▍▎▏") else ""
    return label, rest, bar


@pytest.mark.parametrize("run", ["names", "counted", "text"])
def test_json_is_what_the_library_says(place, run):
    prompt = "For" if run == "text" else "a"
    answer = json.loads(following(place, run, prompt, "--json", "--top-k=2", "--temperature=0.7"))
    assert (answer["run"], answer["text"]) == (run, prompt)
    rows = answer["characters"]
    trained = dinojax.load(place / run)
    found = dinojax.next_characters(trained, prompt, controls=Controls(temperature=0.7, top_k=2))
    assert "".join(row["character"] for row in rows) == found.characters
    for name, expected in [
        ("probability", found.probabilities), ("drawn_probability", found.drawn_probabilities),
        ("bits", -np.log2(found.probabilities)),
    ]:  # fmt: skip
        np.testing.assert_allclose([row[name] for row in rows], expected, rtol=1e-5)
    few = json.loads(following(place, run, prompt, "--json", "--num=3"))["characters"]
    assert [row["character"] for row in few] == list(found.characters[:3])


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("arguments", [["names"], ["names", "ad"], ["text", "Forsooth"]])
def test_bars_are_as_long_as_probabilities_and_fit(place, arguments, columns):
    out = following(place, *arguments, COLUMNS=str(columns))
    rows = json.loads(following(place, *arguments, "--json"))["characters"]
    title, table, *others = out.removesuffix("\n").split("\n\n")
    said = f"what comes after {arguments[1]!r}" if arguments[1:] else "how a name begins"
    assert title == f"{arguments[0]} after 20 steps: {said}"
    head, *lines = table.split("\n")
    assert head.split() == ["probability", "bits"]
    assert len(lines) == min(10, len(rows))
    assert columns - 3 < max(map(width, lines)) < columns
    longest = len(cells(lines[0])[2])
    for line, row in zip(lines, rows, strict=False):
        _, numbers, bar = cells(line)
        assert numbers == [f"{row['probability']:.4f}", f"{row['bits']:.2f}"]
        length = row["probability"] / rows[0]["probability"] * longest
        assert bar.count("█") == int(round(length * 8) // 8)
        assert len(bar) - bar.count("█") == (round(length * 8) % 8 > 0)
    if rest := rows[10:]:
        total = sum(row["probability"] for row in rest)
        s = "s" if len(rest) > 1 else ""
        assert others == [f"{len(rest)} other{s}: {total:.4f}"]


def test_what_cannot_be_seen_has_a_word(place):
    shown = following(place, "names", "a", "--num=100")
    labels = [cells(line)[0] for line in shown.split("\n\n")[1].removesuffix("\n").split("\n")[1:]]
    characters = dinojax.next_characters(dinojax.load(place / "names"), "a").characters
    words = {"\n": "(end)", " ": "(space)", "\u0301": "◌\u0301"}
    assert labels == [words.get(c, c) for c in characters]
    assert {"(end)", "(space)", "日", "◌\u0301"} <= set(labels)
    shown = following(place, "text", "--num=100")
    labels = [cells(line)[0] for line in shown.split("\n\n")[1].removesuffix("\n").split("\n")[1:]]
    assert {"\\n", "(space)", "\\t", "\\xa0"} <= set(labels)


def test_what_may_not_be_drawn_is_marked(place):
    arguments = "names", "a", "--top-k=2", "--num=4"
    plain = following(place, *arguments)
    lines = plain.split("\n\n")[1].split("\n")
    assert lines[0].split() == ["probability", "bits", "drawn"]
    rows = json.loads(following(place, *arguments, "--json"))["characters"]
    for line, row in zip(lines[1:], rows, strict=True):
        _, numbers, bar = cells(line)
        drawn = row["drawn_probability"]
        assert numbers[2] == (f"{drawn:.4f}" if drawn else "-")
        assert bool(bar) == bool(drawn)
    assert sum(row["drawn_probability"] for row in rows) == pytest.approx(1)
    assert re.search(r"\d others: 0\.\d{4}, drawn 0\.0000\n$", plain)
    in_colour = following(place, *arguments, is_terminal=True)
    *_, first, second, third, fourth = in_colour.split("\n\n")[1].split("\n")
    assert third == f"\x1b[2;9m{lines[3]}\x1b[0m"
    assert fourth == f"\x1b[2;9m{lines[4]}\x1b[0m"
    for line, row in zip((first, second), rows, strict=False):
        level = min(int(row["bits"]), 6)
        assert line.startswith(f"\x1b[48;5;{COLOURS[level]};38;5;{231 if level < 3 else 16}m")
    # The same without colours.
    assert re.sub("\x1b.*?m", "", in_colour) == plain
    for looks in {"NO_COLOR": "1"}, {"TERM": "dumb"}:
        assert following(place, *arguments, is_terminal=True, **looks) == plain


def test_a_picture_is_written(place, tmp_path):
    for file in tmp_path / "next.svg", tmp_path / "next.png":
        out = following(place, "names", "a", "--top-k=2", "--out", file)
        assert out == f"{file}\n"
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["next.png", "next.svg"]
    assert (tmp_path / "next.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "next.svg").read_bytes()
    following(place, "names", "a", "--top-k=2", "--out", tmp_path / "next.svg")
    assert (tmp_path / "next.svg").read_bytes() == svg


def test_bad_input_is_one_line(place):
    cases = [
        (["names", "x!"], "error: the prompt: 'x' at position 0 is not in the vocabulary"),
        (["names", "a\nb"], "error: the prompt: a name holds no newline"),
        (["names", ""], "TEXT: expected a text, got an empty one; leave it out"),
        (["names", "--num=0"], "--num: expected a number from 1 to"),
        (["names", "--top-k=0"], "--top-k: expected a number from 1 to"),
        (["names", "--temperature=nan"], "--temperature: expected a number from 0 to"),
        (["names", "--out=a.pdf"], "--out: expected a name that ends in .png or .svg, got a.pdf"),
        (["names", "--out=none/a.png"], "--out: there is no folder none; make it first"),
        (["names", "--json", "--out=a.png"], "--json and --out exclude each other"),
        (["missing"], "missing is not a folder"),
        ([], "required: RUN"),
    ]
    for arguments, says in cases:
        result = call_here(Program("next", "next.py"), *arguments, cwd=place)
        assert_one_line(result, "next.py", code=2)
        assert says in result.err
        assert result.out == ""
    assert not (place / "a.png").exists()


def test_labels_are_called_by_their_names(place, tmp_path):
    first = json.loads(following(place, "labels", "--json"))
    assert {row["label"] for row in first["labels"]} == {"boy", "girl"}
    assert sum(row["probability"] for row in first["labels"]) == pytest.approx(1)
    out = following(place, "labels")
    assert "the label of a name\n" in out
    assert re.search("^ boy .*█\n girl .*█\n\\Z", out, re.M)
    assert "how a name with the label 'boy' begins\n" in following(place, "labels", "--label=Boy")
    given = json.loads(following(place, "labels", "b", "--label=boy", "--json"))
    assert (given["label"], given["characters"][0]["character"]) == ("boy", "o")
    following(place, "labels", f"--out={tmp_path / 'next.png'}")
