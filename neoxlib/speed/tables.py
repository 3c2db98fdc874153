"""The tables of 04_profile as people read them; some are kept in the run's folder, some come with their figure."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from neoxlib.inference.timing import Case
from neoxlib.speed import baseline, files, panels, roofline, scaling, statistics, traces
from neoxlib.speed import figures as speed_figures
from neoxlib.speed.measure import KEY
from neoxlib.workbook import markup
from neoxlib.workbook.table import Note, Table

if TYPE_CHECKING:
    from neoxlib.model.config import ModelConfig
    from neoxlib.ranks.session import Session
    from neoxlib.speed.peaks import Peaks
    from neoxlib.workbook.run import Run


SHARES = ("mbu", "mfu", "communication_share", "first_mbu", "first_mfu", "share", "efficiency")
BLANK = "\u00a0"  # keeps a cell on one line
VERSIONS = ("neoxlib", "git", "python", "torch", "torch-npu", "transformers", "ipyparallel")
HOST = ("platform", "cpu", "cores", "memory_gb")
LOADED = (
    "device",
    "chip",
    "dtype",
    "quant",
    "parameters",
    "world_size",
    "threads",
    "backend",
    "max_seq_len",
    "compile",
)


def box(run: "Run") -> Table:
    """Host, versions, chip, dtype, quantization and environment of `run` in one table of a few lines."""
    environment = run.environment
    model = run.results["model"]
    variables = {**environment["variables"], **model.get("launch_environment", {})}
    lines = {
        "host": _pairs(environment, HOST),
        "versions": _pairs(environment, VERSIONS),
        "model": model.get("model_dir", "not loaded"),
        "loaded": _pairs(model, LOADED),
        "variables": ", ".join(f"{name}={value}" for name, value in sorted(variables.items()))
        or "none",
    }
    return Table(("what", "this run"), lines.items())


def _pairs(values: dict[str, Any], names: tuple[str, ...]) -> str:
    known = {name: values[name] for name in names if values.get(name) is not None}
    return ", ".join(
        f"{name} {value:,}" if type(value) is int else f"{name} {value}"
        for name, value in known.items()
    )


def peaks(run: "Run", peak: "Peaks") -> Table:
    """What all ranks together reach, and who says so; kept as `peaks.csv`."""
    table = run.save("peaks", peak.table)
    return numbers(
        table, {"peak": "all ranks together", "value": "peak", "unit": "unit", "source": "source"}
    )


class Verdicts:
    """A sentence per case, coloured by what binds its next token, or its first without one."""

    def __init__(self, table: pd.DataFrame) -> None:
        bounds = table["bound"].where(table["bound"].notna(), table["first_bound"])
        names = [baseline.case_name(row) for row in table.to_dict("records")]
        self.rows = list(zip(names, bounds, table["verdict"], strict=True))

    def _repr_html_(self) -> str:
        style = "padding-left:.6em;margin:.5em 0;list-style:none;border-left:4px solid"
        colours = panels.BOUNDS
        lines = "".join(
            f'<li style="{style} {colours[bound]}">'
            f"<b>{markup.text(name)}</b><br>{markup.text(sentence)}</li>"
            for name, bound, sentence in self.rows
        )
        return markup.block(f'<ul style="padding-left:0">{lines}</ul>')

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {sentence}" for name, _, sentence in self.rows)


def verdicts(
    run: "Run", table: pd.DataFrame, roof: roofline.Roofline
) -> tuple[pd.DataFrame, Verdicts]:
    """`table` with the columns of `roofline.verdicts`, kept as `limits.csv`, and the sentences to show."""
    judged = roofline.verdicts(table, roof)
    added = [name for name in judged if name not in table]
    run.save("limits", judged[[*KEY, *added]])
    return judged, Verdicts(judged)


def limits(judged: pd.DataFrame) -> Table:
    """Work and shares of the peaks, of both tokens; `limits.csv` has the numbers."""
    units = {
        "bytes_per_step": "B",
        "operations_per_step": "FLOP",
        "first_bytes": "B",
        "first_operations": "FLOP",
    }
    work = {
        name: [None if pd.isna(value) else roofline.si(value) + unit for value in judged[name]]
        for name, unit in units.items()
    }
    return _readable(
        judged.assign(**work),
        {
            "bytes_per_step": "next token: read",
            "operations_per_step": "computed",
            "mbu": "MBU",
            "mfu": "MFU",
            "communication_share": "sums",
            "bound": "bound by",
            "first_bytes": "first token: read",
            "first_operations": "computed ",
            "first_mbu": "MBU ",
            "first_mfu": "MFU ",
            "first_bound": "bound by ",
        },
    )


def predictions(run: "Run", judged: pd.DataFrame, roof: roofline.Roofline) -> Table:
    """What each change is predicted to give, kept as `predictions.csv`."""
    table = run.save("predictions", roofline.predictions(judged, roof, KEY))
    return _readable(table, {name: name for name in table if name not in KEY})


def times(table: pd.DataFrame) -> Table:
    """First and next token with their intervals, tokens a second, and a whole continuation by both clocks."""
    intervals = {
        f"{name}_interval": [_interval(row, name) for row in table.to_dict("records")]
        for name in baseline.TOKENS.values()
    }
    return _readable(
        table.assign(**intervals),
        {
            "first_token_ms": "first token (ms)",
            "first_token_ms_interval": "95 % interval",
            "next_token_ms": "next token (ms)",
            "next_token_ms_interval": "95 % interval ",
            "tokens_per_second": "tokens/s",
            "total_ms": "whole, synced (ms)",
            "end_to_end_ms": "whole, end to end (ms)",
            "rank_rss_peak_mb": "memory of a rank (MB)",
            "device_peak_mb": "of its NPU (MB)",
        },
    )


def phases(table: pd.DataFrame) -> Table:
    """The parts of a next token, in ms, and the rank that worked longest."""
    heads = {f"next_{part}_ms": f"{part} (ms)" for part in panels.PARTS}
    return _readable(table, heads | {"slowest_rank": "slowest rank"})


def percentiles(table: pd.DataFrame) -> Table:
    """How steady the tokens are: percentiles of all steps in ms, and what the machine did meanwhile."""
    heads = {
        f"{name}_{mark}": f"{token}, {mark} (ms)"
        for token, name in baseline.TOKENS.items()
        for mark in ("p50", "p90", "p99")
    }
    return _readable(
        table,
        heads
        | {
            "outliers": "outliers",
            "repeats": "repeats",
            "warmups": "warm-ups",
            "load_average": "load",
            "frequency_mhz": "clock (MHz)",
        },
    )


def vendor(run: "Run", table: pd.DataFrame) -> pd.DataFrame:
    """The vendor's eight columns of the cases without depth, rounded for reading; the CSV has them whole."""
    return files.vendor_table(
        table[table["depth"] == 0], run.params.perf_mode, run.params.skip_decode
    ).round(3)


def against_baseline(run: "Run", before: pd.DataFrame | None, now: pd.DataFrame) -> Table | Note:
    """The comparison with a baseline, if there is one: its figure, and its table for reading."""
    found = baseline.check_baseline(before, now, run)
    if isinstance(found, pd.DataFrame):
        run.figure("baseline", speed_figures.ratios(found))
        return ratios(found)
    return found


def ratios(compared: pd.DataFrame | Note, before: str = "before", now: str = "now") -> Table | Note:
    """A comparison of times, for reading; a word stays a word."""
    if isinstance(compared, Note):
        return compared
    ends = zip(compared["ratio_low"], compared["ratio_high"], strict=True)
    interval = ["–" if pd.isna(low) else f"{low:.2f} to {high:.2f}" for low, high in ends]
    table = compared.assign(interval=interval)
    names = {
        "token": "token",
        "before_ms": f"{before} (ms)",
        "now_ms": f"{now} (ms)",
        "ratio": f"{now} ÷ {before}",
    }
    return _readable(table, names | {"interval": "its interval", "verdict": "verdict"})


def traced(run: "Run", session: "Session", case: Case) -> Table | Note:
    """Where the parameter `trace` asks for it: `case`'s first steps as a timeline, and what took longest in them."""
    if not run.params.trace:
        return Note("No trace was asked for: the parameter is trace.")
    folder = session.trace(case, run.folder / "trace")
    events = traces.read(folder)
    run.figure("timeline", speed_figures.timeline(events))
    table = run.save("top_operations", traces.top_operations(events))
    print(
        f"The traces of {case} are in trace/ beside this report; open them in ui.perfetto.dev or chrome://tracing."
    )
    return numbers(
        table,
        {"name": "operation", "kind": "kind", "calls": "calls", "self_ms": "ms", "share": "share"},
    )


def scaled(run: "Run", config: "ModelConfig", case: Case) -> Table | Note:
    """Where the parameter `scaling` asks for it: `case` over ranks and threads of this host, measured, and over chips,
    predicted: two tables, and a figure of two panels.
    """
    from IPython.display import display

    if not run.params.scaling:
        return Note("No scaling view was asked for: the parameter is scaling.")
    predicted = run.save("predicted_scaling", scaling.predict(run.params, config, case))
    measured = run.save("scaling", scaling.measure(run.params, config, case))
    run.figure("scaling", speed_figures.scaling(measured, predicted))
    display(
        numbers(
            measured,
            {
                "ranks": "ranks",
                "threads": "threads of each",
                "first_token_ms": "measured first token (ms)",
                "next_token_ms": "measured next token (ms)",
                "speed_up": "times as fast",
                "efficiency": "efficiency",
            },
        )
    )
    return numbers(
        predicted,
        {
            "chip": "chip",
            "ranks": "ranks",
            "predicted_first_ms": "predicted first token, bound (ms)",
            "predicted_next_ms": "predicted next token, bound (ms)",
            "predicted_next_likely_ms": "predicted, likely (ms)",
            "fits": "fits",
        },
    )


def _interval(row: dict[str, Any], name: str) -> str:
    low = row[f"{name}_low"]
    high = row[f"{name}_high"]
    repeats = row["repeats"]
    few = f" (range of {repeats}, no interval)" if repeats < statistics.MIN_REPEATS else ""
    return "–" if pd.isna(low) else f"{low:.3g} to {high:.3g}{few}"


def _readable(table: pd.DataFrame, heads: dict[str, str]) -> Table:
    """A row per case: its name, then those of the columns that are there, under their heads."""
    names = [baseline.case_name(row) for row in table[KEY].to_dict("records")]
    return numbers(table.assign(case=names), {"case": "case"} | heads)


def numbers(table: pd.DataFrame, heads: dict[str, str]) -> Table:
    """Three figures of each number, shares as per cent, nothing wrapped; columns without any value are left out."""
    known = [name for name in heads if name in table and table[name].notna().any()]
    cells = [[_cell(name, value).replace(" ", BLANK) for value in table[name]] for name in known]
    return Table(tuple(heads[name] for name in known), zip(*cells, strict=True))


def _cell(name: str, value: Any) -> str:
    if isinstance(value, (str, bool, list, dict)):
        return str(value)
    if value is None or pd.isna(value):
        return "–"
    if name in SHARES:
        return f"{value:.1%}"
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"
