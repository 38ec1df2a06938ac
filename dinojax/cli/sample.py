"""Write new names, or a text, with a trained model; see --help."""

import json
import os
import re
import sys
import unicodedata
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from dinojax.cli.arguments import Parser, about, add_which, number, path, whole_number
from dinojax.cli.loaded import load
from dinojax.cli.terminal import Program, visible
from dinojax.config import check_range
from dinojax.files import check_writable
from dinojax.sampling.patterns import check_pattern, compiled
from dinojax.startup import num_cores, start_jax

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dinojax.data.vocab import Vocab
    from dinojax.runs.folder import Run
    from dinojax.sampling.controls import Controls
    from dinojax.sampling.draw import Beginning

FIRST_BLOCK, BLOCK = 256, 4096
"""Names handed on at first, and then each time."""
STREAM = 2**22
"""Characters that the names of a stream have room for, 21 MB on a device; a block of very long
names takes more."""
CHARACTERS = 16
"""Characters of a text drawn in one call, then shown."""
MAX_LENGTH = 50
"""Characters after which a name is cut, without the flag."""
FOR_NAMES = {
    "num": 10,
    "max_length": MAX_LENGTH,
    "min_length": 0,
    "match": None,
    "novel": False,
    "unique": False,
    "distance": 0,
    "max_draws": 1_000_000,
    "best": 0,
    "devices": 0,
    "json": False,
    "out": None,
}
"""The flags that a run of names alone knows, and their defaults."""
FOR_TEXT = {"length": 400, "stop": ""}
"""The flags that a run of a text alone knows, and their defaults."""
OF_DRAWING = "seed", "temperature", "top_k", "top_p", "min_p", "num", "max_draws", "devices"
"""What --best has no use for; it draws nothing."""
CONSTRAINTS = "max_length", "min_length", "match", "novel", "unique", "distance"
FEWER = 1
"""Exit code where fewer names were found than were wanted."""


class Names(NamedTuple):
    """Names and what is known of each, as in `dinojax.sample.Samples`; the arrays are [num]."""

    names: list[str]
    log_probabilities: "NDArray[Any]"
    drawn_log_probabilities: "NDArray[Any]"
    ended: "NDArray[np.bool_]"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax sample`."""
    add = parser.add_argument
    add(
        "run",
        metavar="RUN",
        type=path,
        help="folder of a run, such as runs/dinos",
    )
    add_which(parser)
    add(
        "--seed",
        metavar="N",
        type=whole_number,
        help="of the random draws; the same seed, the same names (default: 0)",
    )
    add(
        "--prompt",
        metavar="TEXT",
        help="how every name, or the text, begins; asked for where a text is to be written in a "
        "terminal",
    )
    controls = parser.add_argument_group("what may be drawn, in this order")
    controls.add_argument(
        "--temperature",
        metavar="T",
        type=number,
        help="divides the logits: below 1 the likely, above 1 the unlikely come more often; at 0 "
        "the likeliest alone (default: 1)",
    )
    controls.add_argument(
        "--top-k",
        metavar="K",
        type=whole_number,
        help="only the K likeliest characters, and those as likely as the last (default: all)",
    )
    controls.add_argument(
        "--top-p",
        metavar="P",
        type=number,
        help="only the fewest of the likeliest whose probabilities sum to P (default: 1)",
    )
    controls.add_argument(
        "--min-p",
        metavar="P",
        type=number,
        help="only characters at least P times as likely as the likeliest (default: 0)",
    )
    names = parser.add_argument_group("for a run of names")
    add = names.add_argument
    add(
        "--num",
        metavar="N",
        type=whole_number,
        help=f"how many names (default: {FOR_NAMES['num']})",
    )
    add(
        "--max-length",
        metavar="N",
        type=whole_number,
        help="the most characters, the prompt not counted: only names that end by then (default: "
        f"all names, cut after {MAX_LENGTH})",
    )
    add(
        "--min-length",
        metavar="N",
        type=whole_number,
        help="the fewest characters of the whole name (default: any)",
    )
    add(
        "--match",
        metavar="REGEX",
        help="only names in which this is found, a regular expression of Python; ^ and $ stand for "
        "beginning and end (default: any)",
    )
    add("--novel", action="store_true", default=None, help="only names it has not learned from")
    add("--unique", action="store_true", default=None, help="no name twice")
    add(
        "--distance",
        metavar="D",
        type=whole_number,
        help="only names at least D edits away from each it has learned from (default: any)",
    )
    add(
        "--max-draws",
        metavar="N",
        type=whole_number,
        help="give up after this many draws, if the names wanted are too rare (default: "
        f"{FOR_NAMES['max_draws']})",
    )
    add(
        "--best",
        metavar="N",
        type=whole_number,
        help="the N most probable names there are, the first first, instead of random ones",
    )
    add(
        "--devices",
        metavar="N",
        type=whole_number,
        help="how many share the work where very many names are wanted; a core counts as one "
        "(default: all)",
    )
    add(
        "--json",
        action="store_true",
        default=None,
        help="one object a line: name, log_probability of the model and drawn_log_probability, "
        "under what may be drawn, in nats, ended (by itself, not cut), in_training_data",
    )
    add("--out", metavar="FILE", type=path, help="write there instead of here, all or nothing")
    text = parser.add_argument_group("for a run of a text")
    text.add_argument(
        "--length",
        metavar="N",
        type=whole_number,
        help=f"how many characters, the prompt not counted (default: {FOR_TEXT['length']})",
    )
    text.add_argument("--stop", metavar="TEXT", help="stop after this, if it comes before that")


def check_arguments(arguments: Namespace) -> None:
    """Raise a ValueError for what cannot be; compile what --match gives."""
    for flag, low, high in (
        ("seed", 0, 2**32 - 1),
        ("temperature", 0, 1e6),
        ("top_k", 1, 2**31 - 1),
        ("top_p", 1e-6, 1),
        ("min_p", 0, 1),
        ("num", 1, 10**9),
        ("max_length", 1, 10_000),
        ("min_length", 1, 10_000),
        ("distance", 1, 10_000),
        ("max_draws", 1, 10**12),
        ("best", 1, 100_000),
        ("devices", 1, 4096),
        ("length", 1, 10**9),
    ):
        if getattr(arguments, flag) is not None:
            check_range(f"--{flag.replace('_', '-')}", getattr(arguments, flag), low, high)
    for flag in "prompt", "stop", "match":
        if getattr(arguments, flag) == "":
            raise ValueError(f"--{flag}: expected a text, got an empty one; leave it out")
    if arguments.best is not None:
        for flag in (*OF_DRAWING, "min_length", "match", "novel", "unique", "distance"):
            if getattr(arguments, flag) is not None:
                raise ValueError(f"--best and --{flag.replace('_', '-')} exclude each other")
    is_constrained = any(getattr(arguments, flag) is not None for flag in CONSTRAINTS)
    if arguments.max_draws is not None and not is_constrained:
        raise ValueError("--max-draws is for names under a constraint such as --match")
    longest = arguments.max_length or MAX_LENGTH
    if (arguments.min_length or 0) > longest + len(arguments.prompt or ""):
        raise ValueError(
            f"--min-length {arguments.min_length} and --max-length {longest}"
            f"{'' if arguments.max_length else ', its default'}: "
            "expected a minimum that is not above the maximum"
        )
    if arguments.match is not None:
        # Composed, as names are.
        arguments.match = unicodedata.normalize("NFC", arguments.match)
        check_pattern(arguments.match)
    if arguments.out is not None:
        if arguments.out.exists() and not arguments.out.is_file():
            raise ValueError(f"--out: {arguments.out} is a directory or a device, not a file")
        # A link stays one: it is the file at its end that is replaced.
        arguments.out = Path(os.path.realpath(arguments.out))
        check_writable(arguments.out)


def main(parser: Parser, arguments: Namespace) -> int:
    """Print names or a text; returns the exit code."""
    with parser.reported_errors():
        check_arguments(arguments)
    # JAX takes half a second: what is wrong with the arguments was said before.
    with parser.reported_errors():
        start_jax(arguments.devices or num_cores())
        from dinojax.parallel import make_mesh

        with about("--devices"):
            make_mesh(arguments.devices or 1)
    import jax
    import numpy as np

    from dinojax.data.text import composed
    from dinojax.runs import folder as runs
    from dinojax.sampling.controls import Controls
    from dinojax.sampling.draw import read_prompt

    with parser.reported_errors():
        loaded = load(parser, arguments)
        is_text = loaded.config.is_text
        for flag in FOR_NAMES if is_text else FOR_TEXT:
            if getattr(arguments, flag) is not None:
                kinds = ("names", "a text") if is_text else ("a text", "names")
                raise ValueError(
                    f"--{flag.replace('_', '-')} is for runs of {kinds[0]}; "
                    f"{arguments.run} learned {kinds[1]}"
                )
        is_constrained = any(getattr(arguments, flag) is not None for flag in CONSTRAINTS)
        given = {
            name: getattr(arguments, name)
            for name in Controls._fields
            if getattr(arguments, name) is not None
        }
        controls = Controls()._replace(**given)
        for flag, default in (FOR_TEXT if is_text else FOR_NAMES).items():
            if getattr(arguments, flag) is None:
                setattr(arguments, flag, default)
        arguments.seed = arguments.seed or 0
        if is_text and arguments.prompt is None and sys.stdin.isatty() and sys.stdout.isatty():
            try:
                arguments.prompt = input("How does it begin? ")
            except EOFError:
                print()
                raise ValueError("the prompt: got no answer; or give it by --prompt") from None
        prompt = composed(arguments.prompt or "", loaded.config.lowercase)
        try:
            ids = loaded.vocab.encode(prompt)
        except ValueError as error:
            raise ValueError(f"the prompt: {error}") from None
        if not is_text and "\n" in prompt:
            raise ValueError("the prompt: a name holds no newline")
        known: list[str] = []
        if arguments.json or arguments.novel or arguments.distance:
            known = list(runs.read_part(arguments.run, loaded.description, "train"))
        # Compiled at once: operation by operation, a first name takes 1.2 times as long to come.
        read = jax.jit(read_prompt, static_argnames="model")
        beginning = read(loaded.params, model=loaded.model, prompt=np.asarray(ids, int))
    if is_text:
        arguments.stop = composed(arguments.stop, loaded.config.lowercase)
        write_text(loaded, arguments, prompt, beginning, controls)
        return 0
    if arguments.best:
        blocks = find_best(parser.program, loaded, arguments, prompt, beginning)
    else:
        most = arguments.max_draws if is_constrained else arguments.num
        blocks = draw_names(loaded, arguments, prompt, beginning, controls, most)
        if is_constrained:
            blocks = accept(parser.program, blocks, arguments, loaded, known)
    num = arguments.best or arguments.num
    with output(arguments) as file:
        written = write_names(blocks, num, file, set(known), arguments.json)
    return 0 if written == num or not (is_constrained or arguments.best) else FEWER


@contextmanager
def output(arguments: Namespace) -> Iterator[TextIO]:
    """Where names are written to: standard output, or a file that appears once it is whole."""
    if arguments.out is None:
        yield sys.stdout
        return
    import io
    import shutil
    import tempfile

    from dinojax.files import atomic_file

    # Until it is whole it has no name: an interrupt, which ends the program at once, leaves none.
    with tempfile.TemporaryFile(dir=arguments.out.parent) as draft:
        file = io.TextIOWrapper(draft, "utf-8", newline="\n")
        yield file
        file.detach()
        draft.seek(0)
        with atomic_file(arguments.out) as whole:
            shutil.copyfileobj(draft, whole)


def draw_names(
    loaded: "Run",
    arguments: Namespace,
    prompt: str,
    beginning: "Beginning",
    controls: "Controls",
    most: int,
) -> Iterator[Names]:
    """Names that begin with the prompt, one block after the other, without end.

    Of these, `most` are wanted at most: a name does not depend on it, the work for it does; nor
    does it depend on the number of devices.
    """
    from functools import partial
    from itertools import chain, count

    import jax
    import jax.numpy as jnp

    from dinojax import parallel
    from dinojax.sampling.draw import sample_names
    from dinojax.sampling.stream import on_each_device, stream_names

    max_length = arguments.max_length
    # A stream of fewer names begins as one of more.
    longest = max(1, STREAM // (max_length * BLOCK))
    wanted = max(1, -(-(most - FIRST_BLOCK) // BLOCK))
    num = min(longest, wanted) * BLOCK
    num_devices = arguments.devices or jax.device_count()
    # Where one block takes the room of several streams, fewer are written at once.
    has_room = max(1, num_devices * STREAM // (num * max_length))
    num_streams = min(num_devices, has_room, -(-wanted // longest))
    mesh = parallel.make_mesh(num_streams)

    def write_by(sampler: Callable[..., Any], num: int) -> Callable[..., Any]:
        def write(key: Any, params: Any, beginning: Any, controls: Any) -> Any:
            fixed = loaded.model, num, max_length
            return sampler(key, params, *fixed, controls=controls, beginning=beginning)

        return write

    @jax.jit
    def draw(key: Any, stream: Any, *inputs: Any) -> Any:
        if stream is None:
            # A few names are there sooner, and compiled sooner, without a stream.
            write = write_by(sample_names, FIRST_BLOCK)
            samples = write(jax.random.fold_in(key, 0), *inputs)
        else:
            streams = stream + jnp.arange(num_streams)
            keys = jax.vmap(partial(jax.random.fold_in, key))(streams)
            samples = on_each_device(keys, write_by(stream_names, num), mesh, *inputs)
        return samples._replace(ids=samples.ids.astype(loaded.vocab.dtype))

    key = jax.random.key(arguments.seed)
    for stream in chain([None], count(1, num_streams)):
        samples = jax.device_get(draw(key, stream, loaded.params, beginning, controls))
        for first in range(0, len(samples.ids), BLOCK):
            ids, lengths, *others = (x[first : first + BLOCK] for x in samples)
            yield Names(decode_names(loaded.vocab, ids, lengths, prompt), *others)


def decode_names(
    vocab: "Vocab", ids: "NDArray[Any]", lengths: "NDArray[Any]", prompt: str
) -> list[str]:
    """The names whose first characters are the prompt and the next `ids` [num, max_length].

    In one text with a newline after each, which is cut then: 20 times as fast as one by one.
    """
    import numpy as np

    ids = np.pad(ids, ((0, 0), (0, 1)), constant_values=vocab.newline)
    is_read = np.arange(ids.shape[1]) <= lengths[:, None]
    points = np.array([ord(character) for character in vocab.characters], "<u4")
    text = points[ids[is_read]].tobytes().decode("utf-32-le", "surrogatepass")
    return [prompt + name for name in text[:-1].split("\n")]


def accept(
    program: Program, blocks: Iterator[Names], arguments: Namespace, loaded: "Run", known: list[str]
) -> Iterator[Names]:
    """Of each block, the names that are wanted: exact draws from the law given that they are.

    At the end, and where there are none any more within --max-draws, it says how many were.
    """
    flags = re.IGNORECASE if loaded.config.lowercase else 0
    pattern = compiled(arguments.match or "", flags)
    learned, seen = set(known), set()
    num_drawn = num_accepted = 0
    try:
        for block in blocks:
            names = block.names[: arguments.max_draws - num_drawn]
            num_drawn += len(names)
            places = [
                i
                for i, (name, has_ended) in enumerate(zip(names, block.ended, strict=False))
                if has_ended
                and len(name) >= arguments.min_length
                and pattern.search(name)
                and not (arguments.novel and name in learned)
            ]
            if arguments.distance and places:
                from dinojax.data.distances import far_from

                is_far = far_from([names[i] for i in places], known, arguments.distance)
                places = [i for i, far in zip(places, is_far, strict=True) if far]
            if arguments.unique:
                fresh = []
                for i in places:
                    if names[i] not in seen:
                        seen.add(names[i])
                        fresh.append(i)
                places = fresh
            num_accepted += len(places)
            yield Names([names[i] for i in places], *(values[places] for values in block[1:]))
            if num_drawn >= arguments.max_draws:
                break
    finally:
        print(
            f"{program.name}: {num_accepted:,} of {num_drawn:,} draws are as wanted "
            f"({num_accepted / max(num_drawn, 1):.3g})",
            file=sys.stderr,
        )


def find_best(
    program: Program, loaded: "Run", arguments: Namespace, prompt: str, beginning: "Beginning"
) -> Iterator[Names]:
    """The most probable names, and how much of all probability they have."""
    import math

    import numpy as np

    from dinojax.sampling.search import most_probable

    found = most_probable(
        loaded.params,
        loaded.model,
        arguments.best,
        arguments.max_length,
        beginning=beginning,
    )
    share = math.fsum(map(math.exp, found.log_probabilities))
    print(
        f"{program.name}: the {len(found.names):,} most probable names have {share:.3%} of all "
        f"probability; {found.num_prefixes:,} beginnings were read to find them",
        file=sys.stderr,
    )
    num = len(found.names)
    yield Names(
        [prompt + loaded.vocab.decode(ids) for ids in found.names],
        np.array(found.log_probabilities),
        np.full(num, None),
        np.full(num, True),
    )


def write_names(
    blocks: Iterator[Names], num: int, file: TextIO, known: set[str], as_json: bool
) -> int:
    """Write up to `num` names; returns how many there were."""
    from dinojax.data.text import capitalized

    shown: Callable[[str], str] = visible if file.isatty() else str
    written = 0
    for block in blocks:
        names = block.names[: num - written]
        lines = list(map(capitalized, names))
        if as_json:
            is_ascii = (file.encoding or "").lower() != "utf-8"
            values = zip(names, lines, *(x[: len(names)].tolist() for x in block[1:]), strict=True)
            lines = [
                json.dumps(
                    {
                        "name": line,
                        "log_probability": whole,
                        "drawn_log_probability": drawn,
                        "ended": ended,
                        "in_training_data": name in known,
                    },
                    ensure_ascii=is_ascii,
                )
                for name, line, whole, drawn, ended in values
            ]
        # One write: a text file takes as long over each as the name takes to be drawn.
        file.write("".join(f"{shown(line)}\n" for line in lines))
        written += len(names)
        if written == num:
            break
    if hasattr(blocks, "close"):
        # It says what it has to say now, not when Python finds the time.
        blocks.close()
    return written


def write_text(
    loaded: "Run", arguments: Namespace, prompt: str, beginning: "Beginning", controls: "Controls"
) -> None:
    """Print the prompt and what follows, as it comes."""
    import jax
    import numpy as np

    from dinojax.sampling.draw import sample_text

    def show(text: str) -> None:
        lines = map(visible, text.split("\n")) if sys.stdout.isatty() else [text]
        sys.stdout.write("\n".join(lines))
        sys.stdout.flush()

    @jax.jit
    def write_on(
        key: jax.Array, params: Any, beginning: "Beginning", controls: "Controls"
    ) -> tuple["Beginning", jax.Array]:
        return sample_text(key, params, loaded.model, beginning, CHARACTERS, controls=controls)

    show(prompt)
    key, stop, tail = jax.random.key(arguments.seed), arguments.stop, ""
    for first in range(0, arguments.length, CHARACTERS):
        key_block = jax.random.fold_in(key, first // CHARACTERS)
        beginning, ids = write_on(key_block, loaded.params, beginning, controls)
        new = loaded.vocab.decode(np.asarray(ids))[: arguments.length - first]
        if stop:
            # It may have begun in what was shown before.
            end = (tail + new).find(stop)
            if end >= 0:
                show(new[: end + len(stop) - len(tail)])
                break
            tail = (tail + new)[max(0, len(tail + new) - len(stop) + 1) :]
        show(new)
    sys.stdout.write("\n")
