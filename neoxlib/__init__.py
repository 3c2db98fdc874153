"""GPT-NeoX inference on Ascend NPUs, and on the CPU: `load` for one process, `Session` for many ranks."""

import sys

# While `python -m neoxlib` looks for the module, argv is so, and the working directory comes first:
# a random.py there would stand for Python's own.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    sys.path.append(sys.path.pop(0))

from importlib import import_module
from typing import Any

__all__ = ["Engine", "Session", "__version__", "load"]
__version__ = "0.1.0"

_LAZY = {"load": "inference.engine", "Engine": "inference.engine", "Session": "ranks.session"}
NOTHING = "module 'neoxlib' has no attribute {!r}"


def __getattr__(name: str) -> Any:
    """Import on first use: `neoxlib.demo` or the command line's help must not wait for torch.

    Also the modules of the package, so that a torch that cannot be imported is explained wherever it is met first.
    """
    if name.startswith("_"):
        raise AttributeError(NOTHING.format(name))
    path = f"neoxlib.{_LAZY.get(name, name)}"
    try:
        module = import_module(path)
    except (ImportError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == path:
            raise AttributeError(NOTHING.format(name)) from None
        from neoxlib.machine.runtime import torch_npu_error

        if cure := torch_npu_error(error):
            raise cure from error
        raise
    return getattr(module, name) if name in _LAZY else module
