"""A profile's tables as figures. Pure functions: nothing is shown or written, and no global state is touched."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from neoxlib.speed.baseline import NO_INTERVAL, TOKENS, case_name
from neoxlib.speed.measure import KEY
from neoxlib.speed.scaling import timed_token
from neoxlib.speed.statistics import FEWEST

if TYPE_CHECKING:
    from neoxlib.speed.peaks import Peaks

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
RED = "#D55E00"
GREY = "#999999"  # Okabe and Ito's palette
PARTS = {"pre": GREY, "forward": BLUE, "communication": RED, "post": GREEN}
BOUNDS = {"bandwidth": BLUE, "compute": ORANGE, "launch": GREY, "communication": RED}
KINDS = {
    "prefill": "#F0E442",
    "decode": "#CCCCCC",
    "computing": BLUE,
    "communication": RED,
    "other": GREY,
}
VERDICTS = {"faster": GREEN, "within noise": GREY, "slower": RED, NO_INTERVAL: "#CCCCCC"}
MOST_CASES = 40  # that a figure with a line per case shows
NO_NEXT = "no next token: every answer is one token long"


def heat_map(table: pd.DataFrame) -> Figure:
    """First and next token over the grid of lengths, in ms: a row of panels per batch size and depth."""
    groups = list(table.groupby(["batch_size", "depth"]))
    rows = 0.5 + 0.42 * table["input_len"].nunique()
    figure = Figure(figsize=(8.5, max(2.2, rows) * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 2, squeeze=False)
    for line, ((batch, depth), part) in zip(panels, groups, strict=True):
        for axes, (token, name) in zip(line, TOKENS.items(), strict=True):
            _heat(
                axes,
                part.pivot_table(
                    values=name, index="input_len", columns="output_len", dropna=False
                ),
            )
            axes.set_title(f"{token} (ms){_group(batch, depth)}", fontsize=10, loc="left")
    return figure


def _heat(axes: Axes, grid: pd.DataFrame) -> None:
    if grid.isna().all(axis=None):
        _say(axes, NO_NEXT)
        return
    image = axes.imshow(grid.astype(float), cmap="cividis", aspect="auto")
    middle = (grid.min().min() + grid.max().max()) / 2
    for y, row in enumerate(grid.to_numpy()):
        for x, value in enumerate(row):
            if not pd.isna(value):
                colour = "white" if value < middle else "black"
                axes.text(x, y, f"{value:.3g}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(grid.columns)), grid.columns)
    axes.set_yticks(range(len(grid.index)), grid.index)
    axes.set_xlabel("output length (tokens)")
    axes.set_ylabel("input length (tokens)")
    axes.figure.colorbar(image, ax=axes, shrink=0.9)


def latency(table: pd.DataFrame) -> Figure:
    """First-token and next-token time over the input length: medians, in bands of 95 % intervals.

    Of fewer than spread.FEWEST repeats there is no interval, and no band.
    """
    figure = Figure(figsize=(8.5, 3.4), layout="constrained")
    lines = list(table.groupby(["batch_size", "depth", "output_len"]))
    for axes, (token, name) in zip(figure.subplots(1, 2), TOKENS.items(), strict=True):
        if table[name].isna().all():
            _say(axes, NO_NEXT, f"{token} (ms)")
            continue
        for number, ((batch, depth, outputs), rows) in enumerate(lines):
            rows = rows.dropna(subset=name).sort_values("input_len")
            place = rows["input_len"]
            middle = rows[name].astype(float)
            enough = rows["repeats"] >= FEWEST
            ends = (rows[f"{name}_{end}"].astype(float) for end in ("low", "high"))
            low, high = (end.where(enough) for end in ends)
            style = {"color": f"C{number % 10}", "label": f"{outputs} out{_group(batch, depth)}"}
            axes.plot(place, middle, marker="o", markersize=3.5, linewidth=1.2, **style)
            axes.fill_between(place, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("input length (tokens)")
        _plain(axes, f"{token} (ms)")
    handles = figure.axes[0].get_legend_handles_labels()  # every case has a first token
    figure.legend(*handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def _group(batch: int, depth: int) -> str:
    return (f", batch {batch}" if batch > 1 else "") + (f", depth {depth}" if depth else "")


def phases(table: pd.DataFrame) -> Figure:
    """Where a next token's time goes: a stacked bar per case, in ms."""
    table = table.dropna(subset="next_token_ms").tail(MOST_CASES)
    figure, axes = _lines(len(table))
    if table.empty:
        _say(axes, NO_NEXT)
        return figure
    left = table["next_pre_ms"] * 0
    for part, colour in PARTS.items():
        axes.barh(
            range(len(table)),
            table[f"next_{part}_ms"],
            left=left,
            color=colour,
            height=0.75,
            label=part,
        )
        left = left + table[f"next_{part}_ms"]
    _cases(axes, table)
    axes.set_xlabel("milliseconds of a next token")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def percentiles(table: pd.DataFrame) -> Figure:
    """How steady a next token is: p50, p90 and p99 of all steps of a case, in ms."""
    table = table.dropna(subset="next_token_ms").tail(MOST_CASES)
    figure, axes = _lines(len(table))
    if table.empty:
        _say(axes, NO_NEXT)
        return figure
    axes.hlines(
        range(len(table)),
        table["next_token_ms_p50"],
        table["next_token_ms_p99"],
        color="#CCCCCC",
        zorder=1,
    )
    for mark, colour, marker in (("p50", BLUE, "o"), ("p90", ORANGE, "D"), ("p99", RED, "s")):
        places = range(len(table))
        axes.scatter(
            table[f"next_token_ms_{mark}"], places, 22, colour, marker=marker, label=mark, zorder=2
        )
    _cases(axes, table)
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds of a next token")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def roofline(table: pd.DataFrame, peaks: "Peaks") -> Figure:
    """The cases under the measured roof: operations a second over operations per byte; table of `roofline.verdicts`."""
    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    axes = figure.subplots()
    points = {
        "first token": ("^", ["first_operations", "first_bytes", "first_token_ms", "first_bound"]),
        "next token": ("o", ["operations_per_step", "bytes_per_step", "next_token_ms", "bound"]),
    }
    intensity = []
    for marker, names in points.values():
        operations, size, ms, bound = (
            values for _, values in table.dropna(subset=names)[names].items()
        )
        x = (operations / size).astype(float)
        y = (operations / ms / 1e9).astype(float)
        colours = [BOUNDS[name] for name in bound]
        axes.scatter(x, y, 36, colours, marker=marker, edgecolors="white", linewidths=0.5, zorder=3)
        intensity += x.tolist()
    _roof(axes, peaks, intensity)
    handles = [Patch(color=colour, label=f"{name}-bound") for name, colour in BOUNDS.items()]
    handles += [
        axes.scatter([], [], 36, "black", marker=marker, label=token)
        for token, (marker, _) in points.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure


def _roof(axes: Axes, peaks: "Peaks", intensity: list[float]) -> None:
    ridge = (
        peaks.tflops * 1e3 / peaks.gb_s
    )  # operations per byte from which computing takes longer than reading
    ends = [min([*intensity, ridge]) / 2, ridge, max([*intensity, ridge]) * 2]
    axes.plot(
        ends, [ends[0] * peaks.gb_s / 1e3, peaks.tflops, peaks.tflops], color="black", linewidth=1.3
    )
    slope = (ends[0] * ridge) ** 0.5
    axes.annotate(
        f"{peaks.gb_s:.3g} GB/s",
        (slope, slope * peaks.gb_s / 1e3),
        xytext=(8, -10),
        textcoords="offset points",
        fontsize=8,
    )
    axes.annotate(
        f"{peaks.tflops:.3g} TFLOPS",
        (ends[2], peaks.tflops),
        xytext=(-4, 4),
        textcoords="offset points",
        fontsize=8,
        ha="right",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_xlabel("operations per byte")
    _plain(axes, "operations a second (TFLOPS)")


def ratios(compared: pd.DataFrame, names: tuple[str, str] = ("baseline", "this run")) -> Figure:
    """Each case's time against the other run's, with the interval of the ratio; table of `compare.speed`."""
    table = compared.tail(MOST_CASES)
    figure, axes = _lines(len(table))
    for place, row in enumerate(table.to_dict("records")):
        colour = VERDICTS[row["verdict"]]
        axes.plot([row["ratio_low"], row["ratio_high"]], [place, place], color=colour, linewidth=2)
        axes.plot(row["ratio"], place, "o", color=colour, markersize=5)
    axes.axvline(1, color="black", linewidth=0.8)
    _cases(axes, table, [f"{row['token']}: {case_name(row)}" for row in table.to_dict("records")])
    axes.set_xlabel(f"time in {names[1]} ÷ time in {names[0]}: below 1 is faster")
    handles = [Patch(color=colour, label=name) for name, colour in VERDICTS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def timeline(events: pd.DataFrame) -> Figure:
    """A trace's events over time: a band per rank and thread, the phases above; table of `traces.read`."""
    bands = list(events[~events["kind"].isin(("prefill", "decode"))].groupby(["rank", "thread"]))
    figure = Figure(figsize=(8.5, 1.5 + 0.4 * len(bands)), layout="constrained")
    axes = figure.subplots()
    for place, ((rank, thread), part) in enumerate(bands):
        outer = events[(events["rank"] == rank) & (events["thread"] == thread)]
        for kind, colour in KINDS.items():
            rows = (
                outer[outer["kind"] == kind]
                if kind in ("prefill", "decode")
                else part[part["kind"] == kind]
            )
            high = (place - 0.45, 0.9) if kind in ("prefill", "decode") else (place - 0.3, 0.6)
            axes.broken_barh(
                list(zip(rows["start_ms"], rows["ms"], strict=True)),
                high,
                color=colour,
                linewidth=0,
            )
    axes.set_yticks(
        range(len(bands)), [_thread(bands, place) for place in range(len(bands))], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds since the trace began")
    _plain(axes, "")
    handles = [
        Patch(color=colour, label=kind)
        for kind, colour in KINDS.items()
        if kind in set(events["kind"])
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def _thread(bands: list[tuple[Any, Any]], place: int) -> str:
    """A band's rank, and which of its threads where it has several."""
    rank = bands[place][0][0]
    same = [n for n, ((other, _), _) in enumerate(bands) if other == rank]
    return rank if len(same) == 1 else f"{rank}, thread {same.index(place)}"


def scaling(measured: pd.DataFrame, predicted: pd.DataFrame) -> Figure:
    """Left what was measured on this host, right what is predicted for chips; tables of `scaling`."""
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, rows in _by_threads(measured):
        left.plot(rows["ranks"] * rows["threads"], rows["speed_up"], "o-", markersize=4, label=name)
    most = (measured["ranks"] * measured["threads"]).max()
    left.plot(
        [1, most], [1, most], color=GREY, linestyle=":", linewidth=1, label="as many times as cores"
    )
    left.set_xlabel("ranks × threads")
    left.legend(frameon=False, fontsize=8)
    token = next(words for words, name in TOKENS.items() if name == timed_token(measured))
    _plain(left, f"measured here: {token}, times as fast")
    for chip, rows in predicted.dropna(subset="predicted_next_ms").groupby("chip", sort=False):
        right.plot(rows["ranks"], rows["predicted_next_ms"], "o--", markersize=4, label=chip)
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    right.set_xlabel("ranks, a chip each")
    right.legend(frameon=False, fontsize=8)
    _plain(right, "predicted bound of a next token (ms), not measured")
    return figure


def _by_threads(measured: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for ranks, rows in measured.groupby("ranks"):
        yield f"{ranks} rank{'s' * (ranks > 1)}, more threads", rows


def _lines(count: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.5, 1.3 + 0.22 * max(count, 1)), layout="constrained")
    return figure, figure.subplots()


def _cases(axes: Axes, table: pd.DataFrame, labels: list[str] | None = None) -> None:
    """A line per case, from top to bottom."""
    names = labels or [case_name(row) for row in table[KEY].to_dict("records")]
    axes.set_yticks(range(len(table)), names, fontsize=8)
    axes.set_ylim(len(table) - 0.4, -0.6)
    _plain(axes, "")


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _say(axes: Axes, sentence: str, title: str = "") -> None:
    """A sentence in place of a panel that has nothing to draw."""
    axes.set_axis_off()
    place = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, sentence, color="#555555", **place)
    _plain(axes, title)
