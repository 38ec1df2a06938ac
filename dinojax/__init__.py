"""dinojax: a character-level language-model lab in pure functional JAX.

    import dinojax

    dinos = dinojax.load("runs/dinos")
    print(dinojax.sample(dinos, 10, seed=3).names)
    print(dinojax.score(dinos, ["tyrannosaurus"]).log_probabilities)
    mine = dinojax.train(["ada", "bob", "eve"], steps=500, seed=0)

These functions are imported when they are first used, as importing JAX takes a moment. All others
are in the packages below, which the README lists in reading order, and which are imported likewise:
`dinojax.data.corpus` needs no import of its own.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dinojax.evaluation.strings import score as score
    from dinojax.runs.advising import advise as advise
    from dinojax.runs.code import trust as trust
    from dinojax.runs.mixtures import mix as mix
    from dinojax.runs.ngrams import fit_ngram as fit_ngram
    from dinojax.runs.searching import search as search
    from dinojax.runs.session import load as load
    from dinojax.runs.session import train as train
    from dinojax.runs.sweeping import sweep as sweep
    from dinojax.sampling.accept import sample as sample
    from dinojax.sampling.following import next_characters as next_characters

__version__ = "0.1.0"

_HOMES = {
    "advise": "runs.advising",
    "fit_ngram": "runs.ngrams",
    "load": "runs.session",
    "mix": "runs.mixtures",
    "next_characters": "sampling.following",
    "sample": "sampling.accept",
    "score": "evaluation.strings",
    "search": "runs.searching",
    "sweep": "runs.sweeping",
    "train": "runs.session",
    "trust": "runs.code",
}


def submodules(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package that imports its modules when they are first used."""

    def get(name: str) -> Any:
        if name.startswith("_") or not find_spec(f"{package}.{name}"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(f"{package}.{name}")

    return get


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        return submodules("dinojax")(name)
    return getattr(import_module(f"dinojax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    packages = [each.name for each in iter_modules(__path__) if each.ispkg]
    return sorted(["__version__", *_HOMES, *packages])
