"""Say how probable names, or a text, are: the same as `dinojax score`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
