"""Make a run of a model that Keras or PyTorch saved; see --help."""

from argparse import ArgumentParser, BooleanOptionalAction, Namespace

from dinojax.cli.arguments import Parser, path, require
from dinojax.cli.settings import named_flags
from dinojax.config import PRESETS, resolve
from dinojax.messages import visible
from dinojax.startup import best_share, num_cores, start_jax


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax import`."""
    add = parser.add_argument
    text = "model of Keras 2 or 3, .h5 or .keras (needs dinojax[keras]), or state_dict of PyTorch, "
    text += ".safetensors, of an RNN (tanh), GRU or LSTM and a Linear (needs dinojax[export])"
    add("file", metavar="FILE", type=path, help=text)
    text = "settings of the run that are not those of the model (default: %(default)s)"
    add("preset", nargs="?", choices=tuple(PRESETS), default="text", help=text)
    text = "text or list of names that the model learned from; its characters, sorted, are the "
    text += "symbols of the model, unless a vocab.json beside a .safetensors file names them"
    add("--data", metavar="FILE", type=path, required=True, help=text)
    text = "convert the data to lower case (default: as the preset does)"
    add("--lowercase", action=BooleanOptionalAction, help=text)
    add("--out", metavar="FOLDER", type=path, required=True, help="folder of the run")
    add("--overwrite", action="store_true", help="replace the run in the folder --out")


def main(parser: Parser, arguments: Namespace) -> int:
    """Make the run and say how to go on; returns the exit code."""
    with parser.reported_errors(), named_flags():
        from dinojax.cli.data import read_and_note
        from dinojax.interchange.imported import start_run
        from dinojax.interchange.numpy_file import describe_layers

        if arguments.file.suffix == ".safetensors":
            require("safetensors", "export")
            from dinojax.interchange.safetensors import read
        else:
            require("h5py", "keras")
            from dinojax.interchange.keras import read
        imported = read(arguments.file)
        # The model may have learned from all of the data: no part would be new to it.
        given = {**imported.settings, "validation_fraction": 0.0}
        if arguments.lowercase is not None:
            given["lowercase"] = arguments.lowercase
        config = resolve(arguments.preset, given=given)
        start_jax(best_share(config.batch_size, num_cores()))
        corpus = read_and_note(parser, arguments.data, config)
        vocab = start_run(
            imported,
            arguments.out,
            config,
            corpus.data,
            overwrite=arguments.overwrite,
            source=str(arguments.data),
            sha256=corpus.sha256,
            init_from=str(arguments.file),
        ).vocab
    newline = f"newline as number {vocab.newline:,} from 0"
    print(f"{describe_layers(config)}; {vocab.size:,} characters, {newline}")
    print(f"Saved in {visible(str(arguments.out))}")
    again = parser.program.line_to_sample(arguments.out, config.is_text)
    print(f"{'Text' if config.is_text else 'Names'}: {visible(again)}")
    return 0
