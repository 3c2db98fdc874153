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
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

import neoxlib
from neoxlib.errors import RankError
from tests.faults.rows import LATEST, Row, inject
from tests.support.sessions import gone

LIMIT = 3.0  # hang_timeout of these sessions
PROMPTS = ["A rank is", "Another"]
VFORK = r"""
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>
void wait_in_kernel(void) {
  if (vfork() == 0) { prctl(PR_SET_PDEATHSIG, SIGKILL); for (;;) sleep(100); }
}
"""


def _processes(role: str) -> list[int]:
    """The engines or the controller that this process has started, in order."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if role in child.cmdline():
                found.append(child.pid)
    return sorted(found)


def _stop_when(ready: Callable[[], int | None], stopped: list[int]) -> threading.Thread:
    """Stop the process that `ready` names as soon as it names one."""

    def wait() -> None:
        while (pid := ready()) is None:
            time.sleep(0.005)
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)
        stopped.append(time.monotonic())

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def _expect(call: Callable[[], Any], stopped: list[float], *words: str) -> str:
    """Call, and return in how many seconds after the stop it was told, with all `words`."""
    try:
        call()
    except RankError as error:
        took = time.monotonic() - stopped[1]
        said = str(error)
    else:
        raise AssertionError("nothing was told")
    for word in (*words, str(int(stopped[0])), "state T", "has ended"):
        assert word in said, (word, said)
    assert took < LATEST, f"told after {took:.1f} s: {said}"
    assert gone([int(stopped[0])], 5), "the stopped process was left"
    return f"RankError, {took:.1f} s"


def while_starting(folder: Path, size: int, log: str) -> str:
    """Stop the last rank when its log has `log`: nothing (importing), or its greeting (loading)."""
    stopped: list[float] = []
    with tempfile.TemporaryDirectory() as logs:
        path = Path(logs, f"rank{size - 1}.log")

        def ready() -> int | None:
            ranks = _processes("engine")
            there = len(ranks) == size and path.is_file() and log in path.read_text()
            return ranks[-1] if there else None

        _stop_when(ready, stopped)
        start = partial(neoxlib.Session, folder, size, device="cpu", hang_timeout=LIMIT)
        return _expect(lambda: start(log_dir=logs), stopped, f"rank {size - 1}", "hangs")


def controller_while_starting(folder: Path) -> str:
    stopped: list[float] = []
    _stop_when(lambda: next(iter(_processes("controller")), None), stopped)
    start = partial(neoxlib.Session, folder, 2, device="cpu", hang_timeout=LIMIT)
    return _expect(start, stopped, "which starts or connects ranks")


def in_a_call(folder: Path, size: int, rank: int, ask: Callable[..., Any], wait: float) -> str:
    """Stop a rank `wait` seconds after a call has begun; 0: before it."""
    stopped: list[float] = []
    with neoxlib.Session(folder, size, device="cpu", hang_timeout=LIMIT) as session:
        pid = int(session.ranks.pid[rank])
        begun = time.monotonic()
        thread = _stop_when(lambda: pid if time.monotonic() - begun >= wait else None, stopped)
        if not wait:
            thread.join()
        return _expect(lambda: ask(session), stopped, f"rank {rank}", "hangs", "during")


def controller_in_a_call(folder: Path) -> str:
    stopped: list[float] = []
    with neoxlib.Session(folder, 2, device="cpu", hang_timeout=LIMIT) as session:
        (pid,) = _processes("controller")
        _stop_when(lambda: pid, stopped).join()
        return _expect(lambda: session.logits([[1, 2]]), stopped, "connects ranks", "hangs")


def generate(session: neoxlib.Session) -> None:
    for _ in range(1000):
        session.generate(PROMPTS, max_new_tokens=60)


def prefill(session: neoxlib.Session) -> None:
    for _ in range(100_000):
        session.logits([[5] * 90] * 8)


def score(session: neoxlib.Session) -> None:
    requests = [(list(range(5, 80 - n % 9)), [n, n + 1]) for n in range(1, 200)]
    for _ in range(1000):
        session.score_ids(requests)


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


CALLS = {"prefill": prefill, "decode": generate, "score": score}
ROWS = (
    *(
        Row(
            f"{size} rank(s), the last stopped while {phase}",
            partial(while_starting, size=size, log=log),
        )
        for size in (1, 2)
        for phase, log in (("importing", ""), ("loading", "is process"))
    ),
    *(
        Row(
            f"{size} rank(s), rank {rank} stopped in {name}",
            partial(in_a_call, size=size, rank=rank, ask=ask, wait=1.0),
        )
        for name, ask in CALLS.items()
        for size, rank in ((1, 0), (2, 0), (2, 1), (4, 3))
    ),
    Row(
        "2 ranks, rank 1 stopped between two calls",
        partial(in_a_call, size=2, rank=1, ask=lambda s: s.logits([[1, 2]]), wait=0.0),
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
