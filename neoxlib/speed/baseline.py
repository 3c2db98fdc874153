"""A run's times against those of an earlier run, its baseline.

A time is called faster or slower only if the interval of the ratio, which follows from the two
medians' 95 % intervals, leaves out 1. Too few repeats for such an interval give no verdict.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from neoxlib.errors import DataError
from neoxlib.inference.timing import Case
from neoxlib.speed.measure import KEY
from neoxlib.speed.statistics import MIN_REPEATS
from neoxlib.workbook.past_run import Past, open_run
from neoxlib.workbook.table import NotAsked, Note

if TYPE_CHECKING:
    from neoxlib.workbook.run import Run


NO_INTERVAL = "no interval"
TOKENS = {"first token": "first_token_ms", "next token": "next_token_ms"}
TIMES = [f"{token}{end}" for token in TOKENS.values() for end in ("", "_low", "_high")]
COLUMNS = [*KEY, "repeats", *TIMES]


def read_baseline(path: str | None, run: "Run", cases: Sequence[Case]) -> pd.DataFrame | None:
    """Read the timed cases of an earlier 04_profile run; None if `path` is empty.

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
    problems = []
    for what, value in past.identity.items():
        if value != now[what]:
            problems.append(f"{what}: {value} there, {now[what]} here")
    problems += ["it has no latency.csv"] if table is None else lacking(table, cases)
    if problems:
        why = (
            f"{path} cannot be the baseline of this run "
            "(05_compare sets any two runs side by side):"
        )
        raise DataError("\n  ".join([why, *problems]))
    return table


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
    """Whether a column holds whole numbers (of a case) or any numbers or nothing (of times)."""
    if column.name in KEY:
        least = 0 if column.name == "depth" else 1
        return column.dtype.kind in "iu" and bool((column >= least).all())
    return column.isna().all() or column.dtype.kind in "iuf"


def case_name(row: Mapping[str, int]) -> str:
    """A row's case in words."""
    names = ("batch_size", "input_len", "output_len", "depth")  # Case's own order
    return str(Case(*(int(row[name]) for name in names)))


def compare_times(before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """Compare two runs: a row per common case and token.

    It has both medians, the ratio now ÷ before with its interval, and the verdict.
    """
    now, before = (
        found[COLUMNS].astype(dict.fromkeys(COLUMNS[len(KEY) :], float)) for found in (now, before)
    )
    both = now.merge(before, on=KEY, suffixes=("", "_before"))
    rows = [
        _ratio(row, token, name)
        for row in both.to_dict("records")
        for token, name in TOKENS.items()
    ]
    columns = [*KEY, "token", "before_ms", "now_ms", "ratio", "ratio_low", "ratio_high", "verdict"]
    return pd.DataFrame(rows, columns=columns).dropna(subset="ratio").reset_index(drop=True)


def _ratio(row: dict[str, Any], token: str, name: str) -> tuple:
    before = row[f"{name}_before"]
    now = row[name]
    low = row[f"{name}_low"] / row[f"{name}_high_before"]
    high = row[f"{name}_high"] / row[f"{name}_low_before"]
    verdict = "faster" if high < 1 else "slower" if low > 1 else "within noise"
    if _repeats(row) < MIN_REPEATS:
        low = math.nan
        high = math.nan
        verdict = NO_INTERVAL
    return *(row[key] for key in KEY), token, before, now, now / before, low, high, verdict


def _repeats(row: dict[str, Any]) -> float:
    """The fewer repeats of the two runs."""
    return min(row["repeats"], row["repeats_before"])


def check_baseline(
    before: pd.DataFrame | None, now: pd.DataFrame, run: "Run"
) -> pd.DataFrame | Note:
    """Check in `run` that no time is slower than the baseline's by more than `max_slowdown`.

    Times without an interval are not judged and fail nothing; the check's detail says why.
    Returns the comparison, or a note if there is no baseline.
    """
    if before is None:
        return NotAsked("No baseline was given: nothing to compare with.")
    compared = compare_times(before, now)
    allowed = run.params.max_slowdown
    over = compared[(compared["verdict"] == "slower") & (compared["ratio"] > 1 + allowed)]
    worst = "; ".join(
        f"{case_name(row)}: {row['token']} {row['ratio']:.2f} times"
        for row in over.to_dict("records")
    )
    judged = compared[compared["verdict"] != NO_INTERVAL]
    counts = ", ".join(f"{n} {verdict}" for verdict, n in judged["verdict"].value_counts().items())
    rest = _not_judged(len(compared) - len(judged), before, now)
    detail = "; ".join(filter(None, (worst or counts, rest)))
    run.check(f"no case slower than the baseline by more than {allowed:.0%}", over.empty, detail)
    return run.save("baseline", compared)


def _not_judged(times: int, before: pd.DataFrame, now: pd.DataFrame) -> str:
    """Say how many times have no verdict, and why; empty if all have one."""
    both = now[[*KEY, "repeats"]].merge(before[[*KEY, "repeats"]], on=KEY, suffixes=("", "_before"))
    fewest = f"{both['repeats'].min()} in this run, {both['repeats_before'].min()} in the baseline"
    why = (
        f"a 95 % interval of the median takes {MIN_REPEATS} repeats, "
        f"the fewest of a case are {fewest}"
    )
    return f"{times} not judged: {why}; raise repeats" if times else ""
