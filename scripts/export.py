"""Write a model in the format of another program: the same as `dinojax export`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
