"""Bounds of one reading: past them it is a foreign exception, whatever the file says."""

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

MOST_SECONDS = 15.0  # of the processor: a busy machine changes nothing
MOST_BYTES = 2 << 30  # of addresses, beyond those that the process has before


class TookTooLong(BaseException):
    """No Exception, which a reader could take for a damaged file."""


@contextmanager
def bounded(seconds: float = MOST_SECONDS, size: int = MOST_BYTES) -> Iterator[None]:
    """Raise TookTooLong after `seconds` of the processor, MemoryError at `size` more bytes."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    on_main = threading.current_thread() is threading.main_thread()  # only it has alarms
    before = signal.signal(signal.SIGPROF, _late) if on_main else None
    resource.setrlimit(resource.RLIMIT_AS, (used + size, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds * on_main)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        if on_main:
            signal.signal(signal.SIGPROF, before)


def _late(number: int, frame: FrameType | None) -> None:
    raise TookTooLong(f"still reading after {MOST_SECONDS:g} s of the processor")
