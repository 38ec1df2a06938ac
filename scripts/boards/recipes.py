"""The recipes of a board, the data they are for, and the runs that follow from them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from dinojax.config import OF_THE_DATA, TrainConfig
from dinojax.messages import about
from dinojax.presets import resolve
from dinojax.recipes import AUTO

LISTS, TEXTS = ("dinos", "names"), ("sonnets", "tinyshakespeare")
BUNDLED = "dinos"
"""The data that come with dinojax."""
OF_THE_BOARD: dict[str, Any] = {
    "lowercase": False,
    "validation_fraction": 0.1,
    "test_fraction": 0.1,
    # A run that is refitted learns the validation part, too.
    "refit": False,
}
"""Settings of all recipes, so that all predict the same characters of the same pieces."""
Key = tuple[str, str, int]
"""Data, recipe and seed of a run."""


class Recipe(NamedTuple):
    """Settings to try: those of a preset, or of "auto", except for some of its own."""

    name: str
    """Also that of a folder."""
    data: Sequence[str]
    """What it is for, some of `LISTS` or some of `TEXTS`, or of both for "auto"."""
    preset: str
    settings: Mapping[str, Any] = {}


RECIPES = [
    Recipe("auto", [*LISTS, *TEXTS], AUTO),
    Recipe("names", LISTS, "names"),
    Recipe("names-best", LISTS, "names-best"),
    Recipe("dinos", LISTS, "dinos"),
    Recipe("text", TEXTS, "text"),
    Recipe("text-best", TEXTS, "text-best"),
]
"""The others are compared with the first one on the same data."""


class Planned(NamedTuple):
    """A run of a board."""

    key: Key
    folder: Path
    config: TrainConfig
    keep_window: bool
    """Whether the window is as given; see `description.describe`."""
    file: str
    """The file of the data, empty for the bundled names."""
    data_sha256: str

    @property
    def costs_file(self) -> Path:
        """Where the costs of its held-out characters are."""
        return self.folder.with_suffix(".npz")

    @property
    def identity(self) -> dict[str, Any]:
        """What determines it: its settings, except for defaults, and the checksum of its data."""
        defaults = asdict(TrainConfig())
        settings = {x: value for x, value in asdict(self.config).items() if value != defaults[x]}
        same = {"settings": settings, "keep_window": self.keep_window}
        return same | {"data_sha256": self.data_sha256}


def plan(
    recipes: Sequence[Recipe], found: Mapping[str, str], num_seeds: int, out: Path
) -> list[Planned]:
    """The runs of a board in the folder `out`, data by data.

    `found` has the file of each of the data.

    Raises:
        OSError: a file cannot be read.
        ValueError: the data or a recipe are not suitable, or there is nothing to train.
    """
    # Imported here, so that the recipes can be listed before JAX is imported.
    from dinojax.data.stored import is_prepared
    from dinojax.models.code import pinned
    from dinojax.runs.replica import read_data
    from dinojax.runs.suited import fitted, recipe_for

    planned, fixed = list[Planned](), {"seed", *OF_THE_BOARD, *OF_THE_DATA} - {"batches"}
    for name, file in found.items():
        is_text = name in TEXTS
        read_as = TrainConfig("windows" if is_text else "padded", **OF_THE_BOARD)
        data, sha256 = read_data(file, read_as)
        if is_prepared(data):
            raise ValueError(f"{file} is too large; expected data that fit into memory")
        for recipe in recipes:
            if name not in recipe.data:
                continue
            with about(f"recipe {recipe.name} on {name}"):
                if others := sorted(fixed.intersection(recipe.settings)):
                    raise ValueError(f"{', '.join(others)}: the same for all recipes; leave it out")
                is_auto = recipe.preset == AUTO
                recorded = recipe_for(data) if is_auto else None
                given = pinned(recipe.settings) | OF_THE_BOARD
                for seed in range(num_seeds):
                    config = resolve(
                        "dinos" if is_auto else recipe.preset,
                        recorded=recorded,
                        given=given | {"seed": seed},
                    )
                    if config.is_text != is_text:
                        kinds = ("a text", "names") if is_text else ("names", "a text")
                        raise ValueError(
                            f"expected settings for {kinds[0]}, got some for {kinds[1]}"
                        )
                    config = fitted(config, data, recipe.settings)
                    key, keep = (name, recipe.name, seed), "window" in recipe.settings
                    folder = out / name / recipe.name / f"seed-{seed}"
                    planned.append(Planned(key, folder, config, keep, file, sha256))
    if not planned:
        raise ValueError(f"none of these recipes is for {', '.join(found)}")
    return planned
