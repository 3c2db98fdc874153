"""What a model is asked, by which rules: one row of PROFILES per published way to run an exam."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from neoxlib.errors import SettingsError
from neoxlib.tasks.data import CHOICES, Task, did_you_mean
from neoxlib.tasks.subjects import Subject


@dataclass(frozen=True)
class Profile:
    """The rules of one scoring. Templates are filled from the question's own columns."""

    name: str
    task: str
    header: str  # {english} and {chinese} are the subject's names
    question: str
    cue: str  # ends the prompt: no blank after it, the answer token brings its own
    example: str  # follows an example's cue
    answers: tuple[str, ...]  # what is scored after the cue, in the order of the choices; one token each
    average: str  # the published headline: "macro" over subjects or "micro" over questions
    source: str


@dataclass(frozen=True)
class Prompt:
    """One question as the model reads it."""

    text: str
    shots_used: int
    prompt_tokens: int
    too_long: bool  # not even the bare question fits; it is counted and shown, never dropped


PROFILES = {
    "official": Profile(
        name="official",
        task="ceval",
        header="以下是中国关于{chinese}考试的单项选择题，请选出其中的正确答案。\n\n",
        question="{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}\n",
        cue="答案：",
        example="{answer}\n\n",
        answers=("A", "B", "C", "D"),
        average="macro",
        source="github.com/hkust-nlp/ceval, answer-only prompt, code/evaluator_series/evaluators/llama.py",
    ),
}


def get_profile(name: str, task: str) -> Profile:
    """The profile's row; SettingsError where it is unknown or belongs to another task."""
    known = [p.name for p in PROFILES.values() if p.task == task]
    if name not in known:
        hint = did_you_mean(name, known)
        raise SettingsError(f"profile {name!r} is not known for {task}{hint}; known: {', '.join(known)}")
    return PROFILES[name]


def build_prompts(
    task: Task, questions: pd.DataFrame, profile: Profile, count: Callable[[str], int], room: int
) -> list[Prompt]:
    """One prompt per row of `questions`. `count` gives a text's tokens; `room` is how many fit."""
    prompts = []
    for row in questions.to_dict("records"):
        # Asked about a dev row, its own answer must not stand among the examples.
        examples = [e for e in task.examples[row["subject"]] if task.split != "dev" or e["id"] != row["id"]]
        prompts.append(fit(profile, task.subjects[row["subject"]], row, examples, count, room))
    return prompts


def fit(
    profile: Profile, subject: Subject, row: dict, examples: list[dict], count: Callable[[str], int], room: int
) -> Prompt:
    """Whole examples fall off the end until the prompt fits; cutting tokens from the left would destroy the header."""
    for shots in range(len(examples), -1, -1):
        text = render(profile, subject, row, examples[:shots])
        tokens = count(text)
        if tokens <= room:
            return Prompt(text, shots, tokens, too_long=False)
    return Prompt(text, 0, tokens, too_long=True)


def render(profile: Profile, subject: Subject, row: dict, examples: list[dict]) -> str:
    """Header, examples with their answers, the question up to the cue."""
    ask = profile.question + profile.cue
    shown = [(ask + profile.example).format(**_cells(example)) for example in examples]
    return profile.header.format(**subject._asdict()) + "".join(shown) + ask.format(**_cells(row))


def _cells(row: dict) -> dict[str, str]:
    return {key: row[key] for key in ("question", *CHOICES, "answer") if key in row}
