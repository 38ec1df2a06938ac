"""Reading HDF5 files that are not trusted: nothing outside the file, nothing larger than it.

The functions raise a ValueError if the file does not hold what is asked for. If it is damaged, h5py
raises many kinds of exceptions.
"""

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from dinojax.interchange.imported import in_float32
from dinojax.messages import about, quoted

MAX_MEMBERS, MAX_DEPTH = 1000, 10


def member(group: Any, path: str) -> Any:
    """The group or the array at `path` below a group. Links that lead elsewhere are refused."""
    for name in path.split("/"):
        if not isinstance(group, h5py.Group) or not group.id.links.exists(name.encode()):
            raise ValueError(f"expected {quoted(path)}, which is not there")
        if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"{quoted(path)} is a link; expected what it leads to")
        group = group[name]
    return group


def names(group: Any) -> list[str]:
    """The names of what is in a group."""
    if not isinstance(group, h5py.Group) or len(group) > MAX_MEMBERS:
        name = quoted(group.name)
        raise ValueError(f"{name}: expected a group of up to {MAX_MEMBERS:,} members")
    return [name.decode() for name in group.id]


def innermost(group: Any) -> Any:
    """The first group, from `group` inwards, that holds something else than a single group."""
    for _ in range(MAX_DEPTH):
        inner = [member(group, name) for name in names(group)]
        if len(inner) != 1 or not isinstance(inner[0], h5py.Group):
            return group
        (group,) = inner
    raise ValueError(f"{quoted(group.name)}: expected up to {MAX_DEPTH} groups within each other")


def text(group: Any, name: str) -> str:
    """The attribute `name` of a group, which is a text."""
    if not h5py.h5a.exists(group.id, name.encode()):
        raise ValueError(f"expected the attribute {name}, which is not there")
    attribute = h5py.h5a.open(group.id, name.encode())
    # HDF5 itself refuses a text that is longer than the file.
    if attribute.shape != () or h5py.check_string_dtype(attribute.dtype) is None:
        raise ValueError(f"expected the attribute {name} as a text, got another type")
    value = group.attrs[name]
    return value.decode() if isinstance(value, bytes) else str(value)


def array(group: Any, path: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The array of floating-point numbers at `path` below a group, in float32.

    Its type, shape and place are checked before anything is read.
    """
    found = member(group, path)
    with about(quoted(found.name)):
        is_array = isinstance(found, h5py.Dataset)
        if not is_array or found.dtype.kind != "f" or found.shape != shape:
            got = f"{found.dtype}{list(found.shape)}" if is_array else "a group"
            raise ValueError(f"expected float32{list(shape)}, got {got}")
        plan = found.id.get_create_plist()
        is_plain = plan.get_layout() in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS)
        is_whole = found.nbytes == found.id.get_storage_size() <= found.file.id.get_filesize()
        if not is_plain or not is_whole or plan.get_external_count():
            raise ValueError("expected numbers in one piece, not compressed, in the file")
        return in_float32(found[()])
