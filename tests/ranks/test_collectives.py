"""Collectives on NPUs, emulated: over a group that refuses what HCCL lacks, and that counts.

Each rank is a process with a make-believe NPU. Nothing here says how a device behaves.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.support.npu import device, hccl
from tests.support.npu.hccl_ranks import NpuTeam

DUO = "300I Duo"


@pytest.fixture(scope="module")
def pair() -> Iterator[NpuTeam]:
    team = NpuTeam(2)
    yield team
    team.close()


# ---- the contract group itself ----


def refused(call: Callable[[], Any]) -> str:
    """What HCCL says to a call, and an empty text if it takes it."""
    try:
        call()
    except (hccl.Lacking, RuntimeError) as error:
        return str(error)
    return ""


def meet(rank: int, size: int, store: str, first: bool = True) -> None:
    """Open the default group on this rank's chip, with its communicator where `first`."""
    dist.init_process_group("hccl", store=dist.FileStore(store, size), rank=rank, world_size=size)
    if first:
        dist.group.WORLD._get_backend(torch.device("npu")).get_hccl_comm_name(rank)


def asked(rank: int, size: int, store: str) -> dict[str, str]:
    """What the chip says to each operation; calls that only one rank could make come last."""
    meet(rank, size, store)
    x = torch.ones(4, dtype=torch.float16, device="npu")
    both = torch.empty(8, dtype=torch.float16, device="npu")
    calls = {
        "all_reduce": lambda: dist.all_reduce(x),
        "all_gather": lambda: dist.all_gather_into_tensor(both, x),
        "broadcast": lambda: dist.broadcast(x, 0),
        "gather": lambda: dist.gather(x, [x.clone(), x.clone()] if rank == 0 else None),
        "int64": lambda: dist.all_reduce(x.long()),
        "bool": lambda: dist.all_reduce(x.bool()),
        "bfloat16": lambda: dist.all_reduce(x.bfloat16()),
        "send": lambda: dist.send(x, 1) if rank == 0 else dist.recv(x, 0),
        "scatter": lambda: dist.scatter(x, [x, x] if rank == 0 else None),
        "a CPU tensor": lambda: dist.all_reduce(torch.ones(4)),
    }
    return {name: refused(call) for name, call in calls.items()}


def test_each_chip_is_refused_what_its_pages_do_not_list_emulated(pair):
    on_a2, on_duo = (pair(asked, chip)[0] for chip in ("A2", DUO))
    assert [name for name, said in on_a2.items() if said] == ["scatter", "a CPU tensor"]
    assert on_a2["scatter"] == "not modelled"
    lacking = {name: said for name, said in on_duo.items() if said and name != "a CPU tensor"}
    assert list(lacking) == ["broadcast", "gather", "int64", "bfloat16", "send", "scatter"]
    assert (
        "HcclBroadcast.md:15" in lacking["gather"] and "device type cpu" in on_duo["a CPU tensor"]
    )


def summed(rank: int, size: int, store: str) -> list[Any]:
    """Sums and parts of all ranks, and what they cost."""
    meet(rank, size, store)
    whole = torch.full((3,), rank + 1.0, device="npu")
    flags = torch.tensor([True, rank == 0], device="npu")
    parts = torch.empty(size, 2, device="npu")
    dist.all_reduce(whole)
    dist.all_reduce(flags)
    dist.all_gather_into_tensor(parts, torch.full((1, 2), float(rank), device="npu"))
    dist.barrier()
    return [
        whole.tolist(),
        flags.tolist(),
        parts.tolist(),
        dict(hccl.counts),
        device.waits["barrier"],
    ]


@pytest.mark.parametrize("chip", ["A2", DUO])
def test_the_group_sums_and_gathers_and_counts_emulated(pair, chip):
    expected = {"communicators": 1, "hccl all_reduce": 3, "hccl all_gather": 1, "gloo barrier": 0}
    for whole, flags, parts, counts, waits in pair(summed, chip):
        assert whole == [3.0] * 3 and flags == [True, True] and parts == [[0.0] * 2, [1.0] * 2]
        assert counts == {name: n for name, n in expected.items() if n} and waits == 1


def gathered(rank: int, size: int, store: str) -> dict[str, int]:
    meet(rank, size, store)
    parts = [torch.empty(3, device="npu") for _ in range(size)] if rank == 0 else None
    dist.gather(torch.full((3,), float(rank), device="npu"), parts)
    assert parts is None or [part.tolist() for part in parts] == [[0.0] * 3, [1.0] * 3]
    return dict(hccl.counts)


def test_a_gather_is_two_broadcasts_and_an_all_gather_as_torch_npu_has_it_emulated(pair):
    cost = {"communicators": 1, "hccl broadcast": 2, "hccl all_gather": 1}
    assert pair(gathered, "A2") == [cost] * 2


def late(rank: int, size: int, store: str) -> str:
    """A communicator that is made after a tensor."""
    meet(rank, size, store, first=False)
    x = torch.ones(1, device="npu")
    return refused(lambda: dist.all_reduce(x))


def test_a_duo_wants_its_communicator_before_any_device_memory_emulated(pair):
    assert pair(late, "A2") == [""] * 2
    assert all(
        "after 1 tensors" in said and "constraints.md:51" in said for said in pair(late, DUO)
    )


def beside(rank: int, size: int, store: str, what: str) -> str:
    """Two ranks on one NPU, or on two machines."""
    before = vars(hccl.here).copy()
    vars(hccl.here).update({"index": 0} if what == "one NPU" else {"host": f"host{rank}"})
    try:
        return refused(lambda: meet(rank, size, store))
    finally:
        vars(hccl.here).update(before)


def test_ranks_of_a_duo_share_no_npu_and_are_on_one_server_emulated(pair):
    for what, said in (("one NPU", "two processes on NPU 0"), ("two servers", "2 servers")):
        assert pair(beside, "A2", what) == [""] * 2
        assert said in "".join(pair(beside, DUO, what))


def test_cards_without_collectives_make_no_group_emulated(pair):
    for chip in ("300I Pro", "300V Pro"):
        assert all("hccl_intro.md:58" in said for said in pair(begun, chip))


def begun(rank: int, size: int, store: str) -> str:
    return refused(lambda: meet(rank, size, store))
