"""Errors in the log of a rank: the first of each kind, so that it cannot grow without limit."""

import logging
from collections import Counter

log = logging.getLogger("neoxlib")

ALL = 8  # errors of one kind of a call that are all logged; then the 16th, the 32nd and so on
_seen: Counter[tuple[str, str]] = Counter()


def note(name: str, error: BaseException) -> None:
    """Log an error of the call `name` with its traceback, unless many like it were logged.

    A program may ask for what is refused again and again.
    """
    kind = name, type(error).__name__
    _seen[kind] += 1
    count = _seen[kind]
    if count <= ALL:
        log.error("%s failed", name, exc_info=error)
    elif not count & (count - 1):
        log.error("%s failed, the %dth time with %s", name, count, kind[1], exc_info=error)
