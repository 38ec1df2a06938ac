"""Measure the exact loss of a model: the same as `dinojax evaluate`."""

from dinojax.cli.main import run_script

if __name__ == "__main__":
    run_script(__file__)
