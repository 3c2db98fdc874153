"""Ask the model by a profile's rules: prompts in, answers out. On an Engine or a Session."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from neoxlib.errors import RankError, SettingsError, panics_told
from neoxlib.exam.data.load import Task
from neoxlib.exam.profiles import Profile
from neoxlib.exam.prompts import build_prompts
from neoxlib.exam.question import Answer, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neoxlib.inference.contract import Inference

# Token positions in the KV caches of one generated batch; every row is as long as the window.
GENERATE_SLOTS = 8192

OnProgress = Callable[[int, int], None]  # called with (done, total)
Item = TypeVar("Item")  # what engines share
Result = TypeVar("Result")  # what an engine makes of an item
Arrival = tuple[Item, Result] | BaseException | None  # or Lost; None: a thread is done


class Asker:
    """Builds prompts and has them answered, by the rules of a profile.

    Raises SettingsError if the tokenizer cannot keep the profile's answers apart from the cue.
    """

    def __init__(self, engine: "Inference", profile: Profile) -> None:
        self.profile = profile
        self.tokenizer = engine.tokenizer
        self.window = engine.max_seq_len
        self.answers = answer_ids(self.tokenizer, profile)
        # None: over the ids that the tokenizer has.
        self.tokenizer_size = engine.config.vocab_size if profile.whole_vocabulary else None

    def prepare(self, task: Task, questions: pd.DataFrame) -> list[Question]:
        """Render and encode the prompts of rows of `task.questions`, one Question per row.

        A prompt fits the window together with its answer, or is marked as too long.
        """
        encoded: dict[str, list[int]] = {}  # a text that was counted is not encoded again

        def count(text: str) -> int:
            return len(encoded.setdefault(text, self.encode(text)))

        rows = questions.to_dict("records")
        prompts = build_prompts(task, questions, self.profile, count, self.window)
        ids = [encoded.get(prompt.text) or self.encode(prompt.text) for prompt in prompts]
        return [Question(*parts) for parts in zip(rows, prompts, ids, strict=True)]

    def ask(
        self,
        engine: "Inference",
        prompts: Sequence[list[int]],
        on_progress: OnProgress | None = None,
    ) -> list[Answer]:
        """Return an answer per prompt (token ids).

        Raises what the engine raises, and SettingsError for scores that are not finite.
        """
        answer = self._generate if self.profile.scoring == "generate" else self._score
        return answer(engine, prompts, on_progress)

    @panics_told()
    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt."""
        return self.tokenizer(text)["input_ids"]

    def _score(
        self, engine: "Inference", prompts: Sequence[list[int]], on_progress: OnProgress | None
    ) -> list[Answer]:
        requests = [(prompt, answer) for prompt in prompts for answer in self.answers]
        found = engine.score_ids(requests, stream=on_progress, tokenizer_size=self.tokenizer_size)
        scores = np.array([logprob for logprob, _ in found]).reshape(len(prompts), -1)
        if bad := int((~np.isfinite(scores)).any(axis=1).sum()):
            raise SettingsError(
                f"{bad} of {len(prompts)} questions got a score that is not a number; the weights "
                "are damaged or the dtype overflows: run verify, or take float32 or bfloat16"
            )
        return [Answer(logprobs=tuple(row)) for row in scores.tolist()]

    def _generate(
        self, engine: "Inference", prompts: Sequence[list[int]], on_progress: OnProgress | None
    ) -> list[Answer]:
        texts: dict[int, str] = {}
        # Prompts of similar length share a batch, so that little is padded.
        order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
        rows = max(1, GENERATE_SLOTS // self.window)
        for start in range(0, len(order), rows):
            batch = order[start : start + rows]
            answers = engine.generate(
                [prompts[n] for n in batch],
                self.profile.max_new_tokens,
                stop=list(self.profile.stop) or None,
            )
            texts |= {n: answer.text for n, answer in zip(batch, answers, strict=True)}
            if on_progress:
                on_progress(len(texts), len(prompts))
        return [Answer(text=texts[n]) for n in range(len(prompts))]


def answer_ids(tokenizer: "PreTrainedTokenizerBase", profile: Profile) -> list[list[int]]:
    """Return the tokens of each answer after the cue, with which prompts end.

    Answers of different numbers of tokens cannot be compared: more tokens are less likely.
    Raises SettingsError naming answers that cannot be scored, unless `split_may_differ`.
    """
    cue = _ids(tokenizer, profile.cue)
    found = {answer: _ids(tokenizer, profile.cue + answer) for answer in profile.answers}
    length = max(min(map(len, found.values()), default=0), len(cue) + 1)
    bad = [answer for answer, ids in found.items() if ids[: len(cue)] != cue or len(ids) != length]
    if bad and not profile.split_may_differ:
        raise SettingsError(
            f"profile {profile.name!r} compares tokens after {profile.cue!r}, and this model's "
            f"tokenizer has none for {bad}; take another profile or model"
        )
    return [ids[len(cue) :] for ids in found.values()]


@panics_told()
def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


class WorkQueue(Generic[Item]):
    """Items that several threads take in turn. `close` ends it for all of them.

    It ends by itself when every item is done: one that a thread gives back goes to another.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self.items = iter(items)
        self.returned: deque[Item] = deque()
        self.taken = 0  # that are not done
        self.changed = threading.Condition()
        self.closed = False

    def __iter__(self) -> "WorkQueue[Item]":
        return self

    def __next__(self) -> Item:
        with self.changed:
            while not self.closed:
                for item in self._next():
                    self.taken += 1
                    return item
                if not self.taken:
                    break
                self.changed.wait()
            raise StopIteration

    def done(self) -> None:
        """Say that an item that was taken is done."""
        with self.changed:
            self.taken -= 1
            self.changed.notify_all()

    def give_back(self, item: Item) -> None:
        """Leave an item that was taken to another thread."""
        self.returned.append(item)
        self.done()

    def close(self) -> None:
        """Hand out no further item."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def _next(self) -> list[Item]:
        """The next item, if there is one now."""
        return [self.returned.popleft()] if self.returned else list(islice(self.items, 1))


def share_out(
    engines: Sequence["Inference"],
    items: Iterable[Item],
    do: Callable[["Inference", Item], Result],
    lost: Callable[[int, RankError], None] = lambda n, error: None,
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, `do(engine, item)`) as they complete; an idle engine takes the next item.

    An engine that ends with a RankError leaves its item to the others, and `lost` is told its
    number; the error of the last one is raised. After another error, or when the caller stops, no
    further item is begun, and running ones are waited for.
    """
    if len(engines) == 1:  # without a thread, an interrupt reaches the ranks at once
        yield from ((item, do(engines[0], item)) for item in items)
        return
    work = WorkQueue(items)
    results = queue.SimpleQueue()
    rows = enumerate(engines)
    threads = [threading.Thread(target=_serve, args=(*row, work, do, results)) for row in rows]
    for thread in threads:
        thread.start()
    left = len(threads)
    try:
        while left:
            result = results.get()
            if isinstance(result, Lost) and left > 1:
                left -= 1
                lost(*result)
            elif isinstance(result, Lost):
                raise result.error
            elif isinstance(result, BaseException):
                raise result
            elif result is None:
                left -= 1
            else:
                yield result
    finally:
        work.close()
        for thread in threads:
            thread.join()


class Lost(NamedTuple):
    """An engine that has ended: its number and why."""

    number: int
    error: RankError


def _serve(
    number: int,
    engine: "Inference",
    work: WorkQueue[Item],
    do: Callable[["Inference", Item], Result],
    results: "queue.SimpleQueue[Arrival[Item, Result]]",
) -> None:
    try:
        for item in work:
            try:
                results.put((item, do(engine, item)))
            except RankError as error:
                results.put(Lost(number, error))
                work.give_back(item)
                return
            work.done()
    except BaseException as error:
        results.put(error)
    results.put(None)
