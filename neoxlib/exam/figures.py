"""Figures of an exam's scores. Pure functions: nothing is shown, written or set globally."""

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import cycle

import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from neoxlib import colours
from neoxlib.colours import BLUE
from neoxlib.exam.data.subjects import Subject

CLASS_COLOURS = {
    "STEM": BLUE,
    "Social Science": colours.ORANGE,
    "Humanities": colours.GREEN,
    "Other": colours.PINK,
    "Hard": colours.GREY,
}
# Of an exam's own classes, in turn.
OWN_COLOURS = (colours.CYAN, colours.BROWN, colours.OLIVE, colours.VIOLET, colours.PALE)
LINE = {"color": colours.RED, "linestyle": "--", "linewidth": 1.2}
ERROR_BARS = {"elinewidth": 1, "capsize": 2, "ecolor": "black"}
LATIN = "DejaVu Sans"  # comes with matplotlib
CHINESE = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "SimHei",
    "Droid Sans Fallback",
    "Noto Serif CJK SC",
)


def accuracy_by_subject(
    scores: pd.DataFrame, guessing: float, subjects: Mapping[str, Subject]
) -> Figure:
    """A bar per subject with its 95 % interval, grouped by class, the best of each on top.

    `scores`: subject, name, class, questions, accuracy, low, high, as `scores.by_subject` gives;
    `guessing`: accuracy of guessing, 0…1, drawn as a line; `subjects`: for their Chinese names,
    which are shown if this machine has a font for them.
    """
    order = {name: i for i, name in enumerate(dict.fromkeys([*CLASS_COLOURS, *scores["class"]]))}
    table = scores.assign(rank=scores["class"].map(order)).sort_values(
        ["rank", "accuracy"], ascending=[True, False]
    )
    figure = Figure(figsize=(8, 1.6 + 0.24 * len(table)), layout="constrained")
    axes = figure.subplots()
    _bars(axes, table, [_label(row, subjects) for row in table.to_dict("records")], guessing)
    found = _colours(table["class"].unique())
    classes = [Patch(color=colour, label=name) for name, colour in found.items()]
    handles = [*classes, axes.lines[-1]]
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8
    )
    for text in legend.get_texts():
        text.set(parse_math=False, family=_fonts())
    return figure


def accuracy_by_class(scores: pd.DataFrame, guessing: float) -> Figure:
    """A bar per class and for the hard subset, with its 95 % interval and its value.

    `scores`: class, questions, accuracy, low, high, as `scores.by_class` gives; `guessing`:
    accuracy of guessing, 0…1, drawn as a line.
    """
    figure = Figure(figsize=(7, 1.4 + 0.4 * len(scores)), layout="constrained")
    axes = figure.subplots()
    labels = [f"{name} ({n})" for name, n in zip(scores["class"], scores["questions"], strict=True)]
    _bars(axes, scores, labels, guessing)
    for place, (value, high) in enumerate(zip(scores["accuracy"], scores["high"], strict=True)):
        if not pd.isna(value):
            axes.text(high + 0.015, place, f"{value:.1%}", va="center", fontsize=8)
    figure.legend(handles=[axes.lines[-1]], loc="outside lower center", frameon=False, fontsize=8)
    return figure


def reliability(table: pd.DataFrame) -> Figure:
    """Accuracy over confidence, with 95 % intervals, above the number of questions per bin.

    `table`: rows of `calibration.confidence_bins`; the figure of an empty one says so.
    """
    figure = Figure(figsize=(5, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    _accuracy_over_confidence(upper, table)
    _questions_per_bin(lower, table)
    # After the bars: those of an empty table rescale the shared axis.
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="right, with 95 % interval")
    lower.set(xlabel="share of the most likely choice", ylabel="questions")
    lower.margins(y=0.2)
    for axes in (upper, lower):
        _plain(axes)
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    if not len(table):
        upper.text(
            0.5, 0.8, "no probabilities with answers to compare", ha="center", color=colours.REMARK
        )
    upper.legend(loc="upper left", frameon=False, fontsize=8)
    return figure


def _accuracy_over_confidence(axes: Axes, table: pd.DataFrame) -> None:
    axes.plot([0, 1], [0, 1], **LINE, label="as right as it is sure")
    points = (table["confidence"], table["accuracy"], _error(table))
    axes.errorbar(*points, fmt="o", color=BLUE, label="measured", clip_on=False, **ERROR_BARS)


def _questions_per_bin(axes: Axes, table: pd.DataFrame) -> None:
    """A bar per bin, with its number."""
    width = table["to"] - table["from"]
    axes.bar(table["from"], table["questions"], width, align="edge", color=BLUE, edgecolor="white")
    for row in table.to_dict("records"):
        top = ((row["from"] + row["to"]) / 2, row["questions"])
        number = f"{row['questions']:,}"
        axes.annotate(number, top, (0, 2), textcoords="offset points", ha="center", fontsize=7)


@cache
def chinese_font() -> str | None:
    """The first font family of this machine with Chinese characters, if matplotlib finds one."""
    have = {font.name: font for font in font_manager.fontManager.ttflist}
    files = ((name, have[name].fname) for name in CHINESE if name in have)
    return next(
        (name for name, file in files if font_manager.get_font(file).get_char_index(ord("汉"))),
        None,
    )


def _fonts() -> list[str]:
    return [LATIN, chinese_font() or LATIN]


def _label(row: dict, subjects: Mapping[str, Subject]) -> str:
    chinese = subjects[row["subject"]].chinese if row["subject"] in subjects else ""
    is_chinese = any("\u4e00" <= letter <= "\u9fff" for letter in chinese)  # not a file's name
    name = f"{row['name']} {chinese}" if is_chinese and chinese_font() else row["name"]
    return f"{name} ({row['questions']})"


def _colours(classes: Iterable[str]) -> dict[str, str]:
    """The colour of each class, in the order in which they first occur."""
    own = cycle(OWN_COLOURS)
    return {name: CLASS_COLOURS.get(name) or next(own) for name in dict.fromkeys(classes)}


def _error(table: pd.DataFrame) -> list[pd.Series]:
    """Distances of the interval's ends from the accuracy, as matplotlib takes them."""
    return [table["accuracy"] - table["low"], table["high"] - table["accuracy"]]


def _bars(axes: Axes, table: pd.DataFrame, labels: list[str], guessing: float) -> None:
    """Horizontal bars from top to bottom, coloured by class, with the guessing line."""
    rows = range(len(table))
    filled = table["class"].map(_colours(table["class"])).tolist()
    error = {"xerr": _error(table), "error_kw": ERROR_BARS}
    axes.barh(rows, table["accuracy"], color=filled, height=0.7, **error)
    # A $ in a name is a dollar, not math.
    axes.set_yticks(rows, labels, fontsize=8, family=_fonts(), parse_math=False)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("accuracy, with 95 % interval")
    _plain(axes)
    axes.axvline(guessing, **LINE, label=f"guessing, {guessing:.0%}".replace("%", " %"))
    if table["accuracy"].isna().all():
        middle = {"transform": axes.transAxes, "ha": "center", "color": colours.REMARK}
        axes.text(0.6, 0.5, "no answers in this split", **middle)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
