"""Write new names, or a text, with a trained model; see --help."""

import json
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from dinojax.command_line import Parser, number, path, run, visible, whole_number
from dinojax.config import check_range
from dinojax.devices import start_jax

if TYPE_CHECKING:
    from dinojax.cells import Params
    from dinojax.runs import Run
    from dinojax.sample import Beginning

BLOCK = 256
"""Names drawn in one call, whatever their number, so that name i does not depend on it."""
CHARACTERS = 16
"""Characters of a text drawn in one call, then shown."""
FOR_NAMES = {"num": 10, "max_length": 50, "json": False}
"""The flags that a run of names alone knows, and their defaults."""
FOR_TEXT = {"length": 400, "stop": ""}
"""The flags that a run of a text alone knows, and their defaults."""


def parse_arguments() -> tuple[Parser, Namespace]:
    """Read the command line: the parser, to report errors with, and its result."""
    parser = Parser("Write new names, or a text, with a trained model.")
    add = parser.add_argument
    add(
        "run",
        metavar="RUN",
        type=path,
        help="folder that scripts/train.py wrote, such as runs/dinos",
    )
    add(
        "--seed",
        metavar="N",
        type=whole_number,
        default=0,
        help="of the random draws; the same seed, the same names",
    )
    add(
        "--temperature",
        metavar="T",
        type=number,
        default=1.0,
        help="divides the logits: below 1 the likely, above 1 the unlikely come more often",
    )
    add(
        "--prompt",
        metavar="TEXT",
        help="how every name, or the text, begins; asked for where a text is to be written in a "
        "terminal",
    )
    names = parser.add_argument_group("for a run of names")
    names.add_argument(
        "--num",
        metavar="N",
        type=whole_number,
        help=f"how many names (default: {FOR_NAMES['num']})",
    )
    names.add_argument(
        "--max-length",
        metavar="N",
        type=whole_number,
        help="characters after which a name is cut, the prompt not counted "
        f"(default: {FOR_NAMES['max_length']})",
    )
    names.add_argument(
        "--json",
        action="store_true",
        default=None,
        help="one object a line: name, log_probability of the model in nats, ended (by itself, "
        "not cut), in_training_data",
    )
    text = parser.add_argument_group("for a run of a text")
    text.add_argument(
        "--length",
        metavar="N",
        type=whole_number,
        help=f"how many characters, the prompt not counted (default: {FOR_TEXT['length']})",
    )
    text.add_argument("--stop", metavar="TEXT", help="stop after this, if it comes before that")
    arguments = parser.parse_args()
    with parser.reported_errors():
        check_range("--seed", arguments.seed, 0, 2**32 - 1)
        check_range("--temperature", arguments.temperature, 1e-6, 1e6)
        for flag, high in (("num", 10**9), ("max_length", 10_000), ("length", 10**9)):
            if getattr(arguments, flag) is not None:
                check_range(f"--{flag.replace('_', '-')}", getattr(arguments, flag), 1, high)
        for flag in "prompt", "stop":
            if getattr(arguments, flag) == "":
                raise ValueError(f"--{flag}: expected a text, got an empty one; leave it out")
    return parser, arguments


def main() -> int:
    """Print names or a text; returns the exit code."""
    parser, arguments = parse_arguments()
    # JAX takes half a second: what is wrong with the arguments was said before.
    with parser.reported_errors():
        start_jax()
    import jax.numpy as jnp

    from dinojax import runs
    from dinojax.data import composed
    from dinojax.sample import read_prompt

    with parser.reported_errors():
        loaded = runs.load_run(arguments.run)
        is_text = loaded.config.is_text
        for flag in FOR_NAMES if is_text else FOR_TEXT:
            if getattr(arguments, flag) is not None:
                kinds = ("names", "a text") if is_text else ("a text", "names")
                raise ValueError(
                    f"--{flag.replace('_', '-')} is for runs of {kinds[0]}; "
                    f"{arguments.run} learned {kinds[1]}"
                )
        for flag, default in (FOR_TEXT if is_text else FOR_NAMES).items():
            if getattr(arguments, flag) is None:
                setattr(arguments, flag, default)
        if is_text and arguments.prompt is None and sys.stdin.isatty() and sys.stdout.isatty():
            arguments.prompt = input("How does it begin? ")
        prompt = composed(arguments.prompt or "", loaded.config.lowercase)
        try:
            ids = loaded.vocab.encode(prompt)
        except ValueError as error:
            raise ValueError(f"the prompt: {error}") from None
        if not is_text and "\n" in prompt:
            raise ValueError("the prompt: a name holds no newline")
        known = (
            set(runs.read_names(arguments.run, loaded.names_sha256)) if arguments.json else set()
        )
    beginning = read_prompt(loaded.params, loaded.model, jnp.asarray(ids, int))
    if is_text:
        write_text(loaded, arguments, prompt, beginning)
    else:
        write_names(loaded, arguments, prompt, beginning, known)
    return 0


def write_names(
    loaded: "Run", arguments: Namespace, prompt: str, beginning: "Beginning", known: set[str]
) -> None:
    """Print names that begin with the prompt."""
    import jax

    from dinojax.data import capitalized
    from dinojax.sample import Samples, sample_names

    vocab = loaded.vocab

    @jax.jit
    def write_block(
        key: jax.Array, params: "Params", temperature: float, beginning: "Beginning"
    ) -> Samples:
        length = arguments.max_length
        return sample_names(
            key, params, loaded.model, vocab.newline, BLOCK, length, temperature, beginning
        )

    key = jax.random.key(arguments.seed)
    shown = visible if sys.stdout.isatty() else str
    for first in range(0, arguments.num, BLOCK):
        key_block = jax.random.fold_in(key, first // BLOCK)
        samples = write_block(key_block, loaded.params, arguments.temperature, beginning)
        rows = zip(*jax.device_get(samples), strict=True)
        for ids, length, log_probability, ended in list(rows)[: arguments.num - first]:
            name = prompt + vocab.decode(ids[:length])
            line = capitalized(name)
            if arguments.json:
                line = json.dumps(
                    {
                        "name": line,
                        "log_probability": float(log_probability),
                        "ended": bool(ended),
                        "in_training_data": name in known,
                    },
                    ensure_ascii=sys.stdout.encoding != "utf-8",
                )
            sys.stdout.write(shown(line) + "\n")


def write_text(loaded: "Run", arguments: Namespace, prompt: str, beginning: "Beginning") -> None:
    """Print the prompt and what follows, as it comes."""
    import jax
    import numpy as np

    from dinojax.sample import sample_text

    def show(text: str) -> None:
        lines = map(visible, text.split("\n")) if sys.stdout.isatty() else [text]
        sys.stdout.write("\n".join(lines))
        sys.stdout.flush()

    @jax.jit
    def write_on(
        key: jax.Array, params: "Params", beginning: "Beginning", temperature: float
    ) -> tuple["Beginning", jax.Array]:
        return sample_text(key, params, loaded.model, beginning, CHARACTERS, temperature)

    show(prompt)
    key, stop, tail = jax.random.key(arguments.seed), arguments.stop, ""
    for first in range(0, arguments.length, CHARACTERS):
        key_block = jax.random.fold_in(key, first // CHARACTERS)
        beginning, ids = write_on(key_block, loaded.params, beginning, arguments.temperature)
        new = loaded.vocab.decode(np.asarray(ids))[: arguments.length - first]
        if stop:
            # It may have begun in what was shown before.
            end = (tail + new).find(stop)
            if end >= 0:
                show(new[: end + len(stop) - len(tail)])
                break
            tail = (tail + new)[len(tail + new) - len(stop) + 1 :]
        show(new)
    sys.stdout.write("\n")


if __name__ == "__main__":
    run(main)
