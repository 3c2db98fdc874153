"""Weight files: read, match, cut, verify, merge, pack and load."""
