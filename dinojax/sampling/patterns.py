"""Regular expressions for names, checked before any name is drawn."""

import importlib
import re
import time
import unicodedata
import warnings
from collections.abc import Iterable
from typing import Any

from dinojax.messages import quoted

SECONDS = 2.0
"""Longest search for a pattern in a block of names."""
MAX_SIZE = 100_000
"""Largest expression; see `size`."""


def compile_pattern(pattern: str, ignore_case: bool = False) -> Any:
    """Compile a regular expression in Unicode's composed form (NFC), the form of names.

    The expression is one of Python's `re`, but the package `regex` searches for it, which can stop
    after a time; see `found_in`. It reads two things in another way: `[[:alpha:]]` is a class of
    POSIX, and an `e`, `i`, `s` or `d` in braces, as in `(rex){e<=1}`, allows errors.

    Raises:
        ValueError: the expression is not valid or too large, or matches only strings with a
            newline.
    """
    # Imported here, as most samples need no pattern.
    import regex

    pattern = unicodedata.normalize("NFC", pattern)
    # No public module tells what an expression is made of.
    parser = importlib.import_module("re._parser")
    try:
        # Python warns of syntax that later versions may read differently.
        with warnings.catch_warnings(action="ignore"):
            re.compile(pattern)
            parts = parser.parse(pattern)
            if size(parts) > MAX_SIZE:
                raise ValueError(f"expected fewer repetitions, got {quoted(pattern)}")
            if any(needs_newline(*part) for part in parts):
                raise ValueError(f"a name holds no newline, so no name matches {quoted(pattern)}")
            return regex.compile(pattern, regex.IGNORECASE if ignore_case else 0)
    except (re.error, regex.error) as error:
        where = "" if error.pos is None else f"at position {error.pos} "
        raise ValueError(f"{error.msg} {where}of {quoted(pattern)}") from None
    except (OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None


def found_in(pattern: Any, names: Iterable[str]) -> list[bool]:
    """Whether a compiled pattern is found in each name.

    Raises:
        TimeoutError: the search takes longer than `SECONDS`, so the answer is not known.
    """
    end, found = time.monotonic() + SECONDS, []
    for name in names:
        try:
            # The timeout must be positive.
            left = max(1e-3, end - time.monotonic())
            found.append(pattern.search(name, timeout=left) is not None)
        except TimeoutError:
            taken = f"it takes too long to search {quoted(name)} for {quoted(pattern.pattern)}"
            raise TimeoutError(f"{taken}; expected a simpler pattern") from None
    return found


def size(parts: Iterable[Any]) -> int:
    """Number of parts of a parsed expression, where a part counts as often as it must occur.

    `regex` writes them out: a size of a billion would not fit into memory.
    """
    total = 0
    for operation, value in parts:
        match operation.name, value:
            case "BRANCH", (_, branches):
                total += sum(map(size, branches))
            case "GROUPREF_EXISTS", (_, first, second):
                total += size(first) + size(second or ())
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT", (least, _, inner):
                total += max(1, least) * size(inner)
            case (
                ("SUBPATTERN", (*_, inner))
                | ("ASSERT" | "ASSERT_NOT", (_, inner))
                | ("ATOMIC_GROUP", inner)
            ):
                total += size(inner)
            case _:
                total += 1
    return total


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
