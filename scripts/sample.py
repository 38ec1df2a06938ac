"""Write new names with a trained model; see --help."""

import json
import sys
from argparse import Namespace
from pathlib import Path

from dinojax.command_line import Parser, run
from dinojax.config import check_range
from dinojax.devices import set_cpu_flags

BLOCK = 256
"""Names drawn in one call, whatever their number, so that name i does not depend on it."""


def parse_arguments() -> tuple[Parser, Namespace]:
    """Read the command line: the parser, to report errors with, and its result."""
    parser = Parser("Write new names with a trained model.")
    add = parser.add_argument
    add(
        "run",
        metavar="RUN",
        type=Path,
        help="folder that scripts/train.py wrote, such as runs/dinos",
    )
    add("--num", metavar="N", type=int, default=10, help="how many names")
    add(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="of the random draws; the same seed, the same names",
    )
    add(
        "--temperature",
        metavar="T",
        type=float,
        default=1.0,
        help="divides the logits: below 1 the likely, above 1 the unlikely come more often",
    )
    add(
        "--max-length",
        metavar="N",
        type=int,
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
    set_cpu_flags()
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
    def write_block(params: Params, block: int) -> Samples:
        key = jax.random.fold_in(jax.random.key(arguments.seed), block)
        return sample_names(
            key,
            params,
            loaded.model,
            vocab.newline,
            BLOCK,
            arguments.max_length,
            arguments.temperature,
        )

    for first in range(0, arguments.num, BLOCK):
        rows = zip(*jax.device_get(write_block(loaded.params, first // BLOCK)), strict=True)
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
            sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    run(main)
