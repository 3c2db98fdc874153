"""Data frame → matplotlib figure. Pure functions: nothing is shown or written, and no global state is touched."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

GUESSING = 0.25  # four choices
CLASS_COLOURS = {  # Okabe and Ito's palette, which stays apart for colour-blind readers
    "STEM": "#0072B2", "Social Science": "#E69F00", "Humanities": "#009E73", "Other": "#CC79A7", "Hard": "#777777",
}


def accuracy_by_subject(scores: pd.DataFrame) -> Figure:
    """A bar per subject with its 95 % interval and the guessing line, classes together, best of each on top.

    `scores`: one row per subject with name, class, questions, accuracy, low, high, as `tasks.by_subject` gives.
    """
    order = {name: i for i, name in enumerate(CLASS_COLOURS)}
    table = scores.assign(rank=scores["class"].map(order)).sort_values(["rank", "accuracy"], ascending=[True, False])
    figure = Figure(figsize=(8, 1.4 + 0.24 * len(table)), layout="constrained")
    axes = figure.subplots()
    _bars(axes, table, [f"{name} ({n})" for name, n in zip(table["name"], table["questions"], strict=True)])
    present = [name for name in order if name in set(table["class"])]
    handles = [Patch(color=CLASS_COLOURS[name], label=name) for name in present]
    figure.legend(handles=[*handles, axes.lines[-1]], loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def accuracy_by_class(scores: pd.DataFrame) -> Figure:
    """A bar per class and for the hard subset, with its 95 % interval, its value and the guessing line.

    `scores`: one row per class with class, questions, accuracy, low, high, as `tasks.by_class` gives.
    """
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(scores)), layout="constrained")
    axes = figure.subplots()
    _bars(axes, scores, [f"{name} ({n})" for name, n in zip(scores["class"], scores["questions"], strict=True)])
    for place, (value, high) in enumerate(zip(scores["accuracy"], scores["high"], strict=True)):
        if not pd.isna(value):
            axes.text(high + 0.015, place, f"{value:.1%}", va="center", fontsize=8)
    figure.legend(handles=[axes.lines[-1]], loc="outside lower center", frameon=False, fontsize=8)
    return figure


def _bars(axes: Axes, table: pd.DataFrame, labels: list[str]) -> None:
    """Horizontal bars from top to bottom, coloured by class."""
    places = range(len(table))
    spread = [table["accuracy"] - table["low"], table["high"] - table["accuracy"]]
    axes.barh(
        places, table["accuracy"], color=table["class"].map(CLASS_COLOURS).tolist(), height=0.7,
        xerr=spread, error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#333333"},
    )
    axes.set_yticks(places, labels, fontsize=8)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("accuracy, with 95 % interval")
    axes.spines[["top", "right"]].set_visible(False)
    axes.axvline(GUESSING, color="#D55E00", linestyle="--", linewidth=1.2, label="guessing, 25 %")
    if table["accuracy"].isna().all():
        axes.text(0.6, 0.5, "no answers in this split", transform=axes.transAxes, ha="center", color="#555555")


PARTS = {"pre": "#999999", "forward": "#0072B2", "communication": "#D55E00", "post": "#009E73"}  # the same palette


def step_times(steps: pd.DataFrame) -> Figure:
    """Stacked bars, one per decoding step after the first, of where its time went.

    `steps`: a row per step with pre, forward, communication and post in ms, as `views.steps` gives.
    """
    later = steps.iloc[1:]
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    below = later["pre"] * 0
    for part, colour in PARTS.items():
        axes.bar(later.index, later[part], bottom=below, color=colour, width=0.85, label=part)
        below = below + later[part]
    axes.set_xlabel("step (each makes one token per prompt)")
    axes.set_ylabel("milliseconds")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def latency(table: pd.DataFrame) -> Figure:
    """First-token and next-token time over the input length, a line per output length, with the measured range.

    `table`: a row per case, as `bench.measure` gives.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    titles = {"first_token": "first token", "next_token": "next token"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for number, (outputs, rows) in enumerate(table.dropna(subset=f"{name}_ms").groupby("output_len")):
            middle, low, high = (rows[f"{name}{suffix}"].astype(float) for suffix in ("_ms", "_min_ms", "_max_ms"))
            axes.errorbar(
                rows["input_len"], middle, [middle - low, high - middle], marker="o", markersize=4, linewidth=1.2,
                capsize=2, color=f"C{number}", label=f"{outputs} out",
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("input length (tokens)")
        axes.set_title(f"{title} (ms)", fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure


def rank_bytes(plan: pd.DataFrame) -> Figure:
    """What a rank holds: bytes by class of tensor, the cut part and the part that every rank repeats.

    `plan`: rows of `weights.plan` as a frame with tensor, rule and rank_bytes.
    """
    table = plan.assign(short=plan["tensor"].str.removeprefix("gpt_neox.").str.replace("layers.*.", "", regex=False))
    table = table.sort_values("rank_bytes").tail(12)
    colours = ["#999999" if "whole" in rule else "#0072B2" for rule in table["rule"]]
    figure = Figure(figsize=(8, 0.9 + 0.27 * len(table)), layout="constrained")
    axes = figure.subplots()
    axes.barh(table["short"], table["rank_bytes"] / 2**20, color=colours, height=0.7)
    axes.set_xlabel("MiB on one rank, all layers together")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color="#0072B2", label="cut over the ranks"), Patch(color="#999999", label="whole on every rank")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure
