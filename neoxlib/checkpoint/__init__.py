"""Weight files: read, match, cut, verify, merge, pack and load."""

from neoxlib.names import face

__getattr__ = face(__name__)
