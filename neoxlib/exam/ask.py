"""Prompts → what the model says to them, under a profile's way of scoring; on an Engine or a Session alike."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neoxlib.errors import SettingsError
from neoxlib.exam.data.load import Task
from neoxlib.exam.journal import Answer
from neoxlib.exam.profiles import Profile
from neoxlib.exam.prompts import Prompt, build_prompts

if TYPE_CHECKING:
    from neoxlib.inference.contract import Inference

GENERATE_SLOTS = (
    8192  # of the caches of prompts that are continued together, each as long as the window
)

HARNESS = "lm_eval"  # the profile whose figures must be lm-evaluation-harness's own

Tell = Callable[[int, int], None]  # done, in all


class Asker:
    """Builds prompts and has them answered, by the rules of a profile.

    Raises SettingsError for answers that this tokenizer cannot keep apart from the cue.
    """

    def __init__(self, engine: "Inference", profile: Profile) -> None:
        self.profile = profile
        self.tokenizer = engine.tokenizer
        self.window = engine.max_seq_len
        self.answers = answer_ids(self.tokenizer, profile)
        # As the harness does: over every row of the vocabulary, those past the tokenizer's last id too.
        self.real_ids = engine.config.vocab_size if profile.name == HARNESS else None

    def prompts(self, task: Task, questions: pd.DataFrame) -> list[tuple[Prompt, list[int]]]:
        """A prompt and its ids per question; it fits the window with its answer, or is marked as too long."""
        seen: dict[str, list[int]] = {}  # what was counted need not be encoded again

        def count(text: str) -> int:
            return len(seen.setdefault(text, self.encode(text)))

        built = build_prompts(task, questions, self.profile, count, self.window)
        return [(prompt, seen.get(prompt.text) or self.encode(prompt.text)) for prompt in built]

    def ask(
        self, engine: "Inference", prompts: Sequence[list[int]], tell: Tell | None = None
    ) -> list[Answer]:
        """An answer per prompt. Raises what the engine raises, and SettingsError for scores that are not numbers."""
        return (self._generate if self.profile.scoring == "generate" else self._score)(
            engine, prompts, tell
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt."""
        return self.tokenizer(text)["input_ids"]

    def _score(
        self, engine: "Inference", contexts: Sequence[list[int]], tell: Tell | None
    ) -> list[Answer]:
        requests = [(context, answer) for context in contexts for answer in self.answers]
        found = engine.score_ids(requests, stream=tell, real_ids=self.real_ids)
        scores = np.array([logprob for logprob, _ in found]).reshape(len(contexts), -1)
        if bad := int((~np.isfinite(scores)).any(axis=1).sum()):
            raise SettingsError(
                f"{bad} of {len(contexts)} questions got a score that is not a number; "
                "the weights are damaged or the dtype overflows: run verify, or take float32 or bfloat16"
            )
        return [Answer(logprobs=tuple(row)) for row in scores.tolist()]

    def _generate(
        self, engine: "Inference", prompts: Sequence[list[int]], tell: Tell | None
    ) -> list[Answer]:
        texts: dict[int, str] = {}
        order = sorted(
            range(len(prompts)), key=lambda n: -len(prompts[n])
        )  # like lengths: little is padded
        rows = max(1, GENERATE_SLOTS // self.window)
        for batch in (order[start : start + rows] for start in range(0, len(order), rows)):
            answers = engine.generate(
                [prompts[n] for n in batch],
                self.profile.max_new_tokens,
                stop=list(self.profile.stop) or None,
            )
            texts |= {n: answer.text for n, answer in zip(batch, answers, strict=True)}
            if tell:
                tell(len(texts), len(prompts))
        return [Answer(text=texts[n]) for n in range(len(prompts))]


def answer_ids(tokenizer: Any, profile: Profile) -> list[list[int]]:
    """The tokens of each answer after the cue, where prompts end. SettingsError names answers that cannot be scored.

    Answers of unlike numbers of tokens cannot be compared: more tokens are less likely. The harness does so anyway.
    """
    cue = _ids(tokenizer, profile.cue)
    found = {answer: _ids(tokenizer, profile.cue + answer) for answer in profile.answers}
    fewest = min(map(len, found.values()), default=0)
    bad = [
        answer
        for answer, ids in found.items()
        if ids[: len(cue)] != cue or len(ids) != max(fewest, len(cue) + 1)
    ]
    if bad and profile.name != HARNESS:
        what = f"profile {profile.name!r} compares tokens after {profile.cue!r}"
        raise SettingsError(
            f"{what}, and this model's tokenizer has none for {bad}; take another profile or model"
        )
    return [ids[len(cue) :] for ids in found.values()]


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


class Turns:
    """The work that threads take in turns; any of them may end it."""

    def __init__(self, work: Iterable[Any]) -> None:
        self.work = iter(work)
        self.lock = threading.Lock()
        self.over = False

    def __iter__(self) -> "Turns":
        return self

    def __next__(self) -> Any:
        with self.lock:
            if self.over:
                raise StopIteration
            return next(self.work)


def spread(
    engines: Sequence[Any], work: Iterable[Any], do: Callable[[Any, Any], Any]
) -> Iterator[tuple[Any, Any]]:
    """(item, `do(engine, item)`) in the order of completion: each engine takes the next item when it has done its last.

    After an error, or when the caller stops, no further item is begun, and those under way are waited for.
    """
    if len(engines) == 1:  # not in a thread: an interrupt reaches the ranks at once
        yield from ((item, do(engines[0], item)) for item in work)
        return
    turns = Turns(work)
    results = queue.SimpleQueue()
    threads = [
        threading.Thread(target=_serve, args=(engine, turns, do, results)) for engine in engines
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            while (result := results.get()) is not None:
                if isinstance(result, BaseException):
                    raise result
                yield result
    finally:
        turns.over = True
        for thread in threads:
            thread.join()


def _serve(
    engine: "Inference", turns: Turns, do: Callable[[Any, Any], Any], results: queue.SimpleQueue
) -> None:
    try:
        for item in turns:
            results.put((item, do(engine, item)))
    except BaseException as error:
        results.put(error)
    results.put(None)
