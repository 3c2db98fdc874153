"""The other machines: whether they can work together, and the profile that says which they are."""

from neoxlib.names import face

__getattr__ = face(__name__)
