"""C++ that is compiled for this machine's CPU at first use, and what calls it."""
