"""A user at the desk: opens a session over other hosts, calls it, and is told what happens."""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from tests.hosts.bench import ROOT, Bench
from tests.hosts.build import FABRIC, Host
from tests.hosts.on_desk import one_process
from tests.hosts.right import SECRET

OPENS = 400.0  # seconds at most until a session over a slow network is open
ANSWERS = 300.0


class Desk:
    """A session that `on_desk.called` opens at the desk, over one rank on each of the hosts."""

    def __init__(self, bench: Bench, hosts: Sequence[Host], process: subprocess.Popen) -> None:
        self.bench = bench
        self.hosts = list(hosts)
        self.process = process
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.opened = self.hear("opened", OPENS)

    @property
    def victim(self) -> Host:
        """The host that a fault is for: that of rank 1."""
        return self.hosts[1]

    @property
    def pid(self) -> int:
        """The process of rank 1, by its number there."""
        return self.opened["pids"][1]

    def ask(self, word: str) -> None:
        """Ask for what `on_desk.called` knows by a word."""
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def hear(self, kind: str, seconds: float = ANSWERS) -> dict[str, Any]:
        """The next thing said that is of a kind, or is an error; raises AssertionError for none."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                found = self._said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"nothing of {kind!r} within {seconds:.0f} s") from None
            if kind in found or "error" in found:
                return found

    def answer(self) -> dict[str, Any]:
        """One short call, and what came of it; not what calls before it still say."""
        asked = time.time()
        self.ask("call")
        found = self.hear("answer")
        while "error" not in found and found["at"] - found["seconds"] < asked:
            found = self.hear("answer")
        return found

    def answer_over(self, moment: float) -> dict[str, Any]:
        """The answer that was being given at a moment, or the error that ended it."""
        found = self.hear("answer")
        while found["at"] < moment:
            found = self.hear("answer")
        return found

    def close(self) -> None:
        """Close the session, and wait for its process."""
        with suppress(OSError):  # it has ended
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.startswith("desk:"):
                self._said.put(json.loads(line.removeprefix("desk:")))
        self._said.put({"error": "the process at the desk has ended", "at": time.time()})


def open_desk(bench: Bench, hosts: Sequence[Host], model: Path | None = None) -> Desk:
    """Open a session over one rank on each of the hosts; the model is the bench's by default."""
    name = "_".join(host.name for host in hosts)
    if not (bench.desk.home / ".ipython" / f"profile_{name}").exists():
        words = [f"{host.name}:1" for host in hosts]
        code, text = bench.cluster(*words, "--network", f"{FABRIC}.0/24", "--profile", name)
        assert code == 0, text
    logs = f"/var/tmp/{bench.desk.folder.parent.name}/desk/logs-{name}"
    script = [sys.executable, "-m", "tests.hosts.on_desk", "called", model or bench.model, name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    words = [*script, str(len(hosts)), logs, SECRET, due()]
    return Desk(bench, hosts, bench.desk.start(*words, **pipes))


@cache
def due() -> str:
    """What every session must answer: the text of one process, made once."""
    return one_process(SECRET)
