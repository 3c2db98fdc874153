"""What an NPU does during a step: compute, communicate, or wait for the host.

CANN's msprof sums a trace up in a lane "Overlap Analysis": its events say when at least one kernel
ran (Computing), when only collectives ran, and when nothing ran (Free). The share of the last is
the answer to whether decoding is bound by the host.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from neoxlib.inference.trace import PHASES
from neoxlib.speed.lanes import OVERLAP, Event, Lanes, read_lanes

if TYPE_CHECKING:
    import pandas as pd

COMPUTING = "Computing"
NOT_OVERLAPPED = "Communication(Not Overlapped)"
FREE = "Free"
WHOLE = "whole trace"
COLUMNS = ["rank", "phase", "ms", "computing", "communication", "free"]
BOUND = {
    "computing": "bound by its kernels",
    "communication": "bound by the collectives",
    "free": "bound by the host",
}
Span = tuple[float, float]  # start and end


def device_shares(folder: str | Path) -> "pd.DataFrame":
    """Read how each rank's NPU spent each phase: a row per rank and phase, with COLUMNS.

    `ms` is the phase's wall time; the rest are shares of it: computing, communication that no
    kernel overlaps, free. The row "whole trace" has the lane's own sums. Empty for a CPU's trace.
    Raises DataError if there is no trace.
    """
    import pandas as pd

    rows = [row for lanes in read_lanes(folder) for row in _rows(lanes)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(lanes: Lanes) -> list[list[object]]:
    spans = {name: _spans(lanes, name) for name in (COMPUTING, NOT_OVERLAPPED, FREE)}
    if not any(spans.values()):
        return []
    sums = [sum(end - start for start, end in found) for found in spans.values()]
    whole = sum(sums)
    rows = [[lanes.rank, WHOLE, whole / 1e3, *(part / whole for part in sums)]]
    for phase in PHASES:
        inside = [_span(event) for event in lanes.events if event["name"] == phase]
        wall = sum(end - start for start, end in inside)
        if wall:
            busy = [_common(spans[name], inside) / wall for name in (COMPUTING, NOT_OVERLAPPED)]
            rows.append([lanes.rank, phase, wall / 1e3, *busy, 1 - sum(busy)])
    return rows


def _spans(lanes: Lanes, name: str) -> list[Span]:
    found = (event for event in lanes.events if lanes.lane(event) == OVERLAP)
    return [_span(event) for event in found if event["name"] == name]


def _span(event: Event) -> Span:
    start = float(event["ts"])
    return start, start + float(event["dur"])


def _common(spans: list[Span], inside: list[Span]) -> float:
    """The time that spans, which do not overlap each other, have in common with others."""
    pairs = ((min(a[1], b[1]), max(a[0], b[0])) for a in spans for b in inside)
    return sum(max(0.0, end - start) for end, start in pairs)


def sentence(shares: "pd.DataFrame") -> str:
    """Answer whether decoding is bound by the host, from the mean of the ranks' shares."""
    if shares.empty:
        return ""
    phase = "decode" if "decode" in set(shares["phase"]) else WHOLE
    mean = shares[shares["phase"] == phase][list(BOUND)].mean()
    return (
        f"{phase}: the NPU computes {mean['computing']:.0%} of the time, only communicates "
        f"{mean['communication']:.0%}, and is free {mean['free']:.0%}: {BOUND[mean.idxmax()]}. "
        "A profiler slows the host."
    )
