"""What this machine is: chips, versions, limits, and the environment that ranks start with."""

from neoxlib import face

__getattr__ = face(__name__)
