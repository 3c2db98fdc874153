"""Many processes: collectives, launching, and a session that answers as one process does."""

from neoxlib.names import face

__getattr__ = face(__name__)
