"""The lanes of a profiler's trace: what ran where, and of which kind it was.

torch_npu's `trace_view.json` has the host's events and, as lanes of their own, what CANN's msprof
exports. Of the latter only the names tell what they are. Names are those of msprof 66c00af8,
`analysis/csrc`: lanes in domain/entities/json_trace/include/meta_data_event.h; task types in
domain/services/association/ascend_task_association.cpp:47-72 and cann/tree_analyzer.cpp:59-65;
endings of a collective's kernels in application/database/db_constant.h:185.
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neoxlib.errors import DataError
from neoxlib.forms import parse
from neoxlib.inference.trace import COLLECTIVES, PHASES

HARDWARE = "Ascend Hardware"
COMMUNICATION = ("Communication", "HCCL")  # the lane's name now, and in earlier releases
OVERLAP = "Overlap Analysis"
DEVICE = (HARDWARE, *COMMUNICATION)
COLLECTIVE_KERNEL = ("AicpuKernel", "AivKernel")  # endings of kernels inside a collective
PLANE = "Plane "  # threads with the parts of collectives, which overlap the collectives' own
TASKS: dict[str, tuple[str, ...]] = {  # kind -> values of "Task Type"
    "computing": (
        *("AI_CORE", "AI_VECTOR_CORE", "MIX_AIC", "MIX_AIV", "AI_CPU", "AIC", "AIV", "AIV_SQE"),
        *("KERNEL_AICORE", "KERNEL_AIVEC", "KERNEL_MIX_AIC", "KERNEL_MIX_AIV", "KERNEL_AICPU"),
        *("KERNEL_SIMT", "FFTS_PLUS", "DSA", "DSA_SQE"),
    ),
    "communication": ("COMMUNICATION", "HCCL_AI_CPU"),
    "copying": ("MEMCPY_ASYNC",),
    "waiting": ("EVENT_WAIT", "EVENT_WAIT_SQE", "NOTIFY_WAIT", "NOTIFY_WAIT_SQE", "Notify Wait"),
}
KIND_OF_TASK = {task: kind for kind, tasks in TASKS.items() for task in tasks}
KIND_OF_NAME = {"layers (compiled)": "computing", "head (compiled)": "computing"} | dict.fromkeys(
    COLLECTIVES, "communication"
)
HOST_COLLECTIVE = ("hcom_", "hccl", "c10d", "gloo")
PLACE = str | int | float | None  # a process or thread
Event = dict[str, Any]


@dataclass(frozen=True)
class Lanes:
    """A rank's events of a length, and the names of their processes and threads."""

    rank: str
    events: list[Event]
    processes: dict[Any, str] = field(default_factory=dict)  # by pid
    threads: dict[tuple[Any, Any], str] = field(default_factory=dict)  # by pid and tid

    def lane(self, event: Event) -> str:
        """The name of an event's process; empty if the trace names none."""
        return self.processes.get(event.get("pid"), "")

    def on_device(self, event: Event) -> bool:
        """Whether an event is a task of the NPU, or a collective on it."""
        return self.lane(event) in DEVICE

    def thread(self, event: Event) -> str:
        """A device's lane and stream, or the pid and tid of a thread of the host."""
        pid, tid = event.get("pid"), event.get("tid")
        if self.on_device(event):
            return f"{self.lane(event)}, {self.threads.get((pid, tid), tid)}"
        return f"{pid}/{tid}"

    def counted(self) -> list[Event]:
        """The events without those of the profiler, the overlap lane, and parts of collectives."""
        collectives = any(self.lane(event) in COMMUNICATION for event in self.events)
        return [e for e in self.events if not (_of_the_profiler(e) or self._again(e, collectives))]

    def _again(self, event: Event, collectives: bool) -> bool:
        """Whether another event has the same time: a summary, or a collective around its parts."""
        lane = self.lane(event)
        if lane in COMMUNICATION:
            return self.threads.get((event.get("pid"), event.get("tid")), "").startswith(PLANE)
        kernel = lane == HARDWARE and str(event["name"]).endswith(COLLECTIVE_KERNEL)
        return lane == OVERLAP or (kernel and collectives)

    def kind(self, event: Event) -> str:
        """A phase, computing, communication, copying, waiting or other."""
        name = str(event["name"])
        if name in PHASES:
            return name
        lane = self.lane(event)
        if lane in COMMUNICATION or (lane == HARDWARE and name.endswith(COLLECTIVE_KERNEL)):
            return "communication"
        if lane == HARDWARE:
            return KIND_OF_TASK.get((event.get("args") or {}).get("Task Type"), "other")
        return _kind_on_host(name, str(event.get("cat") or "").lower())


def _kind_on_host(name: str, category: str) -> str:
    """CANN's own calls only launch; "kernel" is the category of PyTorch's traces of a GPU."""
    if name.startswith(("AscendCL@", "Runtime@", "Node@", "Communication@")):
        return "other"
    if any(word in name.lower() for word in HOST_COLLECTIVE):
        return "communication"
    return KIND_OF_NAME.get(name, "computing" if category == "kernel" else "other")


def _of_the_profiler(event: Event) -> bool:
    return event.get("cat") in ("Trace", "overhead") or str(event["name"]).startswith(
        ("PyTorch Prof", "ProfilerStep")
    )


def read_lanes(folder: str | Path) -> Iterator[Lanes]:
    """Read the traces of all ranks below `folder`.

    The file or folder below `folder` starts with the rank's name. Raises DataError if there is no
    trace, or a file is no trace.
    """
    folder = Path(folder)
    paths = sorted([*folder.rglob("*.pt.trace.json*"), *folder.rglob("trace_view.json")])
    if not paths:
        raise DataError(f"{folder} has no trace (*.pt.trace.json, or torch_npu's trace_view.json)")
    for path in paths:
        rank = path.relative_to(folder).parts[0].split(".")[0].split("_")[0]
        yield _named(rank, _events(path))


def _events(path: Path) -> list[Event]:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            found = parse(file.read(), halves=True)
        events = found["traceEvents"] if isinstance(found, dict) else found
        if not isinstance(events, list):
            raise ValueError("its events are no list")
        wrong = next((n for n, event in enumerate(events) if not _fits(event)), None)
        if wrong is not None:
            raise ValueError(f"event {wrong} has no name, time, process or thread of a trace")
        return [_in_utf_8(event) for event in events]
    except (ValueError, KeyError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is no trace that can be read ({error!r}); trace again") from error


def _fits(event: Any) -> bool:
    """Whether an event has what is read of its kind; kinds that are not read have anything."""
    if not isinstance(event, dict):
        return False
    if event.get("ph") not in ("M", "X"):
        return True
    args = event.get("args") or {}
    named = event["ph"] == "M"
    if not isinstance(args, dict) or not isinstance(event.get("name"), str):
        return False
    places = (event.get("pid"), event.get("tid"))
    times = () if named else (event.get("ts"), event.get("dur"))
    is_text = isinstance(args.get("name" if named else "Task Type", ""), str)
    return is_text and all(isinstance(p, PLACE) for p in places) and all(map(_is_time, times))


def _in_utf_8(event: Event) -> Event:
    """An event whose texts have no halves of surrogate pairs, which no table takes."""
    if isinstance(args := event.get("args"), dict):
        event = event | {"args": _whole(args)}
    return _whole(event)


def _whole(texts: Event) -> Event:
    return {
        key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for key, value in texts.items()
    }


def _is_time(value: Any) -> bool:
    """Whether a value is a finite number, or a text of one, as torch_npu writes it."""
    try:
        return isinstance(value, str | int | float) and math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def _named(rank: str, events: list[Event]) -> Lanes:
    """Take the names from the events "M", which tell of processes and threads."""
    told = [event for event in events if event.get("ph") == "M"]
    lanes = Lanes(rank, [event for event in events if event.get("ph") == "X"])
    for event in told:
        name = (event.get("args") or {}).get("name")
        if event.get("name") == "process_name":
            lanes.processes[event.get("pid")] = name
        elif event.get("name") == "thread_name":
            lanes.threads[event.get("pid"), event.get("tid")] = name
    return lanes
