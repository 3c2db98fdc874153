"""Ctrl-C, SIGTERM and SIGHUP end one run, and its results are still written."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

BREAKS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LEAVE_SECONDS = 8  # until the processes of an interrupted run are killed


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
        """Let a signal raise Interrupted in this block."""
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
