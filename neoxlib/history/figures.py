"""Figures of many runs over time, each in its control limits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neoxlib.history.trends import Trend
from neoxlib.workbook import metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "0.6"
FEW = 3  # charts in a row


def control_charts(trends: Sequence[Trend]) -> Figure:
    """A chart per figure: its value in each run, the median, the control limits as a band.

    What lies outside the limits is ringed. A figure of too few runs has neither median nor limits.
    """
    columns = min(FEW, len(trends))
    rows = -(-len(trends) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, trend in zip(grid, trends, strict=False):
        _chart(axes, trend)
    for axes in list(grid)[len(trends) :]:
        axes.axis("off")
    return figure


def _chart(axes: "Axes", trend: Trend) -> None:
    runs = range(1, len(trend.values) + 1)
    if trend.low == trend.low:  # judged
        axes.axhspan(trend.low, trend.high, color="C0", alpha=0.12, linewidth=0)
        axes.axhline(trend.median, color=GREY, linewidth=1)
        for run, value in zip(runs, trend.values, strict=True):
            if not trend.low <= value <= trend.high:
                axes.plot(run, value, "o", markersize=10, fillstyle="none", color="C3")
    axes.plot(runs, trend.values, marker="o", markersize=3, linewidth=1, color="C0")
    axes.plot(runs[-1], trend.newest, marker="o", markersize=5, color="C0")
    axes.set_title(_titled(trend), fontsize=9, loc="left")
    axes.set_xlabel("run, the newest last", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _titled(trend: Trend) -> str:
    """The name of a figure, with its unit if its numbers are drawn in it."""
    metric = metrics.METRICS.get(trend.metric)
    unit = metric.kind if metric and metric.kind in ("ms", "s", "share", "bytes") else ""
    return f"{metrics.label(trend.metric)}{f' ({unit})' if unit else ''}"
