"""Names and texts as strings, drawn block by block.

These functions loop in Python and call `jax.jit`.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from dinojax import parallel
from dinojax.config import check_range
from dinojax.data.labels import labels_of, number_of, without_labels
from dinojax.data.vocab import Vocab
from dinojax.messages import about, quoted
from dinojax.models.model import CharModel
from dinojax.models.trained import Trained
from dinojax.sampling import draw, stream
from dinojax.sampling.controls import Controls
from dinojax.sampling.draw import UNCONTROLLED, Beginning

FIRST_BLOCK, BLOCK = 256, 4096
"""Number of names in the first block, and in each later one."""
PIECE = 16
"""Number of characters in a piece of a text."""

_read = jax.jit(draw.read_prompt, static_argnames=("model", "num_given"))
_write_on = jax.jit(draw.sample_text, static_argnames=("model", "num"))


class Names(NamedTuple):
    """Names as strings, prompt included, and arrays [num] as in `draw.Samples`."""

    names: list[str]
    """In Unicode's composed form (NFC), without blanks at the ends, like names that are read."""
    log_probabilities: NDArray[Any]
    drawn_log_probabilities: NDArray[Any]
    """NaN for names that were not drawn."""
    ended: NDArray[Any]
    drawn_as: list[str]
    """As the model spelled them; the log-probabilities are those of these spellings."""
    labels: Sequence[str] = ()
    """Of each name; empty for a model without labels."""


def draw_names(
    key: jax.Array,
    trained: Trained,
    num: int,
    *,
    most: int | None = None,
    prompt: str = "",
    label: str | None = None,
    max_length: int | None = None,
    controls: Controls = UNCONTROLLED,
    num_devices: int | None = None,
    stream_size: int = 2**22,
) -> Iterator[Names]:
    """Draw `num` names that begin with `prompt`, in blocks, each when it is asked for.

    A model of names with labels draws the label too, and log-probabilities are those of both; with
    a `label`, all names have it, and log-probabilities are conditioned on it.

    A caller that refuses some names may ask for more, up to `most` in all. A name is cut after
    `max_length` characters (default: `trained.max_length`), the prompt not counted. It depends on
    the key and its place, but not on `num`, `most` or `num_devices` (default: all). A stream on a
    device has room for about `stream_size` characters: 21 MB by default.

    Raises:
        ValueError: see `begin`; or a number is out of range, or there are too few devices.
    """
    check_range("num", num, 1, 10**12)
    most = num if most is None else most
    max_length = trained.max_length if max_length is None else max_length
    check_range("max_length", max_length, 1, 10_000)
    beginning = begin(trained, prompt, is_name=True, label=label)
    max_length += num_to_draw(trained.vocab, label)
    # A shorter stream writes the same names as the start of a longer one.
    longest = max(1, stream_size // (max_length * BLOCK))
    wanted = max(1, -(-(num - FIRST_BLOCK) // BLOCK))
    length = min(longest, wanted) * BLOCK
    num_devices = num_devices or jax.device_count()
    # Where one block takes the room of several streams, fewer are written at once.
    has_room = max(1, num_devices * stream_size // (length * max_length))
    num_streams = min(num_devices, has_room, -(-wanted // longest))
    mesh = parallel.make_mesh(num_streams)

    def draw_blocks() -> Iterator[Names]:
        num_drawn, size, first = 0, length, 0
        number: int | None = None
        inputs = trained.params, beginning, controls
        while True:
            fixed = trained.model, FIRST_BLOCK if number is None else size, max_length
            samples = jax.device_get(_draw(fixed, mesh, key, number, *inputs))
            for start in range(first, len(samples.ids), BLOCK):
                stop = start + min(BLOCK, most - num_drawn)
                ids, lengths, whole, drawn, ended = (x[start:stop] for x in samples)
                drawn_as = decode_names(trained.vocab, ids, lengths, prompt)
                yield named(trained.vocab, drawn_as, label, whole, drawn, ended)
                num_drawn += len(ids)
                if num_drawn == most:
                    return
            if number is not None and size < longest * BLOCK:
                # More are wanted than expected: the same names again, and as many after them.
                first, size = size, min(2 * size, longest * BLOCK)
            else:
                first, number = 0, 1 if number is None else number + num_streams

    return draw_blocks()


@partial(jax.jit, static_argnums=(0, 1))
def _draw(
    fixed: tuple[CharModel, int, int], mesh: Mesh | None, key: Any, number: Any, *inputs: Any
) -> draw.Samples:
    """The names of one stream for each device, from this number on; None: without a stream."""

    def write(key: Any, params: Any, beginning: Any, controls: Any) -> draw.Samples:
        # Without a stream, a few names are drawn and compiled sooner.
        sampler: Any = draw.sample_names if number is None else stream.stream_names
        return sampler(key, params, *fixed, controls=controls, beginning=beginning)

    if number is None:
        samples = write(jax.random.fold_in(key, 0), *inputs)
    else:
        streams = number + jnp.arange(parallel.num_devices(mesh))
        keys = jax.vmap(partial(jax.random.fold_in, key))(streams)
        samples = stream.on_each_device(keys, write, mesh, *inputs)
    # The smallest type is the quickest to fetch.
    return samples._replace(ids=samples.ids.astype(np.min_scalar_type(fixed[0].vocab_size)))


def stream_text(
    key: jax.Array,
    trained: Trained,
    beginning: Beginning,
    length: int,
    *,
    stop: str = "",
    controls: Controls = UNCONTROLLED,
) -> Iterator[str]:
    """Draw the next `length` characters of a text, in pieces, each when it is asked for.

    The text ends after the first `stop` that is drawn, if that comes sooner; "" for none.
    """
    tail = ""
    for start in range(0, length, PIECE):
        key_piece = jax.random.fold_in(key, start // PIECE)
        inputs = trained.params, trained.model, beginning, PIECE
        beginning, ids = _write_on(key_piece, *inputs, controls=controls)
        new = trained.vocab.decode(np.asarray(ids))[: length - start]
        if stop:
            # It may have begun in an earlier piece.
            text = tail + new
            if stop in text:
                yield text[len(tail) : text.index(stop) + len(stop)]
                return
            tail = text[max(0, len(text) - len(stop) + 1) :]
        yield new


def check_types(trained: object, prompt: object = "", num: object = 1) -> None:
    """Raise a TypeError unless these are a model that was loaded, a string and a whole number."""
    if not isinstance(trained, Trained):
        raise TypeError(
            f"expected a run, got {quoted(trained)}; load it first: dinojax.load(FOLDER)"
        )
    if not isinstance(prompt, str):
        raise TypeError(f"prompt: expected a string, got {quoted(prompt)}; put it in quotes")
    if not isinstance(num, Integral):
        raise TypeError(f"num: expected a whole number, got {quoted(num)}; convert it with int")


def begin(
    trained: Trained, prompt: str, *, is_name: bool = False, label: str | None = None
) -> Beginning:
    """Read the first characters of a name or of a text; the log-probability is theirs.

    With a `label`, the name has it, and the log-probability is conditioned on it.

    Raises:
        ValueError: a character is not in the vocabulary, or is a newline in a name; or the model
            does not know the label, or needs one to read a prompt.
    """
    vocab, first = trained.vocab, list[int]()
    if label is not None:
        first = [vocab.plain.size + number_of(vocab.labels, label)]
    with about("the prompt"):
        ids = np.asarray([*first, *vocab.plain.encode(prompt).tolist()], int)
        if is_name and "\n" in prompt:
            raise ValueError("a name holds no newline")
        if prompt and num_to_draw(vocab, label):
            raise ValueError("a name begins with its label; give the label, too")
    # Compiled as a whole, it is ready sooner than operation by operation.
    return _read(trained.params, model=trained.model, prompt=ids, num_given=len(first))


def num_to_draw(vocab: Vocab, label: str | None) -> int:
    """How many symbols a model draws before the characters of a name: 1 if it draws a label."""
    return int(bool(vocab.labels) and label is None)


def named(
    vocab: Vocab,
    drawn_as: list[str],
    label: str | None,
    log_probabilities: NDArray[Any],
    drawn_log_probabilities: NDArray[Any],
    ended: NDArray[Any],
) -> Names:
    """Names that a model spelled so, after their labels unless all have this `label`."""
    if label is None:
        labels = labels_of(drawn_as, vocab.labels)
        drawn_as = list(without_labels(drawn_as, vocab.labels))
    else:
        labels = [vocab.labels[number_of(vocab.labels, label)]] * len(drawn_as)
    arrays = log_probabilities, drawn_log_probabilities, ended
    return Names(composed_names(vocab, drawn_as), *arrays, drawn_as, labels)


def composed_names(vocab: Vocab, drawn_as: list[str]) -> list[str]:
    """Names that a model with this vocabulary spelled, in the form in which names are read.

    This is Unicode's composed form (NFC) without white space at the ends.
    """
    characters = vocab.plain.characters
    has_blanks = any(map(str.isspace, characters.replace("\n", "")))
    names = [name.strip() for name in drawn_as] if has_blanks else drawn_as
    if characters.isascii():
        return names
    return [unicodedata.normalize("NFC", name) for name in names]


def decode_names(vocab: Vocab, ids: NDArray[Any], lengths: NDArray[Any], prompt: str) -> list[str]:
    """Names that consist of `prompt` and the first `lengths` [num] of `ids` [num, max_length]."""
    # Decoded as one text with newlines, which takes no loop over names.
    ids = np.pad(ids, ((0, 0), (0, 1)), constant_values=vocab.newline)
    is_read = np.arange(ids.shape[1]) <= lengths[:, None]
    points = np.array([ord(character) for character in vocab.characters], "<u4")
    text = points[ids[is_read]].tobytes().decode("utf-32-le", "surrogatepass")
    return [prompt + name for name in text[:-1].split("\n")]
