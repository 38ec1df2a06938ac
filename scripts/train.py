"""Train a model on a list of names or a text: the same as `dinojax train`."""

from dinojax.cli.main import run_script

if __name__ == "__main__":
    run_script(__file__)
