"""Do something at the n-th change that a cut makes to its disk: kill it, fill the disk, and so on.

A change is a write, an fsync, a rename, a removal, or a folder that is made. Each cut runs in a
fork of a process that has imported everything, and is in truth killed.
"""

import itertools
import os
import signal
import traceback
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from neoxlib.checkpoint import durable
from neoxlib.checkpoint.tensor_writer import TensorFile
from neoxlib.errors import NeoXError

PLACES = ((os, "fsync"), (os, "replace"), (Path, "unlink"), (Path, "mkdir"))
KILLED = -signal.SIGKILL


class Changes:
    """Counts the changes of this process to its disk, and calls `act` at the n-th."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        self.at, self.act = at, act
        self.numbers = itertools.count(1)  # several threads take from it
        self.count = 0

    def step(self) -> bool:
        """Whether this is the n-th change."""
        self.count = next(self.numbers)
        return self.count == self.at

    def watch(self) -> None:
        """Have every change of this process counted from now on."""
        for owner, name in PLACES:
            setattr(owner, name, self._before(getattr(owner, name)))
        TensorFile._write = self._halfway(TensorFile._write)
        Path.write_bytes = self._halfway(Path.write_bytes)
        durable.append = self._halfway(durable.append)

    def _before(self, change: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(change)
        def counted(*args: Any, **options: Any) -> Any:
            if self.step():
                self.act()
            return change(*args, **options)

        return counted

    def _halfway(self, write: Callable[..., Any]) -> Callable[..., Any]:
        """As `_before`, but a kill comes after the first half of the data."""

        @wraps(write)
        def counted(to: Any, data: Any) -> Any:
            if self.step():
                if self.act is kill:
                    write(to, data[: len(data) // 2])
                self.act()
            return write(to, data)

        return counted


def kill() -> None:
    """End this process as a machine without power does."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_fork(call: Callable[[], Any]) -> tuple[int, str]:
    """Run `call` in a fork; return its exit code (minus the signal that ended it) and last words.

    An error of neoxlib is code 1, anything else 2.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        with os.fdopen(reading, errors="replace") as words:
            said = words.read()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said
    code = 2
    try:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code, said = _outcome(call)
        os.write(writing, said.encode()[-60_000:])
    finally:
        os._exit(code)


def _outcome(call: Callable[[], Any]) -> tuple[int, str]:
    try:
        return 0, str(call())
    except NeoXError as error:
        return 1, f"{type(error).__name__}: {error}"
    except BaseException:
        return 2, traceback.format_exc()


def count_of(call: Callable[[], Any]) -> int:
    """How many changes `call` makes."""

    def counting() -> int:
        changes = Changes(0, kill)
        changes.watch()
        call()
        return next(changes.numbers) - 1

    code, said = in_a_fork(counting)
    assert code == 0, said
    return int(said)


def with_change(call: Callable[[], Any], at: int, act: Callable[[], None]) -> tuple[int, str]:
    """Run `call` in a fork and `act` at its change number `at`; see `in_a_fork`."""

    def acting() -> Any:
        Changes(at, act).watch()
        return call()

    return in_a_fork(acting)


killed_at = partial(with_change, act=kill)
