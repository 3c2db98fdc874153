"""Read a profiler's traces of a few steps, one per rank, as tables.

The files are in the format that Perfetto (ui.perfetto.dev) and chrome://tracing read. Each step is
marked as prefill or decode. The compiled path of a CPU is one call for all layers, or one between
two all-reduces, and shows as such.
"""

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxlib.errors import DataError
from neoxlib.inference.trace import COLLECTIVES, PHASES

if TYPE_CHECKING:
    import pandas as pd


KINDS = {"layers (compiled)": "computing", "head (compiled)": "computing"} | dict.fromkeys(
    COLLECTIVES, "communication"
)
COLUMNS = ["rank", "thread", "kind", "name", "start_ms", "ms", "self_ms"]


def read_trace(folder: str | Path) -> "pd.DataFrame":
    """Read the events of all ranks' traces: a row per event, with COLUMNS.

    `kind` is a phase, computing, communication or other; an NPU's kernels are computing. `self_ms`
    is the length without the events inside. Raises DataError if there is no trace.
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
    whole = [e for e in events if e.get("ph") == "X" and not _of_the_profiler(e)]
    return _without_inner([_row(rank, event) for event in whole])


def _row(rank: str, event: dict[str, Any]) -> list[Any]:
    """An event in the order of COLUMNS; its own time is still its whole length."""
    thread = f"{event.get('pid')}/{event.get('tid')}"
    ms = float(event["dur"]) / 1e3
    return [rank, thread, _kind(event), event["name"], float(event["ts"]) / 1e3, ms, ms]


def _without_inner(rows: list[list[Any]]) -> list[list[Any]]:
    """Take the length of each event from the own time of the event around it."""
    rows.sort(key=lambda row: (row[1], row[4], -row[5]))
    around: list[list[Any]] = []
    for row in rows:
        while around and (around[-1][1] != row[1] or row[4] >= around[-1][4] + around[-1][5]):
            around.pop()
        if around:
            around[-1][6] -= row[5]
        around.append(row)
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
    """The operations with the longest own time: calls and ms of a rank on average, share of all."""
    ranks = events["rank"].nunique()
    inner = events[~events["kind"].isin(PHASES)]
    table = inner.groupby(["name", "kind"], as_index=False).agg(
        calls=("name", "size"), self_ms=("self_ms", "sum")
    )
    table["share"] = table["self_ms"] / table["self_ms"].sum()
    table[["calls", "self_ms"]] /= ranks
    return table.sort_values("self_ms", ascending=False).head(count).reset_index(drop=True)
