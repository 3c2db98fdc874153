"""A signal for a process of a session at a chosen moment, and what its caller is told of it."""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

import neoxlib
from neoxlib.errors import RankError
from tests.faults.rows import LATEST
from tests.support.sessions import descendants, gone

PROMPTS = ["A rank is", "Another"]
STARTING = {"importing": "", "loading": "is process"}  # and what is in its log by then
MOMENT = 1.0  # seconds after a call has begun


def processes(role: str) -> list[int]:
    """The engines or the controller that this process has started, in order."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if role in child.cmdline():
                found.append(child.pid)
    return sorted(found)


@dataclass
class Strike:
    """Sends a signal to the process that `ready` names, as soon as it names one."""

    ready: Callable[[], int | None]
    number: signal.Signals
    pid: int = 0
    at: float = 0.0
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._wait, daemon=True)
        self.thread.start()

    def _wait(self) -> None:
        while (pid := self.ready()) is None:
            time.sleep(0.005)
        self.pid, self.at = pid, time.monotonic()
        os.kill(pid, self.number)


def told(call: Callable[[], Any], strike: Strike, *words: str) -> str:
    """Call, and return in how many seconds after the strike it was told, with all `words`."""
    try:
        call()
    except RankError as error:
        took = time.monotonic() - strike.at
        said = str(error)
    else:
        raise AssertionError("nothing was told")
    for word in (*words, str(strike.pid)):
        assert word in said, (word, said)
    assert took < LATEST, f"told after {took:.1f} s: {said}"
    assert gone([strike.pid, *descendants()], 5), "a process was left"
    return f"RankError, {took:.1f} s"


def while_starting(
    folder: Path, size: int, rank: int, log: str, number: signal.Signals, *words: str, **more: Any
) -> str:
    """Strike a rank when its log has `log`."""
    with tempfile.TemporaryDirectory() as logs:
        path = Path(logs, f"rank{rank}.log")

        def ready() -> int | None:
            ranks = processes("engine")
            there = len(ranks) == size and path.is_file() and log in path.read_text()
            return ranks[rank] if there else None

        strike = Strike(ready, number)
        start = partial(neoxlib.Session, folder, size, device="cpu", log_dir=logs, **more)
        return told(start, strike, f"rank {rank}", *words)


def in_a_call(
    session: neoxlib.Session,
    pid: int,
    ask: Callable[..., Any],
    wait: float,
    number: signal.Signals,
    *words: str,
) -> str:
    """Strike a process `wait` seconds after a call has begun; 0: before it."""
    begun = time.monotonic()
    strike = Strike(lambda: pid if time.monotonic() - begun >= wait else None, number)
    if not wait:
        strike.thread.join()
    return told(lambda: ask(session), strike, "has ended", *words)


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


def logits(session: neoxlib.Session) -> Any:
    return session.logits([[5, 6, 7]])


CALLS = {"prefill": prefill, "decode": generate, "score": score}
