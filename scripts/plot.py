"""Draw the losses of runs: the same as `dinojax plot`."""

from dinojax.cli.main import run_script

if __name__ == "__main__":
    run_script(__file__)
