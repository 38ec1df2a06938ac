"""Mix the models of several runs into one: the same as `dinojax mix`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
