"""GPT-NeoX inference on Ascend NPUs and on the CPU: `load` for one process, `Session` for ranks."""

import sys

# While `python -m neoxlib` looks for the module, argv is ["-m"] and the working directory is first
# on the path: a random.py there would replace Python's own.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    sys.path.append(sys.path.pop(0))

from neoxlib.names import FormerNames, face

__all__ = ["Engine", "Session", "__version__", "load"]
__version__ = "0.1.0"


__getattr__ = face(
    __name__, load="inference.load", Engine="inference.engine", Session="ranks.session"
)

sys.meta_path.append(FormerNames())
