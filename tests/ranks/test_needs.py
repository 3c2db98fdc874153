"""A machine on which ranks cannot start is told at once, and no rank is started."""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from neoxlib.errors import SettingsError
from neoxlib.ranks import needs

ASK = "from neoxlib.ranks import needs; needs.check_machine(2)"
FEW_THREADS = """
import os, resource
from neoxlib.ranks import needs
resource.setrlimit(resource.RLIMIT_NPROC, (20, 20))
os.setuid(65533)  # root has no such limit
needs.{}
"""
LOOPBACK_DOWN = ("unshare", "--net", "--map-root-user")  # a new network has its loopback down


def last_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode, done.stdout
    return done.stderr.strip().splitlines()[-1]


def test_a_usual_machine_is_taken():
    needs.check_machine(2)
    needs.check_kernel()


def test_too_few_open_files_are_told_with_the_number_that_is_needed():
    said = last_line("bash", "-c", f"ulimit -n 64; exec {sys.executable} -c '{ASK}'")
    assert "a process may have 64 open files here" in said and "ranks need 160" in said
    assert "its hard limit is 64" in said


def test_a_process_with_too_many_open_files_is_told_so_and_not_of_ports():
    hold = "held = [open(__file__) for _ in range(150)]".replace("__file__", '"/dev/null"')
    said = last_line("bash", "-c", f"ulimit -n 170; exec {sys.executable} -c '{hold}; {ASK}'")
    assert re.search(r"\b1\d\d of the 170 files that this process may have open .* are open", said)


def test_a_limit_that_the_user_can_raise_is_told_so(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 4096))
    with pytest.raises(SettingsError, match=r"raise it with `ulimit -n 1024`"):
        needs.check_machine(2)


@pytest.mark.skipif(os.getuid() != 0, reason="needs a user who has no other process")
@pytest.mark.parametrize(("ask", "needed"), [("check_machine(2)", 64), ("check_kernel()", 24)])
def test_too_few_threads_are_told_with_the_number_that_is_needed(ask, needed):
    said = last_line(sys.executable, "-c", FEW_THREADS.format(ask))
    told = rf"1?\d more threads can be started here, and {needed} are needed; `ulimit -u`"
    assert re.search(told, said)


@pytest.fixture
def own_network() -> None:
    if (
        not shutil.which("unshare")
        or subprocess.run([*LOOPBACK_DOWN, "true"], check=False).returncode
    ):
        pytest.skip("no network of its own can be made here")


def test_too_few_free_ports_are_told_with_the_number_that_is_needed(own_network):
    few = "ip link set lo up && echo 40000 40005 > /proc/sys/net/ipv4/ip_local_port_range"
    ask = f"{few} && exec {sys.executable} -c '{ASK}'"
    said = last_line(*LOOPBACK_DOWN, "sh", "-c", ask)
    assert re.search(r"\b[56] ports of 127.0.0.1 are free, and ranks need 24", said), said


def test_a_loopback_that_is_down_is_told_with_the_command_that_starts_it(own_network):
    said = last_line(*LOOPBACK_DOWN, sys.executable, "-c", ASK)
    assert "127.0.0.1" in said and "does not answer" in said and "`ip link set lo up`" in said


SESSION = """
import sys
import neoxlib
from neoxlib.ranks import launch
def start(self, n):
    print("started", n)
launch.RankLauncher.start = start
neoxlib.Session(sys.argv[1], world_size=int(sys.argv[2]), device="cpu")
"""


def test_more_ranks_than_heads_are_refused_before_one_starts(checkpoint: Path):
    done = subprocess.run(
        [sys.executable, "-c", SESSION, checkpoint, "16"], capture_output=True, text=True
    )
    assert "cannot be cut over 16 ranks" in done.stderr and "started" not in done.stdout
