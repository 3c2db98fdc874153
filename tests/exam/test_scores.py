"""Accuracies, intervals and tests against numbers that were found in another way."""

import math
from itertools import product
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neoxlib.demo import EXAM_DIR, MODEL_DIR
from neoxlib.exam import averages, by_class, by_subject, check_shipped, readable, summary, verdict
from neoxlib.exam.scores import Z95, answer, better_than_guessing, check_complete, wilson


def results(*subjects: tuple[str, str, bool, str]) -> pd.DataFrame:
    """Rows as `evaluate` gives them; each subject is (name, class, hard, marks).

    A mark is + (right), - (wrong) or x (too long).
    """
    return pd.DataFrame(
        [
            {
                "subject": name,
                "name": name.title(),
                "class": category,
                "hard": hard,
                "expected": "A",
                "predicted": {"+": "A", "-": "B", "x": ""}[mark],
                "correct": mark == "+",
                "too_long": mark == "x",
                **dict.fromkeys(("p_A", "p_B", "p_C", "p_D"), 0.25),
            }
            for name, category, hard, marks in subjects
            for mark in marks
        ]
    )


EXAM = results(
    ("physics", "STEM", True, "+-"),
    ("biology", "STEM", False, "++++++-x"),
    ("law", "Other", False, "---+"),
)


@pytest.mark.parametrize(
    ("correct", "questions", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(correct, questions, low, high):
    """Examples and score method of R. G. Newcombe, Statistics in Medicine 17 (1998), 857-872."""
    assert wilson(correct / questions, questions) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("questions", [1, 7, 28, 224])
def test_wilsons_interval_holds_the_score_at_both_ends(questions):
    assert (
        wilson(1.0, questions)[1] == 1.0
    )  # rounding must not put it below: plots draw the distance
    assert wilson(0.0, questions)[0] == 0.0


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_ends_are_where_the_score_test_just_rejects(case):
    """Its definition: (p̂ - p)² = z² p (1 - p) / n at both ends, one on each side of p̂."""
    correct, questions = case
    share = correct / questions
    low, high = wilson(share, questions)
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
    for end in (low, high):
        assert (share - end) ** 2 == pytest.approx(Z95**2 * end * (1 - end) / questions, abs=1e-12)


def test_better_than_guessing_counts_every_way_to_guess():
    """All 4^6 ways to answer six questions, counted one by one."""
    right = [sum(letter == "A" for letter in ways) for ways in product("ABCD", repeat=6)]
    for correct in range(7):
        assert better_than_guessing(correct, 6) == sum(n >= correct for n in right) / 4**6


def test_guessing_between_two_is_right_half_the_time():
    assert (
        better_than_guessing(1, 1, choices=2) == 0.5
        and better_than_guessing(3, 4, choices=2) == 5 / 16
    )


def test_boolqs_score_is_held_against_a_half_and_its_class_has_a_row():
    two = results(("boolq", "Reading", False, "++++++++--")).drop(columns=["p_C", "p_D"])
    assert by_subject(two)["p_guessing"].tolist() == [better_than_guessing(8, 10, choices=2)]
    assert by_class(two)["class"].tolist() == ["Reading"]


def test_better_than_guessing_holds_at_the_size_of_the_whole_exam():
    """Each term on its own in logarithms, as floating point allows."""
    n = 12342
    correct = 3200
    logs = (
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + (n - k) * math.log(3)
        - n * math.log(4)
        for k in range(correct, n + 1)
    )
    assert better_than_guessing(correct, n) == pytest.approx(
        math.fsum(map(math.exp, logs)), rel=1e-8
    )
    assert better_than_guessing(n, n) == 0.0 and better_than_guessing(0, n) == 1.0


def test_subjects_keep_the_exams_order_and_count_too_long_as_wrong():
    table = by_subject(EXAM)
    assert table["subject"].tolist() == ["physics", "biology", "law"]
    assert table["accuracy"].tolist() == [0.5, 0.75, 0.25]
    assert table["correct"].tolist() == [1, 6, 1] and table["too_long"].tolist() == [0, 1, 0]


def test_the_hard_subset_is_divided_by_its_own_questions():
    """Newer vendor scripts divide the hard answers that are right by all questions."""
    table = by_class(EXAM).set_index("class")
    assert table["questions"].to_dict() == {"STEM": 10, "Other": 4, "Hard": 2}
    assert table["accuracy"].to_dict() == {"STEM": 0.7, "Other": 0.25, "Hard": 0.5}


def test_micro_weighs_questions_and_macro_weighs_subjects():
    micro, macro = averages(EXAM).to_dict("records")
    assert micro["accuracy"] == pytest.approx(8 / 14) and macro["accuracy"] == pytest.approx(0.5)
    assert (micro["low"], micro["high"]) == wilson(8 / 14, 14)
    assert (macro["low"], macro["high"]) == wilson(0.5, 9 / (1 / 2 + 1 / 8 + 1 / 4))
    assert math.isnan(macro["p_guessing"]) and pd.isna(macro["correct"])


def test_with_subjects_of_one_size_macro_and_micro_agree():
    micro, macro = averages(
        results(("a", "STEM", False, "++-"), ("b", "Other", False, "+--"))
    ).to_dict("records")
    for key in ("accuracy", "low", "high"):
        assert macro[key] == pytest.approx(micro[key])


def test_the_summary_leads_with_the_average_that_the_profile_names():
    macro = summary(EXAM, "macro")
    micro = summary(EXAM, "micro")
    assert (macro["accuracy"], micro["accuracy"]) == pytest.approx((0.5, 8 / 14))
    assert (
        macro["accuracy_low"] < micro["accuracy_low"] and macro["p_guessing"] == micro["p_guessing"]
    )
    assert (macro["questions"], macro["too_long"]) == (14, 1)


def test_a_split_without_answers_has_no_score():
    unlabelled = EXAM.assign(expected="", correct=False)
    for table in (by_subject(unlabelled), by_class(unlabelled), averages(unlabelled)):
        assert table[["accuracy", "low", "high", "correct", "p_guessing"]].isna().all(axis=None)
        assert "–" in readable(table)["accuracy"].tolist()
    assert "nothing to score" in verdict(averages(unlabelled).iloc[0])


def test_the_verdict_says_better_only_where_guessing_is_unlikely():
    assert "not shown to be better" in verdict(
        averages(results(("a", "STEM", False, "+--"))).iloc[0]
    )
    assert "right (100.0%): better than guessing" in verdict(
        averages(results(("a", "STEM", False, "+" * 9))).iloc[0]
    )


def test_readable_tables_have_words_for_heads_and_for_chances():
    table = readable(averages(EXAM))
    assert not [name for name in table if "_" in name]
    said = [cell for cell in table["p, guessing"] if cell]
    assert said and all(" in " in cell for cell in said)


def test_readable_tables_are_in_per_cent():
    row = readable(by_subject(EXAM)).loc["Biology"]
    assert (row["accuracy"], row["95 % interval"], row["correct"]) == (
        "75.0 %",
        "40.9 – 92.9 %",
        "6",
    )


class Notes:
    """The parameters of a run, and the checks it is told of."""

    def __init__(self, **params: object) -> None:
        shipped = {"model_dir": str(MODEL_DIR), "data_dir": str(EXAM_DIR), "split": "val"}
        self.params = SimpleNamespace(**shipped | {"subjects": None, "limit": None} | params)
        self.checks: dict[str, bool] = {}

    def check(self, name: str, passed: bool, detail: str) -> None:
        self.checks[name] = bool(passed)


@pytest.mark.parametrize("right, passes", [(60, True), (59, False)])
def test_the_shipped_model_must_pass_the_shipped_exam(right: int, passes: bool):
    notes = Notes()
    check_shipped(pd.DataFrame({"correct": [True] * right + [False] * (100 - right)}), notes)
    assert list(notes.checks.values()) == [passes]


@pytest.mark.parametrize(
    "change", [{"model_dir": "/m"}, {"data_dir": "/data/ceval"}, {"split": "test"}, {"limit": 3}]
)
def test_no_score_is_asked_of_any_other_model_or_exam(change: dict):
    notes = Notes(**change)
    check_shipped(pd.DataFrame({"correct": [False]}), notes)
    assert not notes.checks


@pytest.mark.parametrize(
    ("limit", "found", "complete"),
    [(None, 5, True), (None, 4, False), (2, 3, True), (2, 4, False), (9, 5, True)],
)
def test_every_question_that_was_asked_must_be_in_the_results(limit, found, complete):
    notes = Notes(limit=limit)
    paper = SimpleNamespace(questions=pd.DataFrame({"subject": ["art"] + ["law"] * 4}))
    check_complete(paper, pd.DataFrame(index=range(found)), notes)
    assert notes.checks == {"every question is in the results": complete}


SCORED = {"accuracy": 0.9375, "accuracy_low": 0.898, "accuracy_high": 0.962, "questions": 224}
CERTAIN = {"p_guessing": 4e-107, "p_shuffled": 1e-4}


def told(*checks: dict, **values: float | None) -> dict:
    return {"checks": list(checks), "metrics": SCORED | values, "model": {"world_size": 2}}


@pytest.mark.parametrize(
    ("chances", "words"),
    [
        (CERTAIN, "better than guessing."),
        ({"p_guessing": 0.2, "p_shuffled": 0.2}, "not shown to be better than guessing."),
        (CERTAIN | {"p_shuffled": 0.4}, "but not than its own answers dealt out at random."),
        ({"p_guessing": math.nan, "p_shuffled": math.nan}, "not shown to be better than guessing."),
    ],
)
def test_the_answer_is_the_score_and_whether_guessing_explains_it(chances, words):
    said = answer(told(), chances, 0.25)
    assert said.startswith("93.8 % right (95 % interval 89.8 – 96.2 %) over 224 questions, ")
    assert "guessing gets 25 %" in said and said.endswith(words)


def test_a_score_without_a_key_or_with_a_failed_check_is_none():
    assert answer(told(accuracy=None), CERTAIN, 0.25).startswith("No score: ")
    failed = {"name": "every question is in the results", "passed": False, "detail": "3 of 4"}
    said = answer(told(failed), CERTAIN, 0.25)
    assert said.startswith("Do not use this score. every question is in the results: no (3 of 4).")
