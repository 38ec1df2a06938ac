"""Write a trained model in the format of another program; see --help."""

from argparse import ArgumentParser, Namespace

from dinojax.cli.arguments import Parser, path, require
from dinojax.cli.loaded import add_which, load
from dinojax.cli.terminal import describe_error, tell
from dinojax.messages import count, visible
from dinojax.startup import start_jax

FAILED = 1
NEEDS = {
    "safetensors": "safetensors",
    "torch": "safetensors",
    "numpy": "numpy",
    "stablehlo": "flatbuffers",
}
"""The formats, and the package that each needs."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax export`."""
    add = parser.add_argument
    add("run", metavar="RUN", type=path, help="folder of a run")
    help_format = "safetensors (with a model card), torch (a PyTorch state_dict in safetensors), "
    help_format += "numpy (a short program and its weights) or stablehlo (functions for any JAX)"
    add("--format", choices=tuple(NEEDS), required=True, help=help_format)
    add("--out", metavar="DIR", type=path, required=True, help="new folder for the files")
    add_which(parser)


def main(parser: Parser, arguments: Namespace) -> int:
    """Write and prove the files, and print their names; returns the exit code."""
    with parser.reported_errors():
        require(NEEDS[arguments.format], "export")
        start_jax()
        from dinojax.interchange.export import export

        run = load(parser, arguments)
        try:
            exported = export(run, arguments.format, arguments.out)
        except ArithmeticError as error:
            tell(parser.prog, f"error: {describe_error(error)}")
            return FAILED
    for file in exported.files:
        print(f"{visible(str(file))}  {file.stat().st_size:,} bytes")
    strings = count(exported.num_strings, "string")
    print(
        f"The logits of {strings} of the {exported.part} part agree with those of the run up to "
        f"{exported.difference:.1g}."
    )
    if exported.code:
        print(f"\nTo load it:\n\n{exported.code}", end="")
    return 0
