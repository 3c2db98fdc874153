"""Facts about this machine: chips, versions, limits, and the environment of ranks."""

from neoxlib.names import face

__getattr__ = face(__name__)
