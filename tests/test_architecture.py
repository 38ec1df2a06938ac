"""What holds across modules: who imports whom, the order of arguments, no effects at import."""

import ast
import importlib
import inspect
import os
import subprocess
import sys

import pytest

import dinojax

from conftest import ROOT

READING_ORDER = [
    "vocab", "data", "batches", "config", "ngram", "distances", "products", "cells", "recurrence",
    "model", "loss", "optimizers", "train", "controls", "sample", "stream", "search", "score",
    "evaluate", "quality", "checkpoint", "metrics", "event_files", "runs", "trainer", "plots",
]  # fmt: skip
APART = ["devices", "command_line", "patterns"]
OF_TRAINING = ["settings", "jobs", "reports"]
"""What scripts/train.py is made of, besides."""


def imports_of(module):
    tree = ast.parse((ROOT / "dinojax" / f"{module}.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dinojax"):
            if node.module == "dinojax":
                yield from (alias.name for alias in node.names)
            else:
                yield node.module.removeprefix("dinojax.")


def test_every_module_has_its_place():
    files = {path.stem for path in (ROOT / "dinojax").glob("*.py")} - {"__init__"}
    assert files == {*READING_ORDER, *APART, *OF_TRAINING}
    listed = dinojax.__doc__
    places = [listed.index(f"`{module}`") for module in READING_ORDER]
    assert places == sorted(places)


@pytest.mark.parametrize("module", READING_ORDER)
def test_modules_import_only_from_those_before_them(module):
    before = READING_ORDER[: READING_ORDER.index(module)]
    assert set(imports_of(module)) <= set(before)


@pytest.mark.parametrize("module", OF_TRAINING)
def test_modules_of_training_import_only_from_those_before_them(module):
    before = OF_TRAINING[: OF_TRAINING.index(module)]
    assert set(imports_of(module)) <= {*READING_ORDER, *APART, *before}


@pytest.mark.parametrize("module", APART)
def test_modules_apart_import_nothing_of_ours(module):
    assert not list(imports_of(module))


@pytest.mark.parametrize(
    "module",
    ["vocab", "data", "batches", "config", "ngram", "distances", *APART, "settings", "jobs"],
)
def test_reading_arguments_and_names_does_not_wait_for_jax(module):
    code = f"import sys, dinojax.{module}; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_library_changes_no_setting():
    modules = ", ".join(f"dinojax.{module}" for module in READING_ORDER + APART + OF_TRAINING)
    code = (
        "import os; before = dict(os.environ); import jax; values = dict(jax.config.values); "
        f"import {modules}; assert dict(os.environ) == before; "
        "assert dict(jax.config.values) == values; "
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


def public_functions():
    for module_name in (
        "cells", "controls", "data", "evaluate", "loss", "model", "optimizers", "products",
        "recurrence", "sample", "search", "train",
    ):  # fmt: skip
        module = importlib.import_module(f"dinojax.{module_name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                yield pytest.param(function, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_key_comes_first_or_else_params(function):
    names = list(inspect.signature(function).parameters)
    leading = [name for name in names if name in ("key", "params")]
    # In `recurrence` the cell, a static argument, stands before what the cell is applied to.
    start = names.index("cell") + 1 if "cell" in names else 0
    assert names[start : start + len(leading)] == leading
    assert leading == sorted(leading)


@pytest.mark.parametrize("function", list(public_functions()))
def test_public_functions_are_annotated_and_documented(function):
    signature = inspect.signature(function)
    assert inspect.getdoc(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
