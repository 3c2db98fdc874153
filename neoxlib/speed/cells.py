"""One cell of a table of times as text."""

from typing import Any

import pandas as pd

from neoxlib.speed.statistics import MIN_REPEATS

SHARES = (
    *("mbu", "mfu", "communication_share", "first_mbu", "first_mfu", "share", "efficiency"),
    *("computing", "communication", "free"),
)
BLANK = "\u00a0"  # keeps a cell on one line


def text(name: str, value: object) -> str:
    """A value of column `name` for people, on one line."""
    return _text(name, value).replace(" ", BLANK)


def _text(name: str, value: object) -> str:
    if isinstance(value, (str, bool, list, dict)):
        return str(value)
    if value is None or pd.isna(value):
        return "–"
    if name in SHARES:
        return f"{value:.1%}"
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"


def interval_text(row: dict[str, Any], name: str) -> str:
    """The interval of column `name`; a range of too few repeats is called one."""
    low = row[f"{name}_low"]
    high = row[f"{name}_high"]
    repeats = row["repeats"]
    few = f" (range of {repeats}, no interval)" if repeats < MIN_REPEATS else ""
    return "–" if pd.isna(low) else f"{low:.3g} to {high:.3g}{few}"
