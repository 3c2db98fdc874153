"""The section of 05_compare about many runs: what it draws, saves, shows and says."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from neoxlib.history import parts
from neoxlib.history.figures import control_charts
from neoxlib.history.tables import share, spark
from neoxlib.history.trends import History, Trend
from neoxlib.workbook import front, metrics
from neoxlib.workbook.table import NotAsked, Note, TextTable

if TYPE_CHECKING:
    from neoxlib.workbook.run import Run

HEADS = ("figure", "newest", "median", "control limits", "change", "detectable", "q", "verdict")
SAVED = ("part", "metric", "newest", "median", "low", "high", "detectable", "p", "q", "verdict")


def over_time(run: "Run", past: History | Note) -> TextTable | Note:
    """Draw the key figures of a run over the comparable ones before it, and return all in words.

    `run` is that of the notebook, whose folder gets over_time.svg and over_time.csv.
    """
    if isinstance(past, Note):
        return past
    trends = _figures(past)
    keys = front.key_names(past.runs[-1].results)
    drawn = [trend for trend in trends if trend.metric in keys]
    if drawn:
        run.figure("over_time", control_charts(drawn))
    run.save("over_time", _frame(trends))
    left_out = ", ".join(f"{count} {why}" for why, count in past.left_out.items())
    before = len(past.runs) - 1
    note = f"Run b and the {before} comparable run{'s' * (before != 1)} before it"
    return _in_words(trends, f"{note}; left out: {left_out}." if left_out else f"{note}.")


def parts_over_time(run: "Run", past: History | Note) -> TextTable | Note:
    """Return each subject or case of a run over the comparable runs before it, in words."""
    found = [] if isinstance(past, Note) else parts.parts(past)
    if not found:
        return NotAsked("No comparable runs with subjects or timed cases.")
    run.save("parts_over_time", _frame(found))
    changed = sum(trend.verdict == "changed" for trend in found)
    return _in_words(found, f"{changed} of {len(found)} changed.")


def answer(past: History | Note) -> str:
    """Say in a sentence how many figures of the newest run changed; "" if none can be judged."""
    judged = [] if isinstance(past, Note) else [t for t in _figures(past) if not math.isnan(t.q)]
    if not judged:
        return ""
    changed = [metrics.label(t.metric) for t in judged if t.verdict == "changed"]
    which = f"{len(changed)} of its {len(judged)} figures changed: {'; '.join(changed)}"
    said = which if changed else f"none of its {len(judged)} figures changed"
    return f"Of run b, held against the {len(past.runs) - 1} comparable runs before it, {said}."


def _figures(past: History) -> list[Trend]:
    """The trends of what a run recorded, without the ends of its intervals."""
    values = past.runs[-1].results["metrics"]
    return [trend for trend in past.trends if not metrics.is_interval(trend.metric, values)]


def _frame(trends: Sequence[Trend]) -> pd.DataFrame:
    rows = [{name: getattr(t, name) for name in SAVED} | {"runs": len(t.values)} for t in trends]
    return pd.DataFrame(rows, columns=[*SAVED, "runs"])


def _in_words(trends: Sequence[Trend], note: str) -> TextTable:
    rows = pd.DataFrame([_row(trend) for trend in trends], columns=[*HEADS, "runs"])
    return TextTable(rows, note)


def _row(trend: Trend) -> tuple[str, ...]:
    name = trend.part or metrics.label(trend.metric)
    newest, median, low, high = (
        "" if math.isnan(value) else metrics.shown(trend.metric, value)
        for value in (trend.newest, trend.median, trend.low, trend.high)
    )
    change = share(trend.newest - trend.median, trend.median)
    detectable = share(trend.detectable, trend.median).lstrip("+")
    q = "" if math.isnan(trend.q) else f"{trend.q:.2g}"
    limits = f"{low} to {high}" if low else ""
    told = (name, newest, median, limits, change, detectable, q)
    return (*told, trend.verdict, spark(trend.values))
