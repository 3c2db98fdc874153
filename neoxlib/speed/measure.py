"""Measure decoding: a row per case of medians with intervals, percentiles, memory and noise."""

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd

from neoxlib.inference.timing import Case
from neoxlib.machine import limits
from neoxlib.speed import files, noise, statistics, watch
from neoxlib.speed.cases import refuse_large
from neoxlib.workbook.param import timings_shown
from neoxlib.workbook.progress import Progress

if TYPE_CHECKING:
    from neoxlib.inference.contract import Inference
    from neoxlib.inference.timing import Figures
    from neoxlib.workbook.run import Run

PARTS = ("pre", "forward", "communication", "post")
KEY = ["batch_size", "depth", "input_len", "output_len"]
PROMPT_SHARE = 1 / 32  # assumed cost of a prompt token in decoding steps; for the time left only

# Column -> meaning and unit. Times are milliseconds; those of a step are its slowest rank's.
COLUMNS = {
    "batch_size": "prompts at a time",
    "depth": "positions that were in the cache before the prompt, in tokens",
    "input_len": "tokens of each prompt",
    "output_len": "tokens that each prompt was continued by",
    "repeats": "times that the case was run under the synced clock, after the warm-up",
    "warmups": "short runs before them, until two in a row agreed",
    "warmup_s": "what those took, in seconds; what had to be compiled before is not in it",
    "first_token_ms": "time to first token (TTFT): median time of the first step: prompt in, one "
    "token out; synced clock",
    "first_token_ms_low": "lower end of the median's 95 % interval; "
    "of fewer than 6 repeats the least",
    "first_token_ms_high": "upper end of it; of fewer than 6 repeats the most",
    "first_token_ms_p50": "half of the first steps took at most this",
    "first_token_ms_p90": "nine in ten took at most this",
    "first_token_ms_p99": "99 in 100 took at most this",
    "next_token_ms": "time per output token (TPOT), of each later step: the median over the "
    "repeats of each repeat's median; synced clock",
    "next_token_ms_low": "lower end of the 95 % interval of that median; "
    "of fewer than 6 repeats the least",
    "next_token_ms_high": "upper end of it; of fewer than 6 repeats the most",
    "next_token_ms_p50": "half of all later steps took at most this",
    "next_token_ms_p90": "nine in ten took at most this",
    "next_token_ms_p99": "99 in 100 took at most this",
    "tokens_per_second": "new tokens of all rows by total_ms, prompt included",
    "total_ms": "median time of a whole continuation, the sum of its steps; synced clock",
    "end_to_end_ms": "median time of a whole continuation by a clock that does not wait for the "
    "device in between",
    "next_pre_ms": "of a next token, on the rank that worked longest: building the inputs",
    "next_forward_ms": "the same rank's forward pass without the ranks' sums",
    "next_communication_ms": "the same rank's part in the ranks' sums",
    "next_post_ms": "the same rank's gathering of logits, choosing, and telling the others",
    "first_forward_ms": "median forward pass of the first step, the ranks' sums included",
    "first_device_ms": "median forward pass of the first step by the device's own events; "
    "none on a CPU",
    "next_device_ms": "the same of a next token",
    "text_ms": "median time of turning the new ids into text, after the last step; "
    "in none of the times above",
    "rank_rss_peak_mb": "most resident memory of any rank during the case, seen from another "
    "process, in MB",
    "device_peak_mb": "most device memory of any rank during the case by npu-smi, in MB; "
    "none on a CPU",
    "device_allocated_peak_mb": "most memory of any rank's tensors on its device during the case, "
    "in MB; likewise",
    "outliers": "steps far from the others of their kind (5 scaled median deviations); "
    "none is left out",
    "slowest_rank": "the rank that worked longest in most of the next steps, waiting left out",
    "frequency_mhz": "the CPU's clock at the case's end, as the system says it",
    "load_average": "the system's load average over the last minute, at the case's end",
    "others_cores": "cores that other processes kept busy during the case, on average",
    "stolen_cores": "cores that the host gave to other guests meanwhile, on average",
    "cores": "cores that this process may use",
    "takes": "times that the case was measured; a noisy one is again at the end, and the take "
    "under the least load is kept",
    "from_run": "the earlier run that measured it, taken over by `resume`; empty for this run",
    "drift": "how much longer the case that was timed first took at the run's end, as a share",
    "noise": "why its times are not to be trusted; empty for a clean case",
}
Rows = dict[int, dict[str, Any]]  # by place among the cases


def time_cases(
    engine: "Inference",
    cases: Sequence[Case],
    run: "Run",
    seed: int = 0,
    perf_mode: str = "normal",
    skip_decode: bool = False,
    retry_noisy: int = 0,
    known: Rows | None = None,
    max_seconds: float = 0.0,
) -> pd.DataFrame:
    """Time every case in an order shuffled by `seed`, then noisy ones `retry_noisy` times again.

    A case whose intervals alone are too wide is repeated for up to `max_seconds`.
    Returns a row per case, with COLUMNS, in the order of `cases`; those in `known`, by place, are
    taken over. `files.save` writes each row into the run's folder as soon as it is measured, so
    that a run that ends early loses only the running case. The case that was timed first is timed
    once more at the end. What keeps the times from being trusted is recorded with `run.noisy`.
    Raises SettingsError before anything runs for a cache that memory cannot hold.
    """
    about = engine.describe()
    refuse_for_memory(engine, cases)

    def take(case: Case) -> dict[str, Any]:
        return _row(engine, case, about, max_seconds)

    def keep(rows: Rows) -> pd.DataFrame:
        found = judged(rows, about)
        files.save(run, found, COLUMNS, about, perf_mode, skip_decode)
        return found

    rows: Rows = dict(known or {})
    order = random.Random(seed).sample(range(len(cases)), len(cases))
    todo = [place for place in order if place not in rows]
    table = _time(take, about, cases, todo, rows, keep, "cases")
    for _ in range(retry_noisy):
        noisy = [place for place in order if table["noise"].iloc[place]]
        table = _time(take, about, cases, noisy, rows, keep, "noisy cases again")
    _record_graphs(engine, run, about)
    if todo:
        drift = _drift(take(cases[todo[0]]), rows[todo[0]])
        rows = {place: row | {"drift": drift} for place, row in rows.items()}
    table = keep(rows)
    _record_noise(run, table, about)
    return table


def _drift(now: Mapping[str, Any], before: Mapping[str, Any]) -> float:
    """How much longer a case takes now than before, as a share."""
    name = "first_token_ms" if now["next_token_ms"] is None else "next_token_ms"
    return now[name] / before[name] - 1


def _time(
    take: Callable[[Case], dict[str, Any]],
    about: dict[str, Any],
    cases: Sequence[Case],
    places: Sequence[int],
    rows: Rows,
    keep: Callable[[Rows], pd.DataFrame],
    noun: str,
) -> pd.DataFrame:
    """Time the cases at `places` into `rows`; of two takes of a case the less disturbed stays."""
    if not places:
        return keep(rows)
    sizes = {place: _size(cases[place]) for place in places}
    with Progress(sum(sizes.values()), len(places), noun, keep=timings_shown()) as progress:
        for place in places:
            progress.begin(str(cases[place]), sizes[place])
            takes = [take(cases[place])]
            takes += [rows[place]] if place in rows else []
            count = sum(take["takes"] for take in takes)
            rows[place] = least_disturbed(takes, about) | {"takes": count}
            table = keep(rows)
            progress.done()
            if timings_shown():
                print(in_words(takes[0]), flush=True)
    return table


def least_disturbed(takes: list[dict[str, Any]], about: Mapping[str, Any]) -> dict[str, Any]:
    """Of some takes of a case, the one under the least load, whatever its times are."""
    threads = watch.usual_threads(about)
    return min(takes, key=lambda row: noise.disturbance(row, threads, row["cores"]))


def judged(rows: Rows, about: Mapping[str, Any]) -> pd.DataFrame:
    """The rows as a table, in order, with the column `noise`."""
    table = pd.DataFrame([rows[place] for place in sorted(rows)])
    found = _noise(table, about)
    return table.assign(noise=[noise.sentence(case) for case in found])


def _noise(table: pd.DataFrame, about: Mapping[str, Any]) -> list[noise.Found]:
    return noise.judge(table, watch.usual_threads(about), int(table["cores"].min()))


def _record_noise(run: "Run", table: pd.DataFrame, about: Mapping[str, Any]) -> None:
    told = noise.run_sentence(_noise(table, about), int(table["cores"].min()))
    drifted = noise.drift_sentence(table["drift"].iloc[0])
    if told or drifted:
        run.noisy("; ".join(filter(None, (told, drifted))))


def _record_graphs(engine: "Inference", run: "Run", about: dict[str, Any]) -> None:
    """Record what capturing decode took. Sums between ranks are part of it and not timed apart."""
    if str(about.get("graph", "off")).startswith("off"):
        return
    run.metrics(**{f"decode_graph_{name}": value for name, value in engine.graph_use.items()})


def refuse_for_memory(engine: "Inference", cases: Sequence[Case]) -> None:
    """Raise SettingsError, with the figures, if a KV cache on a CPU exceeds the free memory."""
    about = engine.describe()
    config = engine.config
    if str(about["device"]) != "cpu":
        return  # the plan knows the memory of NPUs and warns
    width = {"float32": 4}.get(about["dtype"], 2)  # bytes
    # Keys and values of all ranks together:
    token = 2 * config.num_hidden_layers * config.hidden_size * width
    refuse_large(cases, token, limits.memory().free)


def _row(
    engine: "Inference", case: Case, about: dict[str, Any], max_seconds: float
) -> dict[str, Any]:
    npu = str(about["device"]).startswith("npu")
    pids = watch.pids(engine)
    with watch.MemoryMonitor(pids, npu) as memory, watch.LoadWatch(pids) as load:
        end = time.perf_counter() + max_seconds
        runs = engine.profile(case)
        while time.perf_counter() < end and noise.is_wide(summarise(case, runs)):
            runs += engine.profile(case)
    allocated = max(runs[0].get("device_peak_mb", []), default=None)
    seen = {
        "rank_rss_peak_mb": _most(memory.rss),
        "device_peak_mb": _most(memory.device),
        "device_allocated_peak_mb": allocated,
    }
    each = {f"rank{r}_rss_peak_mb": peak for r, peak in enumerate(memory.rss)}
    state = watch.machine() | load.row() | {"takes": 1, "from_run": "", "drift": math.nan}
    return summarise(case, runs) | seen | state | each


def summarise(case: Case, runs: "Sequence[Figures]") -> dict[str, Any]:
    """Summarise the repeats of a case, as `timing.profile` gives them, in a row."""
    row: dict[str, Any] = {key: getattr(case, key) for key in KEY} | {"repeats": len(runs)}
    row |= {"warmups": int(runs[0]["warmups"][0]), "warmup_s": runs[0]["warmup_s"][0]}
    row |= _times("first_token_ms", [run["step"][:1] for run in runs])
    row |= _times("next_token_ms", [run["step"][1:] for run in runs])
    row["total_ms"] = median(sum(run["step"]) for run in runs)
    row["tokens_per_second"] = 1e3 * case.batch_size * case.output_len / row["total_ms"]
    row["end_to_end_ms"] = _median([ms for run in runs for ms in run["end_to_end"]])
    for part in PARTS:
        row[f"next_{part}_ms"] = _median([ms for run in runs for ms in run[part][1:]])
    row["first_forward_ms"] = median(run["forward"][0] + run["communication"][0] for run in runs)
    row["first_device_ms"] = _median([ms for run in runs for ms in run.get("device", [])[:1]])
    row["next_device_ms"] = _median([ms for run in runs for ms in run.get("device", [])[1:]])
    row["text_ms"] = median(run["text"][0] for run in runs)
    firsts = [run["step"][0] for run in runs]
    later = [ms for run in runs for ms in run["step"][1:]]
    row["outliers"] = statistics.outliers(firsts) + statistics.outliers(later)
    ranks = Counter(rank for run in runs for rank in (run["slowest"][1:] or run["slowest"]))
    row["slowest_rank"] = int(ranks.most_common(1)[0][0])
    return row


def _times(name: str, runs: Sequence[Sequence[float]]) -> dict[str, float | None]:
    """The median over the repeats of each one's median, its interval, percentiles of all steps.

    All None if there are no steps.
    """
    middles = [median(run) for run in runs if run]
    steps = [ms for run in runs for ms in run]
    names = [name, *(f"{name}_{end}" for end in ("low", "high", "p50", "p90", "p99"))]
    if not steps:
        return dict.fromkeys(names)
    tail = (statistics.percentile(steps, percent) for percent in (90, 99))
    values = median(middles), *statistics.interval(middles), median(steps), *tail
    return dict(zip(names, values, strict=True))


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _most(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _size(case: Case) -> float:
    """Approximate relative cost of a case, for the time left."""
    return case.output_len + PROMPT_SHARE * case.batch_size * case.input_len


def in_words(row: dict[str, Any]) -> str:
    """A row in a line."""
    later = "" if row["next_token_ms"] is None else f", next {row['next_token_ms']:.2f} ms"
    case = Case(*(row[key] for key in ("batch_size", "input_len", "output_len", "depth")))
    parts = ", ".join(f"{part} {row[f'next_{part}_ms']:.2f}" for part in PARTS) if later else ""
    detail = f" ({parts})" if parts else ""
    first = f"first {row['first_token_ms']:.2f} ms"
    return f"{case}: {first}{later}{detail}, {row['tokens_per_second']:.0f} tokens/s"


def headline(table: pd.DataFrame) -> dict[str, float | int]:
    """The figures of the longest case, for results.json and the list of runs."""
    row = table.sort_values(["depth", "input_len", "output_len"]).iloc[-1]
    names = ("input_len", "output_len", "first_token_ms", "next_token_ms", "tokens_per_second")
    return {f"longest_{name}": row[name] for name in names}
