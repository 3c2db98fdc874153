"""A profiler's trace of a few steps: recorded on every rank, read back as tables.

The file is in the format that Perfetto (ui.perfetto.dev) and chrome://tracing read. Each step is marked as prefill or
decode. The compiled path of a CPU is one call for all layers, or one between two sums, and shows as such.
"""

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxlib.errors import DataError
from neoxlib.inference.trace import PHASES, SUMS

if TYPE_CHECKING:
    import pandas as pd


KINDS = {"layers (compiled)": "computing", "head (compiled)": "computing"} | dict.fromkeys(
    SUMS, "communication"
)
COLUMNS = ["rank", "thread", "kind", "name", "start_ms", "ms", "self_ms"]


def read(folder: str | Path) -> "pd.DataFrame":
    """Events of all ranks' traces: rank, thread, kind, name, start and length in ms, and length without what is inside.

    `kind` is a phase, computing, communication or other; an NPU's kernels are computing. Raises DataError where there
    is no trace.
    """
    import pandas as pd

    folder = Path(folder)
    paths = sorted([*folder.rglob("*.pt.trace.json*"), *folder.rglob("trace_view.json")])
    if not paths:
        raise DataError(f"{folder} has no trace (*.pt.trace.json, or torch_npu's trace_view.json)")
    table = pd.DataFrame([row for path in paths for row in _events(path, folder)], columns=COLUMNS)
    table["start_ms"] -= table["start_ms"].min()
    return table


def _events(path: Path, folder: Path) -> list[list[Any]]:
    """Rows of one rank's trace; the file or folder below `folder` starts with the rank's name."""
    rank = path.relative_to(folder).parts[0].split(".")[0].split("_")[0]
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        found = json.load(file)
    events = found["traceEvents"] if isinstance(found, dict) else found
    rows = [
        [
            rank,
            f"{event.get('pid')}/{event.get('tid')}",
            _kind(event),
            event["name"],
            float(event["ts"]) / 1e3,
            float(event["dur"]) / 1e3,
            float(event["dur"]) / 1e3,
        ]
        for event in events
        if event.get("ph") == "X" and not _of_the_profiler(event)
    ]
    rows.sort(key=lambda row: (row[1], row[4], -row[5]))
    open_rows: list[list[Any]] = []
    for row in rows:  # an event inside another takes its length from the other's own
        while open_rows and (
            open_rows[-1][1] != row[1] or row[4] >= open_rows[-1][4] + open_rows[-1][5]
        ):
            open_rows.pop()
        if open_rows:
            open_rows[-1][6] -= row[5]
        open_rows.append(row)
    return rows


def _of_the_profiler(event: dict[str, Any]) -> bool:
    return event.get("cat") in ("Trace", "overhead") or str(event["name"]).startswith(
        ("PyTorch Prof", "ProfilerStep")
    )


def _kind(event: dict[str, Any]) -> str:
    name = str(event["name"])
    category = str(event.get("cat", "")).lower()
    if name in PHASES:
        return name
    if any(word in name.lower() for word in ("hccl", "c10d", "gloo")):
        return "communication"
    return KINDS.get(name, "computing" if category == "kernel" else "other")


def top_operations(events: "pd.DataFrame", count: int = 15) -> "pd.DataFrame":
    """The operations that took longest by themselves: calls and milliseconds of a rank on average, share of all."""
    ranks = events["rank"].nunique()
    inner = events[~events["kind"].isin(PHASES)]
    table = inner.groupby(["name", "kind"], as_index=False).agg(
        calls=("name", "size"), self_ms=("self_ms", "sum")
    )
    table["share"] = table["self_ms"] / table["self_ms"].sum()
    table[["calls", "self_ms"]] /= ranks
    return table.sort_values("self_ms", ascending=False).head(count).reset_index(drop=True)
