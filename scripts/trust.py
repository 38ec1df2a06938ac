"""Let the code in the folder of a run be executed: the same as `dinojax trust`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
