"""What logs say about a failure: which rank failed first, why, and what to do.

Messages are looked up in `failures`. A rank that only waited for another one is never the first:
its time-out comes from the other's failure, however early it was printed.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from neoxlib.machine.failures import CAUSE, HERE, INNER, LINK, ORDER, STATE, WAITING
from neoxlib.machine.findings import Finding, findings_of
from neoxlib.machine.log_text import LogText

SAME_EVENT = timedelta(seconds=2)  # messages of one rank within this time are of one failure
SAME_LINES = 40  # and, without times, within as many lines
MOST_OTHERS = 12  # further messages that are listed
MOST_SILENT = 3  # ranks without a log that are taken for silent ones
MOST_NAMES = 8  # ranks that are listed by name

REMOTE = re.compile(
    r"[Rr]emote ?(?:[Uu]ser)?[Rr]ank:? ?\[?(\d+)|[Ww]aiting peer (?:rank|end):? ?\[?(\d+)"
    r"|dst_?[Rr]ank\[(\d+)|connect agent\[([\d,]+)|\brank (\d[\d, ]*) did not meet"
)
PLACE = re.compile(r"Cluster Exception Location\[IP/ID\]:\[([^\]/]+)/(\d+)\]")
SIZE = re.compile(r"\brankSize ?[\[:]? ?(\d+)|\brank size:? ?(\d+)")


@dataclass(frozen=True)
class Explanation:
    """All findings, the first to fail, and the ranks that others waited for."""

    findings: tuple[Finding, ...]
    first: Finding | None
    awaited: tuple[str, ...]  # ranks that others waited for and that did not wait themselves
    silent: tuple[str, ...]  # ranks of the group that say nothing here
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([*self._head(), *self._waited(), *self._others(), *self.notes])

    @property
    def short(self) -> str:
        """The first failure with cause and cure, for an error message; "" if none is known."""
        return "\n".join([*self._head(), *self._waited()]) if self.first else ""

    @property
    def culprit(self) -> str:
        """The one that failed first as far as the logs tell, such as "rank 3"; or ""."""
        if self.first is None:
            return ""
        if self.first.failure.kind in TELLING:
            return self.first.who
        if self.first.failure.kind in (LINK, WAITING) and (self.awaited or self.silent):
            return (self.awaited or self.silent)[0]
        return self.first.who

    def _head(self) -> Iterator[str]:
        first = self.first
        if first is None:
            yield "nothing in these logs is a failure that neoxlib's table knows"
            return
        row = first.failure
        if row.kind in TELLING:
            yield f"failed first: {first.who or 'not said who'}, {_title(first)}: {row.cause}"
        else:
            who = f"{first.who} says" if first.who else "it says"
            yield f"no cause is in these logs; at first {who} {_title(first)}: {row.cause}"
        yield f"  said: {first.text}"
        yield f"  where: {first.place}"
        yield f"  look first at: {self._look()}"
        yield f"  cure: {row.cure}"
        yield f"  source: {row.source}"

    def _look(self) -> str:
        look = self.first.failure.look
        if self.first.failure.kind not in (LINK, WAITING):
            return self.first.who if look == HERE and self.first.who else look
        if self.awaited:
            return f"{_names(self.awaited)}: others waited for it"
        return f"{_names(self.silent)}: nothing of it is here" if self.silent else look

    def _waited(self) -> Iterator[str]:
        """Name the ranks that only waited, for whom, and by which messages."""
        busy = {f.who for f in self.findings if f.failure.kind in (*TELLING, LINK)}
        waited = [f for f in self.findings if f.failure.kind == WAITING and f.who not in busy]
        if not waited or self.first.failure.kind == WAITING:
            return
        names = sorted({f.who for f in waited if f.who}, key=_numbered)
        codes = sorted({f.code for f in waited})
        yield f"only waited: {_names(names) or 'others'} ({', '.join(codes)})"

    def _others(self) -> Iterator[str]:
        rest = [f for f in self.findings if f is not self.first]
        if not rest:
            return
        yield "also said:"
        for one in rest[:MOST_OTHERS]:
            times = f" x{one.count}" if one.count > 1 else ""
            who = f"{one.who}: " if one.who else ""
            yield f"  {who}{_title(one)}{times}: {one.failure.cause}"
        if len(rest) > MOST_OTHERS:
            yield f"  and {len(rest) - MOST_OTHERS} more"


def _names(all_of_them: Sequence[str]) -> str:
    more = len(all_of_them) - MOST_NAMES
    return ", ".join(all_of_them[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _title(one: Finding) -> str:
    return one.code if one.code in one.failure.codes else one.failure.name


def _numbered(name: str) -> tuple:
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))


def explain(logs: Sequence[LogText]) -> Explanation:
    """Look up every message of the logs and decide which rank failed first."""
    found = [one for number, log in enumerate(logs) for one in findings_of(number, log)]
    findings = tuple(sorted(_once(found), key=_rank))
    asked = _awaited(logs, findings)
    waiting = {f.who for f in findings if f.failure.kind == WAITING}
    free = tuple(sorted(asked - waiting, key=_numbered))
    said = {f.who for f in findings}
    silent = tuple(who for who in _group(logs, said) if who not in said)
    notes = tuple(
        f"{log.name}: of this large log the first and last part were read, not the "
        f"{log.skipped:,} bytes between"
        for log in logs
        if log.skipped
    )
    return Explanation(findings, _first(findings), free, silent, notes)


def _once(found: Iterable[Finding]) -> list[Finding]:
    """Keep the first finding of each failure and rank, with their number."""
    first: dict[tuple[str, str], Finding] = {}
    counts: dict[tuple[str, str], int] = {}
    for one in sorted(found, key=_when):
        key = (one.failure.name, one.who)
        first.setdefault(key, one)
        counts[key] = counts.get(key, 0) + 1
    return [_counted(one, counts[key]) for key, one in first.items()]


def _counted(one: Finding, count: int) -> Finding:
    values = {name: getattr(one, name) for name in Finding.__dataclass_fields__}
    return Finding(**values | {"count": count})


def _when(one: Finding) -> tuple:
    """Sort by time; what has none comes after, in the order of logs and lines."""
    return (one.at is None, one.at or datetime.min, one.order)


def _rank(one: Finding) -> tuple:
    return (ORDER[one.failure.kind], *_when(one))


def _first(findings: Sequence[Finding]) -> Finding | None:
    """Return the most telling message of the failure that came first."""
    if not findings:
        return None
    first = findings[0]
    if first.failure.kind not in TELLING:
        return first
    same = [f for f in findings if f.failure.kind in TELLING and _together(first, f)]
    return min(same, key=_tells)


def _tells(one: Finding) -> int:
    """Rank messages of one failure: an error of the program may only repeat another one."""
    return 1 if one.failure.name == PROGRAM else TELLING.index(one.failure.kind) * 2


PROGRAM = "error of the program"
TELLING = (CAUSE, STATE, INNER)


def _together(one: Finding, other: Finding) -> bool:
    """Whether two messages are of one failure: of one rank, as far as is said, at one time."""
    kinds = one.who.partition(" ")[0], other.who.partition(" ")[0]  # a rank is some process
    if kinds[0] == kinds[1] and one.who != other.who:
        return False
    if one.at and other.at:
        return abs(other.at - one.at) <= SAME_EVENT
    return one.order[0] == other.order[0] and abs(one.line - other.line) <= SAME_LINES


def _awaited(logs: Sequence[LogText], findings: Sequence[Finding]) -> set[str]:
    """Return whom the waiting ranks name as the one they waited for."""
    named: set[str] = set()
    for one in findings:
        if one.failure.kind not in (WAITING, LINK):
            continue
        _, line = logs[one.order[0]].line_at(one.order[1])
        for match in REMOTE.finditer(line):
            numbers = re.findall(r"\d+", next(filter(None, match.groups())))
            named |= {f"rank {int(number)}" for number in numbers}
        named |= {f"device {device} of {host}" for host, device in PLACE.findall(line)}
        if one.failure.look == "rank 0":
            named.add("rank 0")
    return named


def _group(logs: Sequence[LogText], said: set[str]) -> list[str]:
    """List the ranks of the group: those with a log, or all if nearly all of them speak."""
    sizes = [int(a or b) for log in logs for a, b in SIZE.findall(log.text)]
    size = max(sizes, default=0)
    whole = [f"rank {r}" for r in range(min(size, 1024))]
    if 0 < len(set(whole) - said) <= MOST_SILENT:
        return whole
    return [log.rank for log in logs if log.rank]
