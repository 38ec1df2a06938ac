"""`dinojax train ngram`: count an n-gram model in place of training a network."""

from argparse import Namespace

from dinojax.cli.arguments import Parser
from dinojax.cli.folders import next_free_folder
from dinojax.cli.loaded import describe_excerpt
from dinojax.cli.settings import flag_of, given_settings, named_flags
from dinojax.config import check_range
from dinojax.messages import count, visible
from dinojax.presets import ngram_config
from dinojax.runs.kinds import MAX_ORDER
from dinojax.startup import start_jax

PRESET, ORDER = "ngram", 5
OF_TRAINING = (
    "init_from", "resume", "config", "keep", "save_every", "max_minutes", "tensorboard",
    "coordinator", "num_processes", "process_id",
)  # fmt: skip
"""Arguments for networks, which are trained step by step."""


def main(parser: Parser, arguments: Namespace) -> int:
    """Count, save and say how well the model does; returns the exit code."""
    with parser.reported_errors(), named_flags():
        for name in OF_TRAINING:
            if getattr(arguments, name):
                message = "is for networks, which are trained step by step; an n-gram model is not"
                raise ValueError(f"{flag_of(name)} {message}")
        if arguments.overwrite and arguments.out is None:
            raise ValueError("--overwrite needs --out, the folder of the run to replace")
        order = ORDER if arguments.order is None else arguments.order
        check_range("--order", order, 1, MAX_ORDER)
        config = ngram_config(given_settings(arguments))

        from dinojax.cli.data import read_data
        from dinojax.data.corpus import bundled_names
        from dinojax.data.standard_library import library_path
        from dinojax.runs.description import describe

        data = arguments.data or [library_path()] * config.is_text
        corpus = read_data(parser, data or [bundled_names()], config)
        source = "\n".join(map(str, data))
        description, parts, _ = describe(config, corpus.data, source=source, sha256=corpus.sha256)
        start_jax()
        from dinojax.cli.reports import describe_data
        from dinojax.evaluation.compare import MOST_COUNTED
        from dinojax.runs.ngrams import make_ngram_run, save_untrained

        made = make_ngram_run(description, parts, order)
        folder = arguments.out or next_free_folder(PRESET)
        save_untrained(
            made.trained.params, folder, made.description, made.parts, overwrite=arguments.overwrite
        )
    again = parser.program.line_to_sample(folder, config.is_text)
    amounts = describe_data(made.description, parts, corpus.notes)
    num = count(len(made.trained.params.kept) - order - 1, "n-gram")
    if counted := describe_excerpt(parts["train"], MOST_COUNTED):
        counted = f", counted in {counted}"
    print(f"{amounts}; {num} of up to {count(order, 'character')}{counted}")
    if figures := made.figures:
        spread = f" ± {figures['standard_error']:.4f}" if figures["num_pieces"] > 1 else ""
        mean = f"{figures['nats_per_character']:.4f}{spread} nats a character"
        print(f"{mean}, over the validation part")
    print(f"Saved in {visible(str(folder))}")
    print(f"{'Text' if config.is_text else 'Names'}: {visible(again)}")
    return 0
