"""Regular expressions that names are to match: checked before any name is drawn."""

import importlib
import re
import warnings
from collections.abc import Iterable
from typing import Any


def check_pattern(pattern: str) -> None:
    """Raise a ValueError for what is no regular expression, or is found in no name."""
    # Nothing public tells what an expression is made of.
    parser = importlib.import_module("re._parser")
    try:
        compiled(pattern)
        with warnings.catch_warnings(action="ignore"):
            parts = parser.parse(pattern)
    except re.error as error:
        where = "" if error.pos is None else f"at position {error.pos} "
        raise ValueError(f"--match: {error.msg} {where}of {pattern!r}") from None
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"--match: {error}") from None
    if any(needs_newline(*part) for part in parts):
        raise ValueError("--match: a name holds no newline, so this is found in none")


def compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """A regular expression, without what Python says of how later versions may read it."""
    with warnings.catch_warnings(action="ignore"):
        return re.compile(pattern, flags)


def needs_newline(operation: Any, value: Any) -> bool:
    """Whether a part of a regular expression, as Python has parsed it, matches newlines alone.

    Or more, of which one is a newline. False of what looks back, which may see one that is there.
    """

    def one_of(parts: Iterable[Any]) -> bool:
        return any(needs_newline(*part) for part in parts)

    match operation.name, value:
        case "LITERAL", code:
            return code == ord("\n")
        case "IN", choices:
            return all(needs_newline(*choice) for choice in choices)
        case "BRANCH", (_, branches):
            return all(map(one_of, branches))
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT", (least, _, parts):
            return least > 0 and one_of(parts)
        case ("SUBPATTERN", (*_, parts)) | ("ASSERT", (_, parts)) | ("ATOMIC_GROUP", parts):
            return one_of(parts)
    return False
