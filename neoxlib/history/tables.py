"""Histories as text, tables and JSON."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from neoxlib.errors import ParameterError, did_you_mean
from neoxlib.history.trends import WIDTH, History, Trend
from neoxlib.languages import said
from neoxlib.workbook.past_run import is_number
from neoxlib.workbook.table import Table, figure

BARS = "▁▂▃▄▅▆▇█"


def spark(values: Sequence[float]) -> str:
    """Draw values as bars from the least to the greatest; equal ones as a low line."""
    low = min(values)
    span = max(values) - low or 1
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def text(history: History, metric: str = "") -> str:
    """Return a history as lines: what was compared, a row per figure, and of one a row per run.

    Raises ParameterError if the newest run has no figure of that name.
    """
    newest = history.runs[-1]
    about = ", ".join(f"{name} {value}" for name, value in newest.identity.items() if value)
    left = ", ".join(f"{count} {why}" for why, count in history.left_out.items())
    head = f"{newest.name} and {len(history.runs) - 1} comparable runs before it ({about})"
    lines = [said(head), said(f"left out: {left}")] if left else [said(head)]
    if not metric:
        return "\n".join([*lines, repr(_table(history.trends))])
    found = [trend for trend in history.trends if trend.metric == metric]
    if not found:
        names = [trend.metric for trend in history.trends]
        hint = did_you_mean(metric, names) or ";"
        known = ", ".join(names) or "none"
        raise ParameterError(f"{newest.name} has no figure {metric!r}{hint} it has: {known}")
    return "\n".join([*lines, repr(_table(found)), "", repr(_runs(history, found[0]))])


def _table(trends: Sequence[Trend]) -> Table:
    names = ("figure", "median", "low", "high", "newest", "change", "detectable", "q", "verdict")
    return Table((*names, "runs"), [_row(trend) for trend in trends])


def _row(trend: Trend) -> tuple[str, ...]:
    numbers = (trend.median, trend.low, trend.high, trend.newest)
    change = trend.newest - trend.median
    shares = [share(change, trend.median), share(trend.detectable, trend.median).lstrip("+")]
    q = "" if math.isnan(trend.q) else f"{trend.q:.2g}"
    shown = ("" if math.isnan(number) else figure(number) for number in numbers)
    return (trend.metric, *shown, *shares, q, trend.verdict, spark(trend.values))


def share(part: float, whole: float) -> str:
    """Return a part of a whole in per cent, with its sign; "" if it is not known."""
    return "" if math.isnan(part) or not whole else f"{part / abs(whole):+.1%}"


def _runs(history: History, trend: Trend) -> Table:
    """The figure in each run, with what lies outside the control limits."""
    rows = []
    for run in history.runs:
        value = run.results["metrics"].get(trend.metric)
        if is_number(value):
            outside = value < trend.low or value > trend.high
            rows.append((run.name, run.results["started"], figure(value), "outside" * outside))
    return Table(("run", "started", trend.metric, f"limits ± {WIDTH} scaled MAD"), rows)


def record(history: History) -> dict[str, Any]:
    """Return a history as an object of a JSON document; nan becomes null."""
    trends = [asdict(trend) | {"verdict": trend.verdict} for trend in history.trends]
    clean = [
        {name: None if value != value else value for name, value in row.items()} for row in trends
    ]
    newest = history.runs[-1]
    return {
        "notebook": newest.results["notebook"],
        "identity": newest.identity,
        "runs": [run.folder.name for run in history.runs],
        "left_out": history.left_out,
        "figures": clean,
    }
