"""A device's start, clocks, memory figures and profiler traces.

Torch is imported inside the functions: a torch_npu that is installed but cannot be loaded makes
`import torch` fail, and this module explains it.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from neoxlib.errors import torch_npu_error
from neoxlib.machine import limits

if TYPE_CHECKING:
    import torch

MB = 1e6
VECTOR_CORES = 3  # hccl_op_expansion_mode (torch_npu 9e73e708, ProcessGroupHCCL.cpp:3916)


def import_torch() -> ModuleType:
    """Import torch. Raises SettingsError with the repair if torch_npu makes the import fail."""
    try:
        return import_module("torch")
    except (ImportError, RuntimeError, OSError) as error:
        cure = torch_npu_error(error)
        if cure is None:
            raise
        raise cure from error


def torch_must_load() -> None:
    """Import torch now if torch_npu might make the import fail later; raises as `import_torch`."""
    if find_spec("torch_npu") and os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "1":
        import_torch()


def fit_threads() -> None:
    """Limit torch's threads to the cgroup's CPU quota, which torch does not read.

    With more threads than that the kernel stops all of them for the rest of each period.
    OMP_NUM_THREADS takes precedence.
    """
    torch = import_torch()
    found = limits.cores()
    if found.quota is None or "OMP_NUM_THREADS" in os.environ:
        return
    if torch.get_num_threads() > found.count:
        torch.set_num_threads(found.count)


def start_npu(index: int | None = None) -> None:
    """Load torch_npu and select NPU `index` for this process (None: torch_npu's default).

    CANN's own kernels are used; 310P and 910A would by default compile one for each new shape.
    """
    import_module("torch_npu")
    npu = import_torch().npu
    if index is not None:
        npu.set_device(index)
    npu.set_compile_mode(jit_compile=False)


def hccl_options(family: str = "") -> Any:
    """Return the options of an hccl group: its buffer in MB of device memory, its name in traces.

    In a group on one server of A2 or A3 chips, `family`, collectives run on the vector cores, which
    spares small sums the host's part: a setting of this group alone. Deterministic sums and the
    variable take precedence (hccl 09300b70, docs/zh/user_guide/hccl_env/HCCL_OP_EXPANSION_MODE.md:
    74 and 95 for A3, 111 and 133 for A2). None if this torch_npu has no such options; then only the
    variables apply.
    """
    try:
        options = import_module("torch_npu")._C._distributed_c10d.ProcessGroupHCCL.Options()
    except AttributeError:
        return None
    options.hccl_config = {"group_name": "neoxlib"}
    if size := os.environ.get("HCCL_BUFFSIZE", "").strip():
        options.hccl_config = options.hccl_config | {"hccl_buffer_size": int(size)}
    if family in ("A2", "A3") and _may_expand():
        options.hccl_config = options.hccl_config | {"hccl_op_expansion_mode": VECTOR_CORES}
    return options


def _may_expand() -> bool:
    """Whether neither deterministic sums are asked for nor a mode is named."""
    repeatable = os.environ.get("HCCL_DETERMINISTIC", "false").strip().lower()
    return repeatable in ("", "false") and not os.environ.get("HCCL_OP_EXPANSION_MODE")


def open_communicator(group: Any, device: "torch.device", rank: int) -> None:
    """Make HCCL's communicator for `group` on `device` now, and not at the first collective.

    A 300I Duo may have no memory left for it once the device's is in use (hccl 09300b70,
    docs/zh/user_guide/constraints.md:51), and on any chip a link that fails should fail before the
    weights are read. Asking for its name makes it and takes no tensor (torch_npu 9e73e708,
    torch_npu/csrc/distributed/ProcessGroupHCCL.cpp:3675); a torch_npu that has no such question
    makes it at the first collective.
    """
    name = getattr(group._get_backend(device), "get_hccl_comm_name", None)
    if name is not None:
        name(rank)


class Timer:
    """Milliseconds of marked spans of work, by an accelerator's own events; None on a CPU.

    Events do not block, and are used again. Call `take` only after the device has finished its
    work.
    """

    def __init__(self, device: "torch.device") -> None:
        self.event = (
            None if device.type == "cpu" else import_torch().get_device_module(device).Event
        )
        self.spans: list[tuple[Any, Any]] = []
        self.idle: list[Any] = []

    @contextmanager
    def span(self) -> Iterator[None]:
        start = self._stamp()
        yield
        if self.event is not None:
            self.spans.append((start, self._stamp()))

    def take(self) -> float | None:
        """Return the milliseconds of all spans since the last call."""
        spans = self.spans
        self.spans = []
        if self.event is None:
            return None
        spent = sum(start.elapsed_time(end) for start, end in spans)
        self.idle.extend(event for span in spans for event in span)
        return spent

    def _stamp(self) -> Any:
        if self.event is None:
            return None
        event = self.idle.pop() if self.idle else self.event(enable_timing=True)
        event.record()
        return event


def memory_mb(device: "torch.device") -> dict[str, float]:
    """Return megabytes: `peak` and `allocated` tensors of an accelerator, and `in_use` of it.

    `in_use` is all that the device does not report as free: tensors, HCCL's buffers, CANN's own
    and other processes' memory. On a CPU `peak` is the process's resident memory, and there are
    no others.
    """
    if device.type == "cpu":
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB}
    module = import_torch().get_device_module(device)
    free, total = module.mem_get_info()
    return {
        "peak": module.max_memory_allocated() / MB,
        "allocated": module.memory_allocated() / MB,
        "in_use": (total - free) / MB,
    }


def reset_peak(device: "torch.device") -> None:
    """Reset an accelerator's peak memory; do nothing on a CPU."""
    if device.type != "cpu":
        import_torch().get_device_module(device).reset_peak_memory_stats()


def profiler(device: "torch.device", folder: Path, worker: str) -> AbstractContextManager:
    """Return a profiler as a context: torch_npu's on an NPU, else torch's.

    On exit it writes `worker`'s trace to `folder`.
    """
    npu = device.type == "npu"
    module = import_module("torch_npu.profiler" if npu else "torch.profiler")
    kinds = [module.ProfilerActivity.CPU, *([module.ProfilerActivity.NPU] if npu else [])]
    handler = module.tensorboard_trace_handler(str(folder), worker_name=worker)
    return module.profile(activities=kinds, on_trace_ready=handler)
