"""Questions → graded rows: the answer is the letter the model finds likeliest. Runs on an Engine or a Session alike."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from neoxlib.errors import SettingsError
from neoxlib.tasks.data import CHOICES, Task
from neoxlib.tasks.prompts import Profile, Prompt, build_prompts

Progress = Callable[[int, int], None]  # questions done, questions in all
TOO_LONG = ""  # what a question that could not be asked has as its prediction


def evaluate(
    engine: Any, task: Task, profile: Profile, limit: int | None = None, batch_size: int = 8,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Ask every question once (`limit`: the first so many of each subject) and grade it.

    One row per question, in the exam's order: subject, name, class, hard, id, question, A, B, C, D, expected,
    predicted, correct, p_A, p_B, p_C, p_D (softmax over the four answers), shots_used, prompt_tokens, too_long, prompt.
    A question too long even without examples is predicted "" and wrong. Without answers `expected` is "" and nothing is
    correct. Raises SettingsError for answer tokens the model's tokenizer splits, and for scores that are not numbers.
    """
    questions = task.questions if not limit else task.questions.groupby("subject", sort=False).head(limit)
    tokenizer, window = engine.tokenizer, engine.max_seq_len
    check_answers(tokenizer, profile)
    # The whole window is the prompt's: the answer is one token, and only ever a target.
    prompts = build_prompts(task, questions, profile, lambda text: len(tokenizer(text)["input_ids"]), window)
    logprobs = _score(engine, prompts, profile, batch_size, progress or plain_lines())
    return _grade(questions.reset_index(drop=True), prompts, logprobs)


def check_answers(tokenizer: Any, profile: Profile) -> None:
    """Each answer must be one token after the cue; SettingsError names those that are split or run into the cue."""
    cue = _ids(tokenizer, profile.cue)
    alone = {answer: _ids(tokenizer, answer) for answer in profile.answers}
    bad = [a for a, ids in alone.items() if len(ids) != 1 or _ids(tokenizer, profile.cue + a) != cue + ids]
    if bad:
        what = f"profile {profile.name!r} compares single tokens after {profile.cue!r}"
        raise SettingsError(f"{what}, and this model's tokenizer has none for {bad}; take another profile or model")


def plain_lines(every: float = 30.0) -> Progress:
    """Progress as one printed line per tenth of the work, or per `every` seconds: readable in a log file."""
    start, shown = time.monotonic(), [time.monotonic(), 0]

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or done - shown[1] >= total / 10 or now - shown[0] >= every:
            shown[:] = now, done
            print(f"{done} of {total} questions, {done / max(now - start, 1e-9):.1f} a second", flush=True)

    return show


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _score(
    engine: Any, prompts: list[Prompt], profile: Profile, batch_size: int, progress: Progress
) -> np.ndarray:
    """Log-probabilities [questions, 4]; rows of questions that are too long stay nan."""
    logprobs = np.full((len(prompts), len(CHOICES)), np.nan)
    # Longest first: like lengths share a batch, so little is padded, and memory runs out at once or not at all.
    order = sorted((i for i, p in enumerate(prompts) if not p.too_long), key=lambda i: -prompts[i].prompt_tokens)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        logprobs[batch] = engine.score([prompts[i].text for i in batch], list(profile.answers))
        progress(start + len(batch), len(order))
    bad = [i for i in order if not np.isfinite(logprobs[i]).all()]
    if bad:
        raise SettingsError(
            f"{len(bad)} of {len(order)} questions got a score that is not a number; "
            "the weights are damaged or the dtype overflows: run verify, or take float32 or bfloat16"
        )
    return logprobs


def _grade(questions: pd.DataFrame, prompts: list[Prompt], logprobs: np.ndarray) -> pd.DataFrame:
    too_long = np.array([p.too_long for p in prompts], dtype=bool)
    best = np.where(np.isnan(logprobs), -np.inf, logprobs).argmax(axis=1)  # the earlier letter wins a tie
    predicted = np.where(too_long, TOO_LONG, np.array(CHOICES, dtype=object)[best])
    share = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    return questions.assign(
        predicted=predicted,
        correct=(predicted == questions["expected"].to_numpy()) & ~too_long,
        **{f"p_{choice}": share[:, i] for i, choice in enumerate(CHOICES)},
        shots_used=[p.shots_used for p in prompts],
        prompt_tokens=[p.prompt_tokens for p in prompts],
        too_long=too_long,
        prompt=[p.text for p in prompts],
    )
