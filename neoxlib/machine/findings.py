"""The messages of a log that the table of failures knows, each with its rank, time and place."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import islice

from neoxlib.machine import failures as table
from neoxlib.machine.failures import Failure
from neoxlib.machine.log_text import LogText

MOST_MATCHES = 2000  # of one message in one log
QUOTED = 240  # characters of a quoted line

LETTERS = re.compile(r"(?<![A-Za-z0-9_.])(E(?:RR\d{5}|[A-Z]\d{4}|[1-9]\d{4}))(?![A-Za-z0-9_])")
SURE = re.compile(r"[\])]?:|\)|\[PID")  # follows a code that no table has
NUMBERS = re.compile(
    r"(?<![\w.])((?:10[07]|14[58]|161|20[07]|361|50[07]|561)\d{3})(?!\.?\d)(, desc=)?"
)
# A number is a return code only behind one of these words.
BEFORE = re.compile(r"(?i:code|result|\bret|errno|error|failed)\b['\")\]]*\W{0,6}(?:is\W{1,3})?$")
BEFORE_CHARACTERS = 30
HCCL_RESULT = re.compile(
    r"(?:HCCL function error|OPS function error: Hccl\w*)[^\n]*?error code is (\d{1,2})(?!\d)"
)


@dataclass(frozen=True)
class Finding:
    """One failure as one rank said it: the first time, and how often."""

    failure: Failure
    code: str  # the code that was found; the failure's name if it has none
    who: str  # "rank 3", "worker TP1", "process 4711", "device 2" or ""
    log: str
    line: int  # from 1; 0 where it is not known
    at: datetime | None
    text: str
    order: tuple[int, int]  # the log's number and the position in it
    count: int = 1

    @property
    def place(self) -> str:
        """Where and when it was said."""
        where = f"{self.log}:{self.line}" if self.line else f"{self.log}, near its end"
        return f"{where}, {self.at:%m-%d %H:%M:%S}" if self.at else where


def findings_of(number: int, log: LogText) -> Iterator[Finding]:
    """Give what a log says that a row of the table knows; `number` is the log's own."""
    for code, failure, position in _matches(log.text):
        line, text = log.line_at(position)
        yield Finding(
            failure,
            code,
            log.who_at(position),
            log.name,
            line,
            log.time_at(position),
            _quote(log, text, position),
            (number, position),
        )


def _quote(log: LogText, line: str, position: int) -> str:
    """Return a line, or of a long one the part from the message on, as one short text."""
    if len(line) <= QUOTED:
        return " ".join(line.split())
    part = log.text[position : position + QUOTED].partition("\n")[0]
    return ("" if line.startswith(part) else "…") + " ".join(part.split())


def _matches(text: str) -> Iterator[tuple[str, Failure, int]]:
    """Give code, failure and position of every message that a row knows."""
    known = table.by_code()
    for match in islice(LETTERS.finditer(text), MOST_MATCHES):
        code = match.group(1)
        row = known.get(code)
        if row is None and SURE.match(text, match.end()):
            row = table.unknown(code)
        if row is not None:
            yield code, row, match.start()
    for match in islice(filter(_is_code, NUMBERS.finditer(text)), MOST_MATCHES):
        code = match.group(1)
        yield code, known.get(code) or table.unknown(code), match.start()
    for match in islice(HCCL_RESULT.finditer(text), MOST_MATCHES):
        code = f"HCCL {match.group(1)}"
        if row := known.get(code):
            yield code, row, match.start()
    for row, pattern in _patterns(text):
        for match in islice(pattern.finditer(text), MOST_MATCHES):
            yield row.name, row, match.start()


def _is_code(match: re.Match[str]) -> bool:
    start = match.start()
    before = match.string[max(0, start - BEFORE_CHARACTERS) : start]
    return bool(match.group(2) or BEFORE.search(before))


def _patterns(text: str) -> Iterator[tuple[Failure, re.Pattern[str]]]:
    """Give the rows whose words may be in the text, with their patterns.

    Plain text is looked for first: it is much faster than a pattern.
    """
    for row in table.failures():
        if row.words and any(part in text for part in literals(row.words)):
            yield row, re.compile(row.words)


@cache
def literals(pattern: str) -> tuple[str, ...]:
    """Return the longest plain text of each alternative of a pattern: one must be in a match."""
    bare = re.sub(r"\[[^\]]*\]", "\0", re.sub(r"\\.", "\0", pattern))
    while (fewer := re.sub(r"\([^()]*\)", "\0", bare)) != bare:
        bare = fewer
    pieces = (re.split(r"\0|.[?*]|.\{[^}]*\}|[.^$+?]", part) for part in bare.split("|"))
    return tuple(max(part, key=len) for part in pieces)
