"""GPT-NeoX inference on Ascend NPUs and on the CPU: `load` for one process, `Session` for ranks."""

import sys

# While `python -m neoxlib` looks for the module, argv is ["-m"] and the working directory is first
# on the path: a random.py there would replace Python's own.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    sys.path.append(sys.path.pop(0))

from collections.abc import Callable
from importlib import import_module
from typing import Any

from neoxlib.moved import FormerNames

__all__ = ["Engine", "Session", "__version__", "load"]
__version__ = "0.1.0"


def face(package: str, **names: str) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which imports its modules, and `names`, on first use.

    `neoxlib.demo` and the command line's help do not wait for torch, and an import of torch that
    fails is explained wherever it happens first.
    """

    def get(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        path = f"{package}.{names.get(name, name)}"
        try:
            module = import_module(path)
        except (ImportError, RuntimeError) as error:
            if isinstance(error, ModuleNotFoundError) and error.name == path:
                said = f"module {package!r} has no attribute {name!r}"
                raise AttributeError(said) from None
            from neoxlib.machine.runtime import torch_npu_error

            if cure := torch_npu_error(error):
                raise cure from error
            raise
        return getattr(module, name) if name in names else module

    return get


__getattr__ = face(
    __name__, load="inference.load", Engine="inference.engine", Session="ranks.session"
)

sys.meta_path.append(FormerNames())
