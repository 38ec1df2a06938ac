"""Write new names, or continue a text: the same as `dinojax sample`."""

from dinojax.__main__ import main

if __name__ == "__main__":
    main(__file__)
