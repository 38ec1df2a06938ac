"""Names or a text that a program gives, as models read them."""

from collections.abc import Collection, Sequence
from os.path import isfile

from dinojax.data.corpus import clean_names
from dinojax.data.labels import Labelled, with_labels
from dinojax.data.stored import NameList, Text
from dinojax.data.text import composed
from dinojax.messages import quoted
from dinojax.runs.description import Part


def clean(names: Part, lowercase: bool, labels: Sequence[str] | None = None) -> Part:
    """Names, stripped and without blank ones, or a text, as models read them.

    Names may have `labels`, which are stripped and composed like them.

    Raises:
        TypeError: `names` are no collection, such as an iterator, or one or a label is no string.
        ValueError: there is no name or an empty text, the text is the name of a file, a name is too
            long, or see `with_labels`.
    """
    if labels is not None and isinstance(names, str | Text | NameList | Labelled):
        raise ValueError("expected labels with a list of names alone")
    if isinstance(names, Text | NameList | Labelled):
        return names
    if isinstance(names, str):
        if isfile(names):
            raise ValueError(f"{names} is a file; expected names or a text, so read it first")
        if not (text := composed(names, lowercase)):
            raise ValueError("expected a text to learn from, got an empty one")
        return text
    if not isinstance(names, Collection):
        raise TypeError(f"expected a list of names or a text, got {type(names).__name__}")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"expected a list of names or a text, got {quoted(name)} in a list")
    for label in labels or ():
        if not isinstance(label, str):
            raise TypeError(f"expected strings as labels, got {quoted(label)}")
    read = [composed(name, lowercase).strip() for name in names]
    cleaned, _ = clean_names(read)
    if labels is None:
        return cleaned
    if len(labels) != len(names):
        raise ValueError(f"expected a label for each of {len(names):,} names, got {len(labels):,}")
    pairs = zip(read, labels, strict=True)
    return with_labels(
        cleaned, [composed(label, lowercase).strip() for name, label in pairs if name]
    )
