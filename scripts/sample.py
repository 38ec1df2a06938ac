"""Write new names with a trained model; see --help."""

import json
import sys
from argparse import Namespace

from dinojax.command_line import Parser, number, path, run, visible, whole_number
from dinojax.config import check_range
from dinojax.devices import start_jax

BLOCK = 256
"""Names drawn in one call, whatever their number, so that name i does not depend on it."""


def parse_arguments() -> tuple[Parser, Namespace]:
    """Read the command line: the parser, to report errors with, and its result."""
    parser = Parser("Write new names with a trained model.")
    add = parser.add_argument
    add(
        "run",
        metavar="RUN",
        type=path,
        help="folder that scripts/train.py wrote, such as runs/dinos",
    )
    add("--num", metavar="N", type=whole_number, default=10, help="how many names")
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
        "--max-length",
        metavar="N",
        type=whole_number,
        default=50,
        help="characters after which a name is cut",
    )
    add(
        "--json",
        action="store_true",
        help="one object a line: name, log_probability of the model in nats, ended (by itself, "
        "not cut), in_training_data",
    )
    arguments = parser.parse_args()
    with parser.reported_errors():
        check_range("--num", arguments.num, 1, 10**9)
        check_range("--seed", arguments.seed, 0, 2**32 - 1)
        check_range("--temperature", arguments.temperature, 1e-6, 1e6)
        check_range("--max-length", arguments.max_length, 1, 10_000)
    return parser, arguments


def main() -> int:
    """Print the names; returns the exit code."""
    parser, arguments = parse_arguments()
    # JAX takes half a second: what is wrong with the arguments was said before.
    with parser.reported_errors():
        start_jax()
    import jax

    from dinojax import runs
    from dinojax.cells import Params
    from dinojax.data import capitalized
    from dinojax.sample import Samples, sample_names

    with parser.reported_errors():
        loaded = runs.load_run(arguments.run)
        known = set(runs.read_names(arguments.run, loaded.names_sha256)) if arguments.json else ()
    vocab = loaded.vocab

    @jax.jit
    def write_block(key: jax.Array, params: Params, temperature: float) -> Samples:
        length = arguments.max_length
        return sample_names(key, params, loaded.model, vocab.newline, BLOCK, length, temperature)

    key = jax.random.key(arguments.seed)
    shown = visible if sys.stdout.isatty() else str
    for first in range(0, arguments.num, BLOCK):
        key_block = jax.random.fold_in(key, first // BLOCK)
        samples = jax.device_get(write_block(key_block, loaded.params, arguments.temperature))
        rows = zip(*samples, strict=True)
        for ids, length, log_probability, ended in list(rows)[: arguments.num - first]:
            name = vocab.decode(ids[:length])
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
    return 0


if __name__ == "__main__":
    run(main)
