"""A profiler's trace of a few steps: recorded on every rank, read back as tables.

The file is in the format that Perfetto (ui.perfetto.dev) and chrome://tracing read. Each step is marked as prefill or
decode. The compiled path of a CPU is one call for all layers, or one between two sums, and shows as such.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoxlib.decode import decode
from neoxlib.device import profiler
from neoxlib.errors import DataError
from neoxlib.sampling import Sampling
from neoxlib.timing import Work

if TYPE_CHECKING:
    import pandas as pd

STEPS = 4  # traced: one prefill, three of decode
PHASES = ("prefill", "decode")
SUMS = ("all_reduce", "gather", "broadcast")  # of a group
LAYERS = {"stages": "layers (compiled)", "head": "head (compiled)"}  # calls of the compiled path
KINDS = {"layers (compiled)": "computing", "head (compiled)": "computing"} | dict.fromkeys(SUMS, "communication")
COLUMNS = ["rank", "thread", "kind", "name", "start_ms", "ms", "self_ms"]


def record(work: Work, folder: Path) -> None:
    """Run a case's first steps, after its warm-up, under the device's profiler; each rank's trace is in `folder`."""
    from torch.profiler import record_function

    work.warm_up()
    model = work.deep.rewind() if work.deep else work.model
    sampling = Sampling(max_new_tokens=min(STEPS, work.case.output_len))
    with profiler(work.weight.device, folder, f"rank{work.group.rank}"), _named_calls(work, record_function):
        steps = decode(model, work.prompts, sampling, work.limits)
        work.group.barrier()  # profilers do not start at the same moment
        for number in range(sampling.max_new_tokens):
            with record_function(PHASES[min(number, 1)]):
                next(steps)
    work.group.barrier()


@contextmanager
def _named_calls(work: Work, record_function: Callable) -> Iterator[None]:
    """Let the profiler see the group's calls and the compiled path's, which are no operators of PyTorch."""
    fast = getattr(work.model, "fast", None)
    places = [(work.group, name, lambda *_, name=name: name) for name in SUMS]
    places += [(fast, "_call", lambda name, *_: LAYERS.get(name, name))] if fast else []
    with ExitStack() as stack:
        for owner, name, label in places:
            stack.enter_context(_marked(owner, name, label, record_function))
        yield


@contextmanager
def _marked(owner: Any, name: str, label: Callable[..., str], record_function: Callable) -> Iterator[None]:
    plain, own = getattr(owner, name), name in vars(owner)

    def marked(*args: Any, **kwargs: Any) -> Any:
        with record_function(label(*args)):
            return plain(*args, **kwargs)

    setattr(owner, name, marked)
    try:
        yield
    finally:
        setattr(owner, name, plain) if own else delattr(owner, name)


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
        [rank, f"{event.get('pid')}/{event.get('tid')}", _kind(event), event["name"], float(event["ts"]) / 1e3,
         float(event["dur"]) / 1e3, float(event["dur"]) / 1e3]
        for event in events if event.get("ph") == "X" and not _of_the_profiler(event)
    ]  # fmt: skip
    rows.sort(key=lambda row: (row[1], row[4], -row[5]))
    open_rows: list[list[Any]] = []
    for row in rows:  # an event inside another takes its length from the other's own
        while open_rows and (open_rows[-1][1] != row[1] or row[4] >= open_rows[-1][4] + open_rows[-1][5]):
            open_rows.pop()
        if open_rows:
            open_rows[-1][6] -= row[5]
        open_rows.append(row)
    return rows


def _of_the_profiler(event: dict[str, Any]) -> bool:
    return event.get("cat") in ("Trace", "overhead") or str(event["name"]).startswith(("PyTorch Prof", "ProfilerStep"))


def _kind(event: dict[str, Any]) -> str:
    name, category = str(event["name"]), str(event.get("cat", "")).lower()
    if name in PHASES:
        return name
    if any(word in name.lower() for word in ("hccl", "c10d", "gloo")):
        return "communication"
    return KINDS.get(name, "computing" if category == "kernel" else "other")


def top_operations(events: "pd.DataFrame", count: int = 15) -> "pd.DataFrame":
    """The operations that took longest by themselves: calls and milliseconds of a rank on average, share of all."""
    ranks = events["rank"].nunique()
    inner = events[~events["kind"].isin(PHASES)]
    table = inner.groupby(["name", "kind"], as_index=False).agg(calls=("name", "size"), self_ms=("self_ms", "sum"))
    table["share"] = table["self_ms"] / table["self_ms"].sum()
    table[["calls", "self_ms"]] /= ranks
    return table.sort_values("self_ms", ascending=False).head(count).reset_index(drop=True)
