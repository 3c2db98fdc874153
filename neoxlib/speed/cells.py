"""Cells of a table of times, and figures of a sentence, as text."""

from typing import Any

import pandas as pd

from neoxlib.speed.statistics import MIN_REPEATS
from neoxlib.workbook.table import Table

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


def between(low: float, high: float) -> str:
    """A range of numbers, or one if both ends read alike."""
    low = number(low)
    high = number(high)
    return low if low == high else f"{low} to {high}"


def number(value: float) -> str:
    """A number with three figures."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def percent(share: float) -> str:
    """A share as per cent."""
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def si(value: float) -> str:
    """A number with its prefix, the blank before the unit: 12.3 G."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {letter}"
    return f"{value:.3g} "


def number_table(table: pd.DataFrame, heads: dict[str, str]) -> Table:
    """Three figures of each number, shares as per cent, nothing wrapped.

    Columns without any value are left out.
    """
    known = [name for name in heads if name in table and table[name].notna().any()]
    columns = [[text(name, value) for value in table[name]] for name in known]
    return Table(tuple(heads[name] for name in known), zip(*columns, strict=True))
