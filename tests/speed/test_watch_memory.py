"""Memory of other processes, seen from outside; npu-smi's rows by process."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pandas as pd
import pytest

from neoxlib.machine import npu_smi
from neoxlib.machine.npu_smi import Holder, Smi
from neoxlib.ranks.worker import host
from neoxlib.speed import watch

MEGABYTES = 200
HOLDS_AND_FREES = f"""
import sys
print("ready", flush=True); sys.stdin.readline()
held = bytearray(b"x") * {MEGABYTES} * 10**6
print("held", flush=True); sys.stdin.readline()
del held
print("freed", flush=True); sys.stdin.readline()
"""


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Counts the looks at the ranks' memory that are over."""
    count = threading.Semaphore(0)
    look = watch.MemoryMonitor._look_rss

    def counted(monitor: watch.MemoryMonitor) -> None:
        look(monitor)
        count.release()

    monkeypatch.setattr(watch.MemoryMonitor, "_look_rss", counted)
    return count


def test_a_peak_that_is_over_is_seen_and_starts_anew_with_each_case(looks):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_AND_FREES], stdin=-1, stdout=-1, text=True
    ) as process:
        process.stdout.readline()
        with watch.MemoryMonitor([process.pid]) as idle:
            pass
        with watch.MemoryMonitor([process.pid, None]) as busy:
            print(file=process.stdin, flush=True)
            assert process.stdout.readline() == "held\n"
            while looks.acquire(blocking=False):
                pass
            for _ in range(2):  # the first may have begun before the memory was held
                looks.acquire()
            print(file=process.stdin, flush=True)
            assert process.stdout.readline() == "freed\n"
        with watch.MemoryMonitor([process.pid]) as after:
            pass
        print(file=process.stdin, flush=True)
    assert busy.rss[0] - idle.rss[0] > 0.9 * MEGABYTES > after.rss[0] - idle.rss[0]
    assert busy.rss[1] is None and busy.device == [None, None]


def test_a_process_that_has_ended_is_not_known():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    with watch.MemoryMonitor([process.pid]) as seen:
        pass
    assert seen.rss == [None]


def test_device_memory_is_npu_smis_of_each_ranks_process(monkeypatch):
    holders = (
        Holder(0, 0, 11, "python", 1000),
        Holder(1, 0, 12, "python", 2000),
        Holder(1, 0, 99, "other", 5000),
    )
    monkeypatch.setattr(npu_smi, "query", lambda: Smi("x", (), holders))
    with watch.MemoryMonitor([11, 12, 13], npu=True) as seen:
        pass
    assert seen.device == [1000 * 2**20 / 1e6, 2000 * 2**20 / 1e6, None]
    monkeypatch.setattr(npu_smi, "query", lambda: None)
    with watch.MemoryMonitor([11], npu=True) as seen:
        pass
    assert seen.device == [None]


@pytest.mark.parametrize(("container", "pid"), [(None, 70456), ("docker", 214)])
def test_in_a_container_a_process_has_the_pid_that_it_has_there(container, pid, monkeypatch):
    holder = Holder(0, 0, 70456, "python", 1000, 214)
    monkeypatch.setattr(watch, "container", lambda: container)
    monkeypatch.setattr(npu_smi, "query", lambda: Smi("26", (), (holder,)))
    with watch.MemoryMonitor([pid, 70456 + 214 - pid], npu=True) as seen:
        pass
    assert seen.device == [1000 * 2**20 / 1e6, None]


def test_the_processes_are_those_of_this_machine():
    session = SimpleNamespace(ranks=pd.DataFrame({"pid": [5, 6], "host": [host(), "elsewhere"]}))
    assert watch.pids(session) == [5, None]
    assert watch.pids(SimpleNamespace()) == [os.getpid()]
