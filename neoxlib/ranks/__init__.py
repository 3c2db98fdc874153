"""Many processes: collectives, launching, and a session that answers as one process does."""

from neoxlib import face

__getattr__ = face(__name__)
