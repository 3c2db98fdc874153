"""Other processes of this Python: how they are started, what forked ones leave alone.

What is started has the same neoxlib, and looks into the working directory last: a random.py there
must not stand for Python's own.
"""

import atexit
import hashlib
import logging
import os
import signal
import socket
import stat
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

import neoxlib

log = logging.getLogger("neoxlib")

CACHE = "NEOXLIB_CACHE"  # names the folder of compiled files; ~/.cache/neoxlib without it
# What IPython, Jupyter and Matplotlib write to, by the variables that say where.
WRITTEN = {"IPYTHONDIR": "ipython", "JUPYTER_RUNTIME_DIR": "runtime", "MPLCONFIGDIR": "matplotlib"}

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
    """A command that calls `module.function(arguments)`, the arguments as Python text.

    What follows it is sys.argv[1:]. What only this process has on its sys.path comes last there, so
    that functions which are sent can be imported.
    """
    paths = [os.path.abspath(path) for path in sys.path]
    what = {"module": module, "function": function, "arguments": arguments}
    text = START.format(package=neoxlib.__file__, paths=paths, **what)
    return [sys.executable, "-P", "-c", text]  # -P: the working directory is not put first


def at_end(of: object, function: Callable[..., Any], *args: Any) -> weakref.finalize:
    """As weakref.finalize, but in this process only: a forked copy ends nothing of its parent."""
    return weakref.finalize(of, _if_here, os.getpid(), function, *args)


def at_exit(function: Callable[[], Any]) -> None:
    """As atexit.register, but in this process only, and also where SIGTERM or SIGHUP ends it.

    A process that takes these signals itself, or ignores them, is left to do so.
    """
    atexit.register(_if_here, os.getpid(), function)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, partial(_end_by, os.getpid()))


def _end_by(pid: int, number: int, frame: FrameType | None) -> None:
    """End as the signal would have ended this process, after what is to be done at exit."""
    signal.signal(number, signal.SIG_DFL)
    if os.getpid() == pid:
        atexit._run_exitfuncs()
    os.kill(os.getpid(), number)


def _if_here(pid: int, function: Callable[..., Any], *args: Any) -> None:
    if os.getpid() == pid:
        function(*args)


def this_process() -> dict[str, Any]:
    """What tells this process from all others, later ones of its number too; for `has_ended`."""
    own = psutil.Process()
    return {"pid": own.pid, "started": own.create_time(), "host": _host()}


def has_ended(process: dict[str, Any]) -> bool:
    """Whether a process that `this_process` told of is gone. False for another machine's."""
    if process.get("host") != _host():
        return False
    try:
        found = psutil.Process(process["pid"])
        another = abs(found.create_time() - process["started"]) > 1
        return another or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (KeyError, TypeError, ValueError, psutil.AccessDenied):  # a damaged results.json
        return False


def _host() -> str:
    """This machine, but not its name: reports are read by others."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]


def need_home() -> None:
    """Where this user has no home folder, or may not write to it, let a private one stand in.

    That holds for children, too, and is said once. A home folder that is there is still read, and
    variables that are set are kept.
    """
    home = home_folder()
    if home and os.access(home, os.W_OK | os.X_OK):
        return
    wanted = {name: folder for name, folder in WRITTEN.items() if name not in os.environ}
    if home and not wanted:
        return
    private = private_folder()
    words = "the home folder, %s, cannot be written to; %s is used in its place"
    log.warning(words, home or "none", private)
    if home is None:
        os.environ["HOME"] = str(private)
    else:
        os.environ |= {name: str(private / folder) for name, folder in wanted.items()}


def home_folder() -> Path | None:
    """This user's home folder, if there is one."""
    home = os.path.expanduser("~")  # as it is, where nothing is known of this user
    return Path(home) if os.path.isabs(home) and os.path.isdir(home) else None


def private_folder() -> Path:
    """A folder below the temporary one that only this user can enter, also later."""
    folder = Path(tempfile.gettempdir(), f"neoxlib-home-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        closed = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
        if closed and found.st_uid == os.getuid():
            return folder
    except OSError:
        pass
    return _own_folder()


@cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="neoxlib-home-"))


def cache_dir() -> Path:
    """Where compiled files are looked for, and kept where it can be written to."""
    if named := os.environ.get(CACHE):
        return Path(named).absolute()
    return (home_folder() or private_folder()) / ".cache" / "neoxlib"
