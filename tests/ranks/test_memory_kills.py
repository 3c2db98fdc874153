"""Who sent a SIGKILL: by the kernel's counts, after real kills."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from neoxlib.machine import limits
from neoxlib.ranks import memory_kills
from neoxlib.ranks.memory_kills import MemoryKills, cause_of_kill

# Joins the control group of argv[1], and starts a process that argv[2] ends.
KILLED = """
import os, signal, subprocess, sys
from pathlib import Path
from neoxlib.ranks.memory_kills import cause_of_kill, memory_kills
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
before = memory_kills()
child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], stderr=subprocess.DEVNULL)
print(-child.wait() == signal.SIGKILL, cause_of_kill(before))
"""
TAKES_ALL = "taken = []\nwhile True: taken.append(b'x' * (1 << 20))"
KILLS_ITSELF = "import os; os.kill(os.getpid(), 9)"
SIZE = 96 << 20


@pytest.fixture(scope="module")
def small_group():
    """A control group with little memory, for processes to join."""
    folder = next((one for one in limits.groups("memory")), None)
    place = folder and folder / f"neoxlib-test-{os.getpid()}"
    limit = {"memory.max": SIZE, "memory.limit_in_bytes": SIZE, "memory.swap.max": 0}
    try:
        place.mkdir()
    except (OSError, AttributeError) as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        for name, value in limit.items():
            if (place / name).exists():
                (place / name).write_text(str(value))
        if not any((place / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
            pytest.skip("this control group does not limit memory")
        yield place
    finally:
        place.rmdir()


def said_in(group: Path, code: str) -> str:
    command = [sys.executable, "-c", KILLED, str(group), code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_kill_for_want_of_memory_is_told_as_such(small_group):
    said = said_in(small_group, TAKES_ALL)
    assert said.startswith("True very likely by the kernel's out-of-memory killer, which has ended")
    assert "1 process of this control group" in said


def test_a_plain_kill_is_never_told_as_one_for_want_of_memory(small_group):
    said = said_in(small_group, KILLS_ITSELF)
    assert said.startswith("True not by the kernel's out-of-memory killer")


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((3, 1), (3, 1), "not by"),
        ((3, 1), (4, 2), "very likely by .* 1 process of this control group"),
        ((3, 1), (5, 1), "perhaps by .* 2 processes of this machine"),
        ((3, None), (3, None), "not by"),
        ((3, None), (4, None), "perhaps by"),
        ((None, None), (None, None), "does not say whether"),
        ((None, None), (3, 1), "does not say whether"),
    ],
)
def test_the_cause_is_as_sure_as_the_counts(monkeypatch, before, now, expected):
    monkeypatch.setattr(memory_kills, "memory_kills", lambda: MemoryKills(*now))
    said = cause_of_kill(MemoryKills(*before))
    assert re.search(expected, said), said


def test_a_system_without_the_counts_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "ROOT", tmp_path)
    assert memory_kills.memory_kills() == MemoryKills(None, None)
