"""The table of results: its columns, its choices, and each question's mark."""

from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd


class Column(NamedTuple):
    """A column of the table of results; {text} and {choice} stand for each of the exam's."""

    name: str
    kind: type
    meaning: str


# One row per question, in the exam's order; a run saves it as questions.csv.
RESULT_COLUMNS = (
    Column("subject", str, "key of the subject, as its file is named"),
    Column("name", str, "English name of the subject"),
    Column("class", str, "class of the subject, such as STEM"),
    Column("hard", bool, "whether the subject is in the benchmark's hard subset"),
    Column("id", str, "of the question, unique in its subject"),
    Column("{text}", str, "each of TEXTS that the exam has, as in the file"),
    Column("expected", str, "right choice; empty without a key"),
    Column("predicted", str, "choice of the model; empty if not asked, or if none can be read"),
    Column("correct", bool, "whether predicted is expected; False without a key"),
    Column("logprob_{choice}", float, "sum over the answer's tokens; nan if none was scored"),
    Column("p_{choice}", float, "softmax of the log-probabilities over the choices, or nan"),
    Column("answer_text", str, "text that the model wrote; empty if choices were scored"),
    Column("shots_used", int, "examples in the prompt"),
    Column("prompt_tokens", int, "length of the prompt"),
    Column("too_long", bool, "whether no prompt fits the window; such a question is not asked"),
    Column("prompt", str, "text that the model read"),
)
TEXTS = ("question", "passage", "A", "B", "C", "D")  # of all benchmarks
KEY = ("subject", "id")  # identify a question in an exam
FLAGS = tuple(column.name for column in RESULT_COLUMNS if column.kind is bool)

RIGHT = "right"
WRONG = "wrong"
TOO_LONG = "too long"
ANSWERED = "answered"  # in a split without a key, where nothing is right or wrong
MARKS = (RIGHT, WRONG, TOO_LONG, ANSWERED)

_LOGPROB = "logprob_"
_SHARE = "p_"


def column_names(texts: Iterable[str], choices: Iterable[str]) -> list[str]:
    """Names of RESULT_COLUMNS in their order, for an exam of these texts and choices."""
    stands_for = {"{text}": tuple(texts), "{choice}": tuple(choices)}
    names = []
    for column in RESULT_COLUMNS:
        sign = column.name[column.name.find("{") :] if "{" in column.name else ""
        names += [column.name.replace(sign, each) for each in stands_for.get(sign, ("",))]
    return names


def logprob_columns(choices: Iterable[str]) -> list[str]:
    """The columns of log-probabilities, in the order of the choices."""
    return [f"{_LOGPROB}{choice}" for choice in choices]


def share_columns(choices: Iterable[str]) -> list[str]:
    """The columns of probabilities among the choices, in the order of the choices."""
    return [f"{_SHARE}{choice}" for choice in choices]


def choices(results: pd.DataFrame) -> tuple[str, ...]:
    """The exam's choices in their order: A, B, C, D, or BoolQ's no and yes."""
    return tuple(name.removeprefix(_SHARE) for name in results.columns if name.startswith(_SHARE))


def guessing(results: pd.DataFrame) -> float:
    """The share that guessing gets right: one over the number of choices."""
    return 1 / len(choices(results))


def marks(results: pd.DataFrame) -> pd.Series:
    """One of MARKS for each question."""
    marked = results["correct"].map({True: RIGHT, False: WRONG})
    marked = marked.mask(results["expected"] == "", ANSWERED)
    return marked.mask(results["too_long"], TOO_LONG)


def confidence(results: pd.DataFrame) -> pd.Series:
    """The probability of the most likely choice; nan if none was scored (too long, generated)."""
    return results[share_columns(choices(results))].astype(float).max(axis=1)
