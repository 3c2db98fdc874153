"""Prompts: a question in the frame of its profile, with as many worked examples as fit."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from neoxlib.errors import SettingsError
from neoxlib.exam.data.load import Task
from neoxlib.exam.data.subjects import Subject
from neoxlib.exam.profiles import Profile
from neoxlib.exam.results import TEXTS

Count = Callable[[str], int]  # returns the number of tokens of a text


@dataclass(frozen=True)
class Prompt:
    """One question as the model reads it."""

    text: str
    shots_used: int
    prompt_tokens: int
    too_long: bool  # even with the fewest examples; it is counted and shown, never dropped


def build_prompts(
    task: Task, questions: pd.DataFrame, profile: Profile, count: Count, window: int
) -> list[Prompt]:
    """Build a prompt per row of `questions`; prompt and answer together fit `window` tokens."""
    limit = room(profile, count, window)
    prompts = []
    for row in questions.to_dict("records"):
        examples = task.examples[row["subject"]]
        if task.split == "dev":  # the examples must not give the question's own answer away
            examples = [example for example in examples if example["id"] != row["id"]]
        names = names_of(row["subject"], task.subjects[row["subject"]])
        prompts.append(fit(profile, names, row, examples[: profile.shots], count, limit))
    return prompts


def room(profile: Profile, count: Count, window: int) -> int:
    """Return the tokens that a prompt may have: the window without the answer.

    The last token of a scored answer is only a target, and takes no room.
    """
    lengths = (count(profile.cue + answer) - count(profile.cue) for answer in profile.answers)
    longest = max(lengths, default=0)
    left = window - (profile.max_new_tokens if profile.scoring == "generate" else longest - 1)
    if left < 1:
        raise SettingsError(
            f"profile {profile.name!r}, mode {profile.mode}, writes up to {profile.max_new_tokens} "
            f"tokens, and the window is {window}: raise max_seq_len or take another profile"
        )
    return min(left, profile.most_tokens or left)


def fit(
    profile: Profile,
    names: dict[str, str],
    row: dict,
    examples: list[dict],
    count: Count,
    limit: int,
) -> Prompt:
    """Drop whole examples from the end until the prompt fits `limit` tokens.

    Cutting tokens from the left would destroy the header.
    """
    least = min(profile.least_shots, len(examples))
    for shots in range(len(examples), least - 1, -1):
        text = render(profile, names, row, examples[:shots])
        tokens = count(text)
        if tokens <= limit:
            return Prompt(text, shots, tokens, too_long=False)
    return Prompt(text, least, tokens, too_long=True)


def render(profile: Profile, names: dict[str, str], row: dict, examples: list[dict]) -> str:
    """Render header, examples with their answers, and the question up to the cue."""
    form = profile.question + profile.example
    shown = [form.format(**names, **_cells(example)) for example in examples]
    asked = (profile.question + profile.cue).format(**names, **_cells(row))
    return profile.header.format(**names) + "".join(shown) + asked


def names_of(key: str, subject: Subject) -> dict[str, str]:
    """The names of a subject in templates."""
    return {
        "subject": key.replace("_", " "),
        "english": subject.english,
        "chinese": subject.chinese,
    }


def _cells(row: dict) -> dict[str, str]:
    """The row's texts in templates; an example's `answer` is among them, a question's is not."""
    kept = (*TEXTS, "answer", "explanation")
    return {"stripped": row["question"].strip()} | {name: row[name] for name in kept if name in row}
