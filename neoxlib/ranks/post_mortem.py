"""Why ranks ended: their logs and the plog of their processes, read after a failure."""

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from neoxlib.errors import DataError
from neoxlib.machine.explain import PROGRAM, Explanation, explain
from neoxlib.machine.log_text import LogText, read_log
from neoxlib.ranks import worker

PLOG = "ASCEND_PROCESS_LOG_PATH"  # names the folder of CANN's logs; ~/ascend/log without it
TAIL_LINES = 40  # a crash report has about 30
TAIL_BYTES = 2**16
LINE = 1000  # characters of a line that are quoted
MOST_PLOGS = 4  # of one process: CANN begins a new file when one is full


class RankLogs:
    """The logs of one session's ranks, without what stood in the files before it."""

    def __init__(self, log_dir: Path, size: int) -> None:
        self._files = [worker.log_file(log_dir, r) for r in range(size)]
        self._before = [file.stat().st_size if file.is_file() else 0 for file in self._files]
        self._since = time.time()

    def explain(self, members: Sequence[dict[str, Any]]) -> Explanation:
        """Explain what the ranks and their plogs say; `members` are rank, pid and host of each."""
        logs = [
            self._read(file, f"rank {r}", before)
            for r, (file, before) in enumerate(zip(self._files, self._before, strict=True))
        ]
        here = [one for one in members if one["host"] == worker.host() and one["pid"]]
        plogs = [
            self._read(path, f"rank {one['rank']}", 0)
            for one in here
            for path in _plogs(one["pid"], self._since)
        ]
        return explain([log for log in (*logs, *plogs) if log is not None])

    def tail(self, r: int) -> str:
        """Quote the end of a rank's log."""
        return tail(self._files[r])

    def tails(self) -> str:
        """Quote the end of every log that exists."""
        return "".join(tail(file) for file in self._files if file.is_file())

    def _read(self, path: Path, rank: str, before: int) -> LogText | None:
        try:
            return replace(read_log(path, before), rank=rank)
        except (DataError, OSError):  # no log yet, or nothing in it
            return None


def _plogs(pid: int, since: float) -> list[Path]:
    """Return the logs that CANN wrote for a process since a time."""
    folder = Path(os.environ.get(PLOG) or Path("~/ascend/log").expanduser())
    try:
        found = sorted((folder / "debug" / "plog").glob(f"plog-{pid}_*.log"))
        return [path for path in found if path.stat().st_mtime >= since][-MOST_PLOGS:]
    except OSError:
        return []


def first_of(found: Explanation, suspects: Collection[int]) -> int:
    """Return which of the failed ranks failed first: by the logs, else one that did not wait."""
    by_name = {f"rank {r}": r for r in sorted(suspects)}
    if found.culprit in by_name:
        return by_name[found.culprit]
    waited = {one.who for one in found.findings if one.failure.kind == "waiting"}
    active = [r for name, r in by_name.items() if name not in waited]
    return (active or list(by_name.values()))[0]


def silent_one(found: Explanation, silent: Collection[int]) -> int | None:
    """Return which of the ranks that did not answer the others waited for; None if no log says."""
    return next((r for r in sorted(silent) if found.culprit == f"rank {r}"), None)


def together(dead: Mapping[int, str], names: Mapping[int, str], first: int) -> str:
    """Put together how ranks ended, the first one first; ranks that ended as it did are named."""
    how = {r: text.removeprefix(names[r]) for r, text in dead.items()}
    alike = [names[r] for r in dead if r != first and how[r] == how[first]]
    others = [dead[r] for r in dead if how[r] != how[first]]
    return "; ".join([dead[first], *([f"likewise {', '.join(alike)}"] if alike else []), *others])


def told(found: Explanation) -> str:
    """Return what the logs say as the end of an error message; "" if that is known already."""
    if found.first is None or found.first.failure.name == PROGRAM:
        return ""
    return f"\nWhat the logs say: {found.short}"


def tail(path: Path) -> str:
    """Quote the last lines of a log, for an error message."""
    if not path.is_file():
        return f"\nIts log is {path}, on the machine it ran on."
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        text = file.read(TAIL_BYTES).decode(errors="replace")
    lines = [line[:LINE] for line in text.splitlines()[-TAIL_LINES:]]
    return f"\nIts log, {path}, " + ("ends with:\n" + "\n".join(lines) if lines else "is empty.")
