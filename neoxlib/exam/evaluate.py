"""Questions → graded rows. Runs on an Engine or a Session alike; a run that was killed goes on from its journal."""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from neoxlib.errors import SettingsError
from neoxlib.exam.ask import Asker, spread
from neoxlib.exam.data.load import Task
from neoxlib.exam.journal import Answer, Journal, Place, key, place
from neoxlib.exam.profiles import Profile
from neoxlib.exam.prompts import Prompt
from neoxlib.exam.results import choices
from neoxlib.workbook.progress import Progress

if TYPE_CHECKING:
    from neoxlib.inference.contract import Inference

PORTION = 64  # questions of one subject at most that are asked, and kept in the journal, together
NONE = ""  # the prediction of a question that could not be asked, or whose answer names no choice


def evaluate(
    engine: "Inference",
    task: Task,
    profile: Profile,
    limit: int | None = None,
    journal: str | Path | None = None,
    resume: str | Path | None = None,
) -> pd.DataFrame:
    """Ask every question once (`limit`: the first so many of each subject) and grade it.

    One row per question, in the exam's order: the columns of `task.questions`, then predicted, correct, for each choice
    logprob_<choice> (the sum over the answer's tokens) and p_<choice> (softmax over the choices), answer_text,
    shots_used, prompt_tokens, too_long, prompt. Where a profile has answers written, answer_text has them, logprob and
    p are nan, and an answer from which no choice can be read is predicted "" and wrong. So is a question too long even
    without examples. Without a key `expected` is "" and nothing is correct.

    Answers are kept in the file `journal` as they come; with `resume`, the folder of an earlier run, or the same
    `journal`, those that are there are not asked for again. Portions of a subject are asked as a whole, so that a run
    that was killed and resumed computes what an unbroken one does. The groups of a Session share the portions out.
    Raises SettingsError for answers the tokenizer runs into the cue, for scores that are not numbers and for a journal
    of another model, profile or dtype; DataError for a damaged one. An error of the model stops the run.
    """
    if resume and not journal:
        raise SettingsError(
            "resume goes on with an earlier run in a journal of its own: name a file in journal"
        )
    questions = (
        task.questions if not limit else task.questions.groupby("subject", sort=False).head(limit)
    )
    questions = questions.reset_index(drop=True)
    asker = Asker(engine, profile)
    open_journal = Journal(journal, key(engine, profile), resume) if journal else nullcontext()
    with open_journal as kept, Progress(len(questions), len(questions), "questions") as bar:
        sitting = Sitting(task, asker, questions, kept, bar)
        sitting.sit(getattr(engine, "groups", [engine]))
    return _grade(task, profile, questions, sitting)


class Portion(NamedTuple):
    """Questions of one subject that are asked together."""

    subject: str
    numbers: list[int]
    prompts: list[list[int]]  # token ids


class Sitting:
    """One evaluation under way: the prompts and answers so far, by the numbers of their questions."""

    def __init__(
        self,
        task: Task,
        asker: Asker,
        questions: pd.DataFrame,
        journal: Journal | None,
        bar: Progress,
    ) -> None:
        self.task = task
        self.asker = asker
        self.questions = questions
        self.journal = journal
        self.bar = bar
        self.prompts: dict[int, Prompt] = {}
        self.answers: dict[int, Answer] = {}
        self.lock = threading.Lock()  # of the bar: groups of ranks are asked from threads

    def sit(self, engines: Sequence[Any]) -> None:
        """Have every question answered that can be."""
        for portion, found in spread(engines, self._open(), self._ask):
            self.answers |= dict(zip(portion.numbers, found, strict=True))
            if self.journal:
                self.journal.add({self._place(n): self.answers[n] for n in portion.numbers})

    def _open(self) -> Iterator[Portion]:
        """The portions of which the journal lacks an answer; those of the others are taken from it."""
        for subject, rows in self.questions.groupby("subject", sort=False):
            for start in range(0, len(rows), PORTION):
                part = rows.iloc[start : start + PORTION]
                built = dict(zip(part.index, self.asker.prompts(self.task, part), strict=True))
                self.prompts |= {n: prompt for n, (prompt, _) in built.items()}
                fit = [n for n in part.index if not self.prompts[n].too_long]
                known = (
                    {n: self.journal.answers.get(self._place(n)) for n in fit}
                    if self.journal
                    else {}
                )
                whole = self.journal is not None and None not in known.values()
                with self.lock:
                    self.bar.skip(len(part) if whole else len(part) - len(fit))
                if whole:
                    self.answers |= known
                elif fit:
                    yield Portion(subject, fit, [built[n][1] for n in fit])

    def _ask(self, engine: "Inference", portion: Portion) -> list[Answer]:
        told = 0

        def tell(done: int, total: int) -> None:
            nonlocal told
            before = told
            told = done * len(portion.numbers) // total
            self._advance(portion.subject, told - before)

        answers = self.asker.ask(engine, portion.prompts, tell)
        tell(1, 1)
        return answers

    def _advance(self, subject: str, questions: int) -> None:
        with self.lock:
            self.bar.begin(subject, questions)
            self.bar.done(questions)

    def _place(self, number: int) -> Place:
        row = self.questions.loc[number]
        return place(row["subject"], row["id"], self.prompts[number].text)


def _grade(task: Task, profile: Profile, questions: pd.DataFrame, sitting: Sitting) -> pd.DataFrame:
    among = task.choices
    prompts = [sitting.prompts[n] for n in questions.index]
    answers = [sitting.answers.get(n, Answer()) for n in questions.index]
    predicted = np.array([predict(among, profile, answer) for answer in answers], dtype=object)
    nothing = (math.nan,) * len(among)
    logprobs = np.array([answer.logprobs or nothing for answer in answers]).reshape(
        len(questions), len(among)
    )
    share = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    return questions.assign(
        predicted=predicted,
        correct=(predicted == questions["expected"].to_numpy()) & (predicted != NONE),
        **{f"logprob_{choice}": logprobs[:, i] for i, choice in enumerate(among)},
        **{f"p_{choice}": share[:, i] for i, choice in enumerate(among)},
        answer_text=[answer.text for answer in answers],
        shots_used=[p.shots_used for p in prompts],
        prompt_tokens=[p.prompt_tokens for p in prompts],
        too_long=np.array([p.too_long for p in prompts], dtype=bool),
        prompt=[p.text for p in prompts],
    )


def predict(among: Sequence[str], profile: Profile, answer: Answer) -> str:
    """The choice that an answer means: the likeliest, the earlier of two alike; or what the profile reads in a text."""
    if answer.logprobs:
        return among[int(np.argmax(answer.logprobs))]
    return profile.extract(answer.text) if answer.text else NONE


def rescore(
    engine: "Inference", profile: Profile, results: pd.DataFrame, sample: int = 16
) -> pd.DataFrame:
    """Ask `sample` questions, spread evenly over those answered, again, each in a batch of its own.

    One row per question: subject, id, predicted, predicted_alone, flipped, difference (the largest of any choice's
    log-probability; nan where answers are written). Batches pad, share beginnings and sum in another order: a
    difference of more than rounding, or an answer that flips without a near tie, says that this was done wrong.
    """
    asker = Asker(engine, profile)
    among = choices(results)
    answered = results[~results["too_long"]]
    chosen = np.unique(
        np.linspace(0, len(answered) - 1, min(sample, len(answered))).round().astype(int)
    )
    rows = []
    for row in answered.iloc[chosen].to_dict("records"):
        (answer,) = asker.ask(engine, [asker.encode(row["prompt"])])
        alone = predict(among, profile, answer)
        together = [row[f"logprob_{choice}"] for choice in among]
        apart = (
            np.abs(np.subtract(answer.logprobs, together)).max() if answer.logprobs else math.nan
        )
        rows.append(
            {
                "subject": row["subject"],
                "id": row["id"],
                "predicted": row["predicted"],
                "predicted_alone": alone,
                "flipped": alone != row["predicted"],
                "difference": apart,
            }
        )
    return pd.DataFrame(
        rows, columns=["subject", "id", "predicted", "predicted_alone", "flipped", "difference"]
    )
