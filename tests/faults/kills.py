"""Ranks that are killed: who did it is said only as far as the kernel's counts tell."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import neoxlib
from neoxlib.errors import RankError
from neoxlib.machine import limits

ROOM = 256 << 20  # bytes that the ranks may take on top of what they have
# A driver in a control group of its own, in which rank 1 takes all memory.
IN_GROUP = """
import os, sys
from pathlib import Path
import neoxlib
from neoxlib.errors import RankError
from tests.faults import kills
group = Path(sys.argv[1])
(group / "cgroup.procs").write_text(str(os.getpid()))
with neoxlib.Session(sys.argv[2], 2, device="cpu") as session:
    session.logits([[1, 2]])
    kills.narrow(group)
    try:
        session.apply(kills.take_all)
    except RankError as error:
        print(error)
"""


class Row(NamedTuple):
    """A fault, and what injects it: it returns what was seen, and raises if it was not told."""

    name: str
    inject: Callable[[Path], str]


def take_all(engine: Any) -> None:
    """Rank 1 takes memory without end."""
    taken = []
    while engine.group.rank == 1:
        taken.append(bytearray(b"x" * (1 << 20)))


def narrow(group: Path) -> None:
    """Leave the group ROOM of memory more than it has."""
    used, limit = "memory.usage_in_bytes", "memory.limit_in_bytes"
    if not (group / used).exists():
        used, limit = "memory.current", "memory.max"
        (group / "memory.swap.max").write_text("0")
    (group / limit).write_text(str(int((group / used).read_text()) + ROOM))


def plain(model: Path) -> str:
    with neoxlib.Session(model, 2, device="cpu") as session:
        pid = int(session.ranks.pid[1])
        os.kill(pid, signal.SIGKILL)
        start = time.monotonic()
        try:
            session.generate([[1, 2]] * 4, max_new_tokens=60)
        except RankError as error:
            said = f"{time.monotonic() - start:.1f} s: {str(error).splitlines()[0]}"
            assert f"rank 1 (pid {pid}) was killed by SIGKILL" in said, said
            assert "very likely" not in str(error), said
            return said
    raise AssertionError("nothing was told")


def out_of_memory(model: Path) -> str:
    above = next(iter(limits.groups("memory")), None)
    group = Path(tempfile.mkdtemp(dir=above, prefix="neoxlib-faults-")) if above else None
    if group is None or not any((group / f).exists() for f in ("memory.max", "memory.oom_control")):
        return "not injected here: no control group for memory can be made"
    try:
        command = [sys.executable, "-c", IN_GROUP, str(group), str(model)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    finally:
        group.rmdir()
    said = (done.stdout.splitlines() or [done.stderr])[0]
    assert "rank 1" in said and "very likely by the kernel's out-of-memory killer" in said, said
    return said


ROWS = (
    Row("a rank killed by SIGKILL", plain),
    Row("a rank killed for want of memory, in a control group", out_of_memory),
)
