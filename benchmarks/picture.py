"""Next-token times of all libraries as a bar chart."""

from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.table import MAIN, OURS, summarise

UNDER = (
    "next token of one row, ms; thin line: quartiles; upright line: the time to read the weights"
)


def picture(result: dict[str, Any], path: Path) -> None:
    """Draw the time of the next token by precision and library, in ms.

    A line in each bar marks the least time, that of reading the weights.
    """
    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [row for row in summarise(result) if MAIN in row["cases"]]
    if not rows:
        return
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.32 * len(rows)), layout="constrained")
    for place, row in enumerate(reversed(rows)):
        _bar(axes, place, row)
    names = [f"{row['name']}, {row['precision']}" for row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_xlabel(UNDER)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)


def _bar(axes: Any, place: int, row: dict[str, Any]) -> None:
    case = row["cases"][MAIN]
    color = "#b5382a" if row["name"].startswith(OURS) else "#9aa5b1"
    axes.barh(place, case["next_ms"], color=color)
    axes.plot([case["next_q1_ms"], case["next_q3_ms"]], [place] * 2, color="black", linewidth=1)
    limit = row["bytes"] / row["read_gb_s"] / 1e6
    axes.plot([limit, limit], [place - 0.4, place + 0.4], color="black", linewidth=2)
    end = max(case["next_q3_ms"], limit)
    axes.text(end, place, f" {case['next_ms']:.1f}", va="center", fontsize=8)
