"""The settings for the CPU that programs make."""

import os

import pytest

from dinojax import devices

SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"


@pytest.fixture(autouse=True)
def no_flags(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def flags():
    return dict(flag.split("=", 1) for flag in os.environ["XLA_FLAGS"].split())


def test_flags_are_set_once():
    devices.set_cpu_flags()
    first = os.environ["XLA_FLAGS"]
    assert flags()[SCHEDULER] == "false"
    assert "65536" in flags()["--xla_backend_extra_options"]
    devices.set_cpu_flags()
    assert os.environ["XLA_FLAGS"] == first


def test_what_the_user_has_chosen_stays(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=x {SCHEDULER}=true")
    devices.set_cpu_flags()
    assert flags()["--xla_dump_to"] == "x"
    assert flags()[SCHEDULER] == "true"
    assert os.environ["XLA_FLAGS"].count(SCHEDULER) == 1


def test_a_jaxlib_newer_than_those_tried_is_not_sent_a_flag_it_may_not_know(monkeypatch):
    monkeypatch.setattr(devices, "version", lambda _: "0.13.0")
    devices.set_cpu_flags()
    assert SCHEDULER not in flags()
    assert "--xla_backend_extra_options" in flags()


@pytest.mark.parametrize(
    ("batch_size", "available", "expected"),
    [(1, 8, 1), (7, 2, 1), (8, 2, 2), (64, 2, 2), (64, 3, 2), (66, 3, 3), (64, 1, 1), (64, 0, 1)],
)
def test_rows_are_shared_evenly_by_as_many_devices_as_are_worth_it(batch_size, available, expected):
    assert devices.best_share(batch_size, available) == expected
