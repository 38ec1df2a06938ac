"""Train every combination of some settings with several seeds: the same as `dinojax sweep`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
