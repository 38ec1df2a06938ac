"""From a file to batches of ids."""

from dinojax import submodules

__getattr__ = submodules(__name__)
