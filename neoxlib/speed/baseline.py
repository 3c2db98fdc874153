"""A run's times against those of an earlier run, its baseline, and those that it takes over.

A time is called faster or slower only if the 95 % interval of the ratio leaves out 1: it has the
two medians' own intervals, and how two runs differ without a change (`gate.Compared`). Too few
repeats give no verdict. The check also corrects for the number of times, and judges clean cases.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from neoxlib.errors import DataError
from neoxlib.inference.timing import Case
from neoxlib.machine.environment import BETWEEN_RUNS, kind
from neoxlib.speed import gate, noise
from neoxlib.speed.measure import COLUMNS as MEASURED
from neoxlib.speed.measure import KEY, Rows
from neoxlib.speed.statistics import MIN_REPEATS
from neoxlib.speed.watch import usual_threads
from neoxlib.workbook.past_run import Past, open_run
from neoxlib.workbook.table import NotAsked, Note

if TYPE_CHECKING:
    from neoxlib.workbook.run import Run

NO_INTERVAL = "no interval"
TOKENS = {"first token": "first_token_ms", "next token": "next_token_ms"}
TIMES = [f"{token}{end}" for token in TOKENS.values() for end in ("", "_low", "_high")]
COLUMNS = [*KEY, "repeats", *TIMES]
# What rows of two runs that stand in one table must have in common, beside `Past.identity`:
LOADED = ("fingerprint", "max_seq_len", "graph", "backend", "threads", "device", "compile")
VERSIONS = ("torch", "torch-npu", "cores", "variables")
ASKED = ("repeats", "min_seconds", "deterministic")


def read_baseline(path: str | None, run: "Run", cases: Sequence[Case]) -> pd.DataFrame | None:
    """Read the timed cases of an earlier 04_profile run; None if `path` is empty.

    `noise` says of each what disturbed it: of a run that did not keep that, by its load average
    and intervals.
    Raises DataError with everything that keeps it from being compared with `run`: another
    notebook, model, chip, dtype, quantization or number of ranks, an unfinished run, cases that it
    did not measure.
    """
    if not path:
        return None
    past = open_run(path)
    if past.results["notebook"] != "04_profile":
        raise DataError(
            f"{path} is of {past.results['notebook']}; "
            "a baseline is the results.json of a 04_profile run"
        )
    now = Past(run.folder, run.results).identity
    table = past.table("latency")
    there = past.identity.items()
    problems = [f"{name}: {v} there, {now[name]} here" for name, v in there if v != now[name]]
    problems += ["it has no latency.csv"] if table is None else lacking(table, cases)
    if problems:
        why = (
            f"{path} cannot be the baseline of this run "
            "(05_compare sets any two runs side by side):"
        )
        raise DataError("\n  ".join([why, *problems]))
    return table.assign(noise=told(table, past.results))


def told(table: pd.DataFrame, results: Mapping[str, Any]) -> list[str]:
    """What a run's table says of the noise of each case; what can be told, if it has no word."""
    if "noise" in table or not results:
        texts = table["noise"] if "noise" in table else [""] * len(table)
        return ["" if pd.isna(text) else str(text) for text in texts]
    cores = int((results.get("environment") or {}).get("cores") or 1)
    found = noise.judge(table, usual_threads(results.get("model") or {}), cores)
    return [noise.sentence(case) for case in found]


def taken_over(path: str | None, run: "Run", cases: Sequence[Case]) -> Rows:
    """The clean rows of an earlier 04_profile run, broken off or not, by place among `cases`.

    None if `path` is empty. Raises DataError with everything that keeps them from standing beside
    those of `run`: another notebook, model, chip, dtype, parameter or commit, and for a run that
    measured none of the cases.
    """
    if not path:
        return {}
    past = open_run(path)
    if past.results["notebook"] != "04_profile":
        raise DataError(f"{path} is of {past.results['notebook']}; resume takes a 04_profile run")
    now = _everything(Past(run.folder, run.results))
    there = _everything(past).items()
    problems = [f"{name}: {v} there, {now[name]} here" for name, v in there if v != now[name]]
    table = past.table("latency")
    if table is None or (names := [name for name in MEASURED if name not in table]):
        problems += ["it measured no case" if table is None else f"it has no {', '.join(names)}"]
    if problems:
        raise DataError("\n  ".join([f"the times of {path} cannot be taken over:", *problems]))
    places = {tuple(getattr(case, key) for key in KEY): n for n, case in enumerate(cases)}
    rows = table.assign(noise=told(table, past.results)).astype(object)
    rows = rows.where(rows.notna(), None).to_dict("records")
    found = {places.get(tuple(row[key] for key in KEY)): row for row in rows}
    found.pop(None, None)
    kept = {n: row | {"from_run": past.folder.name} for n, row in found.items() if not row["noise"]}
    noisy = f", {len(found) - len(kept)} more were noisy" if len(found) > len(kept) else ""
    print(f"{len(kept)} of {len(cases)} cases are taken over from {past.name}{noisy}.")
    return kept


def _everything(past: Past) -> dict[str, Any]:
    """All that a run's times depend on: its identity, what was loaded, and its commit."""
    parts = (past.results.get(part) or {} for part in ("model", "environment", "parameters"))
    model, environment, asked = parts
    about = {name: model.get(name) for name in LOADED} | {"commit": environment.get("git")}
    about |= {name: environment.get(name) for name in VERSIONS}
    return past.identity | about | {name: asked.get(name) for name in ASKED}


def lacking(table: pd.DataFrame, cases: Sequence[Case]) -> list[str]:
    """Name what an earlier table lacks: columns, numbers in them, or some of the cases."""
    columns = [name for name in COLUMNS if name not in table]
    if columns:
        return [f"its latency.csv has no columns {', '.join(columns)}"]
    if words := [name for name in COLUMNS if not _of_numbers(table[name])]:
        return [f"its latency.csv has something else than its numbers in {', '.join(words)}"]
    have = set(table[KEY].itertuples(index=False, name=None))
    missing = [str(case) for case in cases if tuple(getattr(case, key) for key in KEY) not in have]
    return [f"not measured there: {', '.join(missing)}"] if missing else []


def _of_numbers(column: pd.Series) -> bool:
    """Whether a column holds whole numbers (of a case), or times and gaps."""
    if column.name in KEY:
        least = 0 if column.name == "depth" else 1
        return column.dtype.kind in "iu" and bool((column >= least).all())
    times = column.dropna()
    known = column.dtype.kind in "iuf" and bool(times.between(0, math.inf, "neither").all())
    return times.empty or known


def case_name(row: Mapping[str, int]) -> str:
    """A row's case in words."""
    names = ("batch_size", "input_len", "output_len", "depth")  # Case's own order
    return str(Case(*(int(row[name]) for name in names)))


def compare_times(before: pd.DataFrame, now: pd.DataFrame, machine: str) -> pd.DataFrame:
    """Compare two runs on a kind of machine: a row per common case and token.

    It has both medians, the ratio now ÷ before with its interval, and the verdict.
    """
    both = _both(before, now)
    rows = [_ratio(row, *token, machine) for row in both for token in TOKENS.items()]
    columns = [*KEY, "token", "before_ms", "now_ms", "ratio", "ratio_low", "ratio_high", "verdict"]
    return pd.DataFrame(rows, columns=columns).dropna(subset="ratio").reset_index(drop=True)


def _both(before: pd.DataFrame, now: pd.DataFrame) -> list[dict[str, Any]]:
    """The common cases; what is before has `_before` at its names' ends."""
    now, before = (
        found[COLUMNS]
        .astype(dict.fromkeys(COLUMNS[len(KEY) :], float))
        .assign(noise=told(found, {}), drift=_drift(found))
        for found in (now, before)
    )
    return now.merge(before, on=KEY, suffixes=("", "_before")).to_dict("records")


def _drift(table: pd.DataFrame) -> pd.Series:
    """How much a run drifted; 0 if it is not known."""
    if "drift" not in table:
        return pd.Series(0.0, table.index)
    return pd.to_numeric(table["drift"], errors="coerce").fillna(0.0)


def _ratio(row: dict[str, Any], token: str, name: str, machine: str) -> tuple:
    before = row[f"{name}_before"]
    now = row[name]
    if _repeats(row) < MIN_REPEATS:
        low = math.nan
        high = math.nan
        verdict = NO_INTERVAL
    else:
        low, high = _compared(row, name, machine).ends
        verdict = "faster" if high < 1 else "slower" if low > 1 else "within noise"
    return *(row[key] for key in KEY), token, before, now, now / before, low, high, verdict


def _repeats(row: dict[str, Any]) -> float:
    """The fewer repeats of the two runs."""
    return min(row["repeats"], row["repeats_before"])


def check_baseline(
    before: pd.DataFrame | None, now: pd.DataFrame, run: "Run"
) -> pd.DataFrame | Note:
    """Check in `run` that no time is slower than the baseline's by more than `max_slowdown`.

    Clean times with an interval are judged, with the uncertainty that `gate.Compared` has. If they
    are less than half of all, and none is slower, the check cannot be judged.
    Returns the comparison, or a note if there is no baseline.
    """
    if before is None:
        return NotAsked("No baseline was given: nothing to compare with.")
    allowed = run.params.max_slowdown
    compared = _with_p_values(compare_times(before, now, kind()), before, now, allowed)
    run.save("baseline", compared)
    if getattr(run.params, "baseline_python", None):
        return compared  # judged in turns
    judged = compared[compared["p_slower"].notna()]
    over = judged[judged["p_slower"] <= gate.ALPHA]
    rest = _not_judged(compared, before, now)
    detail = "; ".join(filter(None, (_slowest(over) or _counts(judged), rest)))
    enough = len(judged) > 0 and 2 * len(judged) >= len(compared)
    passed = False if len(over) else True if enough else None
    run.check(f"no case slower than the baseline by more than {allowed:.0%}", passed, detail)
    return compared


def _with_p_values(
    compared: pd.DataFrame, before: pd.DataFrame, now: pd.DataFrame, allowed: float
) -> pd.DataFrame:
    """Add what disturbed a case in either run and, of those that are judged, two figures.

    `p_slower` is the adjusted probability of such a ratio without a slowdown beyond `allowed`,
    `detectable` the slowdown that would be found.
    """
    cases = {tuple(row[key] for key in KEY): row for row in _both(before, now)}
    rows = [cases[tuple(row[key] for key in KEY)] for row in compared.to_dict("records")]
    noisy = ["; ".join(filter(None, (row["noise"], row["noise_before"]))) for row in rows]
    names = [TOKENS[token] for token in compared["token"]]
    kept = [
        place for place, row in enumerate(rows) if not noisy[place] and _repeats(row) >= MIN_REPEATS
    ]
    found = [_compared(rows[place], names[place], kind()) for place in kept]
    p_values = gate.holm([one.p_slower(allowed) for one in found])
    detectable = [one.detectable(allowed, len(found)) for one in found]
    return compared.assign(
        noise=noisy,
        p_slower=pd.Series(p_values, kept, dtype=float),
        detectable=pd.Series(detectable, kept, dtype=float),
    )


def _compared(row: dict[str, Any], name: str, machine: str) -> gate.Compared:
    """A common case's time, now and before, on a kind of machine."""
    runs = ("", "_before")
    ends = [(row[f"{name}_low{run}"], row[f"{name}_high{run}"]) for run in runs]
    medians, repeats, drifts = (
        [row[f"{column}{run}"] for run in runs] for column in (name, "repeats", "drift")
    )
    return gate.Compared.of(medians, ends, repeats, drifts, machine)


def _slowest(over: pd.DataFrame) -> str:
    """Name the times that have become slower."""
    return "; ".join(
        f"{case_name(row)}: {row['token']} {row['ratio']:.2f} times"
        for row in over.to_dict("records")
    )


def _counts(judged: pd.DataFrame) -> str:
    """Count the verdicts, and say from which slowdown on one would have been found."""
    if judged.empty:
        return ""
    counts = ", ".join(f"{n} {verdict}" for verdict, n in judged["verdict"].value_counts().items())
    found = f"{counts}; a slowdown by {judged['detectable'].median():.0%} would be found"
    if kind() != "virtual":
        return found
    differ = f"{BETWEEN_RUNS['virtual']:.0%}"
    return (
        f"{found} (quiet runs of a virtual machine differ by {differ}; baseline_python sees less)"
    )


def _not_judged(compared: pd.DataFrame, before: pd.DataFrame, now: pd.DataFrame) -> str:
    """Say how many times have no verdict, and why; empty if all have one."""
    return "; ".join(filter(None, (_disturbed(compared), _too_few(compared, before, now))))


def _disturbed(compared: pd.DataFrame) -> str:
    rows = compared[compared["noise"] != ""].to_dict("records")
    if not rows:
        return ""
    first = f"{case_name(rows[0])}: {rows[0]['noise']}"
    return f"{len(rows)} of {len(compared)} not judged for noise, the first of {first}"


def _too_few(compared: pd.DataFrame, before: pd.DataFrame, now: pd.DataFrame) -> str:
    times = int((compared["verdict"] == NO_INTERVAL).sum())
    both = now[[*KEY, "repeats"]].merge(before[[*KEY, "repeats"]], on=KEY, suffixes=("", "_before"))
    now_least, before_least = (both[name].min() for name in ("repeats", "repeats_before"))
    why = (
        f"a 95 % interval of the median takes {MIN_REPEATS} repeats, the fewest of a case are "
        f"{now_least:.0f} in this run, {before_least:.0f} in the baseline"
    )
    return f"{times} not judged: {why}; raise repeats" if times else ""
