"""Show what may come next, after a beginning: the same as `dinojax next`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
