"""Ask a host what it is: its Python runs the text of `probe.py`, there or in a process here."""

import json
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from neoxlib.errors import NeoXError
from neoxlib.hosts.ways import SSH, Ssh, Way

PROBE = Path(__file__).with_name("probe.py")
# Reads the length of a program, then the program, and leaves what follows to it.
READ = (
    "import sys; sys.path[:] = filter(None, sys.path)"  # nothing from the working directory
    "; i = sys.stdin.buffer; exec(i.read(int(i.readline())))"
)
MARK = b"neoxlib:"  # begins an answer: a host's shell may greet before it
LIMIT = 30.0  # seconds for an answer; reading a whole model takes longer
LAST_WORDS = 2000


class Silent(NeoXError):
    """A host that does not answer: `code` is how its way or Python ended, `said` its last words."""

    def __init__(self, code: int | None, said: str) -> None:
        super().__init__(f"exit code {code}: {said}" if code is not None else said)
        self.code = code
        self.said = said


class Probe:
    """A host that answers. `host` is a name for its `way`, ssh by default, or "" for here."""

    def __init__(self, host: str, python: str, way: Way | None = None) -> None:
        words = [python, "-c", READ]
        command = (way or Ssh(SSH)).reach(host, words) if host else words
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen(command, start_new_session=True, **pipes)
        self.said = b""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        program = PROBE.read_bytes()
        self._send(f"{len(program)}\n".encode() + program)

    def ask(self, name: str, *arguments: Any, limit: float = LIMIT) -> Any:
        """Return the answer to a request of `probe.py`.

        Raises Silent if none comes within `limit` seconds, and OSError with what failed there.
        """
        late = threading.Timer(limit, self.process.kill)
        late.start()
        try:
            self._send(json.dumps([name, *arguments]).encode() + b"\n")
            for line in self.process.stdout:
                if line.startswith(MARK):
                    return _answer(json.loads(line.removeprefix(MARK)))
                self.said += line if line.strip() else b""
        finally:
            waited = late.is_alive()
            late.cancel()
        code = self.process.wait()
        self._listener.join(1)
        words = self.said.decode(errors="replace").strip()[-LAST_WORDS:]
        raise Silent(code, words) if waited else Silent(None, f"no answer within {limit:g} s")

    def close(self) -> None:
        """End the probe and wait for it."""
        with suppress(OSError):  # it has ended
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join(1)
        self.process.stdout.close()

    def _send(self, data: bytes) -> None:
        with suppress(OSError):  # it has ended; its output says why
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def _listen(self) -> None:
        with self.process.stderr as lines:
            for line in lines:
                self.said += line


def _answer(words: dict[str, Any]) -> Any:
    if "error" in words:
        raise OSError(words["error"])
    return words["answer"]


def this_machine() -> Probe:
    """Return the probe of this machine and this Python."""
    return Probe("", sys.executable)
