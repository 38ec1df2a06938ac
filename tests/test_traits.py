"""Traits of texts, and the units that follow them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dinojax.data.vocab import build_vocab
from dinojax.evaluation.traits import Follower, followers, traits
from dinojax.models.cells import vanilla
from dinojax.models.layers import from_cell
from dinojax.models.model import char_model
from dinojax.models.trained import Trained

TEXT = 'Sée "(ab)".\nOoh'


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # Of       S  é  e  _  "  (  a  b  )  "  .  \n O  o  h
        ("vowel", [0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 0]),
        ("place in the word", [1, 2, 3, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 2, 3]),
        ("place in the line", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3]),
        ("letters since a vowel", [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]),
        ("same letter again", [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
        ("space", [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
        ("capital letter", [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]),
        ("end of a sentence", [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
        ("inside quotes", [0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]),
        ("inside brackets", [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]),
        ("digit", [0] * 15),
    ],
)
def test_traits_of_a_text(name, values):
    assert traits(TEXT)[name].tolist() == values


def make_model(part, of_unit):
    """A model without memory, whose units say what `of_unit` says of the character read."""
    vocab = build_vocab(part)
    model = char_model([from_cell(vanilla(vocab.size, 3))], vocab)
    params = model.init(jax.random.key(0))
    (layer,) = params["layers"]
    kernel = jnp.asarray([of_unit(character) for character in vocab.characters])
    layer |= {"input_kernel": kernel, "recurrent_kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}
    return Trained(model, params, vocab)


WORDS = ["banana", "kiwi", "plum", "fig", "pear", "quince", "melon", "lime"] * 4


@pytest.mark.parametrize("part", [WORDS, " ".join(WORDS)])
def test_units_that_follow_a_trait_are_found(part):
    constant, slight = 0.2, 0.05

    def of_unit(character):
        return [constant, 2.0 if character in "aeiou" else -1.0, slight * (ord(character) % 7)]

    found, num = followers(make_model(part, of_unit), part)
    best = next(each for each in found if each.trait == "vowel")
    assert best[:3] == (0, 1, "vowel")
    assert best.correlation == pytest.approx(1)
    assert found[0] == best
    assert all(0.5 <= abs(each.correlation) <= 1 for each in found)
    # Newlines of names are not read, and nothing follows the last character of a text.
    assert num == len("".join(part)) - isinstance(part, str)
    assert not any(each.unit == 0 for each in found)


def test_a_unit_must_follow_the_trait_on_both_halves():
    # A unit that is high for the vowels of the first half, and low for those of the second.
    part = "ab" * 50 + "uv" * 50
    kernels = {"a": 1.0, "b": -1.0, "u": -1.0, "v": 1.0}
    trained = make_model(part, lambda character: [kernels.get(character, 0.0), 0.0, 0.0])
    found, _ = followers(trained, part)
    assert not any(each.trait == "vowel" for each in found)


def test_the_unit_is_chosen_on_the_first_half_and_judged_on_the_second():
    part = "abec" * 20 + "ifog" * 20
    # Of these, the first follows vowels alike on both halves, the second better in all.
    alike = {"a": 1, "e": 0.5, "c": 0.5, "i": 1, "o": 0.5, "g": 0.5}
    better = {"a": 1, "e": 0.4, "c": 0.5, "i": 1, "o": 1}
    scale = 0.01

    def of_unit(character):
        return [scale * alike.get(character, 0.0), scale * better.get(character, 0.0), 0.0]

    found, _ = followers(make_model(part, of_unit), part)
    (vowel,) = [each for each in found if each.trait == "vowel"]
    assert vowel.unit == 0
    assert vowel.correlation == pytest.approx(0.5**0.5, abs=0.02)


def test_little_or_constant_data_have_no_followers():
    for part in (["a"], "a", "aa", "aaaaaaaa"):
        trained = make_model(part, lambda character: [1.0, 0.0, -1.0])
        assert followers(trained, part)[0] == []


def test_the_sign_of_a_correlation_is_kept():
    part = " ".join(WORDS)
    trained = make_model(part, lambda character: [-2.0 if character in "aeiou" else 1.0, 0.0, 0.0])
    found, _ = followers(trained, part, least=0.99)
    assert found == [Follower(0, 0, "vowel", pytest.approx(-1))]
    assert isinstance(found[0].correlation, float)
    assert np.isfinite(found[0].correlation)
