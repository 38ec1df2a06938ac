"""Models from and for other programs."""

from dinojax import submodules

__getattr__ = submodules(__name__)
