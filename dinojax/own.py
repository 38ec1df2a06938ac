"""How settings name a cell, a loss or an optimizer of the user's own, in a Python file."""

import re
from typing import NamedTuple

OWN = re.compile(r"(.+\.py):([^\W\d]\w*)(?:@([0-9a-f]{64}))?")


class OwnCode(NamedTuple):
    """A function in a Python file: FILE.py:NAME or, as a run records it, FILE.py:NAME@SHA256.

    With the checksum of the file, which says which code it is, its folders are not named.
    """

    file: str
    name: str
    sha256: str
    """As hexadecimal digits; empty where it is not recorded."""

    def __str__(self) -> str:
        """As a setting names it."""
        return f"{self.file}:{self.name}{'@' * bool(self.sha256)}{self.sha256}"


def own_code(value: object) -> OwnCode | None:
    """The function of the user's own that the value of a setting names; None if it names none."""
    found = OWN.fullmatch(value) if isinstance(value, str) else None
    return OwnCode(found[1], found[2], found[3] or "") if found else None


def brief(value: object) -> str:
    """The value of a setting, with few digits of a checksum; "none" for an empty one."""
    code = own_code(value)
    return str(code._replace(sha256=code.sha256[:8])) if code else str(value) or "none"
