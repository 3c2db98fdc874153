"""From graded questions to accuracies that say how sure they are. Works on the results table alone."""

import math
from typing import TYPE_CHECKING

import pandas as pd

from neoxlib.demo import EXAM_DIR, MODEL_DIR
from neoxlib.exam.data.subjects import CLASSES
from neoxlib.exam.results import guessing
from neoxlib.exam.significance import better_than_shuffled

if TYPE_CHECKING:
    from neoxlib.workbook.run import Run

PASS = 0.6  # what the shipped model is made to reach on its exam
Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(accuracy: float, questions: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, inside 0…1; (nan, nan) for no questions.

    E. B. Wilson, JASA 22 (1927), 209-212. Unlike the plain normal interval it holds at few questions and near 0 or 1.
    """
    if questions == 0 or math.isnan(accuracy):
        return math.nan, math.nan
    spread = z * math.sqrt(
        accuracy * (1 - accuracy) / questions + z * z / (4 * questions * questions)
    )
    centre = accuracy + z * z / (2 * questions)
    scale = 1 + z * z / questions
    low = (centre - spread) / scale
    high = (centre + spread) / scale
    return max(0.0, min(low, accuracy)), min(
        1.0, max(high, accuracy)
    )  # rounding must not leave the score outside


def better_than_guessing(correct: int, questions: int, choices: int = 4) -> float:
    """Exact one-sided binomial p-value: the chance that guessing among the choices gets at least `correct` right.

    It pairs each answer with a fair guess at the same question. Integers until the last division, so no rounding at any
    size: with c choices the sum of C(n, k) (c-1)^(n-k) over k ≥ correct, over c^n.
    """
    if questions == 0:
        return math.nan
    wrong = choices - 1
    term = total = wrong ** (questions - correct) * math.comb(questions, correct)
    for k in range(correct, questions):
        term = (
            term * (questions - k) // (wrong * (k + 1))
        )  # exact: C(n, k+1) wrong^(n-k-1) is a whole number
        total += term
    return total / choices**questions


def by_subject(results: pd.DataFrame) -> pd.DataFrame:
    """One row per subject, in the order of the exam: its name and class, then the columns of `score`."""
    rows = [
        {
            "subject": subject,
            "name": part["name"].iloc[0],
            "class": part["class"].iloc[0],
            **score(part),
        }
        for subject, part in results.groupby("subject", sort=False)
    ]
    return _table(rows)


def by_class(results: pd.DataFrame) -> pd.DataFrame:
    """One row per class that was asked, in the benchmark's order, and the hard subset over its own questions."""
    parts = {
        name: results[results["class"] == name]
        for name in dict.fromkeys((*CLASSES, *results["class"]))
    }
    parts["Hard"] = results[results["hard"]]
    return _table([{"class": name, **score(part)} for name, part in parts.items() if len(part)])


def averages(results: pd.DataFrame) -> pd.DataFrame:
    """Micro (every question weighs the same) and macro (every subject weighs the same).

    The macro interval is Wilson's on Kish's effective number of questions, S² / Σ 1/n_s over S subjects; it has no
    tests, since subjects of unequal size make it no count of successes. p_shuffled is the micro average's test against
    the same answers dealt to the questions at random: see `better_than_shuffled`.
    """
    subjects = by_subject(results)
    macro = float(subjects["accuracy"].mean())
    effective = len(subjects) ** 2 / (1 / subjects["questions"]).sum()
    low, high = wilson(macro, effective)
    micro = score(results) | {"p_shuffled": better_than_shuffled(results)}
    tests = {"correct": None, "p_guessing": math.nan, "p_shuffled": math.nan}
    other = {"accuracy": macro, "low": low, "high": high, **tests}
    return _table([{"average": "micro", **micro}, {"average": "macro", **micro, **other}])


def score(part: pd.DataFrame) -> dict[str, float | int | None]:
    """Questions, correct, accuracy, Wilson 95 % interval, p-value against guessing, questions too long to ask.

    A question that was too long to ask counts as wrong. Without answers there is nothing to score: accuracy is nan.
    """
    n = len(part)
    labelled = bool((part["expected"] != "").all())
    correct = int(part["correct"].sum()) if labelled else None
    accuracy = correct / n if labelled else math.nan
    low, high = wilson(accuracy, n)
    p_value = better_than_guessing(correct, n, round(1 / guessing(part))) if labelled else math.nan
    return {
        "questions": n,
        "correct": correct,
        "accuracy": accuracy,
        "low": low,
        "high": high,
        "p_guessing": p_value,
        "too_long": int(part["too_long"].sum()),
    }


def summary(results: pd.DataFrame, average: str) -> dict[str, float | int | str | None]:
    """The run's headline under the profile's `average`, with what it stands on, for the metrics of a run."""
    micro, macro = averages(results).to_dict("records")
    headline = macro if average == "macro" else micro
    return {
        "accuracy": headline["accuracy"],
        "accuracy_low": headline["low"],
        "accuracy_high": headline["high"],
        "average": average,
        "p_guessing": micro["p_guessing"],
        "p_shuffled": micro["p_shuffled"],
        "questions": len(results),
        "too_long": micro["too_long"],
    }


def verdict(scored: pd.DataFrame | dict, p_limit: float = 0.01) -> str:
    """One sentence on a row of `score`: is it better than guessing?"""
    if pd.isna(scored["accuracy"]):
        return "no answers in this split: nothing to score"
    what = f"{scored['correct']} of {scored['questions']} right ({scored['accuracy']:.1%})"
    better = "better than" if scored["p_guessing"] < p_limit else "not shown to be better than"
    said = f"{what}: {better} guessing (p {scored['p_guessing']:.2g})"
    if scored["p_guessing"] < p_limit <= scored.get("p_shuffled", 0.0):
        said += f", but so are the same answers dealt to the questions at random (p {scored['p_shuffled']:.2g}): "
        said += (
            "it favours a choice that is often right, and does not show that it reads the questions"
        )
    return said


def readable(scores: pd.DataFrame) -> pd.DataFrame:
    """A table of scores for people: per cent, one interval column, names as the index; the CSV has the numbers."""
    p_values = {"p_guessing": "p, guessing", "p_shuffled": "p, shuffled"}
    shown = {name: label for name, label in p_values.items() if name in scores}
    table = scores.drop(columns=["accuracy", "low", "high", *shown])
    table = (
        table.drop(columns="subject").set_index("name")
        if "name" in table
        else table.set_index(table.columns[0])
    )
    table = table.rename_axis(None)  # a named index takes a header line of its own
    accuracy = [_percent(value) for value in scores["accuracy"]]
    ends = zip(scores["low"], scores["high"], strict=True)
    interval = [
        "–" if pd.isna(low) else f"{100 * low:.1f} – {100 * high:.1f} %" for low, high in ends
    ]
    tests = {
        label: ["" if pd.isna(p) else f"{p:.2g}" for p in scores[name]]
        for name, label in shown.items()
    }
    table = table.assign(**{"accuracy": accuracy, "95 % interval": interval, **tests})
    return table.assign(correct=["" if pd.isna(c) else str(c) for c in scores["correct"]])


def _table(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype(
        {"correct": "Int64", "p_guessing": float}
    )  # both may be missing


def _percent(value: float) -> str:
    return "–" if pd.isna(value) else f"{100 * value:.1f} %"


def check_shipped(results: pd.DataFrame, run: "Run") -> None:
    """Record in `run`, where the shipped model sat the whole shipped exam, whether it still passes.

    Its answers are a signal of their own: an error in cutting or scoring that left the logits' shape alone would
    show as a fallen score. Of any other model no score is expected.
    """
    asked = run.params
    shipped = (asked.model_dir, asked.data_dir) == (str(MODEL_DIR), str(EXAM_DIR))
    if shipped and asked.split != "test" and not (asked.subjects or asked.limit):
        share = results["correct"].mean()
        run.check(
            "the shipped model passes the shipped exam",
            share >= PASS,
            f"{share:.1%}, {PASS:.0%} is asked for",
        )
