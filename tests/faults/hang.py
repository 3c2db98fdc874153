"""Hanging processes: each rank and the controller stopped in every phase, and work that is no hang.

`python -m tests.faults.hang` runs these rows alone.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import neoxlib
from neoxlib.errors import RankError
from tests.faults.rows import LATEST, Row, inject
from tests.faults.strikes import (
    CALLS,
    MOMENT,
    STARTING,
    Strike,
    in_a_call,
    logits,
    processes,
    told,
    while_starting,
)

LIMIT = 3.0  # hang_timeout of these sessions
VFORK = r"""
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>
void wait_in_kernel(void) {
  if (vfork() == 0) { prctl(PR_SET_PDEATHSIG, SIGKILL); for (;;) sleep(100); }
}
"""


def starting(folder: Path, size: int, log: str) -> str:
    """Stop the last rank when its log has `log`: nothing (importing), or its greeting (loading)."""
    more = {"hang_timeout": LIMIT}
    return while_starting(folder, size, size - 1, log, signal.SIGSTOP, "hangs", "state T", **more)


def controller_while_starting(folder: Path) -> str:
    strike = Strike(lambda: next(iter(processes("controller")), None), signal.SIGSTOP)
    start = partial(neoxlib.Session, folder, 2, device="cpu", hang_timeout=LIMIT)
    return told(start, strike, "which starts or connects ranks", "state T")


def rank_in_a_call(folder: Path, size: int, rank: int, ask: Callable[..., Any], wait: float) -> str:
    with neoxlib.Session(folder, size, device="cpu", hang_timeout=LIMIT) as session:
        pid = int(session.ranks.pid[rank])
        words = f"rank {rank}", "hangs", "during", "state T"
        return in_a_call(session, pid, ask, wait, signal.SIGSTOP, *words)


def controller_in_a_call(folder: Path) -> str:
    with neoxlib.Session(folder, 2, device="cpu", hang_timeout=LIMIT) as session:
        (pid,) = processes("controller")
        words = "connects ranks", "hangs", "state T"
        return in_a_call(session, pid, logits, 0.0, signal.SIGSTOP, *words)


def rests(folder: Path) -> str:
    """A rank that rests 5 s in a call, under the default time-out."""
    with neoxlib.Session(folder, 2, device="cpu") as session:
        settled = session.logits([[5, 6, 7]])
        pid = int(session.ranks.pid[1])
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(5, os.kill, (pid, signal.SIGCONT)).start()
        start = time.monotonic()
        assert torch.equal(session.logits([[5, 6, 7]]), settled)
        return f"the same bits, after {time.monotonic() - start:.1f} s"


def hold_the_lock(engine: Any) -> None:
    """Keep Python's lock for three time-outs, as a long call of a C library may."""
    ctypes.PyDLL(None).usleep(int(3 * LIMIT * 1e6))


def compute(engine: Any) -> None:
    end = time.monotonic() + 3 * LIMIT
    while time.monotonic() < end:
        pass


def sleep(engine: Any) -> None:
    time.sleep(3 * LIMIT)


def wait_for_a_child(engine: Any) -> None:
    """As a compiler is waited for."""
    subprocess.run(["sleep", str(3 * LIMIT)], check=True)


def wait_in_kernel(engine: Any, library: str) -> None:
    if engine.group.rank == 1:
        ctypes.CDLL(library).wait_in_kernel()


def is_no_hang(folder: Path, work: Callable[..., Any]) -> str:
    with neoxlib.Session(folder, 2, device="cpu", hang_timeout=LIMIT) as session:
        session.apply(work)
        session.logits([[1, 2]])
    return f"not called a hang in {3 * LIMIT:.0f} s of it"


def stuck_in_the_kernel(folder: Path) -> str:
    """State D, which no signal but SIGKILL ends: the parent of a vfork whose child sleeps."""
    with tempfile.TemporaryDirectory() as name:
        library = str(Path(name, "stuck.so"))
        source = Path(name, "stuck.c")
        source.write_text(VFORK)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
        with neoxlib.Session(folder, 2, device="cpu", hang_timeout=1) as session:
            pid, start = int(session.ranks.pid[1]), time.monotonic()
            try:
                session.apply(wait_in_kernel, library)
            except RankError as error:
                took = time.monotonic() - start
                words = str(error)
                assert f"rank 1 (pid {pid}) hangs" in words and "state D" in words, words
                assert took < LATEST, took
                return f"RankError, {took:.1f} s (hang_timeout 1 s, four times that for state D)"
    raise AssertionError("nothing was told")


ROWS = (
    *(
        Row(
            f"{size} rank(s), the last stopped while {phase}",
            partial(starting, size=size, log=log),
        )
        for size in (1, 2)
        for phase, log in STARTING.items()
    ),
    *(
        Row(
            f"{size} rank(s), rank {rank} stopped in {name}",
            partial(rank_in_a_call, size=size, rank=rank, ask=ask, wait=MOMENT),
        )
        for name, ask in CALLS.items()
        for size, rank in ((1, 0), (2, 0), (2, 1), (4, 3))
    ),
    Row(
        "2 ranks, rank 1 stopped between two calls",
        partial(rank_in_a_call, size=2, rank=1, ask=logits, wait=0.0),
    ),
    Row("the controller stopped while starting", controller_while_starting),
    Row("the controller stopped between two calls", controller_in_a_call),
    Row("a rank stuck in the kernel (state D)", stuck_in_the_kernel),
    Row("a rank that rests 5 s and comes back", rests),
    *(
        Row(f"work that is no hang: {name}", partial(is_no_hang, work=work))
        for name, work in {
            "a C call that keeps Python's lock": hold_the_lock,
            "a Python loop": compute,
            "a sleep": sleep,
            "a child process that is waited for": wait_for_a_child,
        }.items()
    ),
)


if __name__ == "__main__":
    from tests.faults import hang  # ranks import its functions by this name

    inject(hang.ROWS, *sys.argv[1:])
