"""Comparison with n-gram models, and the command `evaluate` from end to end."""

import json
import math
import os
import re
import shutil

import jax
import numpy as np
import pytest
from test_scripts import assert_one_line, flip_byte, here, succeed

from dinojax.data.batches import cut_text, pad_names
from dinojax.evaluation import copying, quality
from dinojax.evaluation import losses as evaluate
from dinojax.evaluation.compare import compare, compare_samples
from dinojax.evaluation.ngram import draw_names, fit_ngrams, nats
from dinojax.messages import shortened
from dinojax.models.trained import Trained
from dinojax.runs import folder as runs
from dinojax.sampling.stream import stream_names

SPLIT = "--validation-fraction=0.2", "--test-fraction=0.1"
PARTS = "train", "validation", "test"


def write_data(folder):
    generator = np.random.default_rng(0)
    syllables = ["ra", "mo", "ti", "zé", "lu", "ke", "na", "so"]
    names = ["".join(generator.choice(syllables, n)) for n in generator.integers(1, 5, 60)]
    (folder / "names.txt").write_text("\n".join(names) + "\n", "utf-8")
    words = generator.choice([*names, "the", "a", "RAMO"], 1_500).tolist()
    text = "".join(word + (" " if i % 8 else "\n") for i, word in enumerate(words))
    # The validation part is longer than one block, the test part shorter.
    (folder / "text.txt").write_text(text[:6_000], "utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run on names, one on a text, and one without validation whose loss is huge."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_data(folder)
    small = "--hidden-size=12", "--learning-rate=0.03"
    wild = "--hidden-size=12", "--learning-rate=1000", "--clip-value=0"
    trainings = {
        "names": ("--data=names.txt", "--steps=2000", "--evaluate-every=200", *small, *SPLIT),
        "wild": ("--data=names.txt", "--steps=100", *wild),
        "text": (
            *("text", "--data=text.txt", "--steps=40", "--batch-size=4", "--window=16"),
            *("--hidden-size=16", *SPLIT),
        ),
    }
    for name, arguments in trainings.items():
        result = here("train.py", *arguments, f"--out={name}", cwd=folder)
        assert (result.code, bool(result.err)) == (name == "wild", name == "wild"), result.err
    return folder


def evaluated(place, *commands):
    return [here("evaluate.py", *each, cwd=place) for each in commands]


def answers(place, *commands, notes=None):
    """The objects that commands with --json have printed, and nothing else but `notes`."""
    results = evaluated(place, *([*command, "--json"] for command in commands))
    for result, said in zip(results, notes or [""] * len(results), strict=True):
        assert (result.code, result.err) == (0, said), result.err
    return [json.loads(result.out, parse_constant=pytest.fail) for result in results]


def refused(place, *commands):
    """The one-line messages of commands that must fail as on bad input."""
    results = evaluated(place, *commands)
    for result in results:
        assert_one_line(result, "evaluate.py", code=2)
        assert result.out == ""
    return [result.err for result in results]


def copied(place, name, folder):
    shutil.copytree(place / name, folder / name)
    return folder / name


def costs_of_names(loaded, names):
    return evaluate.column_evaluation(loaded.model, pad_names(names, loaded.vocab))(loaded.params)


def costs_in_windows(loaded, text, window):
    columns = cut_text(text, loaded.vocab, window)
    return evaluate.column_evaluation(loaded.model, columns)(loaded.params)


def costs_carried(loaded, text):
    ids = jax.numpy.asarray(loaded.vocab.encode(text))
    each = jax.jit(lambda params: evaluate.nats_carried(params, loaded.model, ids))(loaded.params)
    return evaluate.in_blocks(np.asarray(each))


def parts_of(folder):
    loaded = runs.load_run(folder)
    return loaded, {
        name: runs.read_part(folder, loaded.description, name) for name in loaded.description.parts
    }


def assert_figures(row, costs):
    """A row of --json equals the library's figures, up to XLA's compilation flags."""
    expected = {
        name: value if math.isfinite(value) else None
        for name, value in evaluate.summarize(costs).items()
    }
    for name, value in expected.items():
        assert row[name] == (value if value is None else pytest.approx(value, rel=2e-5)), name
    assert row.keys() - expected.keys() <= {"model", "context", "order"}


def direct_ngrams(loaded, train, part, order):
    """The costs of the names, one by one, or of the text in blocks."""

    def flat(part):
        sequences = [part] if isinstance(part, str) else [f"{name}\n" for name in part]
        starts = np.concatenate([np.arange(len(each)) == 0 for each in sequences])
        return loaded.vocab.encode("".join(sequences)), starts, list(map(len, sequences))

    ids, starts, _ = flat(train)
    model = fit_ngrams(ids, starts, loaded.vocab.size, 5)
    ids, starts, lengths = flat(part)
    each = nats(model, ids, starts, order)
    if isinstance(part, str):
        lengths = [len(part[i : i + 1024]) for i in range(0, len(part), 1024)]
    pieces = np.split(each, np.cumsum(lengths)[:-1])
    return evaluate.Costs(np.array([piece.sum() for piece in pieces]), np.array(lengths, float))


def assert_ngrams(rows, loaded, train, part):
    assert [(row["model"], row["order"]) for row in rows] == [("ngram", n) for n in range(1, 6)]
    for row in rows:
        assert_figures(row, direct_ngrams(loaded, train, part, row["order"]))


# Figures.


def test_costs_of_names_equal_those_of_the_library(place):
    loaded, parts = parts_of(place / "names")
    assert set(parts) == set(PARTS)
    default, *others = answers(place, ["names"], *(["names", f"--split={x}"] for x in PARTS))
    assert default.pop("seconds") > 0
    assert default == {name: x for name, x in others[1].items() if name != "seconds"}
    assert default["num_parameters"] == sum(x.size for x in jax.tree.leaves(loaded.params))
    for split, answer in zip(PARTS, others, strict=True):
        head = {"run": "names", "step": loaded.step, "split": split}
        head |= {} if split == "train" else {"num_learned": 0}
        apart = "models", "seconds", "num_parameters"
        assert {name: answer[name] for name in answer if name not in apart} == head
        network, *ngrams = answer["models"]
        assert network["model"] == "network"
        assert "context" not in network
        assert network["num_pieces"] == len(parts[split])
        assert network["num_characters"] == sum(len(name) + 1 for name in parts[split])
        assert_figures(network, costs_of_names(loaded, parts[split]))
        assert_ngrams(ngrams, loaded, parts["train"], parts[split])


def test_a_run_without_validation_is_measured_on_its_training_part(place):
    """Even where the perplexity overflows a float: JSON has no infinity."""
    loaded, parts = parts_of(place / "wild")
    assert set(parts) == {"train"}
    # In a process of its own.
    out = succeed("evaluate.py", "wild", "--json", cwd=place)
    answer = json.loads(out, parse_constant=pytest.fail)
    assert (answer["split"], answer["step"]) == ("train", 100)
    network = answer["models"][0]
    assert network["nats_per_character"] > 710
    assert network["perplexity"] is None
    assert_figures(network, costs_of_names(loaded, parts["train"]))


def test_a_single_name_has_no_standard_error(place, tmp_path):
    (tmp_path / "one.txt").write_text("ramo\n", "utf-8")
    command = "wild", "--data", tmp_path / "one.txt"
    table, answer = evaluated(place, command, [*command, "--json"])
    for result in table, answer:
        assert (result.code, result.err) == (0, ""), result.err
    network = json.loads(answer.out, parse_constant=pytest.fail)["models"][0]
    assert (network["num_pieces"], network["standard_error"]) == (1, None)
    assert network["standard_error_per_piece"] is None
    (line,) = re.findall(r"^network (.+)$", table.out, re.M)
    a_character, bits, a_name = (
        f"{network[name]:.{digits}f}"
        for name, digits in (
            ("nats_per_character", 4), ("bits_per_character", 4), ("nats_per_piece", 3)
        )
    )  # fmt: skip
    # Columns stay separate, however large the numbers.
    assert line.split() == [a_character, bits, "inf", a_name]
    assert "\n1 name, 5 characters" in table.out


def test_a_file_with_the_names_of_a_part_gives_its_figures(place, tmp_path):
    _, parts = parts_of(place / "names")
    # Names as a person may write them are read as the run read its own data.
    lines = [f"  {name.upper()}\r\n\r\n" for name in parts["test"]]
    (tmp_path / "again.txt").write_text("".join(lines), "utf-8", newline="")
    file = tmp_path / "again.txt"
    commands = [["names", "--data", file, "--json"], ["names", "--split=test", "--json"]]
    results = evaluated(place, *commands)
    num_repeated = len(lines) - len(set(lines))
    assert results[0].err.startswith(f"evaluate.py: note: {file}: {len(lines)} blank lines skipped")
    assert num_repeated == 0 or f"{num_repeated} duplicate" in results[0].err
    other, part = (json.loads(result.out) for result in results)
    assert other["split"] == str(file)
    assert other["models"] == part["models"]


def test_costs_of_a_text_equal_those_of_the_library(place):
    loaded, parts = parts_of(place / "text")
    text = parts["validation"]
    assert len(text) == 1_200
    both, carry, seven, test = answers(
        place,
        ["text"],
        ["text", "--context=carry"],
        ["text", "--context", "7"],
        ["text", "--split=test", "--context=carry"],
    )
    assert both["split"] == "validation"
    first, second, *ngrams = both["models"]
    assert (first["context"], second["context"]) == ("carry", 256)
    assert_figures(first, costs_carried(loaded, text))
    assert_figures(second, costs_in_windows(loaded, text, 256))
    assert (first["num_pieces"], second["num_pieces"]) == (2, 5)
    assert_ngrams(ngrams, loaded, parts["train"], text)
    assert carry["models"] == [first, *ngrams]
    assert seven["models"][1:] == ngrams
    assert seven["models"][0]["context"] == 7
    assert_figures(seven["models"][0], costs_in_windows(loaded, text, 7))
    # The test part is a single block, which has no standard error.
    assert_figures(test["models"][0], costs_carried(loaded, parts["test"]))
    assert test["models"][0]["standard_error"] is None
    assert_ngrams(test["models"][1:], loaded, parts["train"], parts["test"])


def test_a_file_for_a_run_of_a_text_is_read_as_it_is(place, tmp_path):
    text = "the ramo\n\n  a RAMO\n"
    (tmp_path / "more.txt").write_text(text, "utf-8")
    (answer,) = answers(place, ["text", "--data", tmp_path / "more.txt", "--context=3"])
    loaded, _ = parts_of(place / "text")
    assert_figures(answer["models"][0], costs_in_windows(loaded, text, 3))


@pytest.mark.parametrize("name", ["names", "text"])
def test_the_table_is_the_json_rounded(name, place):
    table, answer = evaluated(place, [name], [name, "--json"])
    assert (table.code, table.err) == (0, "")
    answer = json.loads(answer.out)
    title, _, head, *lines = table.out.removesuffix("\n").split("\n")
    assert title == f"{name} after {answer['step']:,} steps, on validation"
    assert head.split("  ")[-1].strip() == ("nats a name" if name == "names" else "perplexity")
    labels = ["network"]
    if name == "text":
        labels = ["network, state carried", "network, windows of 256"]
    labels += [f"{n}-gram model (Kneser-Ney)" for n in range(1, 6)]
    for label, row, line in zip(labels, answer["models"], lines, strict=False):
        assert line.startswith(label)
        expected = [
            f"{row['nats_per_character']:.4f} ± {row['standard_error']:.4f}",
            f"{row['bits_per_character']:.4f}",
            f"{row['perplexity']:.3f}",
        ]
        if name == "names":
            expected += [f"{row['nats_per_piece']:.3f} ± {row['standard_error_per_piece']:.3f}"]
        assert line.removeprefix(label).split() == " ".join(expected).split()
    assert lines[len(labels)] == ""
    first = answer["models"][0]
    pieces = f"{first['num_pieces']:.0f} names, " if name == "names" else ""
    assert lines[len(labels) + 1].startswith(f"{pieces}{first['num_characters']:,.0f} characters")
    assert len(lines) == len(labels) + 2


# Samples.


def drawn_directly(loaded, train, num, seed):
    """Names of the network, a bigram and a 5-gram model, and which of them ended uncut."""
    newline = loaded.vocab.newline
    draw = jax.jit(lambda key, params: stream_names(key, params, loaded.model, num, 50))
    samples = jax.device_get(draw(jax.random.key(seed), loaded.params))
    ids = loaded.vocab.encode("".join(f"{name}\n" for name in train))
    model = fit_ngrams(ids, np.append(True, ids[:-1] == newline), loaded.vocab.size, 5)
    generators = {order: np.random.default_rng([seed, order]) for order in (2, 5)}
    ngrams = [
        draw_names(generators[n], model, newline, num, max_length=50, order=n) for n in (2, 5)
    ]
    for ids, ended in [(samples.ids, samples.ended), *ngrams]:
        yield [loaded.vocab.decode(row).rstrip("\n") for row in ids], ended


def assert_close(row, expected):
    for name, value in expected.items():
        value = value if math.isfinite(value) else None
        assert row[name] == (value if value is None else pytest.approx(value, rel=1e-9)), name
    assert row.keys() - expected.keys() <= {"model", "order"}


def test_figures_of_samples_equal_those_of_the_library(place):
    loaded, parts = parts_of(place / "names")
    cases = [("validation", 300, 7), ("test", 300, 0), ("validation", 3, 0)]
    found = answers(
        place,
        ["names", "--samples=300", "--seed=7"],
        ["names", "--samples=300", "--split=test"],
        # Fewer than there are held-out names.
        ["names", "--samples", "3", "--seed", "0"],
        ["names"],
    )
    plain = found.pop()
    assert "samples" not in plain
    assert found[0]["models"] == found[2]["models"] == plain["models"]
    for answer, (split, num, seed) in zip(found, cases, strict=True):
        held_out, train = parts[split], parts["train"]
        size = len(held_out)
        samples = answer["samples"]
        *models, real = samples.pop("models")
        # Few enough held-out names that two sets of real names of that size exist.
        assert samples == {
            "num": num, "seed": seed, "max_length": 50, "num_held_out": size, "num_floor": size
        }  # fmt: skip
        assert [(row["model"], row.get("order")) for row in models] == [
            ("network", None), ("ngram", 2), ("ngram", 5)
        ]  # fmt: skip
        lines = [f"{name}\n" for name in held_out]
        drawn = drawn_directly(loaded, train, max(num, size), seed)
        for row, (names, ended) in zip(models, drawn, strict=True):
            expected = quality.describe_samples(names[:num], ended[:num], train, held_out)
            written = [
                name + "\n" * whole for name, whole in zip(names, ended.tolist(), strict=True)
            ]
            assert_close(row, expected | quality.divergences(written[:size], lines))
        everything = [f"{name}\n" for name in [*train, *held_out]]
        floor = quality.divergences(*quality.halves(np.random.default_rng(seed), everything, size))
        assert real["model"] == "held-out"
        assert_close(real, quality.describe_names(held_out, train) | floor)
        assert real["novelty"] == 1


def test_without_held_out_names_what_needs_them_is_left_out(place, tmp_path):
    loaded, parts = parts_of(place / "wild")
    by_default, chosen, table = evaluated(
        place,
        ["wild", "--samples=40", "--json"],
        ["names", "--samples=40", "--split=train", "--json"],
        ["wild", "--samples=1"],
    )
    for result in by_default, chosen, table:
        assert (result.code, result.err) == (0, ""), result.err
    for result in by_default, chosen:
        samples = json.loads(result.out, parse_constant=pytest.fail)["samples"]
        assert samples["num_held_out"] == 0
        assert "num_floor" not in samples
        assert [row["model"] for row in samples["models"]] == ["network", "ngram", "ngram"]
        for row in samples["models"]:
            assert "hits" not in row
            assert not any(name.startswith("divergence") for name in row)
    samples = json.loads(by_default.out)["samples"]
    drawn = drawn_directly(loaded, parts["train"], 40, 0)
    for row, (names, ended) in zip(samples["models"], drawn, strict=True):
        assert_close(row, quality.describe_samples(names, ended, parts["train"], []))
    assert "\n1 sample of each model, seed 0\n" in table.out
    assert "no held-out names, as this is what it learned from" in table.out
    assert "divergence, bits" not in table.out
    assert "held-out names among them" not in table.out


def test_a_file_replaces_held_out_names(place, tmp_path):
    _, parts = parts_of(place / "names")
    # Training names, too many for two sets of real names of that size to exist.
    many, file = parts["train"] * 3, tmp_path / "many.txt"
    file.write_text("".join(f"{name}\n" for name in many), "utf-8")
    answer, untrained = answers(
        place,
        ["names", "--samples=20", "--data", file],
        ["wild", "--which=0", "--samples=200", "--data=names.txt"],
        notes=[
            f"evaluate.py: note: {file}: {len(many) - len(set(many))} duplicates kept\n",
            "evaluate.py: note: names.txt: 8 duplicates kept\n",
        ],
    )
    samples = answer["samples"]
    assert samples["num_held_out"] == len(many)
    assert samples["num_floor"] == (len(parts["train"]) + len(many)) // 2
    real = samples["models"][-1]
    assert (real["novelty"], real["edit_distance"], real["edit_distance_of_novel"]) == (0, 0, None)
    # The names of an untrained model are cut, so their n-grams have no end either.
    loaded, (_, parts) = runs.load_run(place / "wild", "0"), parts_of(place / "wild")
    (names, ended), *_ = drawn_directly(loaded, parts["train"], 200, 0)
    row, lines = untrained["samples"]["models"][0], [f"{name}\n" for name in parts["train"]]
    assert row["validity"] == ended.mean()
    assert not ended[: len(lines)].all()
    written = [name + "\n" * whole for name, whole in zip(names, ended.tolist(), strict=True)]
    assert_close(
        row,
        quality.describe_samples(names, ended, parts["train"], parts["train"])
        | quality.divergences(written[: len(lines)], lines),
    )


def test_a_file_may_be_named_like_a_part(place, tmp_path):
    _, parts = parts_of(place / "names")
    for name in "train", "other":
        (tmp_path / name).write_text("".join(f"{x}\n" for x in sorted(set(parts["test"]))), "utf-8")
    command = place / "names", "--samples=20"
    named, other = answers(tmp_path, *([*command, "--data", x] for x in ("train", "other")))
    assert named["split"] == "train"
    times = {"split": "", "seconds": 0}
    assert named | times == other | times
    assert [row["model"] for row in named["samples"]["models"]][-1] == "held-out"


def test_the_table_of_samples_is_the_json_rounded(place):
    table, answer = evaluated(
        place, ["names", "--samples=1200"], ["names", "--samples=1200", "--json"]
    )
    assert (table.code, table.err) == (0, "")
    samples = json.loads(answer.out)["samples"]
    *before, title, lines, _ = table.out.split("\n\n")
    assert len(before) == 3
    assert title == "1,200 samples of each model, seed 0"
    head, *lines = lines.split("\n")
    assert head.split() == ["network", "2-gram", "5-gram", "held-out"]
    figures = [
        "validity", "uniqueness", "novelty", "hits", "mean_length", "length_deviation",
        "edit_distance", "edit_distance_of_novel", "edit_distance_error",
        *(f"divergence_{order}" for order in (1, 2, 3, 4)),
    ]  # fmt: skip
    assert set(figures) == set(samples["models"][0]) - {"model"}
    starts = [
        "ended within 50", "distinct", "novel", "held-out names among", "length, mean",
        "length, standard", "edits to the nearest training name", "the same, of the novel",
        "standard error of that",
        *(f"{order}-gram divergence, bits" for order in (1, 2, 3, 4)),
    ]  # fmt: skip
    for line, start_, figure in zip(lines, starts, figures, strict=True):
        assert line.startswith(start_)
        values = [row.get(figure) for row in samples["models"]]
        expected = [f"{value:.4f}" for value in values if value is not None]
        assert line[36:].split() == expected
        assert len(expected) == (3 if figure in ("validity", "hits") else 4)
    size = samples["num_held_out"]
    assert f"divergence of {size} samples from {size} held-out names" in table.out
    assert f"random sets of {samples['num_floor']} real names" in table.out


def test_a_text_is_compared_with_held_out_text(place):
    by_default, long, learned = answers(
        place,
        ["text", "--samples=500"],
        ["text", "--samples=900", "--seed=3", "--split=test"],
        ["text", "--samples=40", "--split=train"],
    )
    assert "samples" not in answers(place, ["text"])[0]
    _, parts = parts_of(place / "text")
    train = str(parts["train"])
    for answer, num, seed in (by_default, 500, 0), (long, 900, 3), (learned, 40, 0):
        held_out = "" if answer is learned else str(parts[answer["split"]])[:num]
        samples = answer["samples"]
        assert samples.keys() == {"num", "seed", "num_held_out", "models"}
        numbers = [samples[name] for name in ("num", "seed", "num_held_out")]
        assert numbers == [num, seed, len(held_out)]
        drawn = here("sample.py", "text", f"--length={num}", f"--seed={seed}", cwd=place)
        texts = {"network": drawn.out.removesuffix("\n"), "held-out": held_out}
        assert [row["model"] for row in samples["models"]] == [x for x in texts if texts[x]]
        for row in samples["models"]:
            text, span = texts[row["model"]], row["longest_copy"]
            figures = copying.describe_text(text, copying.longest_copies(text, [train]))
            assert row == {"model": row["model"], **figures, "longest_copy": span}
            assert len(span["text"]) == row["longest_copied"]
            start, learned_start = span["place"], span["training_place"]
            assert span["text"] == text[start:][: len(span["text"])]
            assert span["text"] == train[learned_start:][: len(span["text"])]
    # The test part is shorter than the text that was drawn.
    assert long["samples"]["num_held_out"] == 600


def test_the_table_of_a_text_is_the_json_rounded(place):
    commands = ["text", "--samples=500"], ["text", "--samples=900", "--split=test"]
    for command in *commands, ["text", "--samples=40", "--split=train"]:
        table, answer = evaluated(place, command, [*command, "--json"])
        assert (table.code, table.err) == (0, "")
        assert max(map(len, table.out.split("\n"))) <= 80
        samples = json.loads(answer.out)["samples"]
        *_, title, figures, spans, notes = table.out.split("\n\n")
        assert title == f"a text of {samples['num']} characters, drawn at temperature 1, seed 0"
        head, *lines = figures.split("\n")
        assert head.split() == [row["model"] for row in samples["models"]]
        names = [name for name in samples["models"][0] if name not in ("model", "longest_copy")]
        for line, name in zip(lines, names, strict=True):
            values = [row[name] for row in samples["models"]]
            digits = 0 if name == "longest_copied" else 4
            assert line[36:].split() == [f"{value:.{digits}f}" for value in values]
        for line, row in zip(spans.split("\n")[1:], samples["models"], strict=True):
            copy = row["longest_copy"]
            _, place_shown, _ = line.split(maxsplit=2)
            assert place_shown == f"{copy['training_place']:,}"
            # Long ones are shortened.
            assert line.endswith(shortened(repr(copy["text"]), 50))
        says = {
            "validation": "the first 500 characters", "test": "has only 600 characters",
            "train": "no held-out text",
        }  # fmt: skip
        assert says[json.loads(answer.out)["split"]] in notes


def test_bad_flags_for_samples_are_refused(place):
    cases = [
        (["text", "--samples=100001"], "--samples of a text: expected a number from 1 to 100,000"),
        (["text", "--samples=9", "--max-length=9"], "--max-length is for runs of names; text"),
        (["names", "--samples=0"], "--samples: expected a number from 1 to 1,000,000, got 0"),
        (["names", "--samples", "-3"], "--samples: expected a number from 1 to 1,000,000, got -3"),
        (["names", "--samples=1000001"], "--samples: expected a number from 1 to 1,000,000"),
        (["names", "--samples=abc"], "expected a whole number such as 1000, got 'abc'"),
        (["names", "--samples=1.5"], "expected a whole number such as 1000, got '1.5'"),
        (["names", "--samples=5", "--seed=-1"], "--seed: expected a number from 0 to"),
        (["names", "--seed=1"], "--seed is for --samples, which is not given"),
        (["names", "--max-length=9"], "--max-length is for --samples, which is not given"),
    ]
    said = refused(place, *(command for command, _ in cases))
    for (_, says), line in zip(cases, said, strict=True):
        assert says in line


# In Python.


def rows_of(models):
    """Named tuples as the command writes them."""
    for found in models:
        head = {"model": found.model, "context": found.context, "order": found.order}
        yield {name: x for name, x in head.items() if x is not None} | dict(found.figures)


def assert_same(rows, found):
    """The rows of --json equal what the library returns, up to XLA's compilation flags."""
    for row, expected in zip(rows, rows_of(found), strict=True):
        finite = {
            name: None if isinstance(x, float) and not math.isfinite(x) else x
            for name, x in expected.items()
        }
        assert list(row) == list(finite)
        assert row == {
            name: pytest.approx(x, rel=2e-5) if isinstance(x, float) else x
            for name, x in finite.items()
        }


def test_names_in_python_have_the_figures_that_the_command_prints(place):
    loaded, parts = parts_of(place / "names")
    trained = Trained(loaded.model, loaded.params, loaded.vocab)
    train, held_out = parts["train"], parts["validation"]
    validation, learned = answers(
        place, ["names", "--samples=30", "--seed=5"], ["names", "--samples=3", "--split=train"]
    )
    assert_same(validation["models"], compare(trained, train, held_out))
    samples = compare_samples(trained, train, held_out, 30, seed=5)
    *head, found = samples
    assert head == [30, 5, 50, len(held_out), len(held_out)]
    assert list(validation["samples"]) == list(samples._fields)
    assert_same(validation["samples"]["models"], found)
    assert_same(learned["models"], compare(trained, train, train))
    samples = compare_samples(trained, train, [], 3)
    assert samples[:5] == (3, 0, 50, 0, None)
    assert_same(learned["samples"]["models"], samples.models)


def test_a_text_in_python_has_the_figures_that_the_command_prints(place):
    loaded, parts = parts_of(place / "text")
    trained = Trained(loaded.model, loaded.params, loaded.vocab)
    both, seven = answers(place, ["text"], ["text", "--context=7"])
    found = compare(trained, parts["train"], parts["validation"])
    assert_same(both["models"], found)
    found = compare(trained, parts["train"], parts["validation"], contexts=[7], max_order=2)
    assert_same(seven["models"][:3], found)


def test_what_cannot_be_compared(place):
    loaded, parts = parts_of(place / "names")
    trained, train = Trained(loaded.model, loaded.params, loaded.vocab), parts["train"]
    for arguments, message in [
        ((train, "ramo\n"), "names twice or a text twice, got names and a text"),
        (("ramo\n", train), "names twice or a text twice, got names and a text"),
        (([], train), "at least one character, got no ids"),
        ((train, []), "at least one name, got none"),
        ((train, ["ra!"]), "'!' at position 2 is not in the vocabulary"),
        (("ramo\n", ""), "expected a text, got an empty one"),
    ]:
        with pytest.raises(ValueError, match=message):
            compare(trained, *arguments)
    for context in 0, -1:
        with pytest.raises(ValueError, match=f"context: .*got {context}"):
            compare(trained, "ramo\n", "mora\n", contexts=[context])
    with pytest.raises(ValueError, match="order of at least 1, got 0"):
        compare(trained, train, train, max_order=0)
    with pytest.raises(ValueError, match="num: expected a number from 1"):
        compare_samples(trained, train, [], 0)


# Checkpoints.


def test_best_last_or_any_checkpoint(place):
    folder = place / "names"
    steps = [int(path.stem.split("-")[1]) for path in runs.find_checkpoints(folder)]
    best, last = (runs.load_run(folder, which) for which in ("best", "last"))
    # The run memorises its few names, so its validation loss rises.
    assert (best.step, last.step) == (best.tally.best_step, 2_000)
    assert best.step < last.step
    whiches = ["best", "last", *map(str, steps)]
    found = answers(place, *(["names", "--which", which] for which in whiches))
    assert [answer["step"] for answer in found] == [best.step, 2_000, *steps]
    for which, answer in zip(whiches, found, strict=True):
        loaded = runs.load_run(folder, which)
        names = runs.read_part(folder, loaded.description, "validation")
        assert_figures(answer["models"][0], costs_of_names(loaded, names))
    losses = {answer["step"]: answer["models"][0]["nats_per_character"] for answer in found}
    assert min(losses, key=losses.get) == best.step
    assert losses[best.step] == pytest.approx(best.tally.best_loss, rel=2e-5)
    (said,) = refused(place, ["names", "--which=7"])
    assert f"names has no checkpoint of step 7; it has {', '.join(map(str, steps))}" in said


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_note(place, tmp_path):
    folder = copied(place, "names", tmp_path)
    *_, older, newest = runs.find_checkpoints(folder)
    flip_byte(newest)
    last, chosen = evaluated(
        tmp_path, ["names", "--which=last", "--json"], ["names", "--which=2000"]
    )
    assert last.code == 0
    path = newest.relative_to(tmp_path)
    assert last.err == f"evaluate.py: note: {path} could not be read; using {older.name}\n"
    assert json.loads(last.out)["step"] == int(older.stem.split("-")[1])
    # A checkpoint that was asked for by its step is not replaced by another.
    assert_one_line(chosen, "evaluate.py", code=2)
    assert "damaged" in chosen.err


# Refusals.


def test_unknown_characters_are_all_named_up_to_ten(place, tmp_path):
    (tmp_path / "few.txt").write_text("ram!o\nX\nñ!\n", "utf-8")
    (tmp_path / "ten.txt").write_text("0123456789\n", "utf-8")
    (tmp_path / "many.txt").write_text("a0123456789!\nra mo\n", "utf-8")
    few, ten, many, of_text = refused(
        place,
        ["names", "--data", tmp_path / "few.txt"],
        ["names", "--data", tmp_path / "ten.txt"],
        ["names", "--data", tmp_path / "many.txt"],
        ["text", "--data", tmp_path / "many.txt"],
    )
    says = "has characters that the run does not know: "
    assert few.endswith(f"few.txt {says}'!' 'x' 'ñ'\n")
    digits = " ".join(f"'{i}'" for i in range(10))
    assert ten.endswith(f"ten.txt {says}{digits}\n")
    assert many.endswith(f"many.txt {says}' ' '!' {' '.join(digits.split()[:8])} and 2 more\n")
    assert of_text.endswith(f"many.txt {says}'!' {' '.join(digits.split()[:9])} and 1 more\n")


def test_invalid_contexts_are_refused(place):
    bad = ["0", "-1", "100001", "1.5", "best", "", "٣", "²"]
    said = refused(place, *(["text", f"--context={value}"] for value in bad))
    for value, line in zip(bad, said, strict=True):
        assert "expected carry or a number of characters from 1 to 100,000" in line
        assert line.endswith(f"got {value!r}\n")
    for line in refused(place, ["names", "--context=carry"], ["names", "--context=7"]):
        assert "--context is for runs of a text; names learned names" in line


def test_bad_input_is_refused_in_one_line(place, tmp_path):
    changed = copied(place, "names", tmp_path)
    (changed / "validation.txt").write_bytes((changed / "validation.txt").read_bytes() + b"ra\n")
    (changed / "test.txt").unlink()
    (tmp_path / "bytes.txt").write_bytes(b"ra\xff")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "no run").mkdir()
    cases = [
        (["wild", "--split=validation"], "wild has no validation part; it has train"),
        (["missing"], "missing is not a folder"),
        ([tmp_path / "no run"], "no run is not a run: it has no checkpoint"),
        ([changed], "validation.txt was changed after training"),
        ([changed, "--split=test"], "test.txt: No such file"),
        (["names", "--data=missing.txt"], "missing.txt: No such file"),
        (["names", "--data", tmp_path / "bytes.txt"], "bytes.txt is not UTF-8 text"),
        (["names", "--data", tmp_path / "empty.txt"], "empty.txt: no names"),
        (["text", "--data", tmp_path / "empty.txt"], "empty.txt is empty"),
        (["names", "--data=names.txt", "--split=test"], "--split and --data exclude each other"),
        (["names", "--split=all"], "invalid choice: 'all'"),
        (["names", "--which=first"], "expected best, last or a number of steps, got 'first'"),
        (["names", "--splt=test"], "did you mean --split?"),
        ([], "required: RUN"),
    ]
    said = refused(place, *(command for command, _ in cases))
    for (_, says), line in zip(cases, said, strict=True):
        assert says in line
    # Nothing was written anywhere.
    assert sorted(os.listdir(tmp_path / "no run")) == []
