"""Measure decoding: cases, repeats, medians with their spread, and the vendor's CSV."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd

from neoxlib.engine import Case
from neoxlib.errors import DataError, SettingsError

if TYPE_CHECKING:
    from neoxlib.engine import Engine
    from neoxlib.run import Run

PARTS = ("pre", "forward", "communication", "post")
KEY = ["batch_size", "input_len", "output_len"]

# Header of the vendor's performance test, letter by letter (atb_speed_sdk; its last column does end in _post).
VENDOR_COLUMNS = (
    "batch_size", "input_seq_len(Encoding)", "output_seq_len(Decoding)", "ResponseTime(s)",
    "forward_first_token_time(ms)", "forward_next_token_time(ms)", "pre_next_token_time(ms)",
    "post_next_token_time_post(ms)",
)


def grid(
    case_pair: Sequence[Sequence[int]] | None, min_len_exp: int, max_len_exp: int, batch_size: int, max_seq_len: int
) -> list[Case]:
    """The vendor's cases: the pairs of (input, output) length if given, else all of 2^i x 2^j, input lengths first.

    Raises SettingsError listing every case that does not fit the window of `max_seq_len` positions.
    """
    lengths = [2**exponent for exponent in range(min_len_exp, max_len_exp + 1)]
    pairs = case_pair or [(inputs, outputs) for inputs in lengths for outputs in lengths]
    too_long = [f"{i}+{o}" for i, o in pairs if i + o > max_seq_len]
    if too_long:
        raise SettingsError(
            f"these cases (input + output tokens) do not fit max_seq_len {max_seq_len}: {', '.join(too_long)}; "
            "lower max_len_exp or case_pair, or load with a larger max_seq_len"
        )
    return [Case(batch_size, inputs, outputs) for inputs, outputs in pairs]


def measure(engine: "Engine", cases: Sequence[Case], run: "Run", report: Callable[[str], Any] = print) -> pd.DataFrame:
    """Time every case; `latency.csv` in the run's folder gains a row as soon as the case is measured.

    All times are milliseconds and the slowest rank's. `first_token_ms` and `next_token_ms` are medians, with the
    smallest and largest beside them; the parts pre, forward, communication and post are medians of the next tokens;
    `next_device_ms` is an NPU's own count of the forward pass; `peak_mb` is the fullest rank's memory since loading.
    """
    rows: list[dict[str, Any]] = []
    for number, case in enumerate(cases, start=1):
        rows.append(summarise(case, engine.profile(case)))
        run.save("latency", pd.DataFrame(rows))
        report(f"[{number}/{len(cases)}] {_line(rows[-1])}")
    return pd.DataFrame(rows)


def trace(engine: "Engine", cases: Sequence[Case], run: "Run", wanted: bool) -> str:
    """Run the first case once more under the profiler, where `wanted`: a trace of each rank in the run's folder."""
    if not wanted:
        return "No trace was asked for."
    return f"Traces of {_name(cases[0])}: {engine.trace(cases[0], run.folder / 'trace')}"


def summarise(case: Case, repeats: Sequence[dict[str, list[float]]]) -> dict[str, Any]:
    """One row: medians and spread over the repeats of a case."""
    walls = [[sum(step) for step in zip(*(run[part] for part in PARTS), strict=True)] for run in repeats]
    first = [wall[0] for wall in walls]
    later = [ms for wall in walls for ms in wall[1:]]
    row = {key: getattr(case, key) for key in KEY} | {"repeats": len(repeats)}
    row |= _spread("first_token_ms", first) | _spread("next_token_ms", later)
    for part in PARTS:
        row[f"next_{part}_ms"] = _median([ms for run in repeats for ms in run[part][1:]])
    row["first_forward_ms"] = median(run["forward"][0] + run["communication"][0] for run in repeats)
    if "device" in repeats[0]:  # an accelerator's own events
        row["first_device_ms"] = median(run["device"][0] for run in repeats)
        row["next_device_ms"] = _median([ms for run in repeats for ms in run["device"][1:]])
    if "peak_mb" in repeats[0]:
        row["peak_mb"] = max(run["peak_mb"][0] for run in repeats)
    row["text_ms"] = median(sum(run["text"]) for run in repeats)
    row["total_ms"] = median(sum(wall) for wall in walls)
    row["tokens_per_second"] = 1e3 * case.batch_size * case.output_len / row["total_ms"]
    return row


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    stem = name.removesuffix("_ms")
    low, high = (min(values), max(values)) if values else (None, None)
    return {name: _median(values), f"{stem}_min_ms": low, f"{stem}_max_ms": high}


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _line(row: dict[str, Any]) -> str:
    later = "" if row["next_token_ms"] is None else f", next {row['next_token_ms']:.2f} ms"
    name = _name(Case(*(row[key] for key in KEY)))
    return f"{name}: first {row['first_token_ms']:.2f} ms{later}, {row['tokens_per_second']:.0f} tokens/s"


def _name(case: Case) -> str:
    return f"batch {case.batch_size}, {case.input_len} in, {case.output_len} out"


def vendor_table(table: pd.DataFrame, perf_mode: str = "normal", skip_decode: bool = False) -> pd.DataFrame:
    """`table` in the eight columns of the vendor's CSV.

    ResponseTime is one generation, in seconds to two places, with turning ids into text unless `skip_decode`. As in
    the vendor's test, `perf_mode` "normal" has whole steps as token times and zeros for pre and post; "detail" has
    the forward pass alone and the other two apart.
    """
    detail = perf_mode == "detail"
    first = table["first_forward_ms"] if detail else table["first_token_ms"]
    later = table["next_forward_ms"] + table["next_communication_ms"] if detail else table["next_token_ms"]
    pre, post = (table[f"next_{part}_ms"] if detail else table[f"next_{part}_ms"] * 0 for part in ("pre", "post"))
    seconds = (table["total_ms"] + (0 if skip_decode else table["text_ms"])) / 1e3
    columns = [*(table[key] for key in KEY), seconds.round(2), first, later, pre, post]
    return pd.concat(columns, axis=1, keys=VENDOR_COLUMNS)


def vendor_name(about: dict[str, Any], batch_size: int) -> str:
    """The vendor's file name, without .csv: performance_test_{model}_{device}_bs{batch}."""
    device = about.get("chip") or about["device"].split(":")[0]
    return f"performance_test_{Path(about['model_dir']).name}_{device}_bs{batch_size}".replace(" ", "_")


def compare(table: pd.DataFrame, baseline: str | Path | None) -> pd.DataFrame | None:
    """Each case against the same case of an earlier run; None without a baseline.

    `baseline` is that run's results.json; its latency.csv lies beside it. A case is faster or slower only where the
    two ranges of next-token times do not overlap, else "within noise". Raises DataError for an unusable baseline.
    """
    if not baseline:
        return None
    earlier = _earlier(Path(baseline))
    both = table.merge(earlier, on=KEY, suffixes=("", "_before"))
    if both.empty:
        raise DataError(f"{baseline} measured none of these cases; give a run with the same batch size and lengths")
    both["ratio"] = both["next_token_ms"] / both["next_token_ms_before"]
    both["verdict"] = list(_verdicts(both))
    return both[[*KEY, "next_token_ms_before", "next_token_ms", "ratio", "verdict"]]


def check_baseline(compared: pd.DataFrame | None, run: "Run") -> pd.DataFrame | str:
    """Record in `run` that no case is slower than the baseline's; the comparison, or a word where there is none."""
    if compared is None:
        return "No baseline was given: nothing to compare with."
    slower = compared[compared["verdict"] == "slower"]
    run.check("no case slower than the baseline", slower.empty, f"{len(slower)} of {len(compared)} cases are slower")
    return run.save("baseline", compared)


def headline(table: pd.DataFrame) -> dict[str, float | int]:
    """The figures of the longest case, for results.json and the list of runs."""
    row = table.sort_values(["input_len", "output_len"]).iloc[-1]
    names = ("input_len", "output_len", "first_token_ms", "next_token_ms", "tokens_per_second")
    return {f"longest_{name}": row[name] for name in names}


def _earlier(results: Path) -> pd.DataFrame:
    try:
        notebook = json.loads(results.read_text(encoding="utf-8"))["notebook"]
        table = pd.read_csv(results.with_name("latency.csv"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{results} is not the results.json of a finished 04_profile run ({error})") from error
    if notebook != "04_profile":
        raise DataError(f"{results} is of {notebook}; a baseline is the results.json of a 04_profile run")
    return table


def _verdicts(both: pd.DataFrame) -> Iterator[str]:
    for row in both.itertuples():
        if row.next_token_max_ms < row.next_token_min_ms_before:
            yield "faster"
        elif row.next_token_min_ms > row.next_token_max_ms_before:
            yield "slower"
        else:
            yield "within noise"
