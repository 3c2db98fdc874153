"""Scores of an exam → matplotlib figure. Pure functions: nothing is shown or written, no global state is touched."""

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import cycle

import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from neoxlib.exam.data.subjects import Subject

CLASS_COLOURS = {  # Okabe and Ito's palette, which stays apart for colour-blind readers
    "STEM": "#0072B2",
    "Social Science": "#E69F00",
    "Humanities": "#009E73",
    "Other": "#CC79A7",
    "Hard": "#777777",
}
OWN_COLOURS = (
    "#56B4E9",
    "#F0E442",
    "#8C564B",
    "#17BECF",
    "#9467BD",
    "#BCBD22",
)  # of an exam's own classes, in turn
LINE = {"color": "#D55E00", "linestyle": "--", "linewidth": 1.2}
SPREAD = {"elinewidth": 1, "capsize": 2, "ecolor": "#333333"}
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
    """A bar per subject with its 95 % interval and the guessing line, classes together, best of each on top.

    `scores`: one row per subject with subject, name, class, questions, accuracy, low, high, as `tasks.by_subject`
    gives; `guessing`: what guessing gets right, 0…1; `subjects`: the exam's own, for their Chinese names, which are
    shown where this machine has a font to draw them with.
    """
    order = {name: i for i, name in enumerate(dict.fromkeys([*CLASS_COLOURS, *scores["class"]]))}
    table = scores.assign(rank=scores["class"].map(order)).sort_values(
        ["rank", "accuracy"], ascending=[True, False]
    )
    figure = Figure(figsize=(8, 1.6 + 0.24 * len(table)), layout="constrained")
    axes = figure.subplots()
    _bars(axes, table, [_label(row, subjects) for row in table.to_dict("records")], guessing)
    present = table["class"].unique()
    handles = [Patch(color=colour, label=name) for name, colour in _colours(present).items()]
    legend = figure.legend(
        handles=[*handles, axes.lines[-1]],
        loc="outside lower center",
        ncols=5,
        frameon=False,
        fontsize=8,
    )
    for text in legend.get_texts():
        text.set(parse_math=False, family=_fonts())
    return figure


def accuracy_by_class(scores: pd.DataFrame, guessing: float) -> Figure:
    """A bar per class and for the hard subset, with its 95 % interval, its value and the guessing line.

    `scores`: one row per class with class, questions, accuracy, low, high, as `tasks.by_class` gives.
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
    """How often the model is right over how likely it held its choice, above how many questions each point stands on.

    `table`: rows of `tasks.confidence_bins`; without rows the figure says that nothing was measured.
    """
    figure = Figure(figsize=(5, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], **LINE, label="as right as it is sure")
    spread = [table["accuracy"] - table["low"], table["high"] - table["accuracy"]]
    upper.errorbar(
        table["confidence"],
        table["accuracy"],
        spread,
        fmt="o",
        color="#0072B2",
        label="measured",
        clip_on=False,
        **SPREAD,
    )
    lower.bar(
        table["from"],
        table["questions"],
        width=table["to"] - table["from"],
        align="edge",
        color="#0072B2",
        edgecolor="white",
    )
    for row in table.to_dict("records"):
        place = ((row["from"] + row["to"]) / 2, row["questions"])
        lower.annotate(
            f"{row['questions']:,}",
            place,
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="right, with 95 % interval")
    lower.set(xlabel="share of the likeliest choice", ylabel="questions")
    lower.margins(y=0.2)
    for axes in (upper, lower):
        _plain(axes)
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    if not len(table):
        upper.text(
            0.5, 0.8, "no probabilities with answers to compare", ha="center", color="#555555"
        )
    upper.legend(loc="upper left", frameon=False, fontsize=8)
    return figure


@cache
def chinese_font() -> str | None:
    """The first font family of this machine that has Chinese characters; None where matplotlib finds none."""
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
    drawn = bool(chinese_font()) and any(
        "\u4e00" <= letter <= "\u9fff" for letter in chinese
    )  # not a file's name
    return (
        f"{row['name']} {chinese} ({row['questions']})"
        if drawn
        else f"{row['name']} ({row['questions']})"
    )


def _colours(classes: Iterable[str]) -> dict[str, str]:
    """The colour of each class, in the order in which they come first."""
    own = cycle(OWN_COLOURS)
    return {name: CLASS_COLOURS.get(name) or next(own) for name in dict.fromkeys(classes)}


def _bars(axes: Axes, table: pd.DataFrame, labels: list[str], guessing: float) -> None:
    """Horizontal bars from top to bottom, coloured by class."""
    spread = [table["accuracy"] - table["low"], table["high"] - table["accuracy"]]
    colours = table["class"].map(_colours(table["class"])).tolist()
    axes.barh(
        range(len(table)),
        table["accuracy"],
        color=colours,
        height=0.7,
        xerr=spread,
        error_kw=SPREAD,
    )
    axes.set_yticks(
        range(len(table)), labels, fontsize=8, family=_fonts(), parse_math=False
    )  # a name's $ is a dollar
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("accuracy, with 95 % interval")
    _plain(axes)
    axes.axvline(guessing, **LINE, label=f"guessing, {guessing:.0%}".replace("%", " %"))
    if table["accuracy"].isna().all():
        axes.text(
            0.6,
            0.5,
            "no answers in this split",
            transform=axes.transAxes,
            ha="center",
            color="#555555",
        )


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
