"""A killed notebook whose session has stopped processes: none of them may be left.

`python -m tests.faults.left_behind` runs these rows alone.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

from tests.faults.rows import LATEST, ROOT, Row, inject
from tests.support.sessions import gone

DRIVER = """
import sys, time
import neoxlib
session = neoxlib.Session(sys.argv[1], int(sys.argv[2]), device="cpu")
print("ready", flush=True)
time.sleep(600)
"""


@contextmanager
def _driver(folder: Path, size: int) -> Iterator[tuple[subprocess.Popen, list[int], list[int]]]:
    """A process with a session: itself, its controller's processes, and its ranks."""
    command = [sys.executable, "-c", DRIVER, str(folder), str(size)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as driver:
        assert driver.stdout.readline() == "ready\n"
        here = psutil.Process(driver.pid).children(recursive=True)
        ranks = [child.pid for child in here if "engine" in child.cmdline()]
        yield driver, [child.pid for child in here if child.pid not in ranks], ranks
        driver.kill()


def killed_driver(folder: Path, stop: str) -> str:
    """Kill the notebook's process while processes of its session are stopped: none is left."""
    with _driver(folder, 2) as (driver, others, ranks):
        for pid in {"a rank": ranks[1:], "the controller": others, "all": others + ranks}[stop]:
            os.kill(pid, signal.SIGSTOP)
        start = time.monotonic()
        driver.kill()
        assert gone(others + ranks, LATEST), f"left: {psutil.pids()}"
        return f"nothing left after {time.monotonic() - start:.1f} s"


def stopped_kernel(folder: Path) -> str:
    """Stop the kernel of a report while its ranks are there: the report ends, and so do they."""
    with tempfile.TemporaryDirectory() as outputs:
        command = [sys.executable, "-m", "neoxlib", "report", "02", "--outputs", outputs]
        given = ["-p", "model_dir", str(folder), "-p", "prompts", '["A rank is"]']
        report = subprocess.Popen([*command, *given], stderr=subprocess.PIPE, text=True)
        while not any("engine" in one.cmdline() for one in _below(report.pid)):
            assert report.poll() is None, report.communicate()
            time.sleep(0.05)
        pids = [one.pid for one in _below(report.pid)]
        (kernel,) = psutil.Process(report.pid).children()
        kernel.suspend()
        start = time.monotonic()
        _, said = report.communicate(timeout=100)
        took = time.monotonic() - start
    told = next(line for line in said.splitlines() if "was stopped" in line)
    assert report.returncode == 1 and gone(pids, LATEST), (report.returncode, pids)
    return f"after {took:.0f} s: {told.strip()}"


def _below(pid: int) -> list[psutil.Process]:
    """The processes below one that are still there."""
    found = psutil.Process(pid).children(recursive=True)
    return [one for one in found if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


ROWS = (
    Row("the kernel of a report stopped", stopped_kernel),
    *(
        Row(
            f"the notebook killed while {stop} of its session is stopped",
            partial(killed_driver, stop=stop),
        )
        for stop in ("a rank", "the controller", "all")
    ),
)


if __name__ == "__main__":
    from tests.faults import left_behind  # ranks import its functions by this name

    inject(left_behind.ROWS, *sys.argv[1:])
