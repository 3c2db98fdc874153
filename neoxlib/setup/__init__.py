"""Checks of this machine and its model folders, each with the command that repairs it."""

from neoxlib.names import face

__getattr__ = face(__name__)
