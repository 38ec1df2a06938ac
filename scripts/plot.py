"""Draw the losses of runs: the same as `dinojax plot`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
