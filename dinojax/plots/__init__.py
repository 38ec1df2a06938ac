"""Pictures of runs, with matplotlib."""

from dinojax import submodules

__getattr__ = submodules(__name__)
