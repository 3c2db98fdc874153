"""The far end of a link, as a process: it tells of its ranks, and they do not outlive it."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from neoxlib.hosts.beats import Packets
from neoxlib.hosts.network import NETWORK
from neoxlib.ranks import on_host
from tests.support.sessions import gone

# The engine of ipyparallel, which says its version and ends.
ASKED = {"env": {"TMPDIR": ""}, "ranks": [4, 5], "args": ["--version"]}


@pytest.fixture
def far_end(tmp_path: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-P", "-m", "neoxlib.ranks.on_host"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    env = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=env, **pipes) as process:
        yield process
        process.kill()
        with suppress(BrokenPipeError):  # a beat that it did not take
            process.stdin.close()


def say(process: subprocess.Popen, **words: object) -> None:
    process.stdin.write(json.dumps(words).encode() + b"\n")
    process.stdin.flush()


def begin(process: subprocess.Popen, **asked: object) -> None:
    """Say what to start, and from then on beat, as slowly as this machine may be."""

    def beat() -> None:
        with suppress(OSError, ValueError):  # the link is closed
            while process.poll() is None:
                say(process, beat=1)
                time.sleep(0.5)

    say(process, **asked)
    threading.Thread(target=beat, daemon=True).start()


def test_logs_and_ends_of_ranks_come_back_and_nothing_stays(far_end, tmp_path):
    begin(far_end, **ASKED)
    logs, codes = {4: "", 5: ""}, {}
    while len(codes) < 2:
        words = json.loads(far_end.stdout.readline())
        if "log" in words:
            logs[words["log"]] += words["text"]
        if "ended" in words:
            codes[words["ended"]] = words["code"]
    assert codes == {4: 0, 5: 0} and all(text.strip()[0].isdigit() for text in logs.values())
    far_end.stdin.close()
    assert far_end.wait(30) == 0 and not list(tmp_path.iterdir())


def test_ranks_end_with_the_link(new_processes, far_end, tmp_path):
    begin(far_end, **ASKED | {"args": ["--IPEngine.wait_for_url_file=60"]})
    assert b'"log"' in far_end.stdout.readline()  # that there is no connection file yet
    started = new_processes()
    assert len(started) == 3
    far_end.stdin.close()
    assert gone(started) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("closed", [True, False])
def test_several_words_to_end_leave_nothing_half_done(closed, new_processes, far_end, tmp_path):
    """Slurm ends a step by more than one SIGTERM, and its standard input may close meanwhile."""
    begin(far_end, **ASKED | {"args": ["--IPEngine.wait_for_url_file=60"]})
    assert b'"log"' in far_end.stdout.readline()
    started = new_processes()
    if closed:
        far_end.stdin.close()
    while far_end.poll() is None:
        far_end.terminate()
        time.sleep(0.02)
    assert gone(started) and not list(tmp_path.iterdir())


def test_hosts_listen_for_each_other_and_tell_of_a_peer_that_falls_silent(far_end):
    """The peer is this test: it beats once, and then for more than the limit no more."""
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.bind(("127.0.0.1", 0))
    begin(far_end, env={NETWORK: "127.0.0.0/8"}, ranks=[], args=[])
    at = json.loads(far_end.stdout.readline())["at"]
    places = {"peer": peer.getsockname(), "own": at}
    key = bytes(32)
    say(far_end, own="own", places=places, key=key.hex())
    peer.settimeout(30)
    assert Packets(0, key).take(peer.recv(100)) == 1
    peer.sendto(Packets(0, key).make(), tuple(at))
    line = json.loads(far_end.stdout.readline())
    assert set(line["unheard"]) == {"peer"} and line["strangers"] == []
    peer.close()


def test_a_link_that_falls_silent_is_over(monkeypatch):
    monkeypatch.setattr(on_host, "SILENT_SECONDS", 0.2)
    reading, writing = os.pipe()
    os.write(writing, b'{"a": 1}\n{"b"')
    lines = on_host._lines(reading, 20)
    assert next(lines) == {"a": 1}
    assert next(lines, None) is None
    os.close(reading)
    os.close(writing)


def test_lines_are_whole_however_they_come():
    reading, writing = os.pipe()
    for piece in (b'{"a"', b": 1}\n{", b'"b": 2}\n'):
        os.write(writing, piece)
    os.close(writing)
    assert list(on_host._lines(reading, 20)) == [{"a": 1}, {"b": 2}]
    os.close(reading)


def test_ranks_that_are_ended_from_here_are_no_news(monkeypatch, tmp_path):
    """Else the loss of a link would be told as the end of the rank that ends first."""
    said = []
    monkeypatch.setattr(on_host, "_say", lambda **words: said.append(words))
    host = on_host.RanksHere({"env": {}, "ranks": [4, 5]}, tmp_path)
    host.sent, host.kills = {}, on_host.memory_kills()
    for rank, script in {4: "read x", 5: "trap '' TERM; echo; sleep 1"}.items():
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        host.processes[rank] = subprocess.Popen(["sh", "-c", script], **pipes)
    host.processes[5].stdout.readline()  # it does not mind SIGTERM any more
    reporting = threading.Thread(target=host.report)
    reporting.start()
    host.stop()
    reporting.join(30)
    assert host.processes[4].returncode == -15 and said == [] and not reporting.is_alive()
    for process in host.processes.values():
        process.communicate()
