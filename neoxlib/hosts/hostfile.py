"""Read a hostfile of MPI: hosts, and how many ranks each takes."""

import re
from pathlib import Path

from neoxlib.errors import SettingsError

SLOTS = re.compile(r"slots\s*=\s*", re.I)
# Words of Open MPI and Hydra that say nothing about the number of ranks.
OTHERS = re.compile(r"(max[-_]?slots|max|ifname|binding|port|cpus?)=\S+", re.I)
HOST = re.compile(r"(?P<host>[\w.@-]+)(:(?P<ranks>\d+))?")
WRITTEN = "write one host a line: host1 slots=4, or host1:4"


def read_hostfile(path: str) -> dict[str, int]:
    """Return the ranks of each host, in the order of the file.

    Both forms are read: `host slots=4` of Open MPI and `host:4` of MPICH. A line without a number
    is one rank, and lines of the same host add up. Raises SettingsError that lists all bad lines.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"hostfile {path} cannot be read: {error}; {WRITTEN}") from error
    found: dict[str, int] = {}
    wrong = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        try:
            host, ranks = _line(words)
            found[host] = found.get(host, 0) + ranks
        except ValueError as error:
            wrong.append(f"{path}:{number}: {error}")
    if wrong or not found:
        why = "; ".join(wrong) or f"hostfile {path} names no host"
        raise SettingsError(f"{why}; {WRITTEN}")
    return found


def _line(words: str) -> tuple[str, int]:
    """Host and ranks of a line. Raises ValueError that says what is wrong with it."""
    first, *rest = SLOTS.sub("slots=", words).split()
    named = HOST.fullmatch(first)
    if named is None or first.startswith("-"):
        raise ValueError(f"{first!r} is no host")
    counts = [named["ranks"]] if named["ranks"] else []
    for word in rest:
        if word.startswith("slots="):
            counts.append(word.removeprefix("slots="))
        elif not OTHERS.fullmatch(word):
            raise ValueError(f"{word!r} is not known")
    if len(counts) > 1:
        raise ValueError(f"{named['host']} has two numbers of ranks")
    if counts and not (counts[0].isdecimal() and int(counts[0]) > 0):
        raise ValueError(f"slots={counts[0]} is no number of ranks, 1 or more")
    return named["host"], int(counts[0]) if counts else 1
