"""Ask an exam's questions and grade the answers. Works on an Engine or a Session.

A run that was killed continues from its journal.
"""

import logging
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from neoxlib.errors import RankError, SettingsError
from neoxlib.exam.ask import Asker, share_out
from neoxlib.exam.data.load import Task
from neoxlib.exam.journal import Journal, QuestionKey, key, question_key
from neoxlib.exam.profiles import Profile
from neoxlib.exam.question import Answer, Question
from neoxlib.exam.results import KEY, TEXTS, choices, column_names, logprob_columns, share_columns
from neoxlib.workbook.progress import Progress

if TYPE_CHECKING:
    from neoxlib.inference.contract import Inference

log = logging.getLogger("neoxlib")
# Most questions of one subject that are asked, and kept in the journal, together.
PORTION = 64
NONE = ""  # predicted for a question that is not asked or whose answer names no choice
RESCORED_COLUMNS = (*KEY, "taken_over", "predicted", "predicted_alone", "flipped", "difference")
TAKEN_OVER = "taken_over"  # in the attrs of a table of results: its rows that a journal answered


def evaluate(
    engine: "Inference",
    task: Task,
    profile: Profile,
    limit: int | None = None,
    journal: str | Path | None = None,
    resume: str | Path | None = None,
) -> pd.DataFrame:
    """Ask every question once (`limit`: the first ones of each subject) and grade it.

    Returns RESULT_COLUMNS; its attrs name the rows that were taken over. Answers are saved in the
    file `journal` as they come; those found there, or with `resume` in an earlier run's folder, are
    not asked for again, and their number is printed. A portion of a subject is asked as a whole, so
    that a resumed run computes what an unbroken one does. The groups of a Session share the
    portions; one that is lost leaves its own to the others, which is printed. Raises SettingsError
    for answers the tokenizer merges with the cue, for scores that are not finite and for a journal
    of another key, DataError for a damaged one. An error of the model stops the run.
    """
    if resume and not journal:
        raise SettingsError("resume goes on in a journal of its own: name a file in journal")
    questions = task.first(limit).reset_index(drop=True)
    asker = Asker(engine, profile)
    own = key(engine, profile, task, limit) if journal else {}
    open_journal = Journal(journal, own, resume) if journal else nullcontext()
    with open_journal as kept, Progress(len(questions), len(questions), "questions") as bar:
        evaluation = Evaluation(task, asker, kept, bar)
        answered = evaluation.answer(engine.groups, questions)
    for told in evaluation.told:  # not before: progress clears what a cell has shown
        print(told)
    results = _graded(questions, answered, task.choices, profile)
    results.attrs[TAKEN_OVER] = tuple(evaluation.taken_over)
    return results


Portion = list[Question]  # of one subject, asked together


class Evaluation:
    """Asks the questions of one exam, and keeps their answers in the journal."""

    def __init__(
        self, task: Task, asker: Asker, journal: Journal | None, progress: Progress
    ) -> None:
        self.task = task
        self.asker = asker
        self.journal = journal
        self.progress = progress
        self.questions: dict[int, Question] = {}  # by their row
        self.taken_over: list[int] = []  # rows that the journal answered
        self.told: list[str] = []  # what was taken over from the journal, and groups that were lost
        self.lock = threading.Lock()  # of the progress bar: each group of ranks has its thread

    def answer(self, engines: Sequence["Inference"], questions: pd.DataFrame) -> list[Question]:
        """Have every question answered that can be asked. Returns one per row, in their order."""
        portions = self._open(questions)
        if self.journal and self.journal.answers:
            portions = iter([*portions])
            answered = (n for n in questions.index if self.questions[n].answer != Answer())
            self.taken_over = list(answered)
            self.told.append(self._taken_over(questions))
        for portion, answers in share_out(engines, portions, self._ask, self._lose):
            for question, answer in zip(portion, answers, strict=True):
                question.answer = answer
            if self.journal:
                self.journal.add({_key(question): question.answer for question in portion})
        return [self.questions[n] for n in questions.index]

    def _open(self, questions: pd.DataFrame) -> Iterator[Portion]:
        """Yield the portions of which the journal lacks an answer; take the others from it."""
        for _, rows in questions.groupby("subject", sort=False):
            for start in range(0, len(rows), PORTION):
                part = rows.iloc[start : start + PORTION]
                built = self.asker.prepare(self.task, part)
                self.questions |= zip(part.index, built, strict=True)
                fit = [question for question in built if not question.prompt.too_long]
                known = self._recall(fit)
                with self.lock:
                    self.progress.skip(len(built) if known else len(built) - len(fit))
                if fit and not known:
                    yield fit

    def _taken_over(self, questions: pd.DataFrame) -> str:
        """How many questions have an answer before any is asked, and how many of them are right."""
        known = self.taken_over
        among, profile = self.task.choices, self.asker.profile
        right = sum(
            predict(among, profile, self.questions[n].answer) == questions.at[n, "expected"]
            for n in known
        )
        said = f"{len(known):,} of {len(questions):,} questions are taken over from the journal"
        return f"{said}, {right:,} of them right." if self.task.labelled else f"{said}."

    def _recall(self, portion: Portion) -> bool:
        """Take the answers of a portion from the journal, if it has all of them."""
        if self.journal is None:
            return False
        found = [self.journal.answers.get(_key(question)) for question in portion]
        if None in found:
            return False
        for question, answer in zip(portion, found, strict=True):
            question.answer = answer
        return True

    def _ask(self, engine: "Inference", portion: Portion) -> list[Answer]:
        shown = 0

        def on_progress(done: int, total: int) -> None:
            nonlocal shown
            before = shown
            shown = done * len(portion) // total
            self._advance(portion[0].row["subject"], shown - before)

        try:
            answers = self.asker.ask(engine, [question.ids for question in portion], on_progress)
        except RankError:
            on_progress(0, 1)  # another group asks them anew
            raise
        on_progress(1, 1)
        return answers

    def _lose(self, group: int, error: RankError) -> None:
        why = str(error).splitlines()[0]
        told = f"group {group} of ranks was lost, and its questions went to the others: {why}"
        log.warning("%s", told)
        self.told.append(told)

    def _advance(self, subject: str, questions: int) -> None:
        with self.lock:
            self.progress.begin(subject, questions)
            self.progress.done(questions)


def _key(question: Question) -> QuestionKey:
    return question_key(*(question.row[name] for name in KEY), question.prompt.text)


def _graded(
    questions: pd.DataFrame, answered: list[Question], among: tuple[str, ...], profile: Profile
) -> pd.DataFrame:
    """The table of results, with RESULT_COLUMNS."""
    answers = [question.answer for question in answered]
    prompts = [question.prompt for question in answered]
    predicted = np.array([predict(among, profile, answer) for answer in answers], dtype=object)
    logprobs = _logprobs(answers, len(among))
    results = questions.assign(
        predicted=predicted,
        correct=(predicted == questions["expected"].to_numpy()) & (predicted != NONE),
        **dict(zip(logprob_columns(among), logprobs.T, strict=True)),
        **dict(zip(share_columns(among), _shares(logprobs).T, strict=True)),
        answer_text=[answer.text for answer in answers],
        shots_used=[prompt.shots_used for prompt in prompts],
        prompt_tokens=[prompt.prompt_tokens for prompt in prompts],
        too_long=np.array([prompt.too_long for prompt in prompts], dtype=bool),
        prompt=[prompt.text for prompt in prompts],
    )
    return results[column_names([name for name in questions if name in TEXTS], among)]


def _logprobs(answers: list[Answer], choices: int) -> np.ndarray:
    """[answers, choices]; nan for an answer without."""
    nothing = (math.nan,) * choices
    rows = [answer.logprobs or nothing for answer in answers]
    return np.array(rows).reshape(len(answers), choices)


def _shares(logprobs: np.ndarray) -> np.ndarray:
    """Softmax of each row."""
    shares = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def predict(among: Sequence[str], profile: Profile, answer: Answer) -> str:
    """Return the most likely choice, the first of equals, or the one the profile reads in a text.

    "" if a text names none, and if there is no answer.
    """
    if answer.logprobs:
        return among[int(np.argmax(answer.logprobs))]
    return profile.extract(answer.text) if answer.text else NONE


def rescore(
    engine: "Inference", profile: Profile, results: pd.DataFrame, sample: int = 16
) -> pd.DataFrame:
    """Ask `sample` of the answered questions again, evenly spread, each in a batch of its own.

    As many of those that were taken over from an earlier run are asked as well. One row per
    question: subject, id, taken_over, predicted, predicted_alone, flipped, difference (the largest
    of any choice's log-probability; nan if answers are generated). Batches pad, share prefixes and
    sum in another order; a difference beyond rounding shows that this was done wrong, or that the
    answer is not this model's.
    """
    asker = Asker(engine, profile)
    answered = results.index[~results["too_long"]]
    taken = answered[answered.isin(results.attrs.get(TAKEN_OVER, ()))]
    chosen = sorted({*_evenly(answered, sample), *_evenly(taken, sample)})
    rows = results.loc[chosen].assign(taken_over=[n in taken for n in chosen]).to_dict("records")
    found = [_rescored(asker, engine, row, choices(results)) for row in rows]
    return pd.DataFrame(found, columns=RESCORED_COLUMNS)


def _evenly(rows: pd.Index, sample: int) -> pd.Index:
    places = np.linspace(0, len(rows) - 1, min(sample, len(rows)))
    return rows[np.unique(places.round().astype(int))]


def _rescored(
    asker: Asker, engine: "Inference", row: dict, among: tuple[str, ...]
) -> dict[str, Any]:
    (answer,) = asker.ask(engine, [asker.encode(row["prompt"])])
    alone = predict(among, asker.profile, answer)
    difference = math.nan
    if answer.logprobs:
        together = [row[name] for name in logprob_columns(among)]
        difference = np.abs(np.subtract(answer.logprobs, together)).max()
    return {
        **{name: row[name] for name in (*KEY, "taken_over", "predicted")},
        "predicted_alone": alone,
        "flipped": alone != row["predicted"],
        "difference": difference,
    }
