"""Does a choice that the model holds 70 % likely turn out right 70 % of the time?"""

import math

import numpy as np
import pandas as pd

from neoxlib.exam.results import confidence
from neoxlib.exam.scores import wilson

BINS = 10
BIN_COLUMNS = ["from", "to", "questions", "confidence", "accuracy", "low", "high"]


def confidence_bins(results: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """One row per non-empty bin of equal width, by the probability of the most likely choice.

    Columns: from, to (a bin holds its upper end, as in Guo et al., arXiv 1706.04599), questions,
    confidence (mean probability of the most likely choice), accuracy with its Wilson 95 % interval
    low, high. Questions without probabilities or without a key are left out; the table may then be
    empty.
    """
    known = pd.DataFrame(
        {"confidence": confidence(results), "right": results["correct"].astype(float)}
    )
    known = known[known["confidence"].notna() & (results["expected"] != "")]
    number = np.clip(np.ceil(known["confidence"].to_numpy() * bins) - 1, 0, bins - 1).astype(int)
    rows = [_row(part, int(n), bins) for n, part in known.groupby(number)]
    return pd.DataFrame(rows, columns=BIN_COLUMNS)


def expected_calibration_error(table: pd.DataFrame) -> float:
    """Mean distance of confidence and accuracy over the bins, weighted by questions.

    nan without bins.
    """
    if not len(table):
        return math.nan
    distance = (table["confidence"] - table["accuracy"]).abs()
    return float((distance * table["questions"]).sum() / table["questions"].sum())


def calibration_sentence(table: pd.DataFrame) -> str:
    """One sentence on how well the model's probabilities are calibrated."""
    if not len(table):
        return (
            "Nothing to calibrate: no question has both probabilities and an answer to compare "
            "with."
        )
    weights = table["questions"] / table["questions"].sum()
    held, right = ((table[name] * weights).sum() for name in ("confidence", "accuracy"))
    error = expected_calibration_error(table)
    side = "more sure than right" if held > right else "less sure than right"
    return (
        f"Over {table['questions'].sum()} questions the model holds its choice {held:.1%} likely "
        f"and is right in {right:.1%}: {side} by {abs(held - right):.1%} on average; expected "
        f"calibration error {error:.3f}."
    )


def _row(part: pd.DataFrame, number: int, bins: int) -> dict[str, float | int]:
    right = float(part["right"].mean())
    low, high = wilson(right, len(part))
    return {
        "from": number / bins,
        "to": (number + 1) / bins,
        "questions": len(part),
        "confidence": float(part["confidence"].mean()),
        "accuracy": right,
        "low": low,
        "high": high,
    }
