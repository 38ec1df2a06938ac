"""Say whether dinojax works on this machine: the same as `dinojax doctor`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
