"""What starts and watches ranks over hosts is killed: a link here, its end on the host, the watch.

The hosts are this machine, by an ssh that runs its command here; `make verify-hosts` has others.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

import neoxlib
from neoxlib.errors import RankError
from neoxlib.hosts.profile import HostsProfile, write_profile
from neoxlib.hosts.relay import RELAY
from tests.faults import strikes
from tests.faults.rows import LATEST, Row
from tests.faults.strikes import MOMENT, Strike
from tests.support.sessions import descendants, gone
from tests.support.ssh_to_here import ssh_to_here

TWO = HostsProfile({"one": 1, "two": 1}, "127.0.0.0/8", "127.0.0.1", sys.executable)
WORDS = {  # of the three processes, in what is told
    "the link to a host": ("is lost: ssh to ",),
    "its end on the host": ("is lost: ssh to ", "ended with exit code 255"),
    "what watches the network": ("the process that watches the network ended",),
}


def pids(side: str) -> list[int]:
    """The processes of one side, in order."""
    found = [child for child in psutil.Process().children() if RELAY in _words(child)]
    links = [one for one in found if "BatchMode=yes" in _words(one)]  # by ssh
    if side == "what watches the network":
        return [one.pid for one in found if one not in links]
    if side == "its end on the host":
        return sorted(child.pid for one in links for child in one.children())
    return sorted(one.pid for one in links)


def _words(process: psutil.Process) -> list[str]:
    """Its command line; [] of one that has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def profile() -> Iterator[str]:
    """A profile of two hosts, both this machine."""
    with tempfile.TemporaryDirectory(prefix="neoxlib-faults-") as name:
        before = os.environ.get("IPYTHONDIR")
        os.environ["IPYTHONDIR"] = name
        path = write_profile("two", TWO)
        ssh = list(ssh_to_here(Path(name)))
        path.write_text(f"{path.read_text()}c.HostsLauncher.ssh_cmd = {ssh!r}\n")
        try:
            yield "two"
        finally:
            os.environ.pop("IPYTHONDIR")
            os.environ |= {"IPYTHONDIR": before} if before else {}


def told(call: Callable[[], Any], strike: Strike, *words: str) -> str:
    """Call, and return in how many seconds after the strike the loss was told, with `words`."""
    try:
        call()
    except RankError as error:
        took, said = time.monotonic() - strike.at, str(error)
    else:
        raise AssertionError("nothing was told")
    assert all(word in said for word in (*words, "rank ")), said
    assert took < LATEST, f"told after {took:.1f} s: {said}"
    assert gone([strike.pid, *descendants()], LATEST), "a process was left"
    return f"RankError, {took:.1f} s: {said.splitlines()[0]}"


def while_starting(model: Path, side: str) -> str:
    with profile() as name:
        strike = Strike(lambda: next(iter(pids(side)), None), signal.SIGKILL)
        start = partial(neoxlib.Session, model, 2, device="cpu", cluster_profile=name)
        return told(start, strike, *WORDS[side])


def in_a_call(model: Path, ask: Callable[..., Any], wait: float, side: str) -> str:
    with profile() as name, neoxlib.Session(model, 2, device="cpu", cluster_profile=name) as one:
        pid, begun = pids(side)[-1], time.monotonic()
        strike = Strike(lambda: pid if time.monotonic() - begun >= wait else None, signal.SIGKILL)
        if not wait:
            strike.thread.join()
        return told(lambda: ask(one), strike, *WORDS[side])


def calls(session: neoxlib.Session) -> None:
    """Short calls: the first may be answered before the ranks have ended."""
    for _ in range(100_000):
        session.logits([[5, 6, 7]])


ROWS = tuple(
    Row(f"{side} killed {when}", partial(act, side=side))
    for side in WORDS
    for when, act in {
        "while starting": while_starting,
        "while idle": partial(in_a_call, ask=calls, wait=0.0),
        "in decode": partial(in_a_call, ask=strikes.generate, wait=MOMENT),
    }.items()
)
