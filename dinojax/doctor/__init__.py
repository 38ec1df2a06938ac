"""Whether dinojax works on this machine; nothing here prints."""

from dinojax import submodules

__getattr__ = submodules(__name__)
