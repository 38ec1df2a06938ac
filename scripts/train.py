"""Train a model on a list of names or a text: the same as `dinojax train`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
