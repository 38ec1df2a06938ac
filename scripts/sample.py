"""Write new names, or continue a text: the same as `dinojax sample`."""

from dinojax.cli.main import run_script

if __name__ == "__main__":
    run_script(__file__)
