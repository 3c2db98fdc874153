"""A profile's tables as figures.

Pure functions: nothing is shown or written, and no global state changes. First and next token are
the time to first token (TTFT) and the time per output token (TPOT).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from neoxlib.colours import GREY, PALE, SERIES, series
from neoxlib.speed import panels
from neoxlib.speed.baseline import TOKENS, case_name
from neoxlib.speed.panels import BOUNDS, KINDS, NO_NEXT, PARTS, PHASES, VERDICTS
from neoxlib.speed.roofline import NOT_JUDGED
from neoxlib.speed.scaling import timed_token

if TYPE_CHECKING:
    from neoxlib.speed.peaks import Peaks

MOST_CASES = 40  # that a figure with a line per case shows
LEGEND = {"loc": "outside lower center", "frameon": False, "fontsize": 8}


def heat_map(table: pd.DataFrame) -> Figure:
    """First and next token over the grid of lengths, in ms: panels per batch size and depth."""
    groups = list(table.groupby(["batch_size", "depth"]))
    height = max(2.2, 0.5 + 0.42 * table["input_len"].nunique())
    figure = Figure(figsize=(8.5, height * len(groups)), layout="constrained")
    rows = figure.subplots(len(groups), 2, squeeze=False)
    for row, ((batch, depth), part) in zip(rows, groups, strict=True):
        lengths = {"index": "input_len", "columns": "output_len", "dropna": False}
        for axes, (token, name) in zip(row, TOKENS.items(), strict=True):
            panels.heat(axes, part.pivot_table(values=name, **lengths))
            title = f"{token} (ms){panels.group_text(batch, depth)}"
            axes.set_title(title, fontsize=10, loc="left")
    return figure


def latency(table: pd.DataFrame) -> Figure:
    """First-token and next-token time over the input length: medians, bands of 95 % intervals."""
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    lines = list(table.groupby(["batch_size", "depth", "output_len"]))
    for axes, (token, name) in zip(figure.subplots(1, 2), TOKENS.items(), strict=True):
        if table[name].isna().all():
            panels.say(axes, NO_NEXT, f"{token} (ms)")
            continue
        for ((batch, depth, outputs), rows), look in zip(lines, series(len(lines)), strict=True):
            colour, marker = look
            label = f"{outputs} out{panels.group_text(batch, depth)}"
            panels.medians(axes, rows, name, color=colour, marker=marker, label=label)
        panels.powers_of_2(axes)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("input length (tokens)")
        panels.plain(axes, f"{token} (ms)")
    handles = figure.axes[0].get_legend_handles_labels()  # every case has a first token
    figure.legend(*handles, ncols=5, **LEGEND)
    return figure


def phases(table: pd.DataFrame) -> Figure:
    """The parts of a next token's time: a stacked bar per case, in ms."""
    table = table.dropna(subset="next_token_ms").tail(MOST_CASES)
    figure, axes = panels.lines(len(table))
    if table.empty:
        panels.say(axes, NO_NEXT)
        return figure
    left = table["next_pre_ms"] * 0
    for part, colour in PARTS.items():
        times = table[f"next_{part}_ms"]
        axes.barh(range(len(table)), times, left=left, color=colour, height=0.75, label=part)
        left = left + times
    panels.label_cases(axes, table)
    axes.set_xlabel("milliseconds of a next token")
    figure.legend(ncols=4, **LEGEND)
    return figure


def percentiles(table: pd.DataFrame) -> Figure:
    """How steady a next token is: p50, p90 and p99 of all steps of a case, in ms."""
    table = table.dropna(subset="next_token_ms").tail(MOST_CASES)
    figure, axes = panels.lines(len(table))
    if table.empty:
        panels.say(axes, NO_NEXT)
        return figure
    y = range(len(table))
    ends = table["next_token_ms_p50"], table["next_token_ms_p99"]
    axes.hlines(y, *ends, color=PALE, zorder=1)
    for name, (colour, marker) in panels.PERCENTILES.items():
        times = table[f"next_token_ms_{name}"]
        axes.scatter(times, y, 22, colour, marker=marker, label=name, zorder=2)
    panels.label_cases(axes, table)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds of a next token")
    figure.legend(ncols=3, **LEGEND)
    return figure


POINTS = {  # token -> marker and columns of the roofline figure
    "first token": ("^", ["first_operations", "first_bytes", "first_token_ms", "first_bound"]),
    "next token": ("o", ["operations_per_step", "bytes_per_step", "next_token_ms", "bound"]),
}


def roofline(table: pd.DataFrame, peaks: "Peaks") -> Figure:
    """The cases under the measured roof: operations a second over operations per byte.

    `table` is that of `roofline.verdicts`.
    """
    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    axes = figure.subplots()
    intensity = []
    for marker, names in POINTS.values():
        columns = table.dropna(subset=names)[names]
        operations, size, ms, bound = (values for _, values in columns.items())
        x = (operations / size).astype(float)
        y = (operations / ms / 1e9).astype(float)
        colours = [BOUNDS[name] for name in bound]
        axes.scatter(x, y, 36, colours, marker=marker, edgecolors="white", linewidths=0.5, zorder=3)
        intensity += x.tolist()
    panels.roof(axes, peaks, intensity)
    named = {name: name if name == NOT_JUDGED else f"{name}-bound" for name in BOUNDS}
    handles = _patches({named[name]: colour for name, colour in BOUNDS.items()})
    for token, (marker, _) in POINTS.items():
        handles.append(axes.scatter([], [], 36, "black", marker=marker, label=token))
    figure.legend(handles=handles, ncols=6, **LEGEND)
    return figure


def ratios(compared: pd.DataFrame, names: tuple[str, str] = ("baseline", "this run")) -> Figure:
    """Each case's time against the other run's, with the interval of the ratio.

    `compared` is the table of `baseline.compare_times`; `names` are the other run's and this one's.
    """
    table = compared.tail(MOST_CASES)
    rows = table.to_dict("records")
    figure, axes = panels.lines(len(table))
    for y, row in enumerate(rows):
        colour = VERDICTS[row["verdict"]]
        axes.plot([row["ratio_low"], row["ratio_high"]], [y, y], color=colour, linewidth=2)
        axes.plot(row["ratio"], y, "o", color=colour, markersize=5)
    axes.axvline(1, color="black", linewidth=0.8)
    panels.label_cases(axes, table, [f"{row['token']}: {case_name(row)}" for row in rows])
    axes.set_xlabel(f"time in {names[1]} ÷ time in {names[0]}: below 1 is faster")
    figure.legend(handles=_patches(VERDICTS), ncols=4, **LEGEND)
    return figure


def timeline(events: pd.DataFrame) -> Figure:
    """A trace's events over time: a band per rank and thread, with its phases behind the rest.

    `events` is the table of `traces.read_trace`.
    """
    threads = ["rank", "thread"]
    bands = list(events[~events["kind"].isin(PHASES)].groupby(threads))
    figure = Figure(figsize=(8.5, 1.5 + 0.4 * len(bands)), layout="constrained")
    axes = figure.subplots()
    groups = dict(iter(events.groupby(threads)))
    for y, (thread, _) in enumerate(bands):
        panels.band(axes, y, groups[thread])
    names = [panels.thread_name(bands, number) for number in range(len(bands))]
    axes.set_yticks(range(len(bands)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds since the trace began")
    panels.plain(axes, "")
    there = set(events["kind"])
    drawn = {kind: panels.looks(kind, colour) for kind, colour in KINDS.items() if kind in there}
    handles = [Patch(**look, label=kind) for kind, look in drawn.items()]
    figure.legend(handles=handles, ncols=7, **LEGEND)
    return figure


def _patches(colours: dict[str, str]) -> list:
    return [Patch(color=colour, label=name) for name, colour in colours.items()]


def scaling(measured: pd.DataFrame, predicted: pd.DataFrame) -> Figure:
    """Times measured on this host on the left, predicted for chips on the right.

    Tables of `scaling`.
    """
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        axes.set_prop_cycle(color=SERIES)
    for name, rows in _by_threads(measured):
        left.plot(rows["ranks"] * rows["threads"], rows["speed_up"], "o-", markersize=4, label=name)
    ideal = [1, (measured["ranks"] * measured["threads"]).max()]
    style = {"color": GREY, "linestyle": ":", "linewidth": 1}
    left.plot(ideal, ideal, **style, label="as many times as cores")
    left.set_xlabel("ranks × threads")
    left.legend(frameon=False, fontsize=8)
    token = next(words for words, name in TOKENS.items() if name == timed_token(measured))
    panels.plain(left, f"measured here: {token}, times as fast")
    for chip, rows in predicted.dropna(subset="predicted_next_ms").groupby("chip", sort=False):
        right.plot(rows["ranks"], rows["predicted_next_ms"], "o--", markersize=4, label=chip)
    panels.powers_of_2(right)
    right.set_yscale("log")
    right.set_xlabel("ranks, a chip each")
    right.legend(frameon=False, fontsize=8)
    panels.plain(right, "predicted bound of a next token (ms), not measured")
    return figure


def _by_threads(measured: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for ranks, rows in measured.groupby("ranks"):
        yield f"{ranks} rank{'s' * (ranks > 1)}, more threads", rows
