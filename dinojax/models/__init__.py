"""Recurrent cells, layers and character models."""

from dinojax import submodules

__getattr__ = submodules(__name__)
