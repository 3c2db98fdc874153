"""Data of an exam: the known benchmarks, and how a folder or archive of one is read."""
