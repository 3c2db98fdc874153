"""What is missing on this machine, and the line that repairs it."""

from neoxlib import face

__getattr__ = face(__name__)
