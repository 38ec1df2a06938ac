"""`python -m dinojax` is the command `dinojax`."""

from dinojax.cli.main import main

if __name__ == "__main__":
    main()
