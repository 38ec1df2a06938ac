"""Data larger than memory: prepared, read through a memory map, and the same as in memory."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dinojax.cli.terminal import Program
from dinojax.data import prepared, sources
from dinojax.data.batches import cut_text, packed, padded, windows
from dinojax.data.corpus import read_names, read_running_text
from dinojax.data.packing import places_in_rows
from dinojax.data.prepared import finished, prepare, whole
from dinojax.data.ranks import sort_names
from dinojax.data.reading import read
from dinojax.data.splits import split_names
from dinojax.data.stored import NameList, Text, excerpt, joined_documents
from dinojax.data.text import composed
from dinojax.data.vocab import build_vocab
from dinojax.evaluation.compare import compare, joined
from dinojax.evaluation.prepared import carried_costs
from dinojax.evaluation.strings import text_nats
from dinojax.presets import ngram_config, resolve
from dinojax.runs import folder as runs
from dinojax.runs import mixtures, session
from dinojax.runs.description import describe
from dinojax.runs.experiment import make_evaluation, make_experiment
from dinojax.runs.ngrams import make_ngram_run, save_untrained
from dinojax.runs.replica import paths_in_lines, read_data
from dinojax.runs.sweeping import sweep
from dinojax.training.fetch import draw_order

from conftest import ROOT
from in_process import call_here

seeded = settings(max_examples=60, deadline=None, derandomize=True)
PARTS = "tyranno", "saur", "us", "REX", "ptero", "dacty\u0301l", "éos", "in", "mei", "\u00ad"
"""Combining marks, accents, capitals, and a soft hyphen, which is dropped."""


def words(num, seed=0):
    generator = random.Random(seed)
    return ["".join(generator.choices(PARTS, k=generator.randint(1, 4))) for _ in range(num)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dinojax" / "data"


@pytest.fixture(autouse=True)
def promotion():
    """Optax's schedules need these types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def names_file(tmp_path):
    lines = [*words(1_500), "", "x" * 70, *words(20)]
    (tmp_path / "names.txt").write_bytes("\r\n".join(lines).encode())
    return tmp_path / "names.txt"


@pytest.fixture
def text_file(tmp_path):
    (tmp_path / "text.txt").write_bytes("\ufeff".encode() + " ".join(words(3_000)).encode())
    return tmp_path / "text.txt"


def read_both(paths, is_text, lowercase=True):
    """The same data prepared and in memory."""
    ways = {"is_text": is_text, "lowercase": lowercase}
    return [finished(read(paths, **ways, in_memory=most)) for most in (0, 2**25)]


def plain(part):
    return str(part) if isinstance(part, str | Text) else list(part)


# The same as in memory.


@pytest.mark.parametrize("preset", ["dinos", "names", "text"])
def test_a_run_on_prepared_data_has_the_bits_of_one_in_memory(
    preset, tmp_path, names_file, text_file
):
    given = {"hidden_size": 6, "num_layers": 1, "steps": 40, "evaluate_every": 20, "epochs": 0.0}
    if preset != "dinos":
        given |= {"batch_size": 4, "window": 16, "validation_fraction": 0.1, "test_fraction": 0.1}
    config = resolve(preset, given=given)
    file, states, described = text_file if config.is_text else names_file, [], []
    for corpus in read_both([file], config.is_text, config.lowercase):
        is_prepared = isinstance(corpus.data, Text | NameList)
        experiment = make_experiment(*describe(config, corpus.data, sha256=corpus.sha256))
        assert (experiment.dataset.examples is None) == is_prepared
        folder = tmp_path / f"run-{is_prepared}"
        runs.take_folder(folder)
        state, tally = session.start(experiment, folder)
        reports = list(session.work(experiment, state, tally, folder, chunk_size=7))
        states.append([reports[-1].state, [(x.step, x.loss, x.validation_loss) for x in reports]])
        description = experiment.description
        parts = {name: plain(part) for name, part in experiment.parts.items()}
        described.append([description._replace(parts={}), parts, list(corpus.notes)])
        run = runs.load_run(folder)
        again = {x: plain(runs.read_part(folder, run.description, x)) for x in parts}
        assert again == parts
        # A run in memory copies its parts, another refers to them.
        assert (folder / "train.txt").exists() != is_prepared
    (first, first_reports), (second, second_reports) = states
    assert described[0] == described[1]
    assert {x[0]: x[1:] for x in first_reports}[40] == {x[0]: x[1:] for x in second_reports}[40]
    jax.tree.map(
        np.testing.assert_array_equal,
        first._replace(key=jax.random.key_data(first.key)),
        second._replace(key=jax.random.key_data(second.key)),
    )


def test_prepared_names_have_the_notes_of_those_in_memory(tmp_path):
    (tmp_path / "list.txt").write_text(" rex\nmei\t\n\n  \n# a comment \nzoe\nmei\n")
    prepared, in_memory = (corpus.notes for corpus in read_both([tmp_path / "list.txt"], False))
    assert prepared == in_memory
    assert "white space at the ends of 2 lines dropped" in prepared


def batches_of(dataset, seed=3):
    permutation = np.random.default_rng(seed).permutation(dataset.num_shuffled)
    order = dataset.arrange(permutation)[1:]
    if dataset.read is None:
        return [[np.asarray(a[..., i]) for a in dataset.examples] for i in order]
    size = order[0].size
    found = dataset.read(order.reshape(-1))
    return [
        [
            np.asarray(a[..., k * size : (k + 1) * size]).reshape(*a.shape[:-1], *i.shape)
            for a in found
        ]
        for k, i in enumerate(order)
    ]


def test_batches_of_prepared_data_are_those_of_data_in_memory(names_file, text_file):
    stored, names = (each.data for each in read_both([names_file], is_text=False))
    text, string = (each.data for each in read_both([text_file], is_text=True))
    for make in (lambda x, v: padded(x, v, 7), lambda x, v: packed(x, v, 3, 33)):
        first, second = make(stored, stored.vocab), make(names, build_vocab(names))
        assert first[1:3] == second[1:3]
        assert first[4:7] == second[4:7]
        for one, other in zip(batches_of(first), batches_of(second), strict=True):
            list(map(np.testing.assert_array_equal, one, other))
    pair = windows(text, text.vocab, 5, 13), windows(string, build_vocab([string]), 5, 13)
    for one, other in zip(*map(batches_of, pair), strict=True):
        list(map(np.testing.assert_array_equal, one, other))
    list(
        map(
            np.testing.assert_array_equal,
            cut_text(text, text.vocab, 9),
            cut_text(string, text.vocab, 9),
        )
    )


def test_a_split_of_a_prepared_list_is_that_of_a_list(names_file):
    stored, names = (each.data for each in read_both([names_file], is_text=False))
    for learned in ((), [*names[5:900], "unknown"]):
        one, other = (split_names(x, 0.2, 0.1, 4, learned) for x in (stored, names))
        assert list(map(list, one)) == list(map(list, other))
        for name in ("rex", "tyranno", "zz", "", "x" * 70):
            assert [name in part for part in one] == [name in part for part in other]
    assert one[0].num_in(one[0]) == len(one[0])
    assert one[0].num_in(one[1]) == 0
    assert one[1][3] == other[1][3]
    assert list(one[1][3:50:7]) == other[1][3:50:7]
    more = replace(one[0], more=("new",))
    assert [*more][-2:] == [*other[0][-1:], "new"]
    assert "new" in more
    assert len(more) == len(other[0]) + 1


@seeded
@given(st.lists(st.lists(st.integers(0, 2), max_size=20), min_size=1, max_size=40))
@example([[0] * 9, [0] * 8, [0] * 17, [0] * 9, []])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_names_are_sorted_like_tuples(kind, names):
    ids = np.array([i for name in names for i in [*name, 3]], kind)
    lengths = np.array([len(name) + 1 for name in names], np.uint16)
    order, ranks = sort_names(ids, np.cumsum(lengths, dtype=np.int64) - lengths, lengths)
    assert order.tolist() == sorted(range(len(names)), key=names.__getitem__)
    distinct = sorted(set(map(tuple, names)))
    assert ranks.tolist() == [distinct.index(tuple(name)) for name in names]


def test_a_long_order_is_a_permutation_of_its_own_for_each_epoch_and_key():
    drawn = [draw_order(jax.random.key(seed), epoch, 1_000) for seed in (5, 6) for epoch in (0, 1)]
    for order in drawn:
        assert sorted(order.tolist()) == list(range(1_000))
        # No place is near its own: 95 % of the correlations of random orders are below 0.062.
        assert abs(np.corrcoef(order, np.arange(1_000))[0, 1]) < 0.1
    assert len({order.tobytes() for order in drawn}) == 4
    np.testing.assert_array_equal(draw_order(jax.random.key(5), 1, 1_000), drawn[1])


@pytest.mark.parametrize("most", [1, 100, 10_000])
def test_rows_of_long_lists_hold_every_name_once(most):
    lengths = np.sort(np.random.default_rng(0).integers(2, 12, 997))
    places = places_in_rows(lengths, 16, most)
    assert (places // 16 == (places + lengths - 1) // 16).all()
    taken = np.concatenate([np.arange(a, a + n) for a, n in zip(places, lengths, strict=True)])
    assert len(set(taken.tolist())) == lengths.sum()
    if most > 1:
        assert places.max() < 1.1 * lengths.sum() + 16 * 16


# Blocks.

LETTERS = st.sampled_from(
    ["a", "Z", "7", " ", "\n", "\r", "\r\n", "\t", "\u0301", "\u0323", "e", "é", "Σ", "\u03c3", "'",
     "\u00ad", "\ufeff", "漢", "字", "\u1112", "\u1161", "\u11ab", "\U0001f995", "İ"]
)  # fmt: skip


@seeded
@given(st.lists(LETTERS, max_size=80).map("".join), st.integers(1, 9), st.booleans())
@example("ΔΣ ΔΣ'Δ x\r\n\u0301\r\n", 1, True)
@example("漢字漢字漢字ΔΣaΣaa", 1, True)
def test_blocks_give_what_the_whole_text_gives(tmp_path_factory, text, size, by_line):
    file = tmp_path_factory.getbasetemp() / "blocks.txt"
    file.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        chunks = sources._chunks
        patch.setattr(sources, "_chunks", lambda stream: chunks(stream, 3))
        blocks = list(sources.blocks(file, 0, by_line, size))
        middle = blocks[len(blocks) // 2].end if blocks else 0
        assert list(sources.blocks(file, middle, by_line, size)) == blocks[len(blocks) // 2 + 1 :]
    assert b"".join(block.content for block in blocks) == text.encode()
    for lowercase in (False, True):
        pieces = [composed(block.content.decode(), lowercase) for block in blocks]
        assert "".join(pieces) == composed(text, lowercase)
    if by_line:
        assert all(composed(x.content.decode(), False).endswith("\n") for x in blocks[:-1])


def test_blocks_are_short_where_a_text_can_be_cut(tmp_path):
    for content in (b"x" * 10**6, "漢字".encode() * 10**5, b"a b\r\n" * 10**5):
        (tmp_path / "file").write_bytes(content)
        sizes = [len(block.content) for block in sources.blocks(tmp_path / "file", 0, False, 1000)]
        assert sum(sizes) == len(content)
    # Chunks are of a megabyte; what remains of one is read again with the next.
    content = b"a b\r\n" * 10**6
    (tmp_path / "file").write_bytes(content)
    sizes = [len(block.content) for block in sources.blocks(tmp_path / "file", 0, True, 1000)]
    assert max(sizes) <= 2**20 + 5


# Killed, damaged, changed.


def stored_bytes(store, cache):
    """All that there is of prepared data."""
    return {x.name: x.read_bytes() for x in sorted((cache / store.key).iterdir())}


KILLED = """
import sys
from pathlib import Path
from dinojax.data.prepared import finished, prepare

is_text = sys.argv[1] == "text"
print("go", flush=True)
files = [*map(Path, sys.argv[2:])]
store = finished(prepare(files, is_text=is_text, lowercase=True, save_every=2**14))
print(store.key)
"""


@pytest.mark.parametrize("kind", ["text", "names"])
def test_a_preparation_that_is_killed_goes_on_with_the_same_bytes(
    kind, tmp_path, cache, monkeypatch
):
    (tmp_path / "a.txt").write_text("\n".join(words(40_000)))
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("\n".join(words(20_000, seed=1)))
    files = [tmp_path / "a.txt", tmp_path / "b.txt.gz"]
    ways = {"is_text": kind == "text", "lowercase": True}
    whole_store = finished(prepare(files, **ways))
    expected = stored_bytes(whole_store, cache)
    shutil.rmtree(cache)
    # Blocks are small, so that there are many states between which the process can be killed.
    program = f"from dinojax.data import sources\nsources.blocks.__defaults__ = (4096,)\n{KILLED}"
    program = program.replace(
        "sources.blocks.__defaults__",
        "chunks = sources._chunks\n"
        "sources._chunks = lambda stream: chunks(stream, 4096)\nsources.blocks.__defaults__",
    )
    generator, kills = random.Random(1), 0
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", program, kind, *map(str, files)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout.readline() == "go\n"
            time.sleep(generator.uniform(0.0, 0.25))
            process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if (cache / whole_store.key).exists():
            break
    assert kills
    # In this process it is stopped between two blocks, again and again.
    monkeypatch.setattr(sources.blocks, "__defaults__", (4096,))
    chunks = sources._chunks
    monkeypatch.setattr(sources, "_chunks", lambda stream: chunks(stream, 4096))
    for _ in range(3):
        started = prepare(files, **ways, save_every=2**14)
        for _ in zip(range(generator.randint(3, 40)), started, strict=False):
            pass
        started.close()
    assert stored_bytes(finished(prepare(files, **ways, save_every=2**14)), cache) == expected
    assert not list(cache.glob("*.part"))


def test_one_of_two_processes_prepares_and_the_other_waits(names_file, cache):
    first, second = (prepare([names_file], is_text=False, lowercase=True) for _ in range(2))
    while next(first).doing == "checksum":
        pass
    while next(second).doing == "checksum":
        pass
    assert next(second).doing == "wait for another process"
    made = finished(first)
    assert finished(second).key == made.key
    assert [path.name for path in cache.iterdir()] == [made.key]


@pytest.mark.parametrize("name", ["ids.bin", "meta.json", "lengths.bin", "ranks.bin"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_damaged_prepared_data_are_made_again(names_file, cache, name, how):
    ways = {"is_text": False, "lowercase": True}
    store = finished(prepare([names_file], **ways))
    expected, file = stored_bytes(store, cache), cache / store.key / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.unlink()
    if how != "gone":
        file.write_bytes(content if how == "flipped" else content[: len(content) // 2])
    assert prepared.find(store.key) is None
    assert stored_bytes(finished(prepare([names_file], **ways)), cache) == expected


def test_data_are_found_by_their_bytes_and_not_by_their_name(text_file, tmp_path, cache):
    ways = {"is_text": True, "lowercase": False}
    store = finished(prepare([text_file], **ways))
    (tmp_path / "other").write_bytes(text_file.read_bytes())
    doing = [step.doing for step in prepare([tmp_path / "other"], **ways)]
    assert doing == ["checksum"]
    assert finished(prepare([text_file], is_text=True, lowercase=True)).key != store.key
    text_file.write_bytes(text_file.read_bytes() + b"x")
    assert finished(prepare([text_file], **ways)).key != store.key


# Documents.


def test_documents_are_read_apart(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    texts = ["one two three", "", "four", "five six\nseven"]
    for i, text in enumerate(texts):
        (folder / f"{i}.txt").write_text(text)
    with gzip.open(folder / "4.txt.gz", "wt") as file:
        file.write("eight")
    zstandard = pytest.importorskip("zstandard")
    (folder / "5.zst").write_bytes(zstandard.ZstdCompressor().compress(b"nine ten"))
    (folder / ".hidden").write_bytes(b"\xff")
    (folder / "inner").mkdir()
    expected = [*filter(None, texts), "eight", "nine ten"]
    for corpus in read_both([folder], is_text=True, lowercase=False):
        text = corpus.data
        assert list(text.documents()) == expected
        assert text.starts.tolist() == np.cumsum([0, *map(len, expected[:-1])]).tolist()
        assert list(text[5:15].documents()) == ["wo three", "fo"]
        batch = cut_text(text, text.vocab, 10)
        flat = batch.inputs.T.reshape(-1)[: len(text)]
        assert np.flatnonzero(flat == text.vocab.no_character).tolist() == text.starts.tolist()
        read_rows = batches_of(windows(text, text.vocab, 3, 4))
        assert sum((x[0] == text.vocab.no_character)[x[2] > 0].sum() for x in read_rows)
    names = finished(read([folder], is_text=False, lowercase=False)).data
    assert names == [line for text in expected for line in text.split("\n")]
    assert list(finished(read([folder], is_text=False, lowercase=False, in_memory=3)).data) == names


def test_a_text_of_documents_costs_what_they_cost_apart():
    documents = ["to be or not to be", "that is the question", "whether"]
    text = joined_documents(documents, build_vocab(documents))
    trained = session.train(text, "text", hidden_size=5, steps=2, batch_size=2, window=4)
    apart = np.concatenate([text_nats(trained, each) for each in documents])
    np.testing.assert_allclose(text_nats(trained, text), apart, rtol=1e-6)
    assert abs(text_nats(trained, "".join(documents)) - apart).max() > 1e-4
    costs = make_evaluation(trained.model, trained.vocab, text, window=len(text))(trained.params)
    np.testing.assert_allclose(costs.nats.sum(), apart.sum(), rtol=1e-6)
    for ids, starts in [joined(trained.vocab, text)]:
        assert trained.vocab.decode(ids) == "".join(documents)
        assert np.flatnonzero(starts).tolist() == [0, 18, 38]
    assert len(compare(trained, text, text, max_order=2)) == 4


def test_of_large_data_a_part_is_measured(names_file, text_file):
    text, string = (each.data for each in read_both([text_file], is_text=True))
    assert str(excerpt(text, 100)) == string[:100]
    assert excerpt(string, 100) is string
    stored, names = (each.data for each in read_both([names_file], is_text=False))
    num = sum(len(name) + 1 for name in names)
    assert excerpt(stored, num // 3) == names[:: -(-num // (num // 3))]
    batch = cut_text(text, text.vocab, 50, 1_000)
    assert batch.weights.sum() == 19 * 50 + ((len(text) - 1) % 50 + 1)
    ids, before = text.vocab.encode(string), np.roll(text.vocab.encode(string), 1)
    before[0] = text.vocab.no_character
    starts = np.linspace(0, (len(text) - 1) // 50, 20).astype(int) * 50
    for column, start in enumerate(starts[:-1]):
        np.testing.assert_array_equal(batch.targets[:, column], ids[start : start + 50])
        np.testing.assert_array_equal(batch.inputs[:, column], before[start : start + 50])


def test_costs_of_prepared_data_are_those_of_data_in_memory(
    tmp_path, names_file, text_file, monkeypatch
):
    monkeypatch.setattr("dinojax.evaluation.prepared.AT_ONCE", 700)
    monkeypatch.setattr("dinojax.evaluation.prepared.blocks.__defaults__", (2048,))
    (tmp_path / "more.txt").write_text(" ".join(words(90)))
    texts = [each.data for each in read_both([text_file, tmp_path / "more.txt"], is_text=True)]
    lists = [each.data for each in read_both([names_file], is_text=False)]
    sizes = {"hidden_size": 5, "steps": 2, "batch_size": 2}
    for kind, pair in (("names", lists), ("text", texts)):
        trained = session.train(pair[1], kind, **sizes, window=64)
        contexts = "carry", 50
        one, other = (compare(trained, pair[1], x, contexts=contexts, max_order=3) for x in pair)
        for found, expected in zip(one, other, strict=True):
            assert found[2:] == expected[2:]
            assert found.figures == pytest.approx(expected.figures, rel=1e-4)
    # A stretch is read as a document would be.
    whole_text, num = str(texts[0]), len(texts[0])
    edges = [0, num // 3, 2 * num // 3, num]
    starts = np.union1d(edges[:-1], texts[0].starts)
    cut = replace(joined_documents([whole_text], trained.vocab), starts=starts)
    costs = carried_costs(trained, texts[0], 3)
    assert costs.num_characters.sum() == num
    assert len(costs.nats) == sum(-(-each // 1024) for each in np.diff(edges))
    np.testing.assert_allclose(costs.nats.sum(), text_nats(trained, cut).sum(), rtol=1e-5)


@pytest.mark.parametrize("kind", ["text", "names"])
def test_n_grams_and_mixtures_of_prepared_data_and_of_documents(
    kind, tmp_path, names_file, text_file
):
    (tmp_path / "more.txt").write_text(" ".join(words(90)))
    is_text, found = kind == "text", []
    files = [text_file, tmp_path / "more.txt"] if is_text else [names_file]
    for number, corpus in enumerate(read_both(files, is_text=is_text)):
        settings = {"batches": "windows" if is_text else "packed", "validation_fraction": 0.2}
        config = ngram_config(settings | {"lowercase": True})
        described = describe(config, corpus.data, sha256=corpus.sha256)
        made = make_ngram_run(*described[:2], 3)
        folder = tmp_path / f"run-{number}"
        save_untrained(made.trained.params, folder, made.description, made.parts)
        mixed = mixtures.mix([folder], tmp_path / f"mixed-{number}", ngram=2)
        found.append([made.figures, *mixed.figures, mixed.weights])
        assert not mixed.is_sample
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


# Runs of prepared data.


@pytest.mark.parametrize("in_memory", [0, 2**25])
def test_a_sweep_reads_what_a_run_reads(in_memory, tmp_path, monkeypatch, text_file):
    monkeypatch.setattr("dinojax.runs.replica.read", partial(read, in_memory=in_memory))
    folder = tmp_path / "texts"
    folder.mkdir()
    with gzip.open(folder / "a.gz", "wb") as file:
        file.write(text_file.read_bytes())
    (folder / "b").write_text(" ".join(words(300, seed=3)))
    files = [folder / "a.gz", folder / "b"]
    sizes = {"hidden_size": 4, "batch_size": 2, "window": 8, "steps": 12}
    more = {"folder": tmp_path / "alone", "devices": 1}
    corpus = finished(read([folder], is_text=True, lowercase=False, in_memory=in_memory))
    session.train(corpus.data, "text", **sizes, **more)
    for name, data in (("folder", folder), ("files", files)):
        sweep(tmp_path / name, "text", data, seeds=1, jobs=1, **sizes)
        one, other = (
            runs.load_run(x, "last").params
            for x in (tmp_path / name / "text" / "seed-0", tmp_path / "alone")
        )
        jax.tree.map(np.testing.assert_array_equal, one, other)
    (folder / "b").write_text("x")
    with pytest.raises(ValueError, match=r"a.gz and 1 other has changed since the sweep began"):
        read_data(paths_in_lines(files), resolve("text"), corpus.sha256)


@pytest.fixture
def small_run(tmp_path, text_file):
    """A run on prepared data, begun and stopped."""
    given = {"hidden_size": 4, "steps": 30, "batch_size": 2, "window": 8, "devices": 1}
    config = resolve("text", given=given)
    corpus = finished(read([text_file], is_text=True, lowercase=False, in_memory=0))
    experiment = make_experiment(
        *describe(config, corpus.data, source=str(text_file), sha256=corpus.sha256)
    )
    runs.take_folder(tmp_path / "run")
    state, tally = session.start(experiment, tmp_path / "run")
    coming = session.work(experiment, state, tally, tmp_path / "run", chunk_size=4)
    next(coming)
    coming.close()
    return tmp_path / "run"


def command(name, *arguments, cwd):
    return call_here(Program(name, name), *arguments, cwd=cwd)


def test_commands_read_the_data_of_a_run_again(small_run, tmp_path, cache, text_file):
    shutil.rmtree(cache)
    done = command("evaluate", small_run, "--context", "carry", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    first = json.loads(done.out)
    assert [row["model"] for row in first["models"]] == ["network"] + ["ngram"] * 5
    # On the text itself.
    part = runs.read_part(small_run, runs.load_run(small_run).description, "validation")
    (tmp_path / "validation.txt").write_text(str(part))
    done = command(
        "evaluate",
        small_run,
        "--context",
        "carry",
        "--json",
        "--data",
        tmp_path / "validation.txt",
        cwd=tmp_path,
    )
    again = json.loads(done.out)
    ways = "model", "context", "order"
    for found, expected in zip(again["models"], first["models"], strict=True):
        assert [found.pop(x, None) for x in ways] == [expected.pop(x, None) for x in ways]
        assert found == pytest.approx(expected, rel=1e-4)
    assert first["num_stretches"] == 1
    done = command("train", "--resume", small_run, "--data", text_file, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "30 steps" in done.out
    for name, arguments in {
        "sample": ["--length", 5],
        "export": ["--format", "numpy", "--out", "x"],
    }.items():
        done = command(name, small_run, *arguments, cwd=tmp_path)
        assert done.code == 0, done.err


def test_a_run_whose_data_are_gone_says_so(small_run, tmp_path, cache, text_file):
    shutil.rmtree(cache)
    content = text_file.read_bytes()
    text_file.write_bytes(content + b"x")
    done = command("evaluate", small_run, cwd=tmp_path)
    assert done.code == 2
    assert "has changed since; put it back" in done.err
    text_file.unlink()
    for name in (["evaluate"], ["train", "--resume"]):
        done = command(*name, small_run, cwd=tmp_path)
        assert done.code == 2
        assert f"{text_file}, from which they were made, is gone" in done.err
        assert len(done.err.splitlines()) == 1
    (small_run / "train.json").write_bytes(b"{}")
    done = command("train", "--resume", small_run, cwd=tmp_path)
    assert "was changed after training" in done.err


def test_train_on_a_folder_and_begin_with_it(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.txt").write_text(" ".join(words(300, seed=i)))
    sizes = ["--hidden-size", 4, "--batch-size", 2, "--window", 8, "--steps", 20]
    done = command("train", "text", *sizes, "--data", folder, "--out", "run", cwd=tmp_path)
    assert done.code == 0, done.err
    run = runs.load_run(tmp_path / "run")
    train = runs.read_part(tmp_path / "run", run.description, "train")
    assert len(train.starts) == 3
    assert (tmp_path / "run" / "train.txt").read_text().count("\0") == 2
    files = [folder / "0.txt", folder / "1.txt"]
    more = ["--data", *files, "text", "--init-from", "run", "--out", "next"]
    done = command("train", *sizes, *more, cwd=tmp_path)
    assert done.code == 0, done.err
    again = ["--config", "next/config.json", "--out", "again"]
    assert command("train", *again, cwd=tmp_path).code == 0
    first, second = (runs.load_run(tmp_path / x, "last").params for x in ("next", "again"))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert command("score", "run", "--file", files[0], cwd=tmp_path).code == 0


def test_prepare_says_what_it_made(tmp_path, names_file, cache):
    done = command("prepare", "names", "--data", names_file, cwd=tmp_path)
    assert done.code == 0, done.err
    assert f"{len(read_names(names_file).data):,} names" in done.out
    assert str(cache) in done.out
    assert read_names(names_file).notes[0] in done.out


# What cannot be read.


def fails(tmp_path, *arguments, name="train"):
    done = command(name, *arguments, cwd=tmp_path)
    assert done.code == 2, done.out
    assert len(done.err.splitlines()) == 1
    return done.err


def test_bad_files_are_named(tmp_path, monkeypatch):
    folder = tmp_path / "texts"
    folder.mkdir()
    assert "texts is a folder without files" in fails(tmp_path, "text", "--data", folder)
    for i in range(4):
        (folder / f"{i}.txt").write_text("some words " * 30)
    (folder / "2.txt").write_bytes(b"some \xff words")
    said = fails(tmp_path, "text", "--data", folder)
    assert "2.txt is not UTF-8 text: byte 0xff at offset 5" in said
    assert said in fails(tmp_path, "text", "--data", folder, name="prepare").replace(
        "prepare", "train"
    )
    (folder / "2.txt").unlink()
    (folder / "2.txt").symlink_to("nowhere")
    gone = [folder / "0.txt", folder / "gone.txt"]
    assert "gone.txt: No such file" in fails(tmp_path, "text", "--data", *gone)
    said = fails(tmp_path, "text", "--data", "-", folder / "0.txt")
    assert "standard input cannot be read together with files" in said
    for name, content in {
        "a.gz": gzip.compress(b"some words " * 3_000)[:-20],
        "b.gz": b"no archive",
        "c.zst": b"no archive",
    }.items():
        (folder / name).write_bytes(content)
        expected = {"a": "ends early", "b": "expected a gzip", "c": "expected a zstd"}[name[0]]
        for command_name in ("train", "prepare"):
            said = fails(tmp_path, "text", "--data", folder / name, name=command_name)
            assert f"{name}: " in said
            assert expected in said
    monkeypatch.setitem(sys.modules, "zstandard", None)
    said = fails(tmp_path, "text", "--data", folder / "c.zst")
    assert "zstandard is missing; install it: pip install 'dinojax[zst]'" in said
    (folder / "long").write_text("x" * 2_000)
    said = fails(tmp_path, "names", "--data", folder / "long", name="prepare")
    assert "line 1: a name of 2,000 characters" in said
    (folder / "empty").write_text("")
    assert "is empty" in fails(tmp_path, "text", "--data", folder / "empty", name="prepare")
    assert "no names" in fails(tmp_path, "names", "--data", folder / "empty", name="prepare")


def test_a_cache_that_cannot_be_written_is_named(tmp_path, text_file, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said = fails(tmp_path, "text", "--data", text_file, name="prepare")
    assert "make room, or set XDG_CACHE_HOME to another folder" in said
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dinojax.data.readers.flush", full)
        said = fails(tmp_path, "text", "--data", text_file, name="prepare")
    assert "No space left on device; data of this size are prepared there" in said
    other = ["text", "--data", text_file]
    assert command("prepare", *other, cwd=tmp_path).code == 0


def test_data_that_change_while_they_are_read_are_refused(text_file):
    started = prepare([text_file], is_text=True, lowercase=False)
    while next(started).doing != "ids":
        pass
    os.utime(text_file, (1, 1))
    with pytest.raises(ValueError, match="changed while they were read"):
        finished(started)
    assert str(whole(finished(prepare([text_file], is_text=True, lowercase=False)))) == (
        read_running_text(text_file).data
    )


def test_a_run_of_a_prepared_list_is_not_begun_with(tmp_path, names_file):
    corpus = finished(read([names_file], is_text=False, lowercase=True, in_memory=0))
    folder = tmp_path / "run"
    session.train(corpus.data, hidden_size=4, steps=2, folder=folder)
    said = fails(tmp_path, "--init-from", folder, "--data", names_file)
    assert "begin with a run of a list that fits into memory" in said
    said = fails(tmp_path, folder, "--samples", 5, name="evaluate")
    assert "--samples is for lists of names that fit into memory" in said
    done = command("sample", folder, "--num", 3, "--novel", "--json", cwd=tmp_path)
    assert done.code == 0, done.err


# Memory.

MEASURED = """
import resource, sys
from pathlib import Path

import jax

import dinojax
from dinojax.data.prepared import finished
from dinojax.data.reading import read


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


settings = dict(hidden_size=8, batch_size=8, window=16, steps=40, validation_fraction=0.05)
is_text = sys.argv[1] == "text"
small = "some words " * 1_000 if is_text else ["rex", "mei", "triceratops"] * 300
dinojax.train(small, sys.argv[1], **settings)
before = peak()
corpus = finished(read([Path(sys.argv[2])], is_text=is_text, lowercase=True, in_memory=0))
read_in = peak()
dinojax.train(corpus.data, sys.argv[1], **settings)
print(read_in - before, peak() - before)
"""


@pytest.mark.parametrize(("kind", "bound"), [("text", 150), ("names", 400)])
def test_memory_does_not_grow_with_a_text(kind, bound, tmp_path):
    """A text of 30 MB takes blocks and the examples of a validation, two million names some 150
    bytes each, most of them for a moment."""
    # The system counts the pages of a mapped file that are in use, too.
    generator = np.random.default_rng(0)
    size = 30_000_000 if kind == "text" else 2**24
    letters = generator.integers(ord("a"), ord("z"), size, np.uint8)
    letters[::8] = ord(" " if kind == "text" else "\n")
    (tmp_path / "large.txt").write_bytes(letters.tobytes())
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, kind, tmp_path / "large.txt"],
        capture_output=True, text=True, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    read_in, all_in_all = map(float, done.stdout.split())
    assert read_in <= all_in_all < bound
