"""A page of HTML that holds a trained model: it runs in a browser, and loads nothing.

The sources in `page_files` become one file: the style, the scripts end to end, and the data as JSON
in a script element that no browser runs. A Content-Security-Policy admits this style and these
scripts by their hashes, and nothing else. The scripts put text from the data into the page as text.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dinojax.evaluation.ngram import NgramModel, terms
from dinojax.models.cells import Params
from dinojax.runs.checkpoint import named_leaves

SOURCES = Path(__file__).with_name("page_files")
SCRIPTS = (
    "engine", "linear_cells", "sampler", "ngrams", "strings", "elements", "write_view", "next_view",
    "read_view", "start",
)  # fmt: skip
"""The scripts in the order in which they stand in the page."""
NUMBERS = {"half": "<f2", "single": "<f4"}
"""NumPy's names of the types of weights."""


def has_cell(name: str) -> bool:
    """Whether the scripts of a page have the cell of this name."""
    sources = "".join((SOURCES / f"{each}.js").read_text("utf-8") for each in SCRIPTS[:2])
    return re.search(rf"^  {re.escape(name)}: \(", sources, re.MULTILINE) is not None


def page_content(data: Mapping[str, Any]) -> bytes:
    """The page with this JSON-like data, which `read_page` reads back.

    Raises:
        ValueError: a number is not finite.
    """
    style = (SOURCES / "page.css").read_text("utf-8")
    script = "\n".join((SOURCES / f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    html = (SOURCES / "page.html").read_text("utf-8")
    parts = {
        "style hash": _hash(style),
        "script hash": _hash(script),
        "style": style,
        "script": script,
        # The last: nothing is looked for in the data.
        "data": as_json(data),
    }
    for name, part in parts.items():
        before, after = html.split(f"{{{{{name}}}}}")
        html = before + part + after
    return html.encode()


def as_json(data: Any) -> str:
    """`data` as JSON for a script element, which no text in it can end, and no line separator.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Outside strings, JSON has none of these characters.
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def read_page(content: bytes) -> dict[str, Any]:
    """The data in a page.

    Raises:
        ValueError: it is no page that `page_content` made, or its text broke out of the data.
    """
    found = _Data()
    found.feed(content.decode())
    found.close()
    if found.scripts != ["application/json", "module"]:
        raise ValueError(f"expected a page with two scripts, data and code, got {found.scripts}")
    data = json.loads("".join(found.texts))
    if page_content(data) != content:
        raise ValueError("expected a page as dinojax writes it, got one that was changed")
    return data


class _Data(HTMLParser):
    """Collects the types of the script elements of a page, and the text of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.texts: list[str] = []
        self.is_inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.is_inside = tag == "script"
        if self.is_inside:
            self.scripts.append(dict(attrs).get("type"))

    def handle_endtag(self, tag: str) -> None:
        self.is_inside = False

    def handle_data(self, data: str) -> None:
        if self.is_inside and len(self.scripts) == 1:
            self.texts.append(data)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def shapes_of(params: Params) -> list[tuple[str, list[int]]]:
    """The path of each array of the parameters, such as "layers/0/bias", with its shape."""
    return [(path, [*x.shape]) for path, x in named_leaves(params).items()]


def pack_weights(params: Params, precision: str) -> str:
    """All parameters end to end, in the order of `shapes_of`, in base64.

    Raises:
        ValueError: a parameter is too large for half precision.
    """
    with np.errstate(over="ignore"):
        arrays = [np.ravel(x).astype(NUMBERS[precision]) for x in jax.tree.leaves(params)]
    numbers = np.concatenate(arrays)
    if not np.isfinite(numbers).all():
        raise ValueError("expected parameters below 65,504, got larger ones; use single precision")
    return base64.b64encode(numbers.tobytes()).decode()


def unpack_weights(text: str, like: Params, precision: str) -> Params:
    """The parameters, of the structure and types of `like`, that `pack_weights` packed."""
    numbers = np.frombuffer(base64.b64decode(text), NUMBERS[precision])
    leaves, structure = jax.tree.flatten(like)
    parts = np.split(numbers, np.cumsum([x.size for x in leaves])[:-1])
    arrays = [part.reshape(x.shape).astype(x.dtype) for part, x in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, arrays)


def pack_ngrams(model: NgramModel, order: int) -> list[dict[str, Any]]:
    """The tables of the n-gram model of this order, one for each length, as the page reads them.

    Keys are differences between sorted ones. These and the counts are packed by `varints`.
    """
    return [
        {
            "keys": varints(np.diff(keys, prepend=0)),
            "counts": varints(term.counts),
            "discounts": term.discounts.tolist(),
        }
        for keys, term in terms(model, order)
    ]


def varints(numbers: Sequence[int] | np.ndarray) -> str:
    """Whole numbers in as many bytes as each needs, in base64.

    A byte has seven bits of a number, the lowest first, and an eighth that says whether more
    follow.
    """
    packed = bytearray()
    for number in map(int, numbers):
        while number > 127:
            packed.append(number & 127 | 128)
            number >>= 7
        packed.append(number)
    return base64.b64encode(packed).decode()
