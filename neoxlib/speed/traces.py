"""Read a profiler's traces of a few steps, one per rank, as tables.

The files are in the format that Perfetto (ui.perfetto.dev) and chrome://tracing read. Each step is
marked as prefill or decode. The compiled path of a CPU is one call for all layers, or one between
two all-reduces, and shows as such. On an NPU the tasks of the device are rows of their own.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxlib.inference.trace import PHASES
from neoxlib.speed.lanes import Event, Lanes, read_lanes

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["rank", "thread", "kind", "name", "start_ms", "ms", "self_ms", "place"]
WORK = ("computing", "communication", "copying")  # kinds of a device that are no waiting


def read_trace(folder: str | Path) -> "pd.DataFrame":
    """Read the events of all ranks' traces: a row per event, with COLUMNS.

    `kind` is a phase, computing, communication, copying, waiting or other; `place` is "device" for
    tasks of an NPU, else "host". `self_ms` is the length without the events inside. Raises
    DataError if there is no trace.
    """
    import pandas as pd

    rows = [row for lanes in read_lanes(folder) for row in _rows(lanes)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["start_ms"] -= table["start_ms"].min()
    return table


def _rows(lanes: Lanes) -> list[list[Any]]:
    return _without_inner([_row(lanes, event) for event in lanes.counted()])


def _row(lanes: Lanes, event: Event) -> list[Any]:
    """An event in the order of COLUMNS; its own time is still its whole length."""
    ms = float(event["dur"]) / 1e3
    start = float(event["ts"]) / 1e3  # torch_npu writes it as text
    place = "device" if lanes.on_device(event) else "host"
    thread = lanes.thread(event)
    return [lanes.rank, thread, lanes.kind(event), event["name"], start, ms, ms, place]


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


def top_operations(events: "pd.DataFrame", count: int = 15) -> "pd.DataFrame":
    """The operations with the longest own time: calls and ms of a rank on average, share of all.

    In the trace of an NPU these are its kernels, collectives and copies: the host only launches
    them, at the same time.
    """
    ranks = events["rank"].nunique()
    device = events[(events["place"] == "device") & events["kind"].isin(WORK)]
    inner = events[~events["kind"].isin(PHASES)] if device.empty else device
    table = inner.groupby(["name", "kind"], as_index=False).agg(
        calls=("name", "size"), self_ms=("self_ms", "sum")
    )
    table["share"] = table["self_ms"] / table["self_ms"].sum()
    table[["calls", "self_ms"]] /= ranks
    return table.sort_values("self_ms", ascending=False).head(count).reset_index(drop=True)
