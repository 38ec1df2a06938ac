"""What holds across files: who imports whom, and what the library may not do."""

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter

import pytest

from conftest import ROOT

PACKAGE = ROOT / "dinojax"
STOREYS = [
    [
        "messages", "own", "contradictions", "config", "presets", "recipes", "files", "startup",
        "processes", "parallel", "platforms",
    ],
    ["data"], ["models"], ["training"], ["sampling"], ["evaluation"], ["runs"], ["interchange"],
    ["plots"], ["doctor"], ["cli"],
]  # fmt: skip
"""The reading order."""
OF_THE_LIBRARY = [name for storey in STOREYS[:-1] for name in storey]
WITHOUT_JAX = [
    "messages", "own", "contradictions", "config", "presets", "recipes", "files", "startup",
    "platforms", "processes",
    "data.vocab", "data.text", "data.corpus", "data.batches", "data.distances", "data.reading",
    "data.standard_library", "models.code", "evaluation.ngram", "evaluation.copying",
    "sampling.patterns", "cli.main", "cli.arguments", "cli.terminal", "cli.colours", "cli.data",
    "cli.auto", "cli.loaded", "cli.hosts", "cli.train", "cli.search", "cli.sweep", "cli.advise",
    "cli.sample", "cli.next", "cli.score", "cli.evaluate", "cli.plot", "cli.export", "cli.mix",
    "cli.ngram", "cli.page", "cli.prepare", "cli.trust", "cli.reproduce", "cli.doctor",
    "doctor.machine", "doctor.examination", "cli.dynamic",
]  # fmt: skip


def modules():
    """Every file of the package, by its name without "dinojax."."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts), path


MODULES = dict(modules())
INNER = [name for name in MODULES if not name.endswith("__init__") and "." in name]


def storey_of(module):
    top = module.split(".")[0]
    return next(i for i, storey in enumerate(STOREYS) if top in storey)


@cache
def imports_of(module):
    """The files of the package that a file imports, at its top or inside functions."""
    found = []
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dinojax"):
            base = node.module.removeprefix("dinojax").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                found.append(inner if inner in MODULES else base)
    return found


def is_storey_file(module):
    return module not in ("__init__", "__main__") and not module.endswith(".__init__")


FILES = [module for module in MODULES if is_storey_file(module)]


@pytest.mark.parametrize("module", FILES)
def test_files_import_only_from_their_own_storey_and_those_below(module):
    own = storey_of(module)
    for other in imports_of(module):
        if other:
            assert storey_of(other) <= own, f"{module} imports {other}"
            is_ground = own == 0 or storey_of(other) < own
            assert is_ground or other.split(".")[0] == module.split(".")[0]


def test_the_ground_imports_nothing_of_ours_but_words_and_settings():
    of_settings = {"config": {"own", "contradictions"}, "presets": {"config", "own"}}
    of_settings["contradictions"] = {"own"}
    for module in STOREYS[0]:
        assert set(imports_of(module)) <= {"messages"} | of_settings.get(module, set()) - {module}


def test_files_of_a_storey_import_in_one_direction():
    # `static_order` raises on a cycle. Modules that `cli.main` imports by name are not seen.
    graph = {module: {x for x in imports_of(module) if x in MODULES} for module in FILES}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", [m for m in FILES if not m.startswith("cli")])
def test_the_library_neither_prints_nor_exits_nor_knows_of_commands(module):
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("print", "exit", "quit", "sys.exit", "os._exit", "input"), called
        if isinstance(node, ast.Name | ast.Attribute):
            assert ast.unparse(node) not in ("SystemExit", "sys.stdout", "sys.stderr", "sys.argv")
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            # XLA has flags of its own.
            found = re.search(r"(?<!\S)--(?!xla)[a-z][\w-]*|\b\w+\.py\b", node.value)
            assert not found or (id(node) in docstrings and ".py" in found[0]), node.value
    assert not any(name == "cli" or name.startswith("cli.") for name in imports_of(module))


# Each copy of this process imports one module as the first of ours.
IMPORT_ALONE = """
import importlib, json, os, sys, traceback
import numpy
assert not [name for name in sys.modules if name.split(".")[0] in ("dinojax", "jax")]
ends = {}
for module in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(f"dinojax.{module}")
            os._exit("jax" in sys.modules)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    ends[module] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def ends_of_imports():
    """How a process that imports a module alone ends: with 1 if that imports JAX, too."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALONE, *WITHOUT_JAX],
        check=True, timeout=120, stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", WITHOUT_JAX)
def test_reading_arguments_and_names_does_not_import_jax(module, ends_of_imports):
    assert ends_of_imports[module] == 0


def test_packages_and_files_are_there_without_an_import_of_their_own():
    uses = "; ".join(f"dinojax.{module}" for module in WITHOUT_JAX)
    code = (
        f"import sys, dinojax; {uses}; assert 'jax' not in sys.modules; "
        "assert dinojax.data.corpus.read_names and dinojax.models.cells.CELLS; "
        "assert not hasattr(dinojax.data, 'nothing') and not hasattr(dinojax, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_library_changes_no_setting():
    names = ", ".join(f"dinojax.{module}" for module in FILES)
    code = (
        "import os; before = dict(os.environ); import jax; values = dict(jax.config.values); "
        f"import dinojax, {names}; assert dict(os.environ) == before; "
        "assert dict(jax.config.values) == values; "
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


def public_functions():
    for module_name in FILES:
        if module_name.startswith("cli"):
            continue
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


MACHINERY = "exchange", "checkpoint", "recorder", "references", "results", "study"
"""Files of `runs` whose functions are given paths by those that a user calls."""


def functions_for_users():
    for parameter in public_functions():
        _, storey, *file = parameter.values[0].__module__.split(".")
        if storey in ("data", "runs", "interchange", "plots") and file[0] not in (
            *MACHINERY, "prepared", "sources", "readers"
        ):  # fmt: skip
            yield parameter


@pytest.mark.parametrize("function", list(functions_for_users()))
def test_strings_serve_where_paths_do(function):
    for name, parameter in inspect.signature(function).parameters.items():
        if "Path" in str(kind := parameter.annotation) and "Mapping" not in str(kind):
            assert re.search(r"\bstr\b", str(kind)), f"{name}: {kind}"


OF_OURS = [*PACKAGE.rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]


@pytest.mark.parametrize("path", OF_OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_one_idea(path):
    assert len(path.read_text("utf-8").splitlines()) <= 300


def test_only_one_file_makes_meshes_and_spreads_rows():
    words = re.compile(r"\b(shard_map|Mesh\(|NamedSharding|PartitionSpec|process_index)\b")
    found = {module for module, path in MODULES.items() if words.search(path.read_text("utf-8"))}
    assert found == {"parallel"}
