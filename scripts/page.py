"""Write a page that holds a run: the same as `dinojax page`."""

from dinojax.cli.main import run_script

if __name__ == "__main__":
    run_script(__file__)
