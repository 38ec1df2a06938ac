"""Settings chosen by the size of the data."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dinojax.config import config_from
from dinojax.data.batches import windows
from dinojax.data.splits import split_text
from dinojax.data.stored import joined_documents
from dinojax.data.vocab import build_vocab
from dinojax.recipes import recipe
from dinojax.runs.suited import fitted, recipe_for

SIZES = st.integers(1, 10**9)


@settings(derandomize=True, deadline=None)
@given(SIZES, st.integers(1, 50))
def test_every_size_has_settings_and_more_data_no_smaller_networks(num, length):
    for before, after in (
        (recipe(num * length, num), recipe(2 * num * length, 2 * num)),
        (recipe(num), recipe(2 * num)),
    ):
        small, large = map(config_from, (before, after))
        assert small.is_text == large.is_text == (before["batches"] == "windows")
        assert small.hidden_size <= large.hidden_size
        assert small.batch_size <= large.batch_size
        assert small.learning_rate <= large.learning_rate
        assert not small.lowercase
        assert small.validation_fraction > 0


@settings(derandomize=True, deadline=None)
@given(SIZES, SIZES)
def test_more_names_are_read_less_often(num, other):
    few, many = sorted([num, other])
    assert recipe(6 * few, few)["epochs"] >= recipe(6 * many, many)["epochs"] > 0
    # However many there are, a run ends.
    assert many * recipe(6 * many, many)["epochs"] <= 300_001


@settings(derandomize=True, deadline=None)
@given(st.integers(40, 5_000))
def test_a_text_fills_its_rows(num):
    text = ("to be or not to be. " * (num // 20 + 1))[:num]
    config = config_from(recipe_for(text))
    assert fitted(config, text) == config
    part = split_text(text, config.validation_fraction, 0)[0]
    dataset = windows(part, build_vocab([text]), config.batch_size, config.window)
    assert dataset.step_shape[1] == config.batch_size


def test_names_and_texts_are_told_apart():
    assert recipe_for(["ada", "bob"]) == recipe(8, 2)
    assert recipe_for("ada\nbob\n") == recipe(8)
    joined = joined_documents(["ada\n", "bob\n"], build_vocab(["adbo"]))
    assert recipe_for(joined) == recipe(8)
