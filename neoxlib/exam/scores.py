"""Accuracies with intervals and tests, from the table of results alone."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from neoxlib.demo import EXAM_DIR, MODEL_DIR
from neoxlib.exam.data.subjects import CLASSES
from neoxlib.exam.results import guessing
from neoxlib.exam.significance import better_than_shuffled
from neoxlib.inference.parity import MAX_TOKENS, TOLERANCE, same
from neoxlib.workbook import metrics
from neoxlib.workbook.results import failed

if TYPE_CHECKING:
    from neoxlib.exam.data.load import Task
    from neoxlib.inference.contract import Inference
    from neoxlib.workbook.run import Run

PASS = 0.6  # accuracy that the shipped model reaches on its exam
Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(accuracy: float, questions: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, within 0…1; (nan, nan) for no questions.

    E. B. Wilson, JASA 22 (1927), 209-212. Unlike the plain normal interval it is valid for few
    questions and near 0 or 1.
    """
    if questions == 0 or math.isnan(accuracy):
        return math.nan, math.nan
    variance = accuracy * (1 - accuracy) / questions + z * z / (4 * questions * questions)
    margin = z * math.sqrt(variance)
    centre = accuracy + z * z / (2 * questions)
    scale = 1 + z * z / questions
    low = (centre - margin) / scale
    high = (centre + margin) / scale
    # Rounding must not leave the accuracy outside.
    return max(0.0, min(low, accuracy)), min(1.0, max(high, accuracy))


def better_than_guessing(correct: int, questions: int, choices: int = 4) -> float:
    """Exact one-sided binomial p-value: the chance that guessing gets at least `correct` right.

    Each question is a fair guess among the choices. Integers until the last division, so nothing is
    rounded: with c choices the sum of C(n, k) (c-1)^(n-k) over k ≥ correct, over c^n.
    """
    if questions == 0:
        return math.nan
    wrong = choices - 1
    term = total = wrong ** (questions - correct) * math.comb(questions, correct)
    for k in range(correct, questions):
        # Exact: C(n, k+1) wrong^(n-k-1) is an integer.
        term = term * (questions - k) // (wrong * (k + 1))
        total += term
    return total / choices**questions


def by_subject(results: pd.DataFrame) -> pd.DataFrame:
    """One row per subject, in the exam's order: its name and class, then the columns of `score`."""
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
    """One row per class that was asked, in the benchmark's order, then the hard subset."""
    parts = {
        name: results[results["class"] == name]
        for name in dict.fromkeys((*CLASSES, *results["class"]))
    }
    parts["Hard"] = results[results["hard"]]
    return _table([{"class": name, **score(part)} for name, part in parts.items() if len(part)])


def averages(results: pd.DataFrame) -> pd.DataFrame:
    """Micro (every question weighs the same) and macro (every subject weighs the same).

    The macro interval is Wilson's on Kish's effective number of questions, S² / Σ 1/n_s over S
    subjects. Macro has no tests: with subjects of unequal size it is no count of successes.
    p_shuffled is the micro average's test against the same answers shuffled among the questions:
    see `better_than_shuffled`.
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
    """Questions, correct, accuracy, Wilson 95 % interval, p-value against guessing, too long.

    A question that is too long to ask counts as wrong. Without a key the accuracy is nan.
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
    """The metrics of a run: its headline, the profile's `average`, with interval and tests."""
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
    """One sentence on a row of `score`: is it better than guessing?

    With p_shuffled, as in the micro average, also: is it better than its own answers shuffled?
    """
    if pd.isna(scored["accuracy"]):
        return "no answers in this split: nothing to score"
    what = f"{scored['correct']} of {scored['questions']} right ({scored['accuracy']:.1%})"
    better = "better than" if scored["p_guessing"] < p_limit else "not shown to be better than"
    said = f"{what}: {better} guessing (p {scored['p_guessing']:.2g})"
    if scored["p_guessing"] < p_limit <= scored.get("p_shuffled", 0.0):
        said += (
            ", but so are the same answers dealt to the questions at random "
            f"(p {scored['p_shuffled']:.2g}): it favours a choice that is often right, and does "
            "not show that it reads the questions"
        )
    return said


def answer(results: Mapping[str, Any], scored: Mapping[str, Any], guessed: float) -> str:
    """Answer 03_ceval from its run's figures: how well, and is it better than guessing?

    `scored` is the row of the micro average, `guessed` the accuracy of guessing.
    """
    values = results["metrics"]
    if values.get("accuracy") is None:
        return "No score: this split has no answers to compare with."
    ends = metrics.interval("accuracy", values)
    right = metrics.shown("accuracy", values["accuracy"])
    said = f"{right} right (95 % interval {ends} %) over {values['questions']:,} questions"
    said += f", guessing gets {100 * guessed:.0f} %: {_than_guessing(scored)}."
    model = same(results)
    if wrong := failed(results):
        return f"Do not use this score. {wrong}. {said}"
    return f"{said} {model[0].upper()}{model[1:]}." if model else said


def _than_guessing(scored: Mapping[str, Any], limit: float = 0.01) -> str:
    """Whether a score is more than guessing, or than the same answers shuffled, can explain."""
    if not scored["p_guessing"] < limit:
        return "not shown to be better than guessing"
    if scored["p_shuffled"] >= limit:
        return "better than guessing, but not than its own answers dealt out at random"
    return "better than guessing"


def readable(scores: pd.DataFrame) -> pd.DataFrame:
    """A table of scores for people: per cent, one column of intervals, names as the index.

    The CSV has the numbers.
    """
    p_values = {"p_guessing": "p, guessing", "p_shuffled": "p, shuffled"}
    shown = {name: label for name, label in p_values.items() if name in scores}
    table = scores.drop(columns=["accuracy", "low", "high", *shown])
    by = "name" if "name" in table else table.columns[0]
    table = table.drop(columns="subject", errors="ignore").set_index(by)
    table = table.rename_axis(None)  # a named index takes a header line of its own
    ends = zip(scores["low"], scores["high"], strict=True)
    columns = {
        "accuracy": [_percent(value) for value in scores["accuracy"]],
        "95 % interval": [_interval(low, high) for low, high in ends],
        **{label: [_p_value(p) for p in scores[name]] for name, label in shown.items()},
        "correct": ["" if pd.isna(c) else str(c) for c in scores["correct"]],
    }
    return table.assign(**columns).rename(columns={"too_long": "too long"})


def _table(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype({"correct": "Int64", "p_guessing": float})  # may be missing


def _percent(value: float) -> str:
    return "–" if pd.isna(value) else f"{100 * value:.1f} %"


def _interval(low: float, high: float) -> str:
    return "–" if pd.isna(low) else f"{100 * low:.1f} – {100 * high:.1f} %"


def _p_value(value: float) -> str:
    return "" if pd.isna(value) else metrics.shown("p_guessing", value)


def check_shipped(results: pd.DataFrame, run: "Run") -> None:
    """Check in `run` that the shipped model still passes, if it took the whole shipped exam.

    An error in cutting or scoring that keeps the shape of the logits shows as a lower score. No
    score is expected of any other model.
    """
    asked = run.params
    shipped = (asked.model_dir, asked.data_dir) == (str(MODEL_DIR), str(EXAM_DIR))
    if shipped and asked.split != "test" and not (asked.subjects or asked.limit):
        share = results["correct"].mean()
        run.check(
            "the shipped model passes the shipped exam",
            share >= PASS,
            f"{100 * share:.1f} %, at least {100 * PASS:.0f} % is expected",
        )


def check_complete(paper: "Task", results: pd.DataFrame, run: "Run") -> None:
    """Record in `run` whether each question that it asks, at most `limit` a subject, has a
    result.
    """
    sizes = paper.questions.groupby("subject").size()
    asked = sum(min(run.params.limit or size, size) for size in sizes)
    found = f"{len(results)} of {asked}"
    run.check("every question is in the results", len(results) == asked, found)


def check_rescored(
    rescored: pd.DataFrame, results: pd.DataFrame, engine: "Inference", run: "Run"
) -> None:
    """Record in `run` whether the answers that `rescore` asked again are those of the results.

    Log-probabilities may differ by rounding, and so a near tie may flip. A text that rounding
    changes once goes on otherwise: of generated answers half may flip.
    """
    if rescored.empty:
        return
    limit = _rounding(results.loc[~results["too_long"], "prompt"].iloc[0], engine)
    generated = rescored["difference"].isna().all()
    differ = rescored["flipped"] if generated else ~(rescored["difference"] <= limit)
    passed = differ.mean() <= 0.5 if generated else not differ.any()
    said = f"{differ.sum()} of {len(rescored)} answers differ"
    if not generated:
        largest = rescored["difference"].max()
        said += f", log-probabilities by up to {largest:.2g}; rounding explains {limit:.2g}"
    taken = differ[rescored["taken_over"].astype(bool)]
    if not passed and taken.any():
        who = f"{taken.sum()} of {len(taken)} answers taken over are not this model's"
        said = f"{who}: run it without resume; {said}"
    run.check("answers asked again alone are the same", passed, said)


def _rounding(prompt: str, engine: "Inference") -> float:
    """The largest difference of a log-probability, in nats, that rounding explains.

    A log-probability is off by twice its logit at most, and both that are compared may be.
    """
    about = engine.describe()
    numbers = "bfloat16" if about["quant"] else about["dtype"]  # as parity.compare
    logits = engine.logits([list(engine.tokenizer(prompt)["input_ids"])[:MAX_TOKENS]])
    return 4 * TOLERANCE[numbers] * logits.std().item()
