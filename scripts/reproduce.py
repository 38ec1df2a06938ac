"""Replay the exercise in float64: the same as `dinojax reproduce`."""

from dinojax.cli.main import run_script

if __name__ == "__main__":
    run_script(__file__)
