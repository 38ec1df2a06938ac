"""Names with labels: p(label, name) is p(label) p(name | label), by enumeration."""

import json
import re
from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dinojax
from dinojax.cli.terminal import Program
from dinojax.data import batches
from dinojax.data.corpus import read_names
from dinojax.data.labels import MAX_LABELS, label_character, with_labels, without_labels
from dinojax.data.prepared import prepare
from dinojax.data.splits import split_names
from dinojax.data.tables import Columns
from dinojax.data.vocab import Vocab, build_vocab
from dinojax.evaluation.compare import compare, compare_samples
from dinojax.evaluation.strings import judged, names_nats, score
from dinojax.models.labelled import IMPOSSIBLE, labelled
from dinojax.models.trained import Trained
from dinojax.runs.folder import load_checkpoint, load_run, read_part
from dinojax.runs.metadata import from_metadata, to_metadata
from dinojax.sampling.search import most_probable_names
from dinojax.sampling.strings import draw_names
from dinojax.training.loss import summed_cross_entropy

from in_process import call_here
from model_kinds import build, network

LABELS = "boy", "girl"
MARKS = "".join(map(label_character, range(2)))
VOCAB = Vocab(f"\nab{MARKS}", LABELS)
LONGEST = 3
NAMES = [
    "".join(letters) for length in range(LONGEST + 1) for letters in product("ab", repeat=length)
]
BOYS, GIRLS = ["bob", "tom", "ben", "max", "robin", "leo"], ["ada", "eva", "mia", "robin", "zoe"]
LIST = [*((name, "boy") for name in BOYS), *((name, "girl") for name in GIRLS)]


@pytest.fixture(scope="module", params=["network", "mixture"])
def models(request):
    """A model of labels and names, and the same without its law, with parameters for both."""
    plain = Vocab(VOCAB.characters)
    made = network(plain) if request.param == "network" else build(request.param, plain)
    model, params = made
    return Trained(labelled(model, len(LABELS)), params, VOCAB, LONGEST), model


@pytest.fixture(scope="module")
def law(models):
    """Log-probabilities by name, label and whether it ended, from a loop over steps."""
    trained, model = models
    step = jax.jit(model.step)
    letters, newline = [VOCAB.characters.index(c) for c in "ab"], VOCAB.newline

    @cache
    def after(ids):
        """The state, and the logits of what follows."""
        state = model.initial_state(()) if len(ids) == 1 else after(ids[:-1])[0]
        return jax.device_get(step(trained.params, state, jnp.asarray(ids[-1])))

    def choice(logits, those):
        chosen = logits[those].astype(float)
        return dict(zip(those, chosen - np.logaddexp.reduce(chosen), strict=True))

    start, found = (VOCAB.no_character,), {}
    for label, log_probability in choice(after(start)[1], [3, 4]).items():
        beginnings = [((*start, label), log_probability)]
        for ids, total in beginnings:
            name = VOCAB.decode(ids[2:])
            if len(name) > LONGEST:
                found[name, LABELS[label - 3], False] = total
                continue
            for character, more in choice(after(ids)[1], [newline, *letters]).items():
                if character == newline:
                    found[name, LABELS[label - 3], True] = total + more
                else:
                    beginnings.append(((*ids, character), total + more))
    return found


def joint(law, name, label):
    return law[name, label, True]


def prior(law, label):
    return np.logaddexp.reduce([x for (_, each, _), x in law.items() if each == label])


def marginal(law, name):
    return np.logaddexp(*(joint(law, name, label) for label in LABELS))


def test_all_labelled_names_have_probability_one(models, law):
    assert np.exp(list(law.values())).sum() == pytest.approx(1, abs=1e-6)
    marked = with_labels(NAMES * 2, [label for label in LABELS for _ in NAMES])
    nats = names_nats(models[0], marked)
    assert [len(each) for each in nats] == [len(name) + 1 for name in marked]
    expected = [-joint(law, name, label) for label in LABELS for name in NAMES]
    np.testing.assert_allclose([each.sum() for each in nats], expected, rtol=2e-5)


def test_a_name_has_the_sum_over_its_labels_and_each_label_its_share(models, law):
    found = judged(models[0], NAMES)
    wholes = [marginal(law, name) for name in NAMES]
    np.testing.assert_allclose([-x.sum() for x in found.character_nats], wholes, rtol=2e-5)
    assert [len(each) for each in found.character_nats] == [len(name) + 1 for name in NAMES]
    # The first character costs what all names that begin with it have together.
    begins = [x for (name, *_), x in law.items() if name.startswith("a")]
    first = found.character_nats[NAMES.index("aba")][0]
    assert first == pytest.approx(-np.logaddexp.reduce(begins), rel=2e-5)
    for name, label, share, whole in zip(NAMES, *found[1:], wholes, strict=True):
        shares = {each: np.exp(joint(law, name, each) - whole) for each in LABELS}
        assert share == pytest.approx(max(shares.values()), rel=1e-4)
        assert label == max(shares, key=shares.get)


def test_a_score_given_a_label_is_conditioned_on_it(models, law):
    label = "girl"
    found = score(models[0], NAMES, label=label, num_samples=4_000)
    expected = [joint(law, name, label) - prior(law, label) for name in NAMES]
    np.testing.assert_allclose(found.log_probabilities, expected, rtol=2e-5)
    shares = [np.exp(joint(law, name, label) - marginal(law, name)) for name in NAMES]
    np.testing.assert_allclose(found.label_probabilities, shares, rtol=1e-4)
    assert found.labels == [label] * len(NAMES)


def test_ranks_are_among_new_names_of_the_same_kind(models, law):
    for label in None, "girl":
        found = score(models[0], NAMES, label=label, num_samples=4_000)
        order = np.argsort(found.log_probabilities)
        assert (np.diff(found.ranks[order]) >= 0).all()
        # A name outranks at least the names below it that were enumerated.
        for i, name in enumerate(NAMES):
            below = np.exp(found.log_probabilities)[
                found.log_probabilities < found.log_probabilities[i]
            ].sum()
            assert found.ranks[i] > below - 0.05, name


@pytest.mark.parametrize(("label", "prompt"), [(None, ""), ("girl", "a")])
def test_names_and_labels_come_as_often_as_the_model_says(models, law, label, prompt):
    expected = {
        (name, each): x
        for (name, each, has_ended), x in law.items()
        if has_ended and each in (label or LABELS) and name.startswith(prompt)
    }
    whole = [
        x
        for (name, each, _), x in law.items()
        if each in (label or LABELS) and name.startswith(prompt)
    ]
    whole = np.logaddexp.reduce(whole)
    num, counts, key = 20_000, dict.fromkeys(expected, 0), jax.random.key(3)
    sizes = {"max_length": LONGEST - len(prompt), "num_devices": 1}
    for block in draw_names(key, models[0], num, prompt=prompt, label=label, **sizes):
        for i, drawn in enumerate(zip(block.names, block.labels, strict=True)):
            if block.ended[i]:
                counts[drawn] += 1
                given = 0 if label is None else prior(law, label)
                total = float(block.log_probabilities[i])
                assert total == pytest.approx(expected[drawn] - given, rel=1e-4)
    # The rest was cut.
    shares = np.exp(np.array([*expected.values()]) - whole)
    means = num * np.array([*shares, 1 - shares.sum()])
    got = np.array([*counts.values(), num - sum(counts.values())])
    statistic, degrees = np.sum((got - means) ** 2 / means), len(means) - 1
    assert statistic < degrees + 5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("label", [None, "girl"])
def test_the_most_probable_names_are_those_of_the_enumeration(models, law, label):
    sizes = {"max_length": LONGEST, "label": label}
    names, share, _ = most_probable_names(models[0], 5, **sizes)
    given = 0 if label is None else prior(law, label)
    ranked = sorted(
        (x - given, name, each)
        for (name, each, has_ended), x in law.items()
        if has_ended and name and each in (label or LABELS)
    )[::-1]
    assert list(zip(names.names, names.labels, strict=True)) == [x[1:] for x in ranked[:5]]
    np.testing.assert_allclose(names.log_probabilities, [x[0] for x in ranked[:5]], rtol=1e-4)
    assert share == pytest.approx(np.exp(names.log_probabilities).sum())
    # There are no names but these, however many are asked for.
    everything = most_probable_names(models[0], 1_000, **sizes).names
    assert sorted(everything.names) == sorted(name for _, name, _ in ranked)


def test_unroll_is_step_repeated_and_the_impossible_stays_so(models):
    trained, inner = models
    model, params, vocab, _ = trained
    marked = with_labels(["ab", "", "bba"], ["boy", "girl", "boy"])
    inputs, targets, weights = batches.pad_names(marked, vocab)
    state = model.initial_state((3,))
    _, unrolled = model.unroll(params, state, jnp.asarray(inputs), resets=True)
    _, plain = inner.unroll(params, inner.initial_state((3,)), jnp.asarray(inputs), resets=True)
    for column in range(3):
        state = model.initial_state(())
        for time, character in enumerate(inputs[:, column]):
            if character == vocab.no_character:
                state = model.initial_state(())
            state, logits = model.step(params, state, jnp.asarray(character, int))
            np.testing.assert_allclose(unrolled[time, column], logits, rtol=1e-4)
            can_follow = np.arange(5) >= 3 if character == vocab.no_character else np.arange(5) < 3
            np.testing.assert_array_equal(logits == IMPOSSIBLE, ~can_follow)
            np.testing.assert_array_equal(
                unrolled[time, column][can_follow], plain[time, column][can_follow]
            )
    total, num = summed_cross_entropy(unrolled, targets, weights)
    assert float(total) == pytest.approx(
        sum(x.sum() for x in names_nats(trained, marked)), rel=1e-5
    )
    assert num == 3


def test_gradients_are_finite_and_none_reaches_what_is_impossible():
    plain = Vocab(VOCAB.characters)
    inner, params = network(plain)
    model, marked = labelled(inner, 2), with_labels(["ab", "b"], LABELS)

    @jax.jit
    @jax.value_and_grad
    def loss(params, batch):
        state = model.initial_state((batch.inputs.shape[1],))
        _, logits = model.unroll(params, state, jnp.asarray(batch.inputs), resets=True)
        return summed_cross_entropy(logits, batch.targets, batch.weights)[0]

    padded = batches.pad_names(marked, VOCAB)
    value, gradients = loss(params, padded)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    # Packed end to end, the same names have the same loss and gradients.
    packed = batches.packed(marked, VOCAB, batch_size=1, window=8)
    row = jax.tree.map(lambda x: x[packed.arrange(np.arange(3))[0]], packed.examples)
    same, alike = loss(params, row)
    assert float(same) == pytest.approx(float(value), rel=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (gradients, alike)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    # Of one name without letters, only the two labels and what follows one of them are compared.
    short = batches.pad_names(with_labels([""], ["boy"], LABELS), VOCAB)
    bias = loss(params, short)[1]["readout"]["bias"]
    assert float(bias[:3].sum()) == pytest.approx(0, abs=1e-6)
    assert float(bias[3:].sum()) == pytest.approx(0, abs=1e-6)
    assert (bias != 0).all()


def test_labels_need_characters_of_their_own():
    with pytest.raises(ValueError, match="from 1 to 4 labels, got 5"):
        labelled(network(VOCAB)[0], 5)
    with pytest.raises(ValueError, match="character for each label at the end"):
        Vocab("\nab", LABELS)
    assert build_vocab(["ab" + MARKS], LABELS) == VOCAB
    assert VOCAB.plain == Vocab("\nab")
    assert VOCAB.plain.plain is VOCAB.plain


# Data.


def test_names_get_the_characters_of_their_labels():
    marked = with_labels(["ada", "bob", "eva"], ["girl", "boy", "girl"])
    assert marked == [MARKS[1] + "ada", MARKS[0] + "bob", MARKS[1] + "eva"]
    assert marked.labels == LABELS
    assert with_labels(["ada"], ["Girl"], LABELS) == [MARKS[1] + "ada"]
    assert without_labels(marked, LABELS) == ["ada", "bob", "eva"]
    assert without_labels([MARKS[0], ""], LABELS) == ["", ""]


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (["ada", "bob"], ["girl", ""], "'bob' has no label"),
        (["ada", "bob"], ["girl", "cat"], "one of the labels 'boy', 'girl', got 'cat'"),
        (["ada" + MARKS[0]], ["girl"], "may not stand in names with labels"),
    ],
)
def test_data_that_cannot_have_labels_are_refused(names, labels, message):
    with pytest.raises(ValueError, match=message):
        with_labels(names, labels, LABELS)


def test_too_many_labels_are_taken_for_the_wrong_column():
    labels = list(map(str, range(MAX_LABELS + 1)))
    assert len(with_labels(labels[1:], labels[1:]).labels) == MAX_LABELS
    with pytest.raises(ValueError, match="up to 1,000 different labels, got 1,001; is that the"):
        with_labels(labels, labels)


def test_a_table_gives_names_their_labels_and_counts(tmp_path):
    file = tmp_path / "list.csv"
    file.write_text("Name,Sex,Number\nAda,F,2\nBob,M,1\nRobin,F,1\nRobin,M,0\n")
    columns = {"column": "name", "label_column": "sex", "count_column": "number"}
    found = read_names(file, **columns)
    assert found.data == with_labels(["ada", "ada", "bob", "robin"], ["f", "f", "m", "f"])
    assert found.data.labels == ("f", "m")
    file.write_text("ada\tgirl\nbob\t\n")
    with pytest.raises(ValueError, match="line 2: expected a label, got none"):
        read_names(file, label_column="2")
    with pytest.raises(ValueError, match="names with labels must fit into memory"):
        next(prepare([file], is_text=False, lowercase=True, columns=Columns("", "", "2")))


def test_a_name_goes_to_one_part_with_all_its_labels():
    names = [f"name{i}" for i in range(40)]
    marked = with_labels(names * 2, [label for label in LABELS for _ in names])
    parts = [set(without_labels(x, LABELS)) for x in split_names(marked, 0.2, 0.2, 0, (), 1)]
    assert [len(part) for part in parts] == [24, 8, 8]
    assert set.union(*parts) == set(names)
    # As without labels.
    assert parts == [set(part) for part in split_names(names, 0.2, 0.2, 0)]


def test_labels_are_given_with_a_list_in_python(tmp_path):
    sizes = {"steps": 20, "hidden_size": 8, "folder": tmp_path / "run"}
    names, labels = zip(*LIST, strict=True)
    trained = dinojax.train([*names, " "], labels=[*map(str.upper, labels), ""], **sizes)
    assert trained.vocab.labels == LABELS
    drawn = dinojax.sample(trained, 20, label="GIRL", seed=1)
    assert drawn.labels == ["girl"] * 20
    assert dinojax.sample(trained, 5, novel=True, learned=names).labels
    again = dinojax.load(tmp_path / "run")
    assert again.vocab == trained.vocab
    assert dinojax.sample(again, 20, label="girl", seed=1).names == drawn.names
    counted = dinojax.fit_ngram(names, 2, labels=labels)
    assert set(dinojax.sample(counted, 30).labels) == set(LABELS)
    with pytest.raises(ValueError, match="a label for each of 11 names, got 1"):
        dinojax.train(names, labels=["girl"])
    with pytest.raises(ValueError, match="labels with a list of names alone"):
        dinojax.train("a text", labels=["girl"])
    with pytest.raises(ValueError, match="the model has none, got 'girl'"):
        dinojax.sample(dinojax.train(names, steps=1), 1, label="girl")


# Runs.


def dino(folder, command, *arguments):
    found = call_here(Program(command, "dinojax"), *arguments, cwd=folder)
    assert not re.search(f"[{MARKS}]", found.out + found.err)
    return found


SMALL = "--hidden-size", "4", "--num-layers", "1", "--dropout", "0", "--batch-size", "4"


CONSTANT = "--schedule", "constant", "--warmup", "0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A list with labels, and a run of it."""
    folder = tmp_path_factory.mktemp("labels")
    (folder / "list.tsv").write_text("".join(f"{name}\t{label}\n" for name, label in LIST))
    (folder / "names.txt").write_text("".join(f"{name}\n" for name, _ in LIST))
    options = "--label-column", "2", "--steps", "12", *CONSTANT, *SMALL
    found = dino(folder, "train", "names", "--data", "list.tsv", *options, "--out", "run")
    assert found.code == 0, found.err
    assert ", 15 symbols, 2 labels;" in found.out
    assert re.search(r"\((boy|girl)\)", found.out)
    return folder


def test_a_resumed_run_ends_with_the_same_bits(folder):
    options = "--label-column", "2", *CONSTANT, *SMALL, "--out", "half"
    data = "names", "--data", "list.tsv"
    assert dino(folder, "train", *data, "--steps", "5", *options).code == 0
    assert dino(folder, "train", "--resume", "half", "--steps", "12").code == 0
    (whole, arrays), (half, others) = (load_checkpoint(folder / x, "last") for x in ("run", "half"))
    assert whole.step == half.step == 12
    assert whole.vocab == half.vocab
    for name in arrays:
        if name.startswith("params/"):
            np.testing.assert_array_equal(arrays[name], others[name])


def test_the_description_of_a_run_holds_its_labels(folder):
    run = load_run(folder / "run")
    metadata = json.loads(json.dumps(to_metadata(run.description, run.tally)))
    assert from_metadata(metadata) == (run.description, run.tally)
    assert metadata["labels"] == list(LABELS)
    for wrong in "boy", [1, 2], {"boy": 1}, ["a", "b", "c"]:
        with pytest.raises(ValueError, match="label"):
            from_metadata(metadata | {"labels": wrong})
    # Earlier versions of dinojax knew no labels.
    earlier = {name: value for name, value in metadata.items() if name != "labels"}
    assert from_metadata(earlier)[0].vocab == Vocab(run.vocab.characters)


def test_sampled_names_and_labels_are_data_again(folder):
    found = dino(folder, "sample", "run", "--num", "30", "--unique", "--min-length", "1")
    rows = [line.split("\t") for line in found.out.splitlines()]
    assert {label for _, label in rows} == set(LABELS)
    assert all(name for name, _ in rows)
    (folder / "new.tsv").write_text(found.out)
    assert read_names(folder / "new.tsv", label_column="2").data == with_labels(
        *zip(*rows, strict=True)
    )
    given = dino(folder, "sample", "run", "--num", "5", "--label", "Boy", "--prompt", "b").out
    assert all(re.fullmatch("b[a-z]*", line) for line in given.splitlines())
    lines = dino(folder, "sample", "run", "--json", "--label", "girl", "--novel").out.splitlines()
    for each in map(json.loads, lines):
        assert each["label"] == "girl"
        assert each["in_training_data"] is False
    best = dino(folder, "sample", "run", "--best", "3", "--json").out.splitlines()
    assert all(json.loads(line)["label"] in LABELS for line in best)


def test_a_name_is_known_with_any_label(folder):
    matching = "--match", "^bob$", "--num", "1", "--max-draws", "200000", "--json"
    found = dino(folder, "sample", "run", *matching, "--label", "girl")
    for line in found.out.splitlines():
        assert json.loads(line)["in_training_data"] is True
    scored = dino(folder, "score", "run", "--names", "bob", "--label", "girl", "--json")
    assert json.loads(scored.out)["distance"] == 0


def test_score_tells_the_likeliest_label(folder):
    found = dino(folder, "score", "run", "--names", "bob", "ada", "--json").out.splitlines()
    trained = load_run(folder / "run").trained
    expected = judged(trained, ["bob", "ada"])
    for i, each in enumerate(map(json.loads, found)):
        assert each["label"] == expected.labels[i]
        assert each["label_probability"] == pytest.approx(expected.label_probabilities[i])
        assert each["log_probability"] == pytest.approx(-expected.character_nats[i].sum())
    table = dino(folder, "score", "run", "--names", "bob", "--characters").out
    assert re.search(r"label +learned", table)
    assert re.search(r"(boy|girl) \d\d\.\d\d%  yes +bob \(0\)", table)


def test_the_loss_is_that_of_label_and_name(folder):
    found = json.loads(dino(folder, "evaluate", "run", "--json", "--samples", "20").out)
    row, run = found["models"][0], load_run(folder / "run")
    part = read_part(folder / "run", run.description, "validation")
    totals = [x.sum() for x in names_nats(run.trained, part)]
    labels = [x[0] for x in names_nats(run.trained, part)]
    assert row["nats_per_piece"] == pytest.approx(np.mean(totals), rel=1e-5)
    assert row["nats_per_label"] == pytest.approx(np.mean(labels), rel=1e-5)
    rest = row["nats_per_piece"] - row["nats_per_label"]
    assert row["nats_per_piece_given_label"] == pytest.approx(rest)
    assert "nats_per_label" not in found["models"][1]
    said = dino(folder, "evaluate", "run").out
    assert f"{row['nats_per_label']:.3f} nats a label" in said
    assert "newlines and labels included" in said


def test_samples_are_measured_without_their_labels(folder):
    run = load_run(folder / "run")
    train = read_part(folder / "run", run.description, "train")
    figures = compare_samples(run.trained, train, train, 50, orders=[2]).models
    real = figures[-1].figures
    # All of them are real names, five letters long at most.
    assert real["novelty"] == 0
    assert real["mean_length"] == pytest.approx(np.mean([len(name) - 1 for name in train]))
    assert compare(run.trained, train, train)[0].figures["num_pieces"] == len(train)


def test_counted_and_mixed_runs_keep_the_law(folder):
    data = "--data", "list.tsv", "--label-column", "2"
    assert dino(folder, "train", "ngram", *data, "--order", "3", "--out", "counted").code == 0
    assert dino(folder, "mix", "run", "counted", "--ngram", "2", "--out", "mixed").code == 0
    for name in "counted", "mixed":
        lines = dino(folder, "sample", name, "--num", "50").out.splitlines()
        assert all(re.fullmatch("[a-z]*\t(boy|girl)", line) for line in lines)
        trained = load_run(folder / name).trained
        nats = names_nats(trained, [MARKS[0] + "bob", MARKS[1] + "bob"])
        assert sum(np.exp(-each[0]) for each in nats) == pytest.approx(1, rel=1e-5)


def test_replicas_of_a_sweep_are_runs_of_their_own(folder):
    settings = "--label-column", "2", "--steps", "4", *SMALL
    sweep = "names", "--data", "list.tsv", *settings, "--seeds", "2", "--jobs", "1"
    assert dino(folder, "sweep", *sweep, "--out", "sweep").code == 0
    replica = next((folder / "sweep").glob("*/seed-1"))
    config = replica.relative_to(folder) / "config.json"
    assert dino(folder, "train", "--config", config, "--out", "alone").code == 0
    alone, ours = (load_run(x).trained for x in (folder / "alone", replica))
    assert alone.vocab == ours.vocab
    for one, other in zip(*map(jax.tree.leaves, (alone.params, ours.params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert "\t" in dino(folder, "sample", "sweep", "--num", "1").out


def test_a_run_goes_on_with_some_of_the_labels(folder):
    further = "names", "--data", "girls.tsv", "--label-column", "2", "--init-from", "run"
    (folder / "girls.tsv").write_text("mia\tgirl\neva\tgirl\nada\tgirl\naria\tgirl\n")
    found = dino(folder, "train", *further, "--steps", "2", "--out", "further")
    assert found.code == 0, found.err
    run = load_run(folder / "further")
    assert run.vocab.labels == LABELS
    train = read_part(folder / "further", run.description, "train")
    assert {name[0] for name in train} == {MARKS[1]}


def test_other_names_are_read_with_the_labels_of_the_run(folder):
    (folder / "girls.tsv").write_text("mia\tgirl\neva\tgirl\n")
    found = json.loads(dino(folder, "evaluate", "run", "--data", "girls.tsv", "--json").out)
    trained = load_run(folder / "run").trained
    nats = [x.sum() for x in names_nats(trained, [MARKS[1] + "mia", MARKS[1] + "eva"])]
    assert found["models"][0]["nats_per_piece"] == pytest.approx(np.mean(nats), rel=1e-5)
    scored = dino(folder, "score", "run", "--file", "girls.tsv", "--json").out.splitlines()
    assert [json.loads(line)["name"] for line in scored] == ["mia", "eva"]
    (folder / "girls.txt").write_text("mia\neva\n")
    assert dino(folder, "score", "run", "--file", "girls.txt", "--json").out.splitlines() == scored


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("sample", ["run", "--label", "cat"], "--label: run: expected one of the labels 'boy'"),
        ("evaluate", ["run", "--data=names.txt"], "has no labels, run has labels 'boy', 'girl'"),
        ("evaluate", ["plain", "--data=list.tsv", "--label-column=2"], "plain has no labels"),
        ("sample", ["run", "--label="], "--label: expected a text"),
        ("sample", ["run", "--prompt", "a"], "a name begins with its label; give the label"),
        ("sample", ["run", "--label=boy", "--prompt", MARKS[0]], "is not in the vocabulary"),
        ("score", ["run", "--names", MARKS[0]], "is not in the vocabulary"),
        ("score", ["run", "--names", "bob", "--label", "cat"], "one of the labels 'boy', 'girl'"),
        ("sample", ["plain", "--label", "boy"], "expected no label, as the model has none"),
        ("page", ["run"], "expected a run without labels, got one with 2 labels"),
        ("export", ["run", "--format=numpy", "--out=x"], "expected a run without labels"),
        ("plot", ["run", "--text", "bob"], "expected a run without labels"),
        (
            "train",
            ["names", "--data=names.txt", "--init-from=run"],
            "has labels 'boy', 'girl', these data have no labels",
        ),
        (
            "train",
            ["names", "--data=list.tsv", "--label-column=2", "--init-from=plain"],
            "has no labels, these data have labels 'boy', 'girl'",
        ),
        (
            "train",
            ["names", "--data=cats.tsv", "--label-column=2", "--init-from=run"],
            "one of the labels 'boy', 'girl', got 'cat'",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(folder, command, arguments, message):
    if not (folder / "plain").exists():
        data = "--data", "names.txt", "--steps", "1", "--hidden-size", "2"
        assert dino(folder, "train", *data, "--out", "plain").code == 0
        (folder / "cats.tsv").write_text("tom\tcat\n")
    found = call_here(Program(command, "dinojax"), *arguments, cwd=folder)
    assert found.code == 2
    assert message in found.err
    # A note may come before it.
    assert found.err.splitlines()[-1].startswith(f"dinojax {command}: error: ")
    assert "Traceback" not in found.err
