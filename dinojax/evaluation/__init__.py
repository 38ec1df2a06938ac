"""Exact losses, scores and comparisons."""

from dinojax import submodules

__getattr__ = submodules(__name__)
