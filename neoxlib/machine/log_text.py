"""Logs as text: bounded reading, and the time and the rank of a place in one."""

import os
import re
import stat
import sys
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from neoxlib.errors import DataError

HEAD = 2 * 2**20  # bytes that are read at the beginning of a large log
TAIL = 6 * 2**20  # and at its end
MOST_FILES = 512  # of one folder
LOOK_BACK = 4_000  # characters before a message in which its time may stand
LONGEST_LINE = 4_000  # characters of a line that are looked at before and behind a message
LONGEST_PREFIX = 600  # characters of a line in which its own time may stand
NEAR_LINES = 12  # lines before a message in which its rank may stand
LOG_NAMES = ("*.log", "*.txt", "*.out", "*.err")

TIMES = re.compile(
    r"(?P<y>20\d\d)-(?P<mo>\d\d)-(?P<d>\d\d)[-T ](?P<h>\d\d):(?P<mi>\d\d):(?P<s>\d\d)"
    r"(?:[.,:](?P<f>\d{1,6})(?:\.(?P<u>\d{3}))?)?"
    r"|[EWIF](?P<y2>20\d\d)?(?P<mo2>\d{1,2})(?P<d2>\d\d) "
    r"(?P<h2>\d\d):(?P<mi2>\d\d):(?P<s2>\d\d)(?:\.(?P<f2>\d{1,6}))?"
    r"|\b(?P<mo3>\d\d)-(?P<d3>\d\d) (?P<h3>\d\d):(?P<mi3>\d\d):(?P<s3>\d\d)"
    r"|(?<![\w.:-])(?P<h4>\d\d):(?P<mi4>\d\d):(?P<s4>\d\d)[.,](?P<f4>\d{1,6})"
)
YEAR = re.compile(r"\b20\d\d(?=-\d\d-\d\d[-T ]\d\d:)")
NO_YEAR = 2000  # of times without a year, in a log without any; a leap year

# What names the rank of a line, the surest first. A remote rank is not the line's own.
RANKS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\[[Rr]ank ?(\d+)\]",
        r"\bRankID:(\d+)",
        r"\brank=(\d+)",
        r"\blocal[Uu]ser[Rr]ank[\[:](\d+)",
        r"\brankId\[(\d+)\]",
        r"(?<!remote )(?<!peer )(?<!Remote )\b[Rr]ank(?:[=:]|\[| )(\d+)\b(?! did not meet)",
    )
)
WORKER = re.compile(r"\b(?:\w*Worker\w*?_?)?((?:DP\d+_)?TP\d+(?:_EP\d+)?)\b")
PID = re.compile(r"\b(?:pid=|PID:? ?|[A-Z]{2,}\()(\d+)")
DEVICE = re.compile(r"\bDevice:(\d+)")
OF_FILE = re.compile(r"rank[-_]?(\d+)", re.I)
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class LogText:
    """The text of one log, with what was left out of its middle."""

    name: str
    text: str
    skipped: int = 0  # bytes in the middle that were not read
    gap: int = 0  # position in `text` where they would stand
    rank: str = ""  # of the whole file, as "rank 3"; "" if the lines say it
    pids: dict[str, str] = field(default_factory=dict)  # process -> rank, from elsewhere

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *(match.end() for match in re.finditer("\n", self.text))]

    @cached_property
    def _year(self) -> int:
        found = YEAR.search(self.text)
        return int(found.group(0)) if found else NO_YEAR

    @cached_property
    def own_pids(self) -> dict[str, str]:
        """Which process is which rank, by the lines that say both."""
        both = re.compile(r"PID:(\d+), Device:-?\d+, RankID:(\d+)")
        pairs = both.findall(self.text)
        return {pid: f"rank {rank}" for pid, rank in pairs}

    def line_at(self, position: int) -> tuple[int, str]:
        """Return the number of a line, or 0 behind a gap, and the line at a position.

        Of a very long line the part around the position is returned.
        """
        number = bisect_right(self._starts, position)
        start = max(self._starts[number - 1], position - LONGEST_LINE)
        line = self.text[start : position + LONGEST_LINE]
        at = position - start
        end = line.find("\n", at)
        line = line if end < 0 else line[:end]
        return (0 if self.skipped and position >= self.gap else number), line

    def time_at(self, position: int) -> datetime | None:
        """Return the time of the line at a position, else the last time before it."""
        start = self._starts[bisect_right(self._starts, position) - 1]
        own = TIMES.search(self.text[start : start + LONGEST_PREFIX].partition("\n")[0])
        if own and (moment := _moment(own, self._year)):
            return moment
        before = list(TIMES.finditer(self.text, max(0, start - LOOK_BACK), start))
        return next((m for found in reversed(before) if (m := _moment(found, self._year))), None)

    def who_at(self, position: int) -> str:
        """Return who says the line at a position: a rank, worker, process or device; or ""."""
        if self.rank:
            return self.rank
        number = bisect_right(self._starts, position)
        first = max(1, number - NEAR_LINES)
        for n in range(number, first - 1, -1):
            at = self._starts[n - 1]
            line = self.text[at : at + LONGEST_LINE].partition("\n")[0]
            if who := self._who(line):
                return who
        return ""

    def _who(self, line: str) -> str:
        for pattern in RANKS:
            if found := pattern.search(line):
                return f"rank {int(found.group(1))}"
        pids = PID.findall(line)
        known = self.pids | self.own_pids
        if rank := next((known[pid] for pid in pids if pid in known), ""):
            return rank
        if found := WORKER.search(line):
            return f"worker {found.group(1)}"
        if pids:
            return f"process {pids[-1]}"
        found = DEVICE.search(line)
        return f"device {found.group(1)}" if found else ""


def _moment(found: re.Match[str], year: int) -> datetime | None:
    """Return the time that was matched; None for an impossible date."""
    part = {key.rstrip("234"): value for key, value in found.groupdict().items() if value}
    fraction = (part.get("f", "") + part.get("u", "")).ljust(6, "0")[:6]
    if "mo" not in part and year != NO_YEAR:
        return None  # a time without a date does not compare with those that have one
    day = [int(part.get(key, 1)) for key in ("mo", "d")]
    whole = [int(part.get("y", year)), *day, *(int(part[key]) for key in ("h", "mi", "s"))]
    try:
        return datetime(*whole, int(fraction))
    except ValueError:
        return None


def of_file(name: str) -> str:
    """Return the rank that a file's name says, as "rank 3", or ""."""
    found = OF_FILE.search(Path(name).stem)
    return f"rank {int(found.group(1))}" if found else ""


def find_logs(places: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List the logs of files and folders; "-" is standard input.

    A folder stands for the logs anywhere in it. Raises DataError for a folder without one.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if not place.is_dir():
            found.append(place)
            continue
        inside = sorted({path for name in LOG_NAMES for path in place.rglob(name)})
        logs = [path for path in inside if path.is_file() and path.stat().st_size]
        if not logs:
            names = ", ".join(LOG_NAMES)
            raise DataError(f"{place} holds no log ({names}) that is not empty; name the files")
        found += logs[-MOST_FILES:]
    return found


def read_log(path: Path, start: int = 0) -> LogText:
    """Read a log from byte `start` on, of a large one the beginning and the end.

    Raises DataError for what is no text file: a pipe, a device, a binary or an empty file.
    """
    if str(path) == "-":
        head = sys.stdin.buffer.read(HEAD + TAIL)
        return _as_text("standard input", head, b"", 0)
    try:
        # Opening a pipe must not wait for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"{path} cannot be read: {why}; name a log that exists") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise DataError(
            f"{path} is a {_kind(status.st_mode)}, not a file; name a log, or pipe it into "
            "`python -m neoxlib explain -`"
        )
    with os.fdopen(handle, "rb") as file:
        file.seek(start)
        head = file.read(HEAD)
        skipped = max(0, status.st_size - start - HEAD - TAIL)
        file.seek(start + HEAD + skipped)
        return _as_text(str(path), head, file.read(TAIL), skipped)


def _as_text(name: str, head: bytes, tail: bytes, skipped: int) -> LogText:
    if not head.strip():
        raise DataError(f"{name} is empty; name the log of a run that failed")
    if head[:2] == b"\x1f\x8b":
        raise DataError(f"{name} is compressed by gzip; unpack it first")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{name} is UTF-16 text; convert it to UTF-8 first")
    controls = sum(head[:65536].count(byte) for byte in range(32) if byte not in b"\t\n\r\b\f\x1b")
    if controls > len(head[:65536]) / 50:
        raise DataError(f"{name} is a binary file; name a log, which is text")
    first = COLOURS.sub("", head.decode("utf-8", errors="replace"))
    rest = COLOURS.sub("", tail.decode("utf-8", errors="replace"))
    text = first + ("\n" if skipped else "") + rest
    return LogText(name, text, skipped, len(first), of_file(name))


def _kind(mode: int) -> str:
    kinds = {
        "folder": stat.S_ISDIR,
        "pipe": stat.S_ISFIFO,
        "socket": stat.S_ISSOCK,
        "device": lambda one: stat.S_ISCHR(one) or stat.S_ISBLK(one),
    }
    return next((kind for kind, test in kinds.items() if test(mode)), "special file")
