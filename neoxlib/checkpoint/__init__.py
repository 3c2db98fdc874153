"""Weight files: read, match, cut, verify, merge, pack and load."""

from neoxlib import face

__getattr__ = face(__name__)
