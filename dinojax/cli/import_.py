"""Make a run of a model that Keras or PyTorch saved; see --help."""

from argparse import ArgumentParser, BooleanOptionalAction, Namespace

from dinojax.cli.arguments import Parser, path, require
from dinojax.cli.settings import add_columns, given_settings, named_flags
from dinojax.messages import about, count, visible
from dinojax.presets import PRESETS
from dinojax.startup import best_share, num_cores, start_jax


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of `dinojax import`."""
    add = parser.add_argument
    text = "model of Keras 2 or 3, .h5 or .keras (needs dinojax[keras]), or state_dict of PyTorch, "
    text += ".safetensors, of an RNN (tanh), GRU or LSTM and a Linear (needs dinojax[export])"
    add("file", metavar="FILE", type=path, help=text)
    text = "settings of the run that are not those of the model (default: those of the config.json "
    text += "beside a .safetensors file, else text); a text too short for them gets fewer rows"
    add("preset", nargs="?", choices=tuple(PRESETS), help=text)
    text = "text or list of names that the model learned from; its characters, sorted, are the "
    text += "symbols of the model, unless a vocab.json beside a .safetensors file names them"
    add("--data", metavar="FILE", type=path, required=True, help=text)
    text = "convert the data to lower case (default: as the config.json or the preset says)"
    add("--lowercase", action=BooleanOptionalAction, help=text)
    add_columns(parser, "none, or as the config.json says", without=("label_column",))
    add("--out", metavar="FOLDER", type=path, required=True, help="folder of the run")
    add("--overwrite", action="store_true", help="replace the run in the folder --out")


def main(parser: Parser, arguments: Namespace) -> int:
    """Make the run and say how to go on; returns the exit code."""
    with parser.reported_errors():
        from dinojax.cli.data import read_and_note
        from dinojax.interchange.imported import run_config, start_run, with_rows_for
        from dinojax.interchange.numpy_file import describe_layers

        file = arguments.file
        if file.suffix == ".safetensors":
            require("safetensors", "export")
            from dinojax.interchange.safetensors import read
        else:
            require("h5py", "keras")
            from dinojax.interchange.keras import read
        imported = read(file)
        with named_flags("the model"), about(file):
            config = run_config(imported, arguments.preset, **given_settings(arguments))
        corpus = read_and_note(parser, arguments.data, config)
        whole, config = config, with_rows_for(config, corpus.data)
        if config != whole:
            parser.note(
                f"{arguments.data}: too short for {whole.batch_size} rows of {whole.window} "
                f"characters; batches have {count(config.batch_size, 'row')} of {config.window}"
            )
        start_jax(best_share(config.batch_size, num_cores()))
        with named_flags(str(file)):
            vocab = start_run(
                imported,
                arguments.out,
                config,
                corpus.data,
                overwrite=arguments.overwrite,
                source=str(arguments.data),
                sha256=corpus.sha256,
                init_from=str(file),
            ).vocab
    newline = f"newline as number {vocab.newline:,} from 0"
    print(f"{describe_layers(config)}; {vocab.size:,} characters, {newline}")
    print(f"Saved in {visible(str(arguments.out))}")
    again = parser.program.line_to_sample(arguments.out, config.is_text)
    print(f"{'Text' if config.is_text else 'Names'}: {visible(again)}")
    return 0
