"""GPT-NeoX inference on Ascend NPUs, and on the CPU: `load` for one process, `Session` for many ranks."""

from importlib import import_module
from typing import Any

__all__ = ["Engine", "Session", "__version__", "load"]
__version__ = "0.1.0"

_LAZY = {"load": "engine", "Engine": "engine", "Session": "session"}


def __getattr__(name: str) -> Any:
    """Import on first use: `neoxlib.demo` or the command line's help must not wait for torch."""
    if name not in _LAZY:
        raise AttributeError(f"module 'neoxlib' has no attribute {name!r}")
    return getattr(import_module(f"neoxlib.{_LAZY[name]}"), name)
