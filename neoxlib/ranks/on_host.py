"""The far end of a link: starts the ranks of this host, and ends them with the link.

`over_ssh.py` runs `python -m neoxlib.ranks.on_host` on each host. Lines of JSON go both ways. The
first one that comes says what to start; then a beat comes every second, and the number of a signal
for a rank. Back go each rank's log and how it ended, and which other hosts of the session are not
heard in the network of the ranks (see `hosts.beats`). When the link closes, or nothing comes for
SILENT_SECONDS, all ranks end: a lost driver or network leaves no process behind.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from neoxlib.errors import SettingsError
from neoxlib.hosts.beats import Beats
from neoxlib.hosts.network import NETWORK, own_address
from neoxlib.process import python
from neoxlib.ranks.memory_kills import cause_of_kill, memory_kills
from neoxlib.ranks.worker import RANK_LOGS

SILENT_SECONDS = 10.0  # then the other end counts as lost
TICK_SECONDS = 0.1
STOP_SECONDS = 2.0  # between SIGTERM and SIGKILL
PIECE = 1 << 16  # bytes of a log in one line


def main() -> None:
    """Serve one link over standard input and output."""
    signal.signal(signal.SIGTERM, _hang_up)  # of mpiexec or srun, which may send several
    lines = _lines(sys.stdin.fileno(), 60.0)
    asked = next(lines, None)
    if asked is None:
        return
    folder = Path(tempfile.mkdtemp(prefix="neoxlib-rank-"))
    host = RanksHere(asked, folder)
    try:
        host.start()
        threading.Thread(target=host.report, daemon=True).start()
        for line in lines:
            host.obey(line)
    finally:
        host.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _hang_up(*_: Any) -> None:
    """Read nothing more, as when the link closes: an exception would end what ends the ranks."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())


def _lines(file: int, patience: float) -> Iterator[dict[str, Any]]:
    """Yield the lines that come, until there is none for `patience`, later SILENT_SECONDS."""
    rest = b""
    while select.select([file], [], [], patience)[0]:
        piece = os.read(file, PIECE)
        if not piece:
            return
        *whole, rest = (rest + piece).split(b"\n")
        yield from map(json.loads, whole)
        patience = SILENT_SECONDS if whole else patience


class RanksHere:
    """The ranks of this host, as `asked` says: their numbers, variables and arguments."""

    def __init__(self, asked: dict[str, Any], folder: Path) -> None:
        self.asked = asked
        self.folder = folder
        self.processes: dict[int, subprocess.Popen] = {}
        self.sent = dict.fromkeys(asked["ranks"], 0)  # bytes of each rank's log
        self.beats = _beats(asked["env"].get(NETWORK, ""))
        self.told: dict[str, Any] = {"unheard": [], "strangers": []}
        self.over = False  # the ranks that end now are ended from here

    def start(self) -> None:
        """Start the ranks; none of them reads the link or writes to it."""
        self.kills = memory_kills()  # before any rank
        places = dict.fromkeys(("IPYTHONDIR", "IPP_PROFILE_DIR", RANK_LOGS), str(self.folder))
        env = os.environ | self.asked["env"] | places
        entry = python("neoxlib.ranks.worker", "main", "sys.argv[1:]")
        command = [*entry, "engine", str(os.getpid()), str(self.folder), *self.asked["args"]]
        for rank in self.asked["ranks"]:
            with self._log(rank).open("ab") as output:
                pipes = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
                own = [*command, f"--IPEngine.id={rank}"]
                process = subprocess.Popen(own, env=env, start_new_session=True, **pipes)
            self.processes[rank] = process

    def report(self) -> None:
        """Write logs and ends to the link, for as long as it takes them."""
        with suppress(OSError):
            self._report()

    def _report(self) -> None:
        running = dict(self.processes)
        if self.beats is not None:
            _say(at=self.beats.place)
        while True:
            ended = [rank for rank, process in running.items() if process.poll() is not None]
            if self.over:
                return
            for rank in self.sent:
                self._send_log(rank)
            for rank in ended:
                code = running.pop(rank).returncode
                _say(ended=rank, code=code, cause=cause_of_kill(self.kills) if code < 0 else "")
            if self.beats is not None:
                self._tell_of_silence()
            time.sleep(TICK_SECONDS)

    def _tell_of_silence(self) -> None:
        """Say who is not heard, when that changes."""
        silence = self.beats.silence
        unheard, strangers = silence.cut_off(), silence.strangers()
        told = {"unheard": list(unheard), "strangers": strangers}
        if told != self.told:
            _say(unheard=unheard, strangers=strangers)
            self.told = told

    def obey(self, line: dict[str, Any]) -> None:
        """Send a rank the signal that a line names, or begin to beat; a beat asks for nothing."""
        if "places" in line and self.beats is not None:
            self.beats.begin(line["own"], line["places"], bytes.fromhex(line["key"]))
        process = self.processes.get(line.get("rank", -1))
        if process is not None and process.poll() is None:
            process.send_signal(line["signal"])

    def stop(self) -> None:
        """End every rank and wait for it; the other end knows why."""
        self.over = True
        for process in self.processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _log(self, rank: int) -> Path:
        return self.folder / f"rank{rank}.log"

    def _send_log(self, rank: int) -> None:
        with self._log(rank).open("rb") as file:
            file.seek(self.sent[rank])
            while piece := file.read(PIECE):
                _say(log=rank, text=piece.decode("latin-1"))  # bytes as they are
                self.sent[rank] += len(piece)


def _beats(network: str) -> Beats | None:
    """Beats in the network of the ranks; None without one, and where this host is not in it."""
    try:
        return Beats(own_address(network)) if network else None
    except SettingsError:  # which the ranks will raise, too
        return None


def _say(**words: Any) -> None:
    line = json.dumps(words).encode() + b"\n"
    while line:  # not by sys.stdout: its lock would outlive this thread
        line = line[os.write(sys.stdout.fileno(), line) :]


if __name__ == "__main__":
    main()
