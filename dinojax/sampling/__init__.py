"""New names and texts from a trained model."""

from dinojax import submodules

__getattr__ = submodules(__name__)
