"""A description of a run as JSON: in the metadata of its checkpoints, and in `config.json`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from dinojax.config import OF_THE_DATA, TrainConfig, check_range, config_from
from dinojax.data.blocks import Block
from dinojax.data.corpus import MIN_LIMIT
from dinojax.data.vocab import Vocab
from dinojax.files import read_regular, write_atomically
from dinojax.messages import about, quoted
from dinojax.runs.description import PARTS, Description, Tally
from dinojax.runs.kinds import kind_from_json, kind_name, kind_to_json
from dinojax.runs.selection import Selection

SOURCES = "data", "data_sha256", "init_from"
LATER_SOURCES = "init_sha256", "extensions"
"""Sources that earlier versions of dinojax did not record; they are empty then."""


def to_metadata(description: Description, tally: Tally) -> dict[str, Any]:
    """A description and a tally as JSON-like metadata of a checkpoint; see `from_metadata`."""
    return {
        **{name: getattr(description, name) for name in SOURCES + LATER_SOURCES},
        "config": asdict(description.config),
        "characters": description.vocab.characters,
        "labels": list(description.vocab.labels),
        "parts": dict(description.parts),
        "learned_before": list(description.learned_before),
        "max_length": description.max_length,
        "blocks": [block._asdict() for block in description.blocks],
        "selection": description.selection and description.selection._asdict(),
        "tally": tally._asdict()
        | {"best_loss": repr(tally.best_loss), "recent_losses": list(tally.recent_losses)},
        **_model(description),
    }


def _model(description: Description) -> dict[str, Any]:
    """What the model is, unless it is the network of the configuration."""
    return {"model": kind_to_json(description.model)} if description.model else {}


def from_metadata(metadata: Mapping[str, Any]) -> tuple[Description, Tally]:
    """The description and the tally in the metadata of a checkpoint.

    Earlier versions of dinojax recorded neither what the runs before had learned, nor where samples
    are cut, nor labels, blocks and selection. Other fields are ignored; see `checkpoint.FORMAT`.

    Raises:
        ValueError: the metadata do not describe a run.
    """
    try:
        config, labels = config_from(metadata["config"]), metadata.get("labels", [])
        described = {name: metadata[name] for name in (*SOURCES, "parts")}
        described |= {name: metadata.get(name, "") for name in LATER_SOURCES}
        before = metadata.get("learned_before", [""] if metadata["init_from"] else [])
        described["max_length"] = metadata.get("max_length", MIN_LIMIT)
        tally = metadata["tally"]
        losses = tally.get("recent_losses", [])
        if not isinstance(tally["best_loss"], str):
            raise TypeError("best_loss is no string")
        if not (isinstance(before, list) and isinstance(losses, list)):
            raise TypeError("learned_before or recent_losses is no list")
        if not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
            raise TypeError("labels is no list of strings")
        if not isinstance(metadata["characters"], str):
            raise TypeError("characters: expected a text")
        vocab = Vocab(metadata["characters"], tuple(labels))
        typed = {"best_loss": float(tally["best_loss"]), "recent_losses": tuple(losses)}
        tally = Tally(**tally | typed)
        model = kind_from_json(metadata["model"]) if "model" in metadata else None
        if isinstance(model, TrainConfig):
            raise TypeError("the model is a network beside that of the configuration")
        described["blocks"] = tuple(Block(**block) for block in metadata.get("blocks", []))
        if selection := metadata.get("selection"):
            described["selection"] = Selection(**selection)
        description = Description(
            config, vocab, **described, learned_before=tuple(before), model=model
        )
    except KeyError as error:
        raise ValueError(f"{error} is missing") from None
    except (AttributeError, TypeError) as error:
        raise ValueError(f"a value has another type than expected: {error}") from None
    chosen = [description.selection] if description.selection else []
    for each in (vocab, description, tally, *description.blocks, *chosen):
        for name, kind in get_type_hints(type(each)).items():
            value, least = getattr(each, name), -1 if name == "best_step" else 0
            if not _is_a(value, kind) or (kind in (int, float) and value < least):
                raise ValueError(f"{name}: expected {kind.__name__}, got {quoted(value)}")
    check_range("max_length", description.max_length, 1, 10_000)
    for name in "nats", "characters":
        check_range(name, getattr(tally, name), 0, 1e300)
    if not {"train"} <= description.parts.keys() <= set(PARTS):
        raise ValueError(f"parts: expected train and others of {', '.join(PARTS)}")
    if any("\ud800" <= character <= "\udfff" for character in vocab.characters):
        raise ValueError("characters: expected Unicode characters, got a surrogate")
    return description, tally


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON has the type `kind`; no number is NaN."""
    if get_origin(kind) is Mapping:
        of_key, of_value = get_args(kind)
        return isinstance(value, Mapping) and all(
            _is_a(key, of_key) and _is_a(each, of_value) for key, each in value.items()
        )
    if isinstance(kind, UnionType):
        return any(_is_a(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return all(_is_a(each, get_args(kind)[0]) for each in value)
    # A whole number may stand for a float, as in `config_from`.
    return (type(value) is kind or (type(value), kind) == (int, float)) and value == value


def write_config(file: Path | str, description: Description) -> None:
    """Write the sources and the settings of a run as JSON, which `read_config` reads.

    Of a model that is no network of its configuration, the settings are those of its data and
    whether it has a selection; of a refitted run, the steps are those planned for its selection.
    """
    sources = {name: getattr(description, name) for name in SOURCES + LATER_SOURCES}
    settings = asdict(description.config)
    if description.model:
        settings = {name: settings[name] for name in OF_THE_DATA}
        settings["refit"] = description.selection is not None
    elif selection := description.selection:
        settings |= {"steps": selection.steps, "epochs": selection.epochs}
    whole = sources | _model(description) | settings
    content = json.dumps(whole, indent=2, ensure_ascii=False)
    # A path that is not UTF-8 has surrogates, which JSON can escape.
    write_atomically(Path(file), f"{content}\n".encode(errors="backslashreplace"))


def read_config(file: Path | str) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings of a run and its sources, as `write_config` wrote them.

    Raises:
        ValueError: it holds something else, the model is no network, or a setting is unknown or has
            a bad value.
    """
    file = Path(file)
    with about(file):
        try:
            settings = json.loads(read_regular(file).decode())
            sources = {name: settings.pop(name) for name in SOURCES}
            sources |= {name: settings.pop(name, "") for name in LATER_SOURCES}
            model = settings.pop("model", None)
            if not all(isinstance(value, str) for value in sources.values()):
                raise TypeError
        except KeyError as error:
            raise ValueError(f"expected the config.json of a run; {error} is missing") from None
        except (AttributeError, RecursionError, TypeError, ValueError):
            raise ValueError("expected the config.json of a run, a JSON object") from None
        if model is not None:
            name = kind_name(kind_from_json(model))
            raise ValueError(f"expected the configuration of a network, got that of a {name}")
        config_from(settings)
    return settings, sources
