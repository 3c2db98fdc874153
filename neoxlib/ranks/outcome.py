"""What comes from the ranks of a call: pieces and progress meanwhile, then a value or an error."""

import pickle
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ipyparallel import AsyncResult, error
from ipyparallel.serialize import canning

from neoxlib.errors import NeoXError, RankError
from neoxlib.model.stopping import INTERRUPTED
from neoxlib.process import interrupts_held

if TYPE_CHECKING:
    from neoxlib.inference.text import Completion

WEIGHTS = "weights"  # bytes in place, bytes of them that are only mapped, bytes of all
SECONDS = 0.1  # between two words about the weights
_types = threading.Lock()
Listener = Callable[[int, str], None]
Hear = Callable[[Sequence[Mapping[str, Any]]], None]  # what each rank has published so far
# What a rank returns: traceback, text of the error ("" for a value), pickle, bytes of an array. It
# can always be unpacked: ipyparallel waits without end for what it fails to unpack.
Sent = tuple[str, str, bytes] | tuple[str, str, bytes, memoryview]


@dataclass(frozen=True)
class Outcome:
    """The result of a call on one rank: a value, or the error and where it was raised."""

    value: Any = None
    error: Exception | None = None
    traceback: str = ""


@dataclass(frozen=True)
class Lost:
    """In place of a value that cannot be brought here: the reason."""

    why: str


def pack(value: Any) -> Sent:
    """Pack a value, a tensor as an array; the bytes of an array are sent without copying."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        plain = _plain(value)
        array = hasattr(plain, "__array_interface__")
        head = pickle.dumps(plain, 5, buffer_callback=buffers.append if array else None)
        return "", "", head, *(buffer.raw() for buffer in buffers)
    except Exception as error:
        return "", "", pickle.dumps(Lost(words_of(error)))


def pack_error(error: BaseException, traceback: str) -> Sent:
    """Pack an error with its class, if it has one that can be sent."""
    try:
        return traceback, words_of(error), pickle.dumps(error)
    except Exception:
        return traceback, words_of(error), b""


def words_of(error: BaseException) -> str:
    """Return class and text of an error."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # of its __str__
        return type(error).__name__


def _plain(answer: Any) -> Any:
    """Return a tensor as an array: bfloat16, which arrays do not have, as float32."""
    if not hasattr(answer, "numpy"):
        return answer
    wider = answer.float() if "bfloat16" in str(answer.dtype) else answer
    return wider.numpy(force=True)


def import_types() -> None:
    """Have ipyparallel import the types that it sends, before threads call.

    It does so at the first call, and two threads are in each other's way: one gets a KeyError
    (`serialize.canning` of 9.2).
    """
    with _types:
        canning.can(None)
        canning.uncan(None)


def outcome_of(job: AsyncResult) -> Outcome:
    """Read the outcome of a finished job; an error that is not neoxlib's gets its traceback."""
    try:
        traceback, words, head, *buffers = job.get(0)
    except error.RemoteError as failure:  # ipyparallel could not unpack the call
        return Outcome(None, RankError(f"{failure.ename}: {failure.evalue}"), failure.traceback)
    try:
        loaded = pickle.loads(head, buffers=buffers)
    except Exception as failure:
        loaded = Lost(words_of(failure))
    if not words:
        return Outcome(loaded)
    failed = loaded if isinstance(loaded, Exception) else RankError(words)
    if failed is not loaded or not isinstance(failed, NeoXError):
        failed.add_note(f"In the ranks:\n{traceback}")
    return Outcome(None, failed, traceback)


def arrived(
    jobs: Sequence[AsyncResult], known: Container[int], seconds: float
) -> dict[int, Outcome]:
    """The outcomes that are there but not in `known`; waits `seconds` at most for the first."""
    missing = {r: job for r, job in enumerate(jobs) if r not in known}
    with interrupts_held() as interrupt:  # one that raised would leave a lock of ipyparallel's held
        next(iter(missing.values())).wait(seconds)
        found = {r: outcome_of(job) for r, job in missing.items() if job.ready()}
    interrupt()
    return found


def answer_of(outcome: Outcome) -> Any:
    """Return the value or raise the error; RankError for a value that is not to be had here."""
    if isinstance(outcome.value, Lost):
        raise RankError(
            f"the ranks' answer cannot be brought to this process ({outcome.value.why}); let the "
            "function return numbers, texts, arrays, or lists of them. The session can go on"
        )
    if outcome.error:
        raise outcome.error
    return outcome.value


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
    words = [words_of(outcome.error) for outcome in outcomes.values() if outcome.error]
    first = words_of(outcomes[0].error)
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
