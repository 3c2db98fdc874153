"""Why the time of a case is not to be trusted: other load, no steady state, times out of order.

Each limit is a figure with its argument. What is found is said in sentences with figures.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from neoxlib.inference.timing import Case

MOST_WARMUPS = Case.warmup


class Limit(NamedTuple):
    """A figure from which a time counts as disturbed, and why it is this one."""

    value: float
    why: str


LIMITS = {
    "others": Limit(
        0.1,
        "cores beyond those that the ranks leave free: the slowest rank sets the pace of a step, "
        "so a tenth of one rank's core may be a tenth of the time; a kernel, its monitor and a "
        "machine's own services use less",
    ),
    "neighbours": Limit(
        0.25,
        "of all cores, also where the ranks' own stay free: cores share memory bandwidth and "
        "clock, and a quarter of them can use a good part of both (assumed)",
    ),
    "load": Limit(
        0.5,
        "load average beyond the ranks' threads or, if more, the cores; for runs that kept no "
        "other figure. The average also counts the ranks themselves, so less says nothing",
    ),
    "stolen": Limit(0.02, "of the cores' time: as much as the effects that runs are compared for"),
    "stolen once": Limit(
        0.1,
        "of the cores' time while something is timed once, as an answer is: such a time is not "
        "compared for less, and ticks of 10 ms tell no less in half a second",
    ),
    "clock": Limit(0.9, "of the fastest clock of the run: times follow it in proportion"),
    "width": Limit(0.15, "of the median: with more, a change by a tenth cannot be seen"),
    "drift": Limit(
        0.1,
        "of the first case's time, from the run's start to its end: cases that were timed far "
        "apart then differ by that much without a cause of their own",
    ),
    "order": Limit(
        0.05,
        "beyond both intervals: more work was faster than less. Ranges of 6 repeats each lie "
        "apart by chance in 1 of 924 pairs of equal times; hardly ever by this much more",
    ),
}
TIMES = {"first token": "first_token_ms", "next token": "next_token_ms"}
GROWS = ("input_len", "batch_size", "depth")  # with none of them a token gets cheaper
CASE = ("batch_size", "depth", "input_len", "output_len")

# Cause -> how the sentence of the run is made of the figures of its cases.
Found = dict[str, tuple[float, str]]  # cause -> figure, sentence
RUN_WORDS: dict[str, Callable[[list[float], int, int], str]] = {
    "others": lambda found, of, cores: (
        f"other processes used {_mean(found):.1f} of {cores} cores while {len(found)} of {of} "
        "cases were measured"
    ),
    "load": lambda found, of, cores: (
        f"the load average was up to {max(found):.1f} on {cores} cores at {len(found)} of {of} "
        "cases"
    ),
    "stolen": lambda found, of, _: (
        f"the host gave up to {max(found):.0%} of the cores' time to other guests at "
        f"{len(found)} of {of} cases"
    ),
    "clock": lambda found, of, _: (
        f"the clock fell to {min(found):.0%} of its fastest at {len(found)} of {of} cases"
    ),
    "warm-up": lambda found, of, _: f"{len(found)} of {of} cases never settled in their warm-up",
    "width": lambda found, of, _: (
        f"95 % intervals reach up to ± {max(found) / 2:.0%}, {len(found)} of {of} are too wide"
    ),
    "order": lambda found, of, _: (
        f"{len(found)} of {of} cases are out of order: more work took less time"
    ),
}


def judge(table: pd.DataFrame, threads: int, cores: int) -> list[Found]:
    """Return what disturbed each case of `table`, a table of timed cases; {} for a clean one.

    `threads` are those that the ranks keep busy here, `cores` those they may use. Tables of
    earlier versions, without the cores that others used, are judged by their load average.
    """
    rows = table.to_dict("records")
    clocks = [float(row["frequency_mhz"]) for row in rows if _has(row, "frequency_mhz")]
    fastest = max(clocks, default=0.0)
    broken = _out_of_order(rows)
    return [
        _load(row, threads, cores) | _clock(row, fastest) | _unsteady(row) | broken.get(place, {})
        for place, row in enumerate(rows)
    ]


def disturbance(row: Mapping[str, Any], threads: int, cores: int) -> tuple[bool, bool, float]:
    """Order the takes of one case: the least is the one to keep.

    By load over its limit, by any other cause, then by the load itself. How fast a take was is
    not in it: the fastest of some takes would be too fast.
    """
    found = judge(pd.DataFrame([row]), threads, cores)[0]
    load = row["others_cores"] + row["stolen_cores"]
    return "others" in found or "stolen" in found, bool(found), load


def sentence(found: Found) -> str:
    """Say what disturbed a case; empty for a clean one."""
    return "; ".join(text for _, text in found.values())


def run_sentence(found: list[Found], cores: int) -> str:
    """Say with figures what disturbed a run's cases; empty if nothing did."""
    figures = {cause: [case[cause][0] for case in found if cause in case] for cause in RUN_WORDS}
    told = [
        words(figures[cause], len(found), cores)
        for cause, words in RUN_WORDS.items()
        if figures[cause]
    ]
    return "; ".join(told)


def load_sentence(load: Mapping[str, Any], threads: int, cores: int) -> str:
    """Say with figures what else used the cores, by the columns of a `LoadWatch`; empty if quiet.

    For times that are measured once, as those of an answer are.
    """
    told = sentence(_load(load, threads, cores, LIMITS["stolen once"]))
    return f"while the answers were timed, {told}" if told else ""


def drift_sentence(drift: float) -> str:
    """Say how much a run drifted; empty if that is little, or not known."""
    if not abs(drift) > LIMITS["drift"].value:  # also of NaN
        return ""
    if drift > 0:
        return f"the first case took {drift:.0%} longer at the end than at the start"
    return f"the first case took {-drift:.0%} less at the end than at the start"


def _load(
    row: Mapping[str, Any], threads: int, cores: int, most_stolen: Limit = LIMITS["stolen"]
) -> Found:
    if not _has(row, "others_cores"):
        return _load_average(row, threads, cores)
    found: Found = {}
    others = row["others_cores"]
    free = max(0, cores - threads)
    if others > min(free + LIMITS["others"].value, LIMITS["neighbours"].value * cores):
        found["others"] = others, f"other processes used {others:.1f} of {cores} cores"
    stolen = row["stolen_cores"] / cores
    if stolen > most_stolen.value:
        told = f"the host gave {stolen:.0%} of the cores' time to other guests"
        found["stolen"] = stolen, told
    return found


def _load_average(row: Mapping[str, Any], threads: int, cores: int) -> Found:
    """What the load average of an earlier version's row says."""
    if not _has(row, "load_average"):
        return {}
    load = row["load_average"]
    if load <= max(threads, cores) + LIMITS["load"].value:
        return {}
    return {"load": (load, f"the load average was {load:.1f} on {cores} cores")}


def _clock(row: Mapping[str, Any], fastest: float) -> Found:
    if not _has(row, "frequency_mhz") or row["frequency_mhz"] >= LIMITS["clock"].value * fastest:
        return {}
    share = row["frequency_mhz"] / fastest
    told = f"the clock was {row['frequency_mhz']:,.0f} MHz, {share:.0%} of the run's fastest"
    return {"clock": (share, told)}


def _unsteady(row: Mapping[str, Any]) -> Found:
    """A warm-up that did not settle, intervals that are too wide; ranges of few repeats, too.

    An interval of more repeats would not be narrower than such a range promises.
    """
    found: Found = {}
    if _has(row, "warmups") and row["warmups"] >= MOST_WARMUPS:
        found["warm-up"] = 1.0, f"its times did not settle in {row['warmups']:.0f} warm-up runs"
    widths = {token: _width(row, name) for token, name in TIMES.items()}
    wide = {token: width for token, width in widths.items() if width > LIMITS["width"].value}
    if wide:
        told = [f"{token} ± {width / 2:.0%}" for token, width in wide.items()]
        found["width"] = max(wide.values()), f"95 % intervals are wide: {', '.join(told)}"
    return found


def is_wide(row: Mapping[str, Any]) -> bool:
    """Whether an interval of a case is too wide."""
    return any(_width(row, name) > LIMITS["width"].value for name in TIMES.values())


def _width(row: Mapping[str, Any], name: str) -> float:
    """The width of a median's interval as a share of it; 0 without a time."""
    if not _has(row, name):
        return 0.0
    return (row[f"{name}_high"] - row[f"{name}_low"]) / row[name]


def _out_of_order(rows: list[dict[str, Any]]) -> dict[int, Found]:
    """The cases, by place, that took longer than one with more work, and those with more work."""
    found: dict[int, Found] = {}
    kinds = [(name, token, column) for name in GROWS for token, column in TIMES.items()]
    for name, token, column in [*kinds, ("output_len", "whole answer", "")]:
        for less, more in _pairs(rows, name):
            low = _ends(rows[less], column)[0]
            high = _ends(rows[more], column)[1]
            if low > high * (1 + LIMITS["order"].value):
                longer = f"its {token} took longer than with {name} {rows[more][name]}"
                shorter = f"its {token} took less than with {name} {rows[less][name]}"
                found.setdefault(less, {"order": (1.0, longer)})
                found.setdefault(more, {"order": (1.0, shorter)})
    return found


def _pairs(rows: list[dict[str, Any]], name: str) -> list[tuple[int, int]]:
    """Places of two cases that differ in `name` alone, the smaller first."""
    groups: dict[tuple, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(tuple(row[key] for key in CASE if key != name), []).append(place)
    return [
        (less, more)
        for places in groups.values()
        for less in places
        for more in places
        if rows[less][name] < rows[more][name]
    ]


def _ends(row: Mapping[str, Any], column: str) -> tuple[float, float]:
    """The interval of a time; of a whole answer, without a column, made of its tokens'.

    NaN, which is out of order with nothing, if it was not measured.
    """
    nothing = float("nan")
    if column:
        low, high = (row[f"{column}_{end}"] for end in ("low", "high"))
        return (low, high) if _has(row, column) else (nothing, nothing)
    first = _ends(row, "first_token_ms")
    later = _ends(row, "next_token_ms") if row["output_len"] > 1 else (0.0, 0.0)
    return tuple(a + (row["output_len"] - 1) * b for a, b in zip(first, later, strict=True))


def _has(row: Mapping[str, Any], name: str) -> bool:
    return row.get(name) is not None and not pd.isna(row[name])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
