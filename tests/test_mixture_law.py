"""What holds for samples of any network holds for those of an n-gram model and of a mixture."""

import pytest
from test_sample import (
    VOCAB,
    test_a_cut_name_has_the_probability_of_its_characters,
    test_a_low_temperature_always_takes_the_most_probable,
    test_a_name_does_not_depend_on_how_many_are_drawn,
    test_log_probabilities_are_those_of_the_model,
    test_names_come_as_often_as_the_model_says,
)
from test_stream import (
    test_a_row_of_a_stream_continues_with_the_next_unwritten_name,
    test_stream_writes_full_rows_first,
)

from model_kinds import KINDS, build

__all__ = [
    "test_a_cut_name_has_the_probability_of_its_characters",
    "test_a_low_temperature_always_takes_the_most_probable",
    "test_a_name_does_not_depend_on_how_many_are_drawn",
    "test_a_row_of_a_stream_continues_with_the_next_unwritten_name",
    "test_log_probabilities_are_those_of_the_model",
    "test_names_come_as_often_as_the_model_says",
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
