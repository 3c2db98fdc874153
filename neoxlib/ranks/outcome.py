"""The outcome of a call on each rank: a value or an error, and whether the ranks agree."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipyparallel import AsyncResult, error

from neoxlib.errors import NeoXError, RankError

Listener = Callable[[int, str], None]
Hear = Callable[[Sequence[Mapping[str, Any]]], None]  # what each rank has published so far


@dataclass(frozen=True)
class Outcome:
    """The result of a call on one rank: a value, or the error and where it was raised."""

    value: Any = None
    error: Exception | None = None
    traceback: str = ""


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
