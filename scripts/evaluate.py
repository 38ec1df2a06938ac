"""Measure the exact loss of a model: the same as `dinojax evaluate`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
