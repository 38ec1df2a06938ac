"""From a loss to many training steps."""

from dinojax import submodules

__getattr__ = submodules(__name__)
