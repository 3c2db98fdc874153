"""GPT-NeoX inference on Ascend NPUs and on the CPU: `load` for one process, `Session` for ranks."""

import os
import sys

# While `python -m neoxlib` looks for the module, argv is ["-m"] and the current folder is first on
# the path: a torch.py beside a model would run. An empty entry of PYTHONPATH is that folder, too.
# What Python imports before this line, such as contextlib, cannot be kept from it.
if sys.argv[:1] == ["-m"] and any(
    word.removeprefix("-m").partition(".")[0] == "neoxlib" for word in sys.orig_argv
):
    if not sys.flags.safe_path:
        del sys.path[0]
    if "" in os.environ.get("PYTHONPATH", "none").split(os.pathsep):
        sys.path[:] = [path for path in sys.path if path != os.getcwd()]

from neoxlib.names import FormerNames, face

__all__ = ["Engine", "Session", "__version__", "load"]
__version__ = "0.1.0"


__getattr__ = face(
    __name__, load="inference.load", Engine="inference.engine", Session="ranks.session"
)

sys.meta_path.append(FormerNames())
