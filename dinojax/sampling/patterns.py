"""Regular expressions for names, checked before any name is drawn."""

import importlib
import re
import unicodedata
import warnings
from collections.abc import Iterable
from typing import Any


def compile_pattern(pattern: str, ignore_case: bool = False) -> re.Pattern[str]:
    """Compile a regular expression in Unicode's composed form (NFC), the form of names.

    Raises:
        ValueError: the expression is not valid, or matches only strings with a newline.
    """
    pattern = unicodedata.normalize("NFC", pattern)
    # No public module tells what an expression is made of.
    parser = importlib.import_module("re._parser")
    try:
        # Python warns of syntax that later versions may read differently.
        with warnings.catch_warnings(action="ignore"):
            compiled = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
            parts = parser.parse(pattern)
    except re.error as error:
        where = "" if error.pos is None else f"at position {error.pos} "
        raise ValueError(f"{error.msg} {where}of {pattern!r}") from None
    except (OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None
    if any(needs_newline(*part) for part in parts):
        raise ValueError(f"a name holds no newline, so no name matches {pattern!r}")
    return compiled


def needs_newline(operation: Any, value: Any) -> bool:
    """Whether a parsed part of an expression matches only strings that contain a newline.

    A look-behind counts as False: it matches without consuming anything.
    """

    def any_needs(parts: Iterable[Any]) -> bool:
        return any(needs_newline(*part) for part in parts)

    match operation.name, value:
        case "LITERAL", code:
            return code == ord("\n")
        case "IN", choices:
            return all(needs_newline(*choice) for choice in choices)
        case "BRANCH", (_, branches):
            return all(map(any_needs, branches))
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT", (least, _, parts):
            return least > 0 and any_needs(parts)
        case ("SUBPATTERN", (*_, parts)) | ("ASSERT", (_, parts)) | ("ATOMIC_GROUP", parts):
            return any_needs(parts)
    return False
