"""Hanging processes are told by name and state; work, however long, is never called a hang."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import neoxlib
from neoxlib.errors import RankError, SettingsError
from neoxlib.ranks import hanging
from neoxlib.ranks.hanging import Life, Watch, Watched
from neoxlib.ranks.monitor import Monitor
from tests.support.sessions import gone, open_session

pytestmark = pytest.mark.usefixtures("plain_environment")
IDS = [[5, 9, 2, 17]]
# A thread that wakes, as every rank has one, beside work that keeps Python's lock or the core.
WAKES = """
import ctypes, threading, time
threading.Thread(target=lambda: [time.sleep(.1) for _ in range(600)], daemon=True).start()
print(flush=True)
"""
RESTS = WAKES + "time.sleep(60)"
LOCKED = WAKES + "ctypes.PyDLL(None).usleep(60_000_000)"
BUSY = WAKES + "while True: pass"


@pytest.fixture
def process() -> Iterator[Callable[[str], subprocess.Popen]]:
    """Start a Python process with a text; it has printed a line when it is returned."""
    started = []

    def start(text: str) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE))
        started[-1].stdout.readline()
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def told(pid: int, seconds: float = 1.5, limit: float = 0.5, wakes: bool = True) -> str:
    """What a watch says about a process within some time."""
    watch = Watch(limit)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := watch.hanging(lambda: {pid: Watched("it", wakes)}):
            return found[pid]
        time.sleep(0.02)
    return ""


def test_a_stopped_process_hangs_until_it_goes_on(process):
    pid = process(RESTS).pid
    os.kill(pid, signal.SIGSTOP)
    assert "it hangs: its process is stopped (state T" in told(pid, seconds=30)
    os.kill(pid, signal.SIGCONT)
    assert told(pid) == ""


@pytest.mark.parametrize("text", [LOCKED, BUSY], ids=["holds the lock", "computes"])
def test_work_is_no_hang_even_while_it_holds_pythons_lock(process, text):
    assert told(process(text).pid) == ""


def test_only_a_process_that_should_wake_is_frozen_when_no_thread_runs(process):
    pid = process("print(flush=True); import time; time.sleep(60)").pid
    time.sleep(0.2)
    assert "is frozen (state S" in told(pid, seconds=30)
    assert told(pid, wakes=False) == ""


@pytest.mark.parametrize(
    ("before", "now", "wakes", "still"),
    [
        (Life("T", 5, 9, 20), Life("T", 5, 9, 20), False, True),
        (Life("S", 5, 9, 20), Life("t", 5, 9, 20), False, True),
        (Life("T", 5, 9, 20), Life("T", 6, 9, 20), True, False),  # it ran between two stops
        (Life("D", 5, 9, 20), Life("D", 7, 9, 90), True, True),  # other threads do not help
        (Life("D", 5, 9, 20), Life("D", 5, 10, 21), True, False),  # the disk answers, slowly
        (Life("S", 5, 9, 20), Life("S", 5, 9, 21), True, False),
    ],
)
def test_a_process_stands_still_by_its_state_and_switches(before, now, wakes, still):
    assert hanging.did_nothing(before, now, wakes) is still


def test_time_in_which_the_driver_did_not_run_is_not_counted(process):
    """A machine that slept, or a stopped notebook: the ranks stood still as long."""
    pid = process(RESTS).pid
    os.kill(pid, signal.SIGSTOP)
    watch = Watch(0.5)
    time.sleep(0.1)
    watch.hanging(lambda: {pid: Watched("it")})
    time.sleep(1.0)
    assert watch.hanging(lambda: {pid: Watched("it")}) == {}


def test_an_ended_process_does_not_hang(process):
    one = process(RESTS)
    one.kill()
    one.wait()
    assert told(one.pid) == ""


@pytest.mark.parametrize("wrong", [0, -1, 0.9, "5", True, float("nan")])
def test_a_time_out_that_is_no_time_is_refused(checkpoint, wrong):
    with pytest.raises(SettingsError, match="hang_timeout is"):
        neoxlib.Session(checkpoint, hang_timeout=wrong)


def test_a_rank_that_rests_changes_nothing_and_one_that_hangs_is_named(
    checkpoint: Path, tmp_path: Path, new_processes: Callable[[], list[int]]
):
    with open_session(checkpoint, tmp_path, hang_timeout=2) as session:
        settled = session.logits(IDS)
        left = new_processes()
        pid = int(session.ranks.pid[1])
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(0.7, os.kill, (pid, signal.SIGCONT)).start()
        assert torch.equal(session.logits(IDS), settled)
        os.kill(pid, signal.SIGSTOP)
        end = time.monotonic() + 60  # all of its threads stop once each has had its turn
        while "ready" in (state := Monitor(session).table().rows[1][4]) and time.monotonic() < end:
            time.sleep(0.01)
        assert state == "stopped (state T)"
        with pytest.raises(
            RankError, match=rf"^rank 1 \(pid {pid}\) hangs: .*during logits"
        ) as error:
            session.logits(IDS)
        assert "state T" in str(error.value) and str(tmp_path / "rank1.log") in str(error.value)
        with pytest.raises(RankError, match="has ended: rank 1"):
            session.logits(IDS)
        assert gone(left)
