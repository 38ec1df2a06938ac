"""What holds for samples of any network holds for n-gram models, mixtures and caches, too."""

import pytest
import test_sample
from test_sample import (
    CONTROLS,
    SAMPLERS,
    VOCAB,
    test_a_cut_name_has_the_probability_of_its_characters,
    test_log_probabilities_are_those_of_the_model,
)
from test_stream import test_stream_writes_full_rows_first

from model_kinds import KINDS, build

__all__ = [
    "test_a_cut_name_has_the_probability_of_its_characters",
    "test_log_probabilities_are_those_of_the_model",
    "test_stream_writes_full_rows_first",
]


@pytest.fixture(scope="module", params=KINDS)
def built(request):
    return build(request.param, VOCAB)


@pytest.fixture(scope="module")
def model(built):
    return built[0]


@pytest.fixture(scope="module")
def params(built):
    return built[1]


@pytest.mark.parametrize("controls", [CONTROLS[0], CONTROLS[-1]], ids=["plain", "controlled"])
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_names_come_as_often_as_the_model_says(sampler, controls, params, model):
    test_sample.test_names_come_as_often_as_the_model_says(sampler, controls, params, model)
