"""What a rank says before a call has its answer: pieces of text, and the weights in place."""

import time
from collections.abc import Callable

WEIGHTS = "weights"  # bytes in place, bytes of them that are only mapped, bytes of all
SECONDS = 0.1  # between two words about the weights


def pieces() -> Callable[[int, str], None]:
    """Make a `stream` callable that sends every piece, numbered, ahead of the answer."""
    from ipyparallel.engine.datapub import publish_data

    count = 0

    def say(row: int, piece: str) -> None:
        nonlocal count
        publish_data({str(count): (row, piece)})
        count += 1

    return say


def weights() -> Callable[[int, int, int], None]:
    """Make a `progress` callable of `load` that sends the first word, the last, and some others."""
    from ipyparallel.engine.datapub import publish_data

    due = 0.0

    def say(placed: int, mapped: int, total: int) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due or placed == total:
            publish_data({WEIGHTS: (placed, mapped, total)})
            due = now + SECONDS

    return say
