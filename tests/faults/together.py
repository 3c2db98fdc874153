"""Several users of ranks at once, calls that are broken off, and what a hundred sessions leave.

`python -m tests.faults.together` runs these rows alone.
"""

import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

import neoxlib
from neoxlib.errors import RankError
from tests.faults.rows import LATEST, ROOT, Row, inject
from tests.faults.strikes import CALLS, MOMENT, PROMPTS, STARTING, logits, processes
from tests.support.sessions import descendants, gone
from tests.support.strangers import listeners

CYCLES = 100
WARM = 5  # of them, before anything is counted
MOST_GROWTH = 40 << 20  # bytes of this process, over all cycles
# A session in a network of its own, with as many ports as are named.
FEW_PORTS = """
import sys, time
import neoxlib
from neoxlib.errors import NeoXError
start = time.monotonic()
try:
    neoxlib.Session(sys.argv[1], 2, device="cpu")
except NeoXError as error:
    print(f"{time.monotonic() - start:.1f}", error)
"""


def side_by_side(folder: Path) -> str:
    """One of two sessions loses a rank; the other answers as before."""
    start = partial(neoxlib.Session, folder, 2, device="cpu")
    with start() as first, start() as second:
        again = logits(second)
        assert torch.equal(logits(first), again)
        os.kill(int(first.ranks.pid[1]), signal.SIGKILL)
        try:
            logits(first)
        except RankError:
            assert torch.equal(logits(second), again)
            return "the same bits in both; the other goes on when one has lost a rank"
    raise AssertionError("nothing was told")


def two_threads(folder: Path) -> str:
    """Calls of two threads come one after the other, each with its own answer."""
    with neoxlib.Session(folder, 2, device="cpu") as session:
        alone = [session.generate([text], max_new_tokens=20)[0].token_ids for text in PROMPTS]

        def ask(text: str) -> list[list[int]]:
            return [session.generate([text], max_new_tokens=20)[0].token_ids for _ in range(20)]

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(ask, PROMPTS))
    assert found == [[answer] * 20 for answer in alone]
    return "40 calls, each answered as alone"


def forked(folder: Path) -> str:
    """A forked copy of the driver is refused, and its end ends nothing."""
    with neoxlib.Session(folder, 2, device="cpu") as session:
        before = logits(session)
        child = os.fork()
        if not child:
            code = 1
            try:
                logits(session)
            except RankError as error:
                code = int("of which this is a copy" not in str(error))
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0, "the copy was not refused"
        assert torch.equal(logits(session), before)
    return "the copy is refused; the session goes on"


def interrupt_when(ready: Callable[[], bool]) -> list[float]:
    """Interrupt this process as Ctrl-C does, when it is `ready`; the time of it."""
    at: list[float] = []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it

    def wait() -> None:
        while not ready():
            time.sleep(0.005)
        at.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()
    return at


def interrupted_start(folder: Path, log: str) -> str:
    with tempfile.TemporaryDirectory() as logs:
        path = Path(logs, "rank1.log")
        at = interrupt_when(
            lambda: len(processes("engine")) == 2 and path.is_file() and log in path.read_text()
        )
        try:
            neoxlib.Session(folder, 2, device="cpu", log_dir=logs)
        except KeyboardInterrupt:
            took = time.monotonic() - at[0]
            assert took < LATEST, took
            assert gone(descendants(), 5), "a process was left"
            return f"KeyboardInterrupt after {took:.1f} s, nothing left"
    raise AssertionError("not interrupted")


def interrupted_call(folder: Path, ask: Callable[..., Any]) -> str:
    """Between two sums of ranks that are at work, five times in one session."""
    late = 0.0
    with neoxlib.Session(folder, 2, device="cpu") as session:
        before = logits(session)
        for turn in range(5):
            due = time.monotonic() + MOMENT + turn / 17
            at = interrupt_when(partial(_passed, due))
            try:
                ask(session)
            except KeyboardInterrupt:
                late = max(late, time.monotonic() - at[0])
            assert torch.equal(logits(session), before)
    assert 0 < late < LATEST, late
    return f"5 times KeyboardInterrupt, after {late:.1f} s at most; the same bits after each"


def _passed(due: float) -> bool:
    return time.monotonic() >= due


def few_ports(folder: Path) -> str:
    own = ("unshare", "--net", "--map-root-user")
    if subprocess.run([*own, "true"], check=False, capture_output=True).returncode:
        return "not injected here: no network of its own can be made"
    few = "ip link set lo up; echo 40000 40005 > /proc/sys/net/ipv4/ip_local_port_range"
    command = [*own, "sh", "-c", f'{few}; exec "$@"', "sh", sys.executable, "-c", FEW_PORTS]
    done = subprocess.run([*command, folder], capture_output=True, text=True, timeout=200)
    took, _, said = done.stdout.partition(" ")
    assert "ports of 127.0.0.1 are free, and ranks need" in said, (done.stdout, done.stderr)
    assert float(took) < LATEST, took
    return f"{took} s: {said}"


def held() -> dict[str, Any]:
    """What this process holds, and what it has left on the machine."""
    gc.collect()
    here = psutil.Process()
    places = Path(tempfile.gettempdir()), Path("/dev/shm")
    names = {str(path) for place in places for path in place.glob("*")}
    return {
        "processes": len(here.children(recursive=True)),
        "threads": here.num_threads(),
        "files": here.num_fds(),
        "ports": len(listeners([os.getpid()])),
        "temporary folders and shared memory": {name for name in names if "neoxlib" in name},
    }


def cycles(folder: Path) -> str:
    """Start, call and stop; what is held after WARM of them is what is held at the end."""
    with tempfile.TemporaryDirectory(prefix="cycles-") as name:
        command = [sys.executable, "-m", "tests.faults.cycles", str(folder), str(CYCLES)]
        env = os.environ | {"TMPDIR": name, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


ROWS = (
    Row("two sessions side by side", side_by_side),
    Row("two threads in one session", two_threads),
    Row("a fork of the notebook's process", forked),
    *(
        Row(f"an interrupt while {phase}", partial(interrupted_start, log=log))
        for phase, log in STARTING.items()
    ),
    *(
        Row(f"interrupts in {name}", partial(interrupted_call, ask=ask))
        for name, ask in CALLS.items()
    ),
    Row("all ports taken but six", few_ports),
    Row(f"{CYCLES} times start, call and stop", cycles),
)


if __name__ == "__main__":
    from tests.faults import together  # ranks import its functions by this name

    inject(together.ROWS, *sys.argv[1:])
