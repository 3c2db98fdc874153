"""Processes of this Python: how they are started, and what happens when they end.

A started process has the same neoxlib, and never imports from the current folder: a torch.py beside
a model must not run.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

log = logging.getLogger("neoxlib")

PACKAGE = Path(__file__).with_name("__init__.py")
BOOT = Path("/proc/sys/kernel/random/boot_id")
EXIT_SECONDS = 20.0  # for the exit functions after a signal; sessions end in a few
CACHE = "NEOXLIB_CACHE"  # names the folder of compiled files; ~/.cache/neoxlib without it
HOME_BYTES = 8192  # more than IPython writes to a new home
# The folders that IPython, Jupyter and Matplotlib write to, by the variables that set them.
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
    """Return a command that calls `module.function(arguments)`, the arguments as Python text.

    Words after it become sys.argv[1:]. Folders that only this process has on its sys.path come
    last there, so that functions sent to the process can be imported; not "", the current folder.
    """
    paths = [os.path.abspath(path) for path in sys.path if path]
    what = {"module": module, "function": function, "arguments": arguments}
    text = START.format(package=str(PACKAGE), paths=paths, **what)
    return [sys.executable, "-P", "-c", text]  # -P: without the current folder


def run_kernel() -> None:
    """Be a notebook's kernel, and remove the folder of its keys as soon as they are read.

    Who started it may be killed, and then nobody else would.
    """
    from ipykernel.kernelapp import IPKernelApp

    class Kernel(IPKernelApp):
        def init_connection_file(self) -> None:
            super().init_connection_file()
            with suppress(OSError):
                os.unlink(self.abs_connection_file)
                os.rmdir(os.path.dirname(self.abs_connection_file))

        def write_connection_file(self, **_: Any) -> None:
            """Write nothing: who started it chose the ports and the keys."""

    Kernel.launch_instance()


def prepare_children() -> None:
    """Give the processes started later a home, and no current folder to import from.

    An empty entry of PYTHONPATH means that folder. Scripts that prepend to an unset PYTHONPATH
    leave one, as CANN's set_env.sh does. PYTHONWARNINGS, which may make errors of warnings, is not
    handed on: ipyparallel and IPython warn where nothing is wrong. Raises FileNotFoundError if the
    current folder has been deleted, and OSError for other surroundings: neither they nor torch
    could start.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        message = "the current folder has been deleted; cd to one that is there"
        raise FileNotFoundError(message) from error
    if wrong := _wrong_surroundings():
        raise OSError(wrong)
    need_home()
    os.environ.pop("PYTHONWARNINGS", None)
    if named := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, named.split(os.pathsep)))


def _wrong_surroundings() -> str:
    """Say what of this process lets no child start; "" if nothing does."""
    if sys.flags.optimize > 1:  # ipyparallel formats one
        return "Python runs without docstrings (-OO); unset PYTHONOPTIMIZE, or set it to 1"
    if sys.platform == "linux" and not os.path.exists("/proc/self"):
        return "/proc is not mounted; `mount -t proc proc /proc` mounts it"
    mask = os.umask(0o077)
    os.umask(mask)
    if mask & 0o700:
        return f"the umask {mask:04o} takes from you what you write; `umask 022` is a usual one"
    folder = tempfile.gettempdir()
    if any("\ud800" <= letter <= "\udfff" for letter in folder):  # bytes that are no text
        return f"the temporary folder, {folder!a}, is not UTF-8; set TMPDIR to another folder"
    if os.path.expandvars(folder) != folder:  # IPython would look for its profile there
        return f"the temporary folder, {folder}, names a variable; set TMPDIR to another folder"
    return ""


def at_end(of: object, function: Callable[..., Any], *args: Any) -> weakref.finalize:
    """Call weakref.finalize for this process only: a forked copy ends nothing of its parent."""
    return weakref.finalize(of, _if_here, os.getpid(), function, *args)


def at_exit(function: Callable[[], Any]) -> None:
    """Call atexit.register for this process only, and also for an end by SIGTERM or SIGHUP.

    Handlers that the process has for these signals stay, and so does ignoring them.
    """
    atexit.register(_if_here, os.getpid(), function)
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, partial(_end_by, os.getpid()))


def _end_by(pid: int, number: int, frame: FrameType | None) -> None:
    """Run the exit functions, then end as the signal would have ended this process.

    It ends after EXIT_SECONDS all the same: a function may wait for a lock that the interrupted
    code holds, as IPython's does for that of its history while a cell begins.
    """
    signal.signal(number, signal.SIG_DFL)
    if os.getpid() == pid:
        late = threading.Timer(EXIT_SECONDS, os.kill, (pid, number))
        late.daemon = True
        late.start()
        atexit._run_exitfuncs()
    os.kill(os.getpid(), number)


@contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Hold a Ctrl-C, and every other signal with a handler in Python, back during the block.

    What this yields lets them act afterwards; they do by themselves if the block fails. Only the
    main thread gets any.
    """
    came: dict[int, FrameType | None] = {}
    before = _handlers() if threading.current_thread() is threading.main_thread() else {}
    holding = True

    def hold(number: int, frame: FrameType | None) -> None:
        if holding:
            came.setdefault(number, frame)
        else:  # a handler that raised kept the one before from being set again
            before[number](number, frame)

    def act() -> None:
        with ExitStack() as all_of_them:  # also those after one that raises
            for number in reversed(came):
                all_of_them.callback(before[number], number, came[number])
            came.clear()

    failed = True
    try:
        for number in before:
            signal.signal(number, hold)
        yield act
        failed = False
    finally:
        holding = False
        for number, handler in before.items():
            signal.signal(number, handler)
        if failed:
            act()


def _handlers() -> dict[int, Callable[[int, FrameType | None], Any]]:
    found = {number: signal.getsignal(number) for number in signal.valid_signals()}
    return {number: handler for number, handler in found.items() if callable(handler)}


def _if_here(pid: int, function: Callable[..., Any], *args: Any) -> None:
    if os.getpid() == pid:
        function(*args)


def this_process() -> dict[str, Any]:
    """Identify this process for `has_ended`, also against later ones with the same pid."""
    import psutil  # takes a hundredth of a second, which help need not wait for

    own = psutil.Process()
    place = {"host": _host(), "boot": _boot()}
    return {"pid": own.pid, "started": own.create_time()} | place


def is_here(process: dict[str, Any]) -> bool:
    """Whether `this_process` identified a process of this machine."""
    return process.get("host") == _host()


def has_ended(process: dict[str, Any]) -> bool:
    """Return whether a process that `this_process` identified is gone; False for other machines."""
    if not is_here(process):
        return False
    if process.get("boot", _boot()) != _boot():
        return True  # the machine has started anew since
    import psutil

    try:
        found = psutil.Process(process["pid"])
        another = abs(found.create_time() - process["started"]) > 1
        return another or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (KeyError, TypeError, ValueError, psutil.AccessDenied):  # a damaged results.json
        return False


def _host() -> str:
    """Identify this machine without its name: others read the reports."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]


@cache
def _boot() -> str | None:
    """Identify this start of the machine; None where it cannot be read."""
    try:
        return BOOT.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def need_home() -> None:
    """Use a private folder if this user has no home folder that can be written to.

    The same holds for child processes. A warning says so once. An existing home folder is still
    read, and variables that are set are kept.
    """
    home = home_folder()
    if home and _takes_files(home):
        return
    wanted = {name: folder for name, folder in WRITTEN.items() if name not in os.environ}
    if home and not wanted:
        return
    private = private_folder()
    words = "the home folder, %s, cannot be written to; %s is used in its place"
    named = os.path.expanduser("~")
    log.warning(words, named if os.path.isabs(named) else "none", private)
    if home is None:
        os.environ["HOME"] = str(private)
    else:
        os.environ |= {name: str(private / folder) for name, folder in wanted.items()}


def _takes_files(folder: Path) -> bool:
    """Whether a file of a few KB can be written to a folder: it may be full, or over its quota."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            return file.write(bytes(HOME_BYTES)) == HOME_BYTES
    except OSError:
        return False


def home_folder() -> Path | None:
    """Return this user's home folder, or None."""
    home = os.path.expanduser("~")  # unchanged for an unknown user
    return Path(home) if os.path.isabs(home) and os.path.isdir(home) else None


def private_folder() -> Path:
    """Return a folder below the temporary one that only this user can enter, always the same."""
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
    """Return the folder of compiled files, which may be read-only."""
    if named := os.environ.get(CACHE):
        return Path(named).absolute()
    return (home_folder() or private_folder()) / ".cache" / "neoxlib"
