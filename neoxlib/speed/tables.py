"""The tables of 04_profile as people read them.

Some are kept in the run's folder, some come with their figure. First and next token are the time
to first token (TTFT) and the time per output token (TPOT).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from neoxlib.hosts import sums
from neoxlib.inference.timing import Case
from neoxlib.speed import baseline, cells, files, overlap, panels, roofline, scaling, traces
from neoxlib.speed import figures as speed_figures
from neoxlib.speed.cells import number_table
from neoxlib.speed.headline import Verdicts
from neoxlib.speed.measure import KEY
from neoxlib.workbook.table import NotAsked, Note, Table

if TYPE_CHECKING:
    from neoxlib.inference.contract import Inference
    from neoxlib.model.config import ModelConfig
    from neoxlib.ranks.session import Session
    from neoxlib.speed.peaks import Peaks
    from neoxlib.workbook.run import Run


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
    """Host, versions, chip, dtype, quantization and environment of `run` in one small table."""
    environment = run.environment
    model = run.results["model"]
    variables = {**environment["variables"], **model.get("launch_environment", {})}
    lines = {
        "host": _pairs(environment, HOST),
        "versions": _pairs(environment, VERSIONS),
        "model": model.get("model_dir", "not loaded"),
        "loaded": _pairs(model, LOADED),
        "variables": ", ".join(f"{k}={v}" for k, v in sorted(variables.items())) or "none",
    }
    return Table(("what", "this run"), lines.items())


def _pairs(values: Mapping[str, object], names: tuple[str, ...]) -> str:
    known = {name: values[name] for name in names if values.get(name) is not None}
    return ", ".join(
        f"{name} {value:,}" if type(value) is int else f"{name} {value}"
        for name, value in known.items()
    )


def peaks_table(run: "Run", peak: "Peaks") -> Table:
    """The peaks of all ranks together, and their sources; kept as `peaks.csv`."""
    heads = {"peak": "all ranks together", "value": "peak", "unit": "unit", "source": "source"}
    return number_table(run.save("peaks", peak.table), heads)


WORK = {  # column -> unit
    "bytes_per_step": "B",
    "operations_per_step": "FLOP",
    "first_bytes": "B",
    "first_operations": "FLOP",
}
LIMITS = {  # column -> head; a blank at the end tells equal heads apart
    "next_bound_ms": "next token: bound, predicted (ms)",
    "next_token_ms": "measured (ms)",
    "bytes_per_step": "read",
    "operations_per_step": "computed",
    "mbu": "MBU",
    "mfu": "MFU",
    "communication_share": "sums",
    "bound": "bound by",
    "first_bound_ms": "first token: bound, predicted (ms)",
    "first_token_ms": "measured (ms) ",
    "first_bytes": "read ",
    "first_operations": "computed ",
    "first_mbu": "MBU ",
    "first_mfu": "MFU ",
    "first_bound": "bound by ",
}


def verdicts(
    run: "Run", table: pd.DataFrame, roof: roofline.Roofline
) -> tuple[pd.DataFrame, Verdicts]:
    """Add the columns of `roofline.verdicts` to `table`; the second result shows its sentences.

    The new columns are kept as `limits.csv`.
    """
    judged = roofline.verdicts(table, roof)
    added = [name for name in judged if name not in table]
    run.save("limits", judged[[*KEY, *added]])
    return judged, Verdicts(judged)


def limits(judged: pd.DataFrame) -> Table:
    """Both tokens: predicted bound, measured time, work and shares of the peaks.

    `limits.csv` has the numbers.
    """
    work = {
        name: [None if pd.isna(value) else cells.si(value) + unit for value in judged[name]]
        for name, unit in WORK.items()
    }
    return _readable(judged.assign(**work), LIMITS)


def predictions(run: "Run", judged: pd.DataFrame, roof: roofline.Roofline) -> Table:
    """Predicted times after each change, kept as `predictions.csv`."""
    table = run.save("predictions", roofline.predictions(judged, roof, KEY))
    return _readable(table, {name: name for name in table if name not in KEY})


TIMES = {
    "first_token_ms": "first token, TTFT (ms)",
    "first_token_ms_interval": "95 % interval",
    "next_token_ms": "next token, TPOT (ms)",
    "next_token_ms_interval": "95 % interval ",
    "tokens_per_second": "tokens/s",
    "total_ms": "whole, synced (ms)",
    "end_to_end_ms": "whole, end to end (ms)",
    "rank_rss_peak_mb": "memory of a rank (MB)",
    "device_peak_mb": "of its NPU (MB)",
}


def times(table: pd.DataFrame) -> Table:
    """Each case's times: both tokens with intervals, tokens a second, a whole answer.

    The whole answer is timed by the synced clock and by the end-to-end clock.
    """
    rows = table.to_dict("records")
    intervals = {
        f"{name}_interval": [cells.interval_text(row, name) for row in rows]
        for name in baseline.TOKENS.values()
    }
    return _readable(table.assign(**intervals), TIMES)


def phases(table: pd.DataFrame) -> Table:
    """The parts of a next token, in ms, and the rank that worked longest."""
    heads = {f"next_{part}_ms": f"{part} (ms)" for part in panels.PARTS}
    return _readable(table, heads | {"slowest_rank": "slowest rank"})


def between_hosts(run: "Run", session: "Session", case: "Case") -> Table | NotAsked:
    """What sums cost within and between hosts, measured and predicted; kept as `hosts.csv`."""
    once = replace(case, repeats=1, min_seconds=0.0, warmup=1, end_to_end_every=0)
    answer = session.apply(sums.measure, once)
    if answer is None:
        return NotAsked("The ranks are on one host, or HCCL sums over all hosts in one.")
    found = sums.read(answer, session.config)
    table = found.table(session.config, case.batch_size, case.input_len)
    heads = {"what": "what", "how": "how"}
    heads |= {"within_ms": "within a host (ms)", "between_ms": "between hosts (ms)"}
    return number_table(run.save("hosts", table), heads)


def percentiles(table: pd.DataFrame) -> Table:
    """How steady the tokens are: percentiles of all steps in ms, and the machine's state."""
    heads = {
        f"{name}_{mark}": f"{token}, {mark} (ms)"
        for token, name in baseline.TOKENS.items()
        for mark in ("p50", "p90", "p99")
    }
    heads |= {"outliers": "outliers", "repeats": "repeats", "warmups": "warm-ups"}
    heads |= {"others_cores": "used by others (cores)", "takes": "takes"}
    heads |= {"load_average": "load", "frequency_mhz": "clock (MHz)"}
    return _readable(table, heads)


def vendor(run: "Run", table: pd.DataFrame) -> pd.DataFrame:
    """The vendor's eight columns of the cases without depth, rounded; the CSV is not."""
    shallow = table[table["depth"] == 0]
    return files.vendor_table(shallow, run.params.perf_mode, run.params.skip_decode).round(3)


def against_baseline(run: "Run", before: pd.DataFrame | None, now: pd.DataFrame) -> Table | Note:
    """The comparison with a baseline, if there is one: its figure, and its table for reading."""
    found = baseline.check_baseline(before, now, run)
    if isinstance(found, pd.DataFrame):
        run.figure("baseline", speed_figures.ratios(found))
        return ratios(found)
    return found


def ratios(compared: pd.DataFrame | Note, before: str = "before", now: str = "now") -> Table | Note:
    """A comparison of times, for reading; a note stays a note."""
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


def traced(run: "Run", session: "Inference", case: Case) -> Table | Note:
    """Record the first steps of `case` if the parameter `trace` is set.

    Returns the operations that took longest; the timeline is a figure of the run.
    """
    if not run.params.trace:
        return NotAsked("No trace was asked for: the parameter is trace.")
    folder = session.trace(case, run.folder / "trace")
    events = traces.read_trace(folder)
    run.figure("timeline", speed_figures.timeline(events))
    table = run.save("top_operations", traces.top_operations(events))
    print(
        f"The traces of {case} are in trace/ beside this report; "
        "open them in ui.perfetto.dev or chrome://tracing."
    )
    _show_device_shares(run, folder)
    heads = {"name": "operation", "kind": "kind", "calls": "calls", "self_ms": "ms"}
    return number_table(table, heads | {"share": "share"})


def _show_device_shares(run: "Run", folder: str) -> None:
    """Show what the NPUs did in each phase, kept as `device_shares.csv`; nothing of a CPU."""
    from IPython.display import display

    shares = overlap.device_shares(folder)
    if not shares.empty:
        heads = {name: name for name in shares} | {"communication": "only communication"}
        display(number_table(run.save("device_shares", shares), heads))
        print(overlap.sentence(shares))


SCALING = {
    "ranks": "ranks",
    "threads": "threads of each",
    "first_token_ms": "measured first token (ms)",
    "next_token_ms": "measured next token (ms)",
    "speed_up": "times as fast",
    "efficiency": "efficiency",
}
PREDICTED_SCALING = {
    "chip": "chip",
    "ranks": "ranks",
    "predicted_first_ms": "predicted first token, bound (ms)",
    "predicted_next_ms": "predicted next token, bound (ms)",
    "predicted_next_likely_ms": "predicted, likely (ms)",
    "fits": "fits",
}


def scaled(run: "Run", config: "ModelConfig", case: Case) -> Table | Note:
    """Time `case` over ranks and threads if the parameter `scaling` is set.

    Shows two tables: measured on this host, and predicted for chips. The figure has a panel each.
    """
    from IPython.display import display

    if not run.params.scaling:
        return NotAsked("No scaling view was asked for: the parameter is scaling.")
    predicted = run.save("predicted_scaling", scaling.predict(run.params, config, case))
    measured = run.save("scaling", scaling.time_combinations(run.params, config, case))
    run.figure("scaling", speed_figures.scaling(measured, predicted))
    display(number_table(measured, SCALING))
    return number_table(predicted, PREDICTED_SCALING)


def _readable(table: pd.DataFrame, heads: dict[str, str]) -> Table:
    """A row per case: its name, then the columns of `heads` that the table has."""
    names = [baseline.case_name(row) for row in table[KEY].to_dict("records")]
    return number_table(table.assign(case=names), {"case": "case"} | heads)
