"""Make a run of a model that Keras or PyTorch saved: the same as `dinojax import`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
