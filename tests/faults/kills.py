"""Ranks that are killed: who did it is said only as far as the kernel's counts tell."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import neoxlib
from neoxlib.machine import limits
from tests.faults import strikes
from tests.faults.rows import Row
from tests.faults.strikes import CALLS, MOMENT, STARTING

NAMES = {signal.SIGKILL: "SIGKILL", signal.SIGSEGV: "SIGSEGV"}
SAID = {  # of the cause, and no other is claimed
    signal.SIGKILL: "was killed by SIGKILL, not by the kernel's out-of-memory killer",
    signal.SIGSEGV: "crashed with a segmentation fault (SIGSEGV)",
}
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


def while_starting(model: Path, log: str, number: signal.Signals) -> str:
    """Kill each of two ranks when its log has `log`."""
    seen = [strikes.while_starting(model, 2, r, log, number, SAID[number]) for r in (0, 1)]
    return f"rank 0: {seen[0]}; rank 1: {seen[1]}"


def in_a_call(model: Path, ask: Callable[..., Any], wait: float, number: signal.Signals) -> str:
    """Kill each of two ranks in a call, or before it."""
    seen = []
    for rank in (0, 1):
        with neoxlib.Session(model, 2, device="cpu") as session:
            pid = int(session.ranks.pid[rank])
            words = f"rank {rank} (pid {pid})", SAID[number]
            seen.append(strikes.in_a_call(session, pid, ask, wait, number, *words))
    return f"rank 0: {seen[0]}; rank 1: {seen[1]}"


def controller_while_starting(model: Path) -> str:
    strike = strikes.Strike(
        lambda: next(iter(strikes.processes("controller")), None), signal.SIGKILL
    )
    return strikes.told(lambda: neoxlib.Session(model, 2, device="cpu"), strike)


def controller_in_a_call(model: Path, ask: Callable[..., Any], wait: float) -> str:
    with neoxlib.Session(model, 2, device="cpu") as session:
        (pid,) = strikes.processes("controller")
        words = "which starts or connects ranks, has ended"
        return strikes.in_a_call(session, pid, ask, wait, signal.SIGKILL, words)


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
    *(
        Row(f"each of 2 ranks, {NAMES[number]} while {phase}", partial(act, number=number))
        for number in SAID
        for phase, act in {
            **{phase: partial(while_starting, log=log) for phase, log in STARTING.items()},
            **{name: partial(in_a_call, ask=ask, wait=MOMENT) for name, ask in CALLS.items()},
            "idle": partial(in_a_call, ask=strikes.logits, wait=0.0),
        }.items()
    ),
    Row("the controller killed while starting", controller_while_starting),
    Row("the controller killed, idle", partial(controller_in_a_call, ask=strikes.logits, wait=0.0)),
    Row(
        "the controller killed in decode",
        partial(controller_in_a_call, ask=strikes.generate, wait=MOMENT),
    ),
    Row("a rank killed for want of memory, in a control group", out_of_memory),
)
