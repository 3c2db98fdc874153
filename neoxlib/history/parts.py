"""What the figures of runs are made of, over time: each subject's accuracy, each case's times."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from neoxlib.errors import DataError
from neoxlib.history.trends import History, Trend, adjusted, trend
from neoxlib.workbook.past_run import Past, is_number

CASE = ("batch_size", "depth", "input_len", "output_len")
TOKENS = {"first_token_ms": "first token", "next_token_ms": "next token"}


def parts(history: History) -> list[Trend]:
    """Return the trends of the newest run's subjects and cases, its surest changes first.

    q is adjusted for their number. Times that were noisy, and what cannot be read, are left out.
    """
    values: dict[tuple[str, str], list[float]] = {}
    names: list[tuple[str, str]] = []
    for run in history.runs:
        found = dict(_of(run))
        names = [*found]
        for name, value in found.items():
            values.setdefault(name, []).append(value)
    trends = [trend(metric, values[name, metric], part=name) for name, metric in names]
    return sorted(adjusted(trends), key=lambda one: (one.p != one.p, one.p))


def _of(run: Past) -> Iterable[tuple[tuple[str, str], float]]:
    """Yield a run's numbers by their part and metric."""
    for row in _rows(run, "subjects", ("name", "accuracy")):
        yield (str(row["name"]), "accuracy"), row["accuracy"]
    for row in _rows(run, "latency", (*CASE, *TOKENS)):
        for metric, token in TOKENS.items():
            if is_number(row[metric]) and row[metric] == row[metric] and not _noisy(row):
                yield (f"{_case(row)}: {token}", metric), row[metric]


def _rows(run: Past, table: str, columns: Iterable[str]) -> list[dict[str, Any]]:
    try:
        found = run.table(table)
    except DataError:
        return []
    if found is None or any(name not in found for name in columns):
        return []
    numbers = [name for name in columns if name != "name"]
    whole = found.assign(**{name: pd.to_numeric(found[name], "coerce") for name in numbers})
    needed = [name for name in columns if name not in TOKENS]
    return whole.dropna(subset=needed).to_dict("records")


def _noisy(row: dict[str, Any]) -> bool:
    noise = row.get("noise", "")
    return isinstance(noise, str) and bool(noise)


def _case(row: dict[str, Any]) -> str:
    batch, depth, inputs, outputs = (int(row[name]) for name in CASE)
    deep = f"{depth} deep, " if depth else ""
    return f"batch {batch}, {deep}{inputs} in, {outputs} out"
