"""Flags for the settings of a run, made from the fields of the configuration."""

import re
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from dinojax.cli.arguments import number, whole_number
from dinojax.config import COLUMNS, WITH_CODE, TrainConfig, choices_of
from dinojax.own import own_code
from dinojax.presets import PRESETS

FLAG_FOR = {
    "the earlier run": "the run of --init-from",
    "choose another folder": "choose another --out",
    "overwrite it": "give --overwrite",
    "give the weights": "give --weights",
    "choose the column of the names": "choose that of the names with --column",
    "keeps its settings": "keeps its settings; start another with --init-from",
}
"""What messages of the command say for words in those of the library."""

OF_THE_RUN = "those of the run, if the file is a table that has them"
"""Where the columns of other data come from unless they are given."""


class OrCode(tuple[str, ...]):
    """Names to choose from, and any function in a Python file."""

    __slots__ = ()

    def __contains__(self, value: object) -> bool:
        return super().__contains__(value) or own_code(value) is not None


def add_settings(
    parser: ArgumentParser,
    without: Container[str] = (),
    several: bool = False,
    default: str = "",
) -> None:
    """Add a flag for each setting; its help shows `default`, or that of each preset.

    A flag that is not given is None, so that the setting of a preset or another run applies. With
    `several`, each takes one or several values, or ranges of numbers, as a list.
    """
    for field in fields(TrainConfig):
        if field.name in without:
            continue
        choices = choices_of(field.type)
        values = {name: getattr(preset, field.name) for name, preset in PRESETS.items()}
        if field.name == "steps":
            values |= {name: "by its epochs" for name, preset in PRESETS.items() if preset.epochs}
        shown = "none" if values["dinos"] == "" else values["dinos"]
        if len(set(values.values())) > 1:
            shown = ", ".join(f"{name} {value}" for name, value in values.items())
        unit = f", in {field.metadata['unit']}" if field.metadata["unit"] else ""
        text = f"{field.metadata['help']}{unit} (default: {default or shown})"
        options: dict[str, Any] = {"choices": choices}
        if field.name in WITH_CODE:
            options["choices"] = OrCode((*choices, "FILE.py:NAME"))
        if field.type is bool:
            options = {"action": BooleanOptionalAction}
        elif field.type is int:
            options = {"type": whole_number, "metavar": "N"}
        elif field.type is float:
            options = {"type": number, "metavar": "X"}
        elif field.type is str:
            options = {"metavar": "COLUMN"}
        if several and field.type is not bool:
            options["nargs"] = "+"
            if "type" in options:
                options["type"] = or_range(options["type"])
        parser.add_argument(flag_of(field.name), help=text, **options)


def add_columns(
    parser: ArgumentParser, default: str = "none", without: Container[str] = ()
) -> None:
    """Add a flag for each column of a table; its help shows the `default`."""
    for field in fields(TrainConfig):
        if field.name in COLUMNS and field.name not in without:
            text = f"{field.metadata['help']} (default: {default})"
            parser.add_argument(flag_of(field.name), metavar="COLUMN", help=text)


def check_columns(arguments: Namespace, flag: str) -> None:
    """Raise a ValueError if a column is given, but not the flag of the data that it is for."""
    for name in COLUMNS:
        if getattr(arguments, name, None) is not None and not getattr(arguments, flag):
            raise ValueError(f"{flag_of(name)} is for {flag_of(flag)}, which is not given")


def or_range(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Argument type: a number of this kind, or a range of them such as 1e-4:1e-2."""
    from dinojax.runs.search import Range

    def parse(text: str) -> Any:
        low, colon, high = text.partition(":")
        return Range(kind(low), kind(high)) if colon else kind(text)

    return parse


def flag_of(name: str) -> str:
    """The flag of a setting or another argument, as in "--hidden-size"."""
    return f"--{name.replace('_', '-').replace(' ', '-')}"


def flags_for(settings: Mapping[str, Any]) -> list[str]:
    """The words of a command line that give these settings."""
    words = list[str]()
    for name, value in settings.items():
        flag = flag_of(name)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif f"{value}".startswith("-"):
            # Otherwise it would be taken for a flag.
            words.append(f"{flag}={value}")
        else:
            words += [flag, f"{value}"]
    return words


def given_settings(arguments: Namespace) -> dict[str, Any]:
    """The settings that the command line gives."""
    values = {field.name: getattr(arguments, field.name, None) for field in fields(TrainConfig)}
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def named_flags(earlier: str = FLAG_FOR["the earlier run"]) -> Iterator[None]:
    """Name flags, not settings or arguments, in a ValueError of the library.

    `earlier` is what the command calls the model that it begins with.
    """
    settings = [field.name.replace("_", " ") for field in fields(TrainConfig)]
    names = "|".join([*settings, "seeds", "baseline"])
    try:
        yield
    except ValueError as error:
        message = re.sub(
            rf"(^|; )({names}):", lambda found: f"{found[1]}{flag_of(found[2])}:", str(error)
        )
        raise ValueError(with_flags(message, earlier)) from None


def with_flags(message: str, earlier: str = FLAG_FOR["the earlier run"]) -> str:
    """A message or a note of the library with flags for its words; see `named_flags`."""
    for words, flag in {**FLAG_FOR, "the earlier run": earlier}.items():
        message = message.replace(words, flag)
    return message
