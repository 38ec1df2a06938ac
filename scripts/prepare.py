"""Prepare large data ahead of training: the same as `dinojax prepare`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
