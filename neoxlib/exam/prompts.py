"""What a model is asked: a question in the frame of its profile, with as many worked examples as fit."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from neoxlib.errors import SettingsError
from neoxlib.exam.data.load import Task
from neoxlib.exam.data.subjects import Subject
from neoxlib.exam.profiles import Profile

Count = Callable[[str], int]  # tokens of a text


@dataclass(frozen=True)
class Prompt:
    """One question as the model reads it."""

    text: str
    shots_used: int
    prompt_tokens: int
    too_long: bool  # not even the fewest examples fit; it is counted and shown, never dropped


def build_prompts(
    task: Task, questions: pd.DataFrame, profile: Profile, count: Count, window: int
) -> list[Prompt]:
    """One prompt per row of `questions`; prompt and answer together fit `window` tokens."""
    limit = room(profile, count, window)
    prompts = []
    for row in questions.to_dict("records"):
        # Asked about a dev row, its own answer must not stand among the examples.
        examples = [
            e for e in task.examples[row["subject"]] if task.split != "dev" or e["id"] != row["id"]
        ]
        names = names_of(row["subject"], task.subjects[row["subject"]])
        prompts.append(fit(profile, names, row, examples[: profile.shots], count, limit))
    return prompts


def room(profile: Profile, count: Count, window: int) -> int:
    """Tokens that a prompt may have: the window's, less the answer's. A scored answer's last token is only a target."""
    longest = max(
        (count(profile.cue + answer) - count(profile.cue) for answer in profile.answers), default=0
    )
    left = window - (profile.max_new_tokens if profile.scoring == "generate" else longest - 1)
    if left < 1:
        what = f"profile {profile.name!r}, mode {profile.mode}, writes up to {profile.max_new_tokens} tokens"
        raise SettingsError(
            f"{what}, and the window is {window}: raise max_seq_len or take another profile"
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
    """Whole examples fall off the end until the prompt fits; cutting tokens from the left would destroy the header."""
    least = min(profile.least_shots, len(examples))
    for shots in range(len(examples), least - 1, -1):
        text = render(profile, names, row, examples[:shots])
        tokens = count(text)
        if tokens <= limit:
            return Prompt(text, shots, tokens, too_long=False)
    return Prompt(text, least, tokens, too_long=True)


def render(profile: Profile, names: dict[str, str], row: dict, examples: list[dict]) -> str:
    """Header, examples with their answers, the question up to the cue."""
    shown = [
        (profile.question + profile.example).format(**names, **_cells(example))
        for example in examples
    ]
    asked = (profile.question + profile.cue).format(**names, **_cells(row))
    return profile.header.format(**names) + "".join(shown) + asked


def names_of(key: str, subject: Subject) -> dict[str, str]:
    """What templates may call a subject."""
    return {
        "subject": key.replace("_", " "),
        "english": subject.english,
        "chinese": subject.chinese,
    }


def _cells(row: dict) -> dict[str, str]:
    """The row's texts; an example's `answer` is among them, a question's is not."""
    kept = ("question", "passage", "A", "B", "C", "D", "answer", "explanation")
    return {"stripped": row["question"].strip()} | {name: row[name] for name in kept if name in row}
