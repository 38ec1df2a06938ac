"""A training run: what determines it, its folder, and its course from start to end."""

from dinojax import submodules

__getattr__ = submodules(__name__)
