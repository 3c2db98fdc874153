"""One question on its way from the exam's table to the table of results."""

from dataclasses import dataclass
from typing import Any

from neoxlib.exam.prompts import Prompt


@dataclass(frozen=True)
class Answer:
    """The model's answer: log-probabilities in the order of the choices, or a text."""

    logprobs: tuple[float, ...] = ()
    text: str = ""


@dataclass
class Question:
    """A question of an exam, the prompt that asks it, and in the end its answer."""

    row: dict[str, Any]  # of `Task.questions`: subject, id, its texts, expected
    prompt: Prompt
    ids: list[int]  # tokens of the prompt
    answer: Answer = Answer()  # empty until it is answered, and if it is too long to ask
