"""A process group named "hccl" over gloo that refuses what HCCL lacks on a chip, and counts.

`install()` registers it, with a stand-in for torch_npu, for the make-believe device of device.py:
its tensors only are taken. The facts are in hccl_facts.py. Whatever passes here fits the pages as
they were read; it says nothing of a device, and nothing of time.
"""

import socket
import sys
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FakeProcessGroup
from torch.distributed import distributed_c10d as c10d
from torch.testing._internal.distributed import fake_pg  # noqa: F401 (registers "fake")

from tests.support.npu import device, hccl_facts
from tests.support.npu.device import NpuTensor
from tests.support.npu.hccl_facts import DUO, SUMMED_AS_INT32

# As this rank is to believe. One that is `alone` has no other ranks: its sums are its own terms,
# and it gathers copies of its parts, so that a large group's calls can be counted in one process.
here = SimpleNamespace(chip="A2", host=socket.gethostname(), index=0, alone=False)
counts: Counter = Counter()  # collectives by "hccl <operation>" and "gloo <operation>"


class Lacking(RuntimeError):
    """HCCL does not do on the chip what it was asked for."""

    def __init__(self, what: str, source: str) -> None:
        super().__init__(f"HCCL on {here.chip}: {what} ({source})")


class Options:
    """Stands for ProcessGroupHCCL.Options."""

    def __init__(self) -> None:
        self.hccl_config: dict[str, Any] = {}


class HcclGroup(dist.ProcessGroup):
    """The collectives of ProcessGroupHCCL as far as neoxlib might ask for them."""

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        if here.chip in hccl_facts.SINGLE:
            raise Lacking("no collective at all", hccl_facts.NOT_AT_ALL)
        self.store = store
        self.inner = (
            FakeProcessGroup._create_internal(rank, size, None)
            if here.alone
            else dist.ProcessGroupGloo(dist.PrefixStore("inner", store), rank, size, timeout)
        )
        self.communicator = ""

    def getBackendName(self) -> str:
        return "hccl"

    def _get_backend(self, device: torch.device) -> "HcclGroup":
        if device.type != "npu":
            raise RuntimeError(f"No backend type associated with device type {device.type}")
        return self

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("npu")]

    def get_hccl_comm_name(self, rank: int, init_comm: bool = True) -> str:
        """The communicator's name, which is made here if it was not made before."""
        if init_comm:
            self._communicate(device.taken_memory["tensors"])
        return self.communicator

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> dist.Work | None:
        (held,) = self._on_device("all_reduce", tensors, SUMMED_AS_INT32)
        if held.dtype not in SUMMED_AS_INT32:
            return self.inner.allreduce([held], opts or dist.AllreduceOptions())
        wide = held.int()
        self.inner.allreduce([wide], opts or dist.AllreduceOptions()).wait()
        held.copy_(wide)
        return None

    def all_gather_single(self, output: Tensor, input: Tensor, opts: Any = None) -> dist.Work:
        whole, part = self._on_device("all_gather", [output, input])
        if whole.numel() != part.numel() * self.size():
            raise RuntimeError("output tensor size must be equal to world_size times input's")
        return self.inner._allgather_base(whole.view(-1), part.view(-1))

    _allgather_base = all_gather_single

    def allgather(
        self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None
    ) -> dist.Work:
        *parts, mine = self._on_device("all_gather", [*outputs[0], *inputs])
        return self.inner.allgather([parts], [mine])

    def broadcast(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        return self.inner.broadcast(self._on_device("broadcast", tensors), opts)

    def barrier(self, opts: Any = None) -> dist.Work:
        device.waits["barrier"] += 1  # hccl_facts.BARRIER
        return self.allreduce([torch.ones(1, device="npu")])

    def scatter(self, outputs: list[Tensor], inputs: Any, opts: Any = None) -> dist.Work:
        self._on_device("scatter", outputs)
        raise NotImplementedError("not modelled")

    def reduce(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        self._on_device("reduce", tensors)
        raise NotImplementedError("not modelled")

    def send(self, tensors: list[Tensor], to: int, tag: int) -> dist.Work:
        return self.inner.send(self._on_device("send", tensors), to, tag)

    def recv(self, tensors: list[Tensor], source: int, tag: int) -> dist.Work:
        return self.inner.recv(self._on_device("receive", tensors), source, tag)

    def _on_device(
        self, operation: str, tensors: list[Tensor], cast: frozenset[torch.dtype] = frozenset()
    ) -> list[Tensor]:
        """Count a call, refuse it if HCCL would, and give out the tensors' data."""
        if wrong := {t.device.type for t in tensors if not isinstance(t, NpuTensor)}:
            raise RuntimeError(f"No backend type associated with device type {wrong.pop()}")
        # The tensors that are sent were made before.
        self._communicate(device.taken_memory["tensors"])
        fact = hccl_facts.fact(operation, here.chip)
        for dtype in {tensor.dtype for tensor in tensors} - cast:
            if dtype not in fact.dtypes:
                raise Lacking(f"{operation} of {dtype}", fact.source)
        if not all(tensor.is_contiguous() for tensor in tensors):
            raise RuntimeError("Tensors must be contiguous")
        counts[f"hccl {operation}"] += 1
        return [tensor.held for tensor in tensors]

    def _communicate(self, tensors: int) -> None:
        """Make the communicator if there is none, at a time when `tensors` were on the device."""
        if self.communicator:
            return
        if here.chip == DUO and tensors:
            what = f"the communicator comes after {tensors} tensors on the device"
            raise Lacking(what, hccl_facts.COMMUNICATOR_FIRST)
        self._meet()
        self.communicator = "neoxlib"
        counts["communicators"] += 1

    def _meet(self) -> None:
        """Refuse ranks that share an NPU or are on several servers where the chip cannot."""
        index = torch.npu.current_device()
        sharing = self.store.add(f"npu/{here.host}/{index}", 1) - 1
        if sharing and here.chip in hccl_facts.ONE_PROCESS_PER_NPU:
            source = hccl_facts.ONE_PROCESS_PER_NPU[here.chip]
            raise Lacking(f"two processes on NPU {index}", source)
        hosts = self.store.add("hosts", int(self.store.add(f"host/{here.host}", 1) == 1))
        if here.chip == DUO and hosts > 1:
            raise Lacking(f"{hosts} servers", hccl_facts.ONE_SERVER)
        if here.chip == DUO and self.size() > hccl_facts.DUO_NPUS:
            raise Lacking(f"{self.size()} NPUs", hccl_facts.fact("all_gather", DUO).source)
        if here.chip == "910A" and self.size() not in (1, 2, 4, 8):
            raise Lacking(f"{self.size()} ranks", hccl_facts.RANKS_OF_910A)


def gather_of_torch_npu(
    tensor: Tensor, gather_list: list[Tensor] | None = None, dst: int = 0, group: Any = None
) -> None:
    """As torch_npu replaces dist.gather: hccl_facts.GATHER."""
    if not isinstance(tensor, NpuTensor):
        return _gather(tensor, gather_list, dst, group)
    sizes = [part.size() for part in gather_list or []] or [None] * dist.get_world_size(group)
    dist.broadcast_object_list(sizes, dst, group)
    parts = gather_list or [torch.empty(s, dtype=tensor.dtype, device="npu") for s in sizes]
    (group or dist.group.WORLD).allgather([parts], [tensor]).wait()
    return None


_gather = dist.gather
_new_group = dist.new_group


def _counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which counts a call on a group of gloo's."""

    def call(*args: Any, group: Any = None, **kwargs: Any) -> Any:
        if not isinstance(group or dist.group.WORLD, HcclGroup):
            counts[f"gloo {name}"] += 1
        return function(*args, group=group, **kwargs)

    return call


def install() -> None:
    """Register "hccl" and a torch_npu in this process, for good, and count gloo's calls, too."""
    dist.Backend.register_backend("hccl", _made, extended_api=True, devices=["npu"])
    package = ModuleType("torch_npu")
    package._C = SimpleNamespace(
        _distributed_c10d=SimpleNamespace(ProcessGroupHCCL=SimpleNamespace(Options=Options))
    )
    sys.modules["torch_npu"] = package
    torch.npu.current_device = lambda: here.index
    dist.gather = c10d.gather = gather_of_torch_npu
    dist.new_group = lambda backend: _new_group(backend="fake" if here.alone else backend)
    for name in ("broadcast", "all_reduce", "barrier"):
        counted = _counting(name, getattr(c10d, name))
        setattr(dist, name, counted)
        setattr(c10d, name, counted)


def _made(about: Any, options: Options | None) -> HcclGroup:
    return HcclGroup(about.store, about.group_rank, about.group_size, about.timeout)
