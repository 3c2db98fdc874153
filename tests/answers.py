"""Made-up tables of results, as `tasks.evaluate` gives them, small enough to check by eye."""

import math

import pandas as pd

CHOICES = {"A": "一", "B": "二<b>", "C": "三", "D": "四"}
QUESTION = "甲\n<script>alert(1)</script> $x$"


def answers(labelled: bool = True) -> pd.DataFrame:
    """Two subjects, one of them hard; the last question was too long to ask."""
    rows = [("college_physics", "STEM", True, "0", "A", "A"), ("college_physics", "STEM", True, "7", "B", "C"),
            ("logic", "Humanities", False, "0", "D", "D"), ("logic", "Humanities", False, "1", "D", "D"),
            ("logic", "Humanities", False, "2", "D", "")]  # fmt: skip
    table = pd.DataFrame(rows, columns=["subject", "class", "hard", "id", "expected", "predicted"])
    asked = table["predicted"] != ""
    correct = (table["predicted"] == table["expected"]) & labelled
    return table.assign(
        name=table["subject"].str.title(), question=QUESTION, **CHOICES, correct=correct, too_long=~asked,
        expected=table["expected"] if labelled else "", prompt="问" + table["id"] + "\n答案：", prompt_tokens=11,
        shots_used=asked * 2, **{f"p_{c}": asked.map({True: p, False: math.nan}) for c, p in SHARES.items()},
    )


SHARES = {"A": 0.1, "B": 0.2, "C": 0.3, "D": 0.4}


def yes_or_no() -> pd.DataFrame:
    """BoolQ: one subject, two choices that are their own text."""
    rows = [("0", "no", "no", 0.75, 0.25), ("1", "yes", "no", 0.95, 0.05), ("2", "yes", "yes", 0.45, 0.55)]
    table = pd.DataFrame(rows, columns=["id", "expected", "predicted", "p_no", "p_yes"])
    about = {"subject": "boolq", "name": "BoolQ", "class": "Reading", "hard": False, "question": "is it?",
             "shots_used": 0, "prompt_tokens": 9, "too_long": False, "prompt": "is it?\nAnswer:"}
    return table.assign(correct=table["expected"] == table["predicted"], **about)
