"""Propose what to train on given data: the same as `dinojax advise`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
