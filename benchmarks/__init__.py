"""Benchmarks: neoxlib beside other libraries on the same work, and GPT-NeoX-20B's full shape."""
