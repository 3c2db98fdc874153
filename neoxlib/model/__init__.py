"""GPT-NeoX: its config, layers and cache, and what runs them on a CPU or an NPU."""

from neoxlib.names import face

__getattr__ = face(__name__)
