"""What a table of results says of itself: its choices, and each question's mark."""

import pandas as pd

RIGHT = "right"
WRONG = "wrong"
TOO_LONG = "too long"
ANSWERED = "answered"
MARKS = (
    RIGHT,
    WRONG,
    TOO_LONG,
    ANSWERED,
)  # answered: a split without a key has nothing to be right about


def choices(results: pd.DataFrame) -> tuple[str, ...]:
    """The exam's choices in their order: A, B, C, D, or BoolQ's no and yes."""
    return tuple(name.removeprefix("p_") for name in results.columns if name.startswith("p_"))


def guessing(results: pd.DataFrame) -> float:
    """The share that guessing gets right: one over the number of choices."""
    return 1 / len(choices(results))


def marks(results: pd.DataFrame) -> pd.Series:
    """One of MARKS for each question."""
    marked = (
        results["correct"]
        .map({True: RIGHT, False: WRONG})
        .mask(results["expected"] == "", ANSWERED)
    )
    return marked.mask(results["too_long"], TOO_LONG)


def confidence(results: pd.DataFrame) -> pd.Series:
    """The share of the likeliest choice, nan where no probabilities were taken (too long, or generated)."""
    return results[[f"p_{choice}" for choice in choices(results)]].astype(float).max(axis=1)
