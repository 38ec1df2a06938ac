"""Replay the exercise in float64: the same as `dinojax reproduce`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
