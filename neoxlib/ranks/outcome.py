"""What comes from the ranks of a call: pieces and progress meanwhile, then a value or an error."""

import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipyparallel import AsyncResult, error
from ipyparallel.serialize import canning

from neoxlib.errors import NeoXError, RankError
from neoxlib.model.stopping import INTERRUPTED

if TYPE_CHECKING:
    from neoxlib.inference.text import Completion

WEIGHTS = "weights"  # bytes in place, bytes of them that are only mapped, bytes of all
SECONDS = 0.1  # between two words about the weights
_types = threading.Lock()
Listener = Callable[[int, str], None]
Hear = Callable[[Sequence[Mapping[str, Any]]], None]  # what each rank has published so far


@dataclass(frozen=True)
class Outcome:
    """The result of a call on one rank: a value, or the error and where it was raised."""

    value: Any = None
    error: Exception | None = None
    traceback: str = ""


def import_types() -> None:
    """Have ipyparallel import the types that it sends, before threads call.

    It does so at the first call, and two threads are in each other's way: one gets a KeyError
    (`serialize.canning` of 9.2).
    """
    with _types:
        canning.can(None)
        canning.uncan(None)


def outcome_of(job: AsyncResult) -> Outcome:
    """Read the outcome of a finished job."""
    try:
        return Outcome(*job.get(0))
    except error.RemoteError as failure:  # ipyparallel could not unpack the call or pack the answer
        traceback = "\n".join(failure.traceback or ())
        return Outcome(None, RankError(f"{failure.ename}: {failure.evalue}"), traceback)


def arrived(
    jobs: Sequence[AsyncResult], known: Container[int], seconds: float
) -> dict[int, Outcome]:
    """The outcomes that are there but not in `known`; waits `seconds` at most for the first."""
    missing = {r: job for r, job in enumerate(jobs) if r not in known}
    next(iter(missing.values())).wait(seconds)
    return {r: outcome_of(job) for r, job in missing.items() if job.ready()}


def error_of(outcome: Outcome) -> Exception:
    """Return the error; one that is not neoxlib's gets the rank's traceback as a note."""
    if not isinstance(outcome.error, NeoXError):
        outcome.error.add_note(f"In the ranks:\n{outcome.traceback}")
    return outcome.error


def whole(answers: "list[Completion]") -> "list[Completion]":
    """Return the answers; RankError if rank 0 stopped early, which this process did not ask for."""
    if any(answer.finish_reason == INTERRUPTED for answer in answers):
        raise RankError(
            "rank 0 was asked to stop (SIGUSR1) by another process than this one: its answer is "
            "not whole, and is not given. The session can go on"
        )
    return answers


def hand_on(job: AsyncResult, heard: int, listen: Listener | None) -> int:
    """Pass the pieces that have arrived, in order, to `listen`; return their number so far."""
    data = job.metadata["data"] if listen else {}
    while listen and str(heard) in data:
        listen(*data.pop(str(heard)))
        heard += 1
    return heard


def in_step(outcomes: dict[int, Outcome], size: int) -> bool:
    """Tell whether all ranks answered, and either none failed or all failed alike.

    Other ranks may quote rank 0's error inside their own.
    """
    if len(outcomes) < size:
        return False
    words = [
        f"{type(outcome.error).__name__}: {outcome.error}"
        for outcome in outcomes.values()
        if outcome.error
    ]
    first = f"{type(outcomes[0].error).__name__}: {outcomes[0].error}"
    return not words or (len(words) == size and all(word.endswith(first) for word in words))


def publish_pieces() -> Callable[[int, str], None]:
    """Make a `stream` callable that sends every piece, numbered, ahead of the answer."""
    from ipyparallel.engine.datapub import publish_data

    count = 0

    def say(row: int, piece: str) -> None:
        nonlocal count
        publish_data({str(count): (row, piece)})
        count += 1

    return say


def publish_weights() -> Callable[[int, int, int], None]:
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
