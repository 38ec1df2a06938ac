"""Write an animated picture of a run whose names grow from noise: README's first picture.

The run must have kept checkpoints of its beginning:

    dinojax train --keep 400 --save-every 100 --out runs/growing
    python scripts/animate.py runs/growing data/growing.svg
"""

import sys

from dinojax.cli.arguments import Parser, output_file, path, whole_number
from dinojax.cli.terminal import Program, run
from dinojax.config import check_range
from dinojax.files import write_atomically
from dinojax.messages import visible
from dinojax.startup import start_jax


def main() -> int:
    """Write the picture and print its path; returns the exit code."""
    parser = Parser(Program("animate", __file__), "Write an animated picture of a run of names.")
    add = parser.add_argument
    add("run", metavar="RUN", type=path, help="folder of a run that kept many checkpoints")
    add("file", metavar="FILE", type=path, help="SVG file to write")
    text = "checkpoints to show (default: %(default)s)"
    add("--checkpoints", metavar="N", type=whole_number, default=14, help=text)
    text = "names to show (default: %(default)s)"
    add("--names", metavar="N", type=whole_number, default=8, help=text)
    add("--seed", metavar="N", type=whole_number, default=0, help="of the names (default: 0)")
    arguments = parser.parse_args(sys.argv[1:])
    with parser.reported_errors():
        check_range("--checkpoints", arguments.checkpoints, 1, 100)
        check_range("--names", arguments.names, 1, 20)
        check_range("--seed", arguments.seed, 0, 2**32 - 1)
        if arguments.file.suffix != ".svg":
            parser.error(f"FILE: expected a name that ends in .svg, got {arguments.file}")
        file = output_file("FILE", arguments.file)
        start_jax()
        from dinojax.plots.animation import animate_growth
        from dinojax.runs.growth import growth

        options = {"num_names": arguments.names, "seed": arguments.seed}
        moments = growth(arguments.run, arguments.checkpoints, **options)
        write_atomically(file, animate_growth(moments).encode())
    print(visible(str(file)))
    return 0


if __name__ == "__main__":
    run(Program("animate", __file__), main)
