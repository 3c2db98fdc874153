"""Other processes of this Python: how they are started, and what is left alone by those that were forked.

They have the same neoxlib, and look into the working directory last: a random.py there must not stand for Python's own.
"""

import os
import sys
import weakref
from collections.abc import Callable
from typing import Any

import neoxlib

START = """\
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("neoxlib", {package!r})
sys.modules["neoxlib"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["neoxlib"])
sys.path += [path for path in {paths!r} if path not in sys.path]
from {module} import {function}
{function}({arguments})
"""


def python(module: str, function: str, arguments: str = "") -> list[str]:
    """A command that calls `module.function(arguments)`, the arguments as Python text; what follows is sys.argv[1:].

    What only this process has on its sys.path comes last there, so that functions which are sent can be imported.
    """
    paths = [os.path.abspath(path) for path in sys.path]
    text = START.format(
        package=neoxlib.__file__, paths=paths, module=module, function=function, arguments=arguments
    )
    return [sys.executable, "-P", "-c", text]  # -P: the working directory is not put first


def at_end(of: object, function: Callable[..., Any], *args: Any) -> weakref.finalize:
    """As weakref.finalize, but in this process only: a forked copy must not end what is not its own."""
    return weakref.finalize(of, _if_here, os.getpid(), function, *args)


def _if_here(pid: int, function: Callable[..., Any], *args: Any) -> None:
    if os.getpid() == pid:
        function(*args)
