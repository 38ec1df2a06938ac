"""Validation in blocks that are spread over a text, some of them works of their own."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import dinojax
from dinojax.cli.blocks import table_of_blocks
from dinojax.config import TrainConfig
from dinojax.data.blocks import Block, seen_blocks, split_blocks
from dinojax.data.splits import split_text
from dinojax.data.stored import joined_documents
from dinojax.data.vocab import build_vocab
from dinojax.data.works import SPEECH, play_starts, shared_speakers
from dinojax.evaluation.apart import costs_apart
from dinojax.evaluation.compare import compare, network_costs
from dinojax.evaluation.losses import Costs
from dinojax.presets import resolve
from dinojax.runs import folder as runs
from dinojax.runs.description import describe
from dinojax.runs.mixtures import mix
from dinojax.runs.ngrams import make_ngram_run

LETTERS = "".join(np.random.default_rng(0).choice(list("abcde fgh\n"), 3000).tolist())


def play(title, num, generator):
    """Speeches of five persons of a play and of a messenger, who is in every play."""
    persons = [f"{title} {i}" for i in range(8)]
    drawn = generator.choice([*persons, "Messenger"], num, p=[0.11] * 8 + [0.12])
    speeches = [persons[0], *drawn.tolist()[1:]]
    return "".join(f"{speaker}:\nSo says one of {title}.\n\n" for speaker in speeches)


GENERATOR = np.random.default_rng(1)
PLAYS = [play(*each, GENERATOR) for each in (("First", 300), ("Third", 110), ("Second", 350))]


def counted(text, train, held_out, blocks):
    """In how many blocks each character is, once it is known that all are in one part."""
    where = np.zeros(len(text), int)
    for block in blocks:
        where[block.start : block.start + block.length] += 1
    assert where.max() == 1
    assert str(train) == "".join(x for x, num in zip(text, where, strict=True) if not num)
    assert str(held_out) == "".join(text[a : a + n] for a, n, _ in blocks)
    return where


@pytest.mark.parametrize(("num", "seed"), [(2, 0), (7, 1), (40, 2)])
def test_blocks_are_disjoint_and_parts_complete(num, seed):
    vocab = build_vocab([LETTERS])
    train, held_out, tested, blocks = split_blocks(LETTERS, vocab, num, 0.2, 0.1, seed=seed)
    assert [len(each) for each in (train, held_out, tested)] == [2100, 600, 300]
    assert str(tested) == split_text(LETTERS, 0.2, 0.1)[2]
    assert len(blocks) == num
    assert not any(block.is_unseen for block in blocks)
    assert max(block.length for block in blocks) - min(block.length for block in blocks) <= 1
    where = counted(LETTERS[:2700], train, held_out, blocks)
    assert list(held_out.documents()) == [LETTERS[a : a + n] for a, n, _ in blocks]
    # Nowhere does training read on over a block.
    borders = np.flatnonzero(np.diff(np.flatnonzero(where == 0)) > 1) + 1
    assert train.starts.tolist() == [0, *borders.tolist()]
    assert split_blocks(LETTERS, vocab, num, 0.2, 0.1, seed=seed)[3] == blocks
    assert split_blocks(LETTERS, vocab, num, 0.2, 0.1, seed=seed + 1)[3] != blocks


def test_speakers_on_both_sides_are_those_of_sets():
    speakers = GENERATOR.choice(list("abcdefgh"), 60).tolist()
    expected = [1.0]
    for i in range(1, 60):
        before, after = set(speakers[max(0, i - 7) : i]), set(speakers[i : i + 7])
        expected.append(len(before & after) / min(len(before), len(after)))
    np.testing.assert_allclose(shared_speakers(speakers, 7), expected)


def test_plays_are_found_and_one_is_held_out_whole():
    text = "".join(PLAYS)
    edges = np.cumsum([0, *map(len, PLAYS)]).tolist()
    assert play_starts(text) == edges[:-1]
    assert play_starts(LETTERS) == play_starts(PLAYS[0]) == [0]
    train, held_out, _, blocks = split_blocks(text, build_vocab([text]), 6, 0.3, 0, seed=0)
    assert sum(b.length for b in blocks if b.is_unseen) == len(PLAYS[1])
    counted(text, train, held_out, blocks)
    speakers = {found[1] for found in SPEECH.finditer(str(train))}
    assert {x for x in speakers if not x.startswith("Messenger")} <= {
        f"{title} {i}" for title in ("First", "Second") for i in range(8)
    }
    assert "Third" not in str(train)
    assert "Third" in str(held_out)
    # The same with a file for each play, and none is short enough for a smaller part.
    documents = joined_documents(PLAYS, build_vocab([text]))
    assert split_blocks(documents, documents.vocab, 6, 0.3, 0, seed=0)[3] == blocks
    assert not any(
        b.is_unseen for b in split_blocks(documents, documents.vocab, 6, 0.1, 0, seed=0)[3]
    )


def test_empty_documents_are_no_blocks():
    documents = [LETTERS[:300], *[""] * 9, *(LETTERS[i : i + 60] for i in range(300, 1200, 60)), ""]
    vocab = build_vocab([LETTERS])
    text = joined_documents(documents, vocab)
    whole = joined_documents([each for each in documents if each], vocab)
    for seed in range(5):
        blocks = split_blocks(text, vocab, 6, 0.2, 0, seed=seed)[3]
        assert blocks == split_blocks(whole, vocab, 6, 0.2, 0, seed=seed)[3]
        assert len(blocks) == 6
        assert all(block.length for block in blocks)


def test_rows_never_cross_a_block():
    config = resolve("text", given={"validation_blocks": 5, "batch_size": 4, "window": 50})
    description, _, dataset = describe(config, LETTERS)
    is_held_out = np.zeros(len(LETTERS), bool)
    for start, length, _ in description.blocks:
        is_held_out[start : start + length] = True
    places = np.flatnonzero(~is_held_out)
    inputs, targets, _ = dataset.examples
    vocab = description.vocab
    assert vocab.decode(targets[:-1]) == "".join(LETTERS[i] for i in places)
    follows = np.append(False, np.diff(places) == 1)
    assert (inputs[:-1][~follows] == vocab.no_character).all()
    is_read = inputs[:-1] != vocab.no_character
    assert vocab.decode(inputs[:-1][is_read]) == "".join(LETTERS[i - 1] for i in places[is_read])
    # Beside these, only the rows begin afresh.
    assert is_read.sum() == follows.sum() - 3


def test_a_run_keeps_its_blocks_and_its_costs_are_given_apart(tmp_path):
    settings = {"steps": 2, "hidden_size": 3, "batch_size": 2, "window": 8, "evaluate_every": 2}
    text = "".join(PLAYS)
    split = {"validation_fraction": 0.3, "validation_blocks": 5, "split_seed": 3}
    # Optax's schedules need these types.
    with jax.numpy_dtype_promotion("standard"):
        trained = dinojax.train(text, "text", folder=tmp_path / "run", **settings, **split)
    run = runs.load_run(tmp_path / "run")
    blocks = run.description.blocks
    assert blocks == describe(run.config, text)[0].blocks
    part = runs.read_part(run.folder, run.description, "validation")
    assert str(part) == "".join(text[a : a + n] for a, n, _ in blocks)
    found = {
        each.context or each.order: each
        for each in compare(trained, None, part, contexts=["carry", 256], held_out=blocks)
    }
    assert run.tally.best_loss == pytest.approx(found[256].figures["nats_per_character"], rel=1e-5)
    for context in found:
        each = [network_costs(trained, text[a : a + n], context).nats.sum() for a, n, _ in blocks]
        nats, lengths = np.array(each), np.array([block.length for block in blocks])
        for kind, is_unseen in {"seen": False, "unseen": True}.items():
            chosen = np.array([block.is_unseen == is_unseen for block in blocks])
            figures = found[context].apart[kind]
            mean = nats[chosen].sum() / lengths[chosen].sum()
            assert figures["nats_per_character"] == pytest.approx(mean, rel=1e-5)
            assert figures["num_pieces"] == chosen.sum()
    # A mixture, its members and an n-gram model alone are measured alike.
    mixed = mix([run.folder], tmp_path / "mixed", ngram=2)
    described = describe(run.config, text)
    whole = compare(mixed.trained, described[1]["train"], part, max_order=2, held_out=blocks)
    carried, _, _, counted = (each.figures for each in whole)
    assert dict(mixed.figures[-1]) == pytest.approx(dict(carried), rel=1e-5)
    assert dict(mixed.figures[0]) == pytest.approx(dict(found["carry"].figures), rel=1e-5)
    assert dict(make_ngram_run(*described[:2], 2).figures) == dict(counted)


def test_the_spread_is_over_blocks():
    blocks = [Block(0, 4, False), Block(9, 4, False), Block(20, 3, True)]
    costs = Costs(np.array([2.0, 2, 3, 5, 6]), np.array([2.0, 2, 3, 1, 3]))
    apart = costs_apart(costs, blocks)
    assert apart["seen"]["nats_per_character"] == 12 / 8
    # Of two blocks of equal length, half the difference of their means.
    assert apart["seen"]["standard_error"] == pytest.approx((8 / 4 - 4 / 4) / 2)
    assert apart["unseen"]["nats_per_character"] == 2


def test_the_note_on_blocks_speaks_of_unseen_ones_only_where_there_are_some():
    figures = {"nats_per_character": 1.5, "standard_error": 0.1, "num_pieces": 2}
    note = "the model has learned from the works of seen blocks"
    seen, both = (
        table_of_blocks({"network": dict.fromkeys(kinds, figures)})
        for kinds in (["seen"], ["seen", "unseen"])
    )
    assert f"\n{note};\n" in seen
    assert "unseen" not in seen
    assert f"\n{note}, and not from those of unseen ones;\n" in both


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"^validation blocks: for a text; names are"):
        TrainConfig(validation_fraction=0.1, validation_blocks=2)
    for name, value in {"refit": True, "validation_blocks": 2}.items():
        with pytest.raises(ValueError, match="expected a validation fraction above 0"):
            TrainConfig(batches="windows", **{name: value})
    vocab = build_vocab([LETTERS])
    with pytest.raises(ValueError, match=r"at most 30, .* got 31; choose fewer blocks"):
        split_blocks(LETTERS, vocab, 31, 0.01, 0, seed=0)
    with pytest.raises(ValueError, match="1 block of 102 characters leaves too little of the text"):
        seen_blocks([(0, 50), (90, 190)], 102, 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="leave too little of the text"):
        split_blocks(LETTERS, vocab, 5, 0.9, 0, seed=0)
    prepared = replace(joined_documents([LETTERS], vocab), store=object())
    with pytest.raises(ValueError, match="fit into memory, got prepared data"):
        split_blocks(prepared, vocab, 5, 0.1, 0, seed=0)
