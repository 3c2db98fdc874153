"""The kernel that runs a notebook headless, and how papermill writes its files.

Ctrl-C, SIGTERM and SIGHUP end one run, and its results are still written.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import psutil
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from papermill.iorw import LocalHandler, papermill_io

from neoxlib.process import python
from neoxlib.workbook.run_folder import write_text

KERNEL_LOG = "kernel.log"
BREAKS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LEAVE_SECONDS = 30  # until the processes of an interrupted run are killed; most leave in one
STOPPED_SECONDS = 30  # until a kernel that is stopped counts as one that hangs


class Interrupted(KeyboardInterrupt):
    """A signal that ends the run. A KeyboardInterrupt also ends an event loop."""


class Signals:
    """A context manager in which Ctrl-C, SIGTERM and SIGHUP end the notebook that runs.

    `came` is the first signal, or None; later ones change nothing. A signal that this process
    ignores stays ignored.
    """

    def __init__(self) -> None:
        self.came: signal.Signals | None = None
        self.children: list[psutil.Process] = []
        self.armed = False
        self.before = {}
        self.folder = ""  # of the keys of the kernel that runs; only this user can enter it

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            mine = [number for number in BREAKS if signal.getsignal(number) != signal.SIG_IGN]
            self.before = {number: signal.signal(number, self._take) for number in mine}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let a signal raise Interrupted in this block. No key of its kernel is left after it."""
        with tempfile.TemporaryDirectory(prefix="neoxlib-kernel-") as self.folder:
            self.armed = True
            try:
                yield
            finally:
                self.armed = False

    def end_children(self) -> None:
        """End the kernels that ran at the signal; wait until they and their ranks have ended."""
        for process in self.children:
            with suppress(psutil.NoSuchProcess):
                if process.ppid() == os.getpid():
                    process.terminate()
        for process in psutil.wait_procs(self.children, timeout=LEAVE_SECONDS)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.came is None:
            self.came = signal.Signals(number)
            self.children = psutil.Process().children(recursive=True)
            if self.armed:
                raise Interrupted(self.came.name)


@contextmanager
def ending_stopped() -> Iterator[list[str]]:
    """Kill a kernel that is stopped for STOPPED_SECONDS; yields a list that then says so.

    Looks are counted, each a second: this process may have been stopped as well.
    """
    over = threading.Event()
    said: list[str] = []

    def watch() -> None:
        looks: dict[int, int] = {}
        while not over.wait(1):
            stopped = [child for child in psutil.Process().children() if _is_stopped(child)]
            looks = {child.pid: looks.get(child.pid, 0) + 1 for child in stopped}
            for child in stopped:
                if looks[child.pid] == STOPPED_SECONDS:
                    said.append(
                        f"The notebook's process was stopped (by SIGSTOP or Ctrl-Z) for "
                        f"{STOPPED_SECONDS} s, so it was ended: no report waits for longer."
                    )
                    child.kill()

    thread = threading.Thread(target=watch, name="stopped kernels", daemon=True)
    thread.start()
    try:
        yield said
    finally:
        over.set()
        thread.join()


def _is_stopped(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() == psutil.STATUS_STOPPED
    return False


class WholeFiles(LocalHandler):
    """Writes papermill's files atomically."""

    def write(self, buf: str, path: str) -> None:
        write_text(Path(path), buf)


papermill_io.register("/", WholeFiles())


class ThisPython(AsyncKernelManager):
    """Kernels of this interpreter, not of an installed kernelspec. Their channels are encrypted."""

    signals: ClassVar[Signals]  # of the current report
    transport_encryption = "auto"

    @property
    def kernel_spec(self) -> KernelSpec:
        kernel = python("neoxlib.process", "run_kernel")
        return KernelSpec(**get_kernel_dict() | {"argv": [*kernel, "-f", "{connection_file}"]})

    def write_connection_file(self, **options: Any) -> None:
        """Write the keys to their folder, which an earlier kernel has removed."""
        os.makedirs(self.signals.folder, mode=0o700, exist_ok=True)
        self.connection_file = os.path.join(self.signals.folder, "kernel.json")
        super().write_connection_file(**options)

    async def shutdown_kernel(self, *args: Any, **options: Any) -> None:
        """Shut down, but first interrupt a cell that a signal stopped, to end its ranks."""
        if self.signals.came is not None:
            with suppress(RuntimeError):
                await self.interrupt_kernel()
        await super().shutdown_kernel(*args, **options)

    async def start_kernel(self, **options: Any) -> None:
        """Start, and keep the stderr of the process, say of a crash, in the run's logs."""
        log = Path(os.environ["NEOXLIB_RUN_DIR"]) / "logs" / KERNEL_LOG
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as stderr:
            await super().start_kernel(stderr=stderr, **options)
