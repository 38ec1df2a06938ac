import gc
import getpass
import os
import tempfile
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]

USERS_ENVIRONMENT = dict(os.environ)
"""For processes that a test starts as a user would."""

# Tests compile much and compute little, so most XLA optimizations cost more than they save.
QUICK_TO_COMPILE = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
    ]
)
os.environ["XLA_FLAGS"] = QUICK_TO_COMPILE

# Tests, workers and the processes that they start share what they compile.
CACHE = Path(tempfile.gettempdir()) / f"dinojax-tests-{getpass.getuser()}"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

QUICK = {
    "XLA_FLAGS": QUICK_TO_COMPILE,
    "JAX_COMPILATION_CACHE_DIR": str(CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}
"""Variables for processes that compile as quickly, and share it too."""

# Two, for the tests of what several devices share; everything else uses the first.
jax.config.update("jax_num_cpu_devices", 2)

# A silent broadcast or a silent change of type is a bug here; in a test it is an error.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


# JAX holds millions of objects. To look through them after every 700 new ones takes a quarter of
# the time of these tests.
gc.set_threshold(20_000, 20, 20)


LONGEST = (
    "test_scripts", "test_bench", "test_resume", "test_hosts", "test_readme", "test_train",
    "test_sweep", "test_prepared", "test_stack",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Files that take longest come first, so that no worker is left with one at the end."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True, scope="module")
def released():
    """What the tests of a file compiled is released after them.

    Each compiled function takes pieces of memory, of which Linux gives a process no more than
    65,530.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def x64():
    """Float64 for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def test_data():
    """The folder of texts that are not part of the project."""
    folder = Path(os.environ.get("DINOJAX_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set DINOJAX_TEST_DATA")
    return folder
