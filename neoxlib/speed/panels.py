"""The parts of a profile's figures that are drawn in one pair of axes, and their colours."""

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neoxlib import colours
from neoxlib.colours import BLUE, GREEN, GREY, ORANGE, PALE, PINK, RED
from neoxlib.speed.baseline import NO_INTERVAL, case_name
from neoxlib.speed.measure import KEY
from neoxlib.speed.roofline import NOT_JUDGED
from neoxlib.speed.statistics import MIN_REPEATS

if TYPE_CHECKING:
    from neoxlib.speed.peaks import Peaks

PARTS = {"pre": GREY, "forward": BLUE, "communication": RED, "post": GREEN}
PERCENTILES = {"p50": (BLUE, "o"), "p90": (ORANGE, "D"), "p99": (RED, "s")}  # colour, marker
BOUNDS = {
    "bandwidth": BLUE,
    "compute": ORANGE,
    "launch": GREY,
    "communication": RED,
    NOT_JUDGED: PALE,
}
PHASES = {"prefill": ORANGE, "decode": PALE}  # as frames
KINDS = PHASES | {
    "computing": BLUE,
    "communication": RED,
    "copying": GREEN,
    "waiting": PINK,
    "other": GREY,
}
VERDICTS = {"faster": GREEN, "within noise": GREY, "slower": RED, NO_INTERVAL: PALE}
NO_NEXT = "no next token: every answer is one token long"


def group_text(batch: int, depth: int) -> str:
    """Batch size and depth for a title or legend, without what every plain case has."""
    return (f", batch {batch}" if batch > 1 else "") + (f", depth {depth}" if depth else "")


def heat(axes: Axes, grid: pd.DataFrame) -> None:
    """Colour and label each cell of a grid: index input length, columns output length, ms."""
    if grid.isna().all(axis=None):
        say(axes, NO_NEXT)
        return
    image = axes.imshow(grid.astype(float), cmap="cividis", aspect="auto")
    for y, row in enumerate(grid.to_numpy()):
        for x, value in enumerate(row):
            if not pd.isna(value):
                colour = colours.on_cell(*image.cmap(image.norm(value))[:3])
                axes.text(x, y, f"{value:.3g}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(grid.columns)), grid.columns)
    axes.set_yticks(range(len(grid.index)), grid.index)
    axes.set_xlabel("output length (tokens)")
    axes.set_ylabel("input length (tokens)")
    axes.figure.colorbar(image, ax=axes, shrink=0.9)


def medians(axes: Axes, rows: pd.DataFrame, name: str, **style: Any) -> None:
    """Draw the medians of column `name` over the input length, with bands of 95 % intervals.

    Fewer than MIN_REPEATS repeats give no interval, and no band.
    """
    rows = rows.dropna(subset=name).sort_values("input_len")
    lengths = rows["input_len"]
    enough = rows["repeats"] >= MIN_REPEATS
    ends = (rows[f"{name}_{end}"].astype(float) for end in ("low", "high"))
    low, high = (end.where(enough) for end in ends)
    middle = rows[name].astype(float)
    axes.plot(lengths, middle, markersize=3.5, linewidth=1.2, **style)
    band = {"facecolor": (style["color"], 0.2), "edgecolor": style["color"], "linewidth": 0.4}
    axes.fill_between(lengths, low, high, **band)


def powers_of_2(axes: Axes) -> None:
    """Make the x axis logarithmic, with its numbers written out."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def roof(axes: Axes, peaks: "Peaks", intensity: list[float]) -> None:
    """Draw and label the measured roof over a range that holds its ridge and every `intensity`."""
    # Operations per byte from which computing takes longer than reading:
    ridge = peaks.tflops * 1e3 / peaks.gb_s
    ends = [min([*intensity, ridge]) / 2, ridge, max([*intensity, ridge]) * 2]
    heights = [ends[0] * peaks.gb_s / 1e3, peaks.tflops, peaks.tflops]
    axes.plot(ends, heights, color="black", linewidth=1.3)
    middle = (ends[0] * ridge) ** 0.5
    style = {"textcoords": "offset points", "fontsize": 8}
    slope = (middle, middle * peaks.gb_s / 1e3)
    axes.annotate(f"{peaks.gb_s:.3g} GB/s", slope, xytext=(8, -10), **style)
    flat = (ends[2], peaks.tflops)
    axes.annotate(f"{peaks.tflops:.3g} TFLOPS", flat, xytext=(-4, 4), **style, ha="right")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_xlabel("operations per byte")
    plain(axes, "operations a second (TFLOPS)")


def band(axes: Axes, y: int, events: pd.DataFrame) -> None:
    """Draw the events of one thread at height `y`: phases as high bars, the rest within them."""
    for kind, colour in KINDS.items():
        rows = events[events["kind"] == kind]
        spans = list(zip(rows["start_ms"], rows["ms"], strict=True))
        height = (y - 0.45, 0.9) if kind in PHASES else (y - 0.3, 0.6)
        axes.broken_barh(spans, height, **looks(kind, colour))


def looks(kind: str, colour: str) -> dict[str, Any]:
    """Return how a kind of event is drawn: a phase as a frame, for what lies within it."""
    if kind in PHASES:
        return {"facecolor": (colour, 0.15), "edgecolor": colour, "linewidth": 0.6}
    return {"color": colour, "linewidth": 0}


def thread_name(bands: list[tuple[Any, Any]], number: int) -> str:
    """A band's rank, and its lane on a device, or the number of its thread if there are several."""
    rank, thread = bands[number][0]
    if ", " in thread:  # as lanes.py names those of a device
        return f"{rank}, {thread}"
    same = [n for n, ((other, _), _) in enumerate(bands) if other == rank]
    return rank if len(same) == 1 else f"{rank}, thread {same.index(number)}"


def lines(count: int) -> tuple[Figure, Axes]:
    """Make a figure of one panel, high enough for `count` lines."""
    figure = Figure(figsize=(8.5, 1.3 + 0.22 * max(count, 1)), layout="constrained")
    return figure, figure.subplots()


def label_cases(axes: Axes, table: pd.DataFrame, labels: list[str] | None = None) -> None:
    """Label a line per case, from top to bottom."""
    names = labels or [case_name(row) for row in table[KEY].to_dict("records")]
    axes.set_yticks(range(len(table)), names, fontsize=8)
    axes.set_ylim(len(table) - 0.4, -0.6)
    plain(axes, "")


def plain(axes: Axes, title: str) -> None:
    """Set the title, and take the upper and right frame away."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def say(axes: Axes, sentence: str, title: str = "") -> None:
    """Write a sentence in a panel that has nothing to draw."""
    axes.set_axis_off()
    centre = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, sentence, color=colours.REMARK, **centre)
    plain(axes, title)
