"""Make a run of a model that Keras saved: the same as `dinojax import`."""

from dinojax.cli.main import run_script

if __name__ == "__main__":
    run_script(__file__)
