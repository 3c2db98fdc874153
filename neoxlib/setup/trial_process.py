"""Run a group of trials in a process of its own, and read what it tells, whatever becomes of it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

from neoxlib.errors import telling
from neoxlib.setup.trial_groups import Group, Line

COMMAND = (sys.executable, "-P", "-m", "neoxlib.setup.trial_groups")
LIMIT_S = 1800.0  # of a group; compiling or a slow disk may take minutes, a hang takes forever
GRACE_S = 10.0  # between asking a process to end and killing it
LOST = "device lost"


@dataclass(frozen=True)
class TrialProcess:
    """How a group's process is started: with which variables, over how many NPUs."""

    environment: Mapping[str, str]
    world_size: int = 1
    command: Sequence[str] = COMMAND
    limit_s: float = LIMIT_S

    def answers(self, group: Group) -> Iterator[Line]:
        """Yield `trial`, `timing` and `about` lines as they come, then one for each gap.

        A trial during which the process ended has failed; those after it were not asked.
        """
        planned: list[str] = []
        done: set[str] = set()
        lost = ""
        with tempfile.TemporaryFile() as errors:
            with self._started(group, errors) as (process, lines, late):
                for line in lines:
                    planned = line.get("plan", planned)
                    done |= {line["done"]} if "done" in line else set()
                    lost = line.get("lost", lost)
                    if line.keys() & {"trial", "timing", "about"}:
                        yield line
            left = [name for name in planned if name not in done]
            if process.returncode or not planned or left:
                ended = lost or _end_of(process.returncode, late, self.limit_s, errors)
                yield from _gaps(group, planned, left, ended, bool(lost))

    @contextmanager
    def _started(
        self, group: Group, errors: IO[bytes]
    ) -> "Iterator[tuple[subprocess.Popen, Iterator[Line], threading.Event]]":
        """The process, the lines that it tells, and whether it was ended for being late."""
        reads, writes = os.pipe()
        job = {"kind": group.kind, "dtype": group.dtype, "world_size": self.world_size}
        with os.fdopen(reads, encoding="utf-8") as lines:
            try:
                process = subprocess.Popen(
                    [*self.command, json.dumps(job | {"fd": writes})],
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    pass_fds=[writes],
                    env={**os.environ, **self.environment, **dict(group.environment)},
                    start_new_session=True,
                )
            finally:
                os.close(writes)
            late = threading.Event()
            timer = threading.Timer(self.limit_s, lambda: (late.set(), _end(process)))
            timer.start()
            try:
                yield process, (json.loads(line) for line in lines if line.endswith("\n")), late
                process.wait()
            finally:
                timer.cancel()
                _end(process)


def _end(process: subprocess.Popen) -> None:
    """End a process with those that it started, if it has not ended."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
            return


def _end_of(code: int, late: threading.Event, limit_s: float, errors: IO[bytes]) -> str:
    """Say how a process ended, with the last line that it printed."""
    errors.seek(0)
    said = telling(errors.read().decode("utf-8", "replace"))
    if late.is_set():
        return f"no answer within {limit_s:g} s"
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"the process ended with {how}: {said[-1] if said else 'it printed nothing'}"


def _gaps(
    group: Group, planned: list[str], left: list[str], ended: str, was_told: bool
) -> Iterator[Line]:
    """The trials that have no answer: the first has failed, unless the device was lost before."""
    base: dict[str, Any] = {"dtype": group.dtype, "error": None, "tolerance": 0.0, "unit": ""}
    base |= {"passed": False}
    names = left if planned else [str(group.kind)]
    if not was_told and names:
        yield {"trial": base | {"name": names.pop(0), "detail": ended}}
    for name in names:
        detail = f"not asked: {LOST} ({ended})"
        yield {"trial": base | {"name": name, "detail": detail, "asked": False}}
