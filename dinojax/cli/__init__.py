"""The command `dinojax`; only this package prints, reads flags and exits."""

from dinojax import submodules

__getattr__ = submodules(__name__)
