"""Many processes: collectives, launching, and a session that answers as one process does."""
