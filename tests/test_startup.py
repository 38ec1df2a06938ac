"""The settings for the CPU that programs make."""

import os
import subprocess
import sys

import jax
import pytest
from filelock import FileLock

from dinojax import parallel, startup
from dinojax.messages import about

from conftest import USERS_ENVIRONMENT

SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"


@pytest.fixture(autouse=True)
def no_flags(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def flags():
    return dict(flag.split("=", 1) for flag in os.environ["XLA_FLAGS"].split())


def test_flags_are_set_once():
    startup.set_cpu_flags()
    first = os.environ["XLA_FLAGS"]
    assert flags()[SCHEDULER] == "false"
    assert "65536" in flags()["--xla_backend_extra_options"]
    startup.set_cpu_flags()
    assert os.environ["XLA_FLAGS"] == first


def test_flags_set_by_the_user_are_kept(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=x {SCHEDULER}=true")
    startup.set_cpu_flags()
    assert flags()["--xla_dump_to"] == "x"
    assert flags()[SCHEDULER] == "true"
    assert os.environ["XLA_FLAGS"].count(SCHEDULER) == 1


def test_an_untested_newer_jaxlib_gets_no_flag_it_may_not_know(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.13.0")
    startup.set_cpu_flags()
    assert SCHEDULER not in flags()
    assert "--xla_backend_extra_options" in flags()


@pytest.mark.parametrize(
    ("batch_size", "available", "expected"),
    [(1, 8, 1), (7, 2, 1), (8, 2, 2), (64, 2, 2), (64, 3, 2), (66, 3, 3), (64, 1, 1), (64, 0, 1)],
)
def test_rows_are_shared_evenly_by_as_many_devices_as_pay_off(batch_size, available, expected):
    assert startup.best_share(batch_size, available) == expected


def run_program(program, **environment):
    """The exit code of a program and its standard error."""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=USERS_ENVIRONMENT | environment,
    )
    return result.returncode, result.stderr


def compile_something(**environment):
    """The same of a program that compiles."""
    return run_program(
        "from dinojax.startup import start_jax; start_jax(); import jax; jax.jit(abs)(1)",
        **environment,
    )


def test_too_many_devices_are_refused():
    num = jax.device_count()
    parallel.make_mesh(num)
    message = f"^--devices: expected up to {num}, .* got {num + 1}"
    with pytest.raises(ValueError, match=message), about("--devices"):
        parallel.make_mesh(num + 1)


def test_a_cpu_has_no_more_devices_than_cores():
    program = "from dinojax.startup import num_cores, start_jax; start_jax(4096); import jax; "
    assert run_program(program + "assert jax.device_count() == num_cores()") == (0, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("XLA_FLAGS", "--xla_nonsense"),
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math=maybe"),
        ("JAX_TRANSFER_GUARD", "disallow"),
        ("JAX_ENABLE_X64", "maybe"),
        ("JAX_PLATFORMS", "\x1b[31m"),
    ],
)
def test_a_variable_that_jax_cannot_use_is_named(name, value):
    program = (
        "from dinojax.startup import start_jax\n"
        "try: start_jax()\n"
        "except ValueError as error: raise SystemExit(str(error))"
    )
    code, said = run_program(program, **{name: value})
    assert code == 1
    assert said.startswith("JAX cannot start: ")
    assert name in said


@pytest.mark.parametrize("num_devices", [1, 2])
def test_a_call_computes_before_it_returns(num_devices):
    program = f"from dinojax.startup import start_jax; start_jax({num_devices})\n"
    program += """
import jax, jax.numpy as jnp
multiply_often = jax.jit(lambda x: jax.lax.fori_loop(0, 300, lambda _, y: jnp.tanh(y @ y), x))
results = [multiply_often(jnp.ones((400, 400), device=device)) for device in jax.devices()]
assert all(result.is_ready() for result in results)
"""
    assert run_program(program) == (0, "")


def test_compiled_programs_are_cached_and_found_again(tmp_path):
    folder = tmp_path / "dinojax"
    assert compile_something(XDG_CACHE_HOME=str(tmp_path)) == (0, "")
    first = {path: path.stat().st_mtime_ns for path in folder.glob("*-cache")}
    assert first
    assert compile_something(XDG_CACHE_HOME=str(tmp_path)) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*-cache")} == first


def test_damaged_compiled_programs_are_compiled_again(tmp_path):
    compile_something(XDG_CACHE_HOME=str(tmp_path))
    for path in (tmp_path / "dinojax").glob("*-cache"):
        path.write_bytes(path.read_bytes()[:50])
    assert compile_something(XDG_CACHE_HOME=str(tmp_path)) == (0, "")


@pytest.mark.parametrize(
    "choice",
    [{"JAX_ENABLE_COMPILATION_CACHE": "false"}, {"JAX_COMPILATION_CACHE_DIR": "{}/elsewhere"}],
)
def test_the_user_chooses_whether_and_where_compiled_programs_are_kept(choice, tmp_path):
    choice = {name: value.format(tmp_path) for name, value in choice.items()}
    assert compile_something(XDG_CACHE_HOME=str(tmp_path / "caches"), **choice) == (0, "")
    assert not list((tmp_path / "caches").rglob("*-cache"))


def test_a_locked_cache_is_done_without(tmp_path):
    (tmp_path / "dinojax").mkdir()
    with FileLock(tmp_path / "dinojax" / ".lockfile"):
        assert compile_something(XDG_CACHE_HOME=str(tmp_path)) == (0, "")
    assert not list((tmp_path / "dinojax").glob("*-cache"))


def test_a_cache_whose_path_is_not_utf_8_is_done_without(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    assert compile_something(XDG_CACHE_HOME=folder) == (0, "")
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_kept_nothing_is_said(tmp_path):
    (tmp_path / "dinojax").touch()
    assert compile_something(XDG_CACHE_HOME=str(tmp_path)) == (0, "")
