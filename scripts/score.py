"""Say how probable names, or a text, are: the same as `dinojax score`."""

from dinojax.cli.main import run_script

if __name__ == "__main__":
    run_script(__file__)
