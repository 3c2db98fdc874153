"""What is done to a device beside computing on it: its start, its clocks, its memory figures, its profiler's traces.

Torch is imported inside the functions: where torch_npu is installed and cannot be loaded that import fails by itself,
and this module says why.
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

from neoxlib.errors import SettingsError, telling
from neoxlib.machine import limits

if TYPE_CHECKING:
    import torch

MB = 1e6
SOURCE = "source /usr/local/Ascend/ascend-toolkit/set_env.sh"
ASIDE = "export TORCH_DEVICE_BACKEND_AUTOLOAD=0"


def import_torch() -> ModuleType:
    """torch. Where torch_npu keeps it from being imported, SettingsError says what to do."""
    try:
        return import_module("torch")
    except (ImportError, RuntimeError, OSError) as error:
        cure = torch_npu_error(error)
        if cure is None:
            raise
        raise cure from error


def torch_must_load() -> None:
    """Import torch already now where torch_npu might keep it from being imported; SettingsError as `import_torch`."""
    if find_spec("torch_npu") and os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "1":
        import_torch()


def torch_npu_error(error: BaseException) -> SettingsError | None:
    """What to do about an `import torch` that failed in loading torch_npu; None for an error of another kind.

    torch loads every installed backend by itself, and torch_npu needs CANN's libraries to be found.
    """
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    if "torch_npu" not in " ".join(map(str, chain)) + _files(chain):
        return None
    first = (telling(str(chain[-1])) or [type(chain[-1]).__name__])[0]
    sourced = "ASCEND_HOME_PATH" in os.environ
    cure = (
        "`python -m neoxlib doctor` names the pair that does not fit"
        if sourced
        else f"run `{SOURCE}` before Python"
    )
    return SettingsError(
        f"torch cannot be imported: torch_npu is installed, torch loads it, and it fails ({first}). To use NPUs "
        f"{cure}; to use the CPU run `{ASIDE}` before Python."
    )


def _files(chain: list[BaseException]) -> str:
    """The files that the errors went through."""
    names = []
    for error in chain:
        trace = error.__traceback__
        while trace is not None:
            names.append(trace.tb_frame.f_code.co_filename)
            trace = trace.tb_next
    return " ".join(names)


def fit_threads() -> None:
    """Keep torch to the threads of a cgroup's quota, of which it knows nothing.

    More threads would run for a part of each period, and then all of them stand still.
    OMP_NUM_THREADS has the last word.
    """
    torch = import_torch()
    found = limits.read_cores()
    if found.quota is None or "OMP_NUM_THREADS" in os.environ:
        return
    if torch.get_num_threads() > found.count:
        torch.set_num_threads(found.count)


def start_npu(index: int | None = None) -> None:
    """Load torch_npu, and make NPU `index` (None: the one it takes by itself) this process's own.

    Kernels are those that come with CANN: to compile one for each new shape is the default of 310P and 910A.
    """
    import_module("torch_npu")
    npu = import_torch().npu
    if index is not None:
        npu.set_device(index)
    npu.set_compile_mode(jit_compile=False)


def hccl_options() -> Any:
    """Options of an hccl group: its buffer in MB, which is device memory, and its name in traces.

    None where this torch_npu has no such options: the environment's HCCL_BUFFSIZE then holds alone.
    """
    try:
        options = import_module("torch_npu")._C._distributed_c10d.ProcessGroupHCCL.Options()
    except AttributeError:
        return None
    options.hccl_config = {"group_name": "neoxlib"}
    if size := os.environ.get("HCCL_BUFFSIZE", "").strip():
        options.hccl_config = options.hccl_config | {"hccl_buffer_size": int(size)}
    return options


class Timer:
    """Milliseconds of marked stretches of work, by an accelerator's own events; a CPU has none, and gets None.

    Events cost no waiting; `take` may be called when the device has done all that it was given.
    """

    def __init__(self, device: "torch.device") -> None:
        self.event = (
            None if device.type == "cpu" else import_torch().get_device_module(device).Event
        )
        self.spans: list[tuple[Any, Any]] = []

    @contextmanager
    def span(self) -> Iterator[None]:
        start = self._stamp()
        yield
        if self.event is not None:
            self.spans.append((start, self._stamp()))

    def take(self) -> float | None:
        """Milliseconds of all stretches since the last call."""
        spans = self.spans
        self.spans = []
        return None if self.event is None else sum(start.elapsed_time(end) for start, end in spans)

    def _stamp(self) -> Any:
        event = self.event and self.event(enable_timing=True)
        if event is not None:
            event.record()
        return event


def memory_mb(device: "torch.device") -> dict[str, float]:
    """`peak` and `allocated`: of the tensors on an accelerator; on a CPU the process's resident memory, peak alone."""
    if device.type == "cpu":
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB}
    module = import_torch().get_device_module(device)
    return {"peak": module.max_memory_allocated() / MB, "allocated": module.memory_allocated() / MB}


def reset_peak(device: "torch.device") -> None:
    """Let an accelerator's peak begin anew; a CPU has none of its own."""
    if device.type != "cpu":
        import_torch().get_device_module(device).reset_peak_memory_stats()


def profiler(device: "torch.device", folder: Path, worker: str) -> AbstractContextManager:
    """A running profiler: torch_npu's on an NPU, else torch's. `worker`'s trace is in `folder` when it ends."""
    npu = device.type == "npu"
    module = import_module("torch_npu.profiler" if npu else "torch.profiler")
    kinds = [module.ProfilerActivity.CPU, *([module.ProfilerActivity.NPU] if npu else [])]
    handler = module.tensorboard_trace_handler(str(folder), worker_name=worker)
    return module.profile(activities=kinds, on_trace_ready=handler)
