"""Collectives on NPUs, emulated: over a group that refuses what HCCL lacks, and that counts.

Each rank is a process with a make-believe NPU. Nothing here says how a device behaves.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from neoxlib.errors import Stopped
from neoxlib.model import stopping
from neoxlib.ranks.collectives import Alone
from tests.support.npu import device, hccl, hccl_steps
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


# ---- neoxlib's group on it ----

SUMS = 3  # of the embedding and of the two layers
GREEDY = {"hccl all_gather": 1, "wait aten::_to_copy": 1}
WORD = {"gloo broadcast": 2}  # of a Python value: its size, then itself


def steady(steps: list[dict[str, int]]) -> dict[str, int]:
    """What the third step counts: by then every kind of call has been compared over the ranks."""
    return steps[2]


@pytest.mark.parametrize("chip", ["A2", DUO])
def test_a_greedy_step_is_one_all_gather_and_one_wait_beside_its_sums_emulated(pair, chip):
    """Over one rank, two and eight, of which the first is counted."""
    alone, *_ = pair(hccl_steps.costs_of_one, chip)
    two, other = pair(hccl_steps.costs, chip)
    eight, *_ = pair(hccl_steps.costs, chip, 8)
    assert steady(alone) == {"wait aten::_to_copy": 1}
    assert steady(two) == steady(other) == steady(eight) == {"hccl all_reduce": SUMS} | GREEDY
    assert all("hccl broadcast" not in step for step in two + eight)


def test_the_communicator_is_made_before_the_first_tensor_emulated(pair):
    assert pair(hccl_steps.communicators, DUO) == [(1, 0)] * 2


@pytest.mark.parametrize("settings", [{"temperature": 1.3, "seed": 5}, {"repetition_penalty": 1.5}])
def test_a_step_that_rank_0_must_choose_is_one_word_more_emulated(pair, settings):
    two, other = pair(hccl_steps.drawn, DUO, settings)
    assert steady(two) == {"hccl all_reduce": SUMS} | GREEDY | WORD
    assert steady(other) == {"hccl all_reduce": SUMS, "hccl all_gather": 1} | WORD
    first, second = pair(hccl_steps.answers, DUO, settings)
    assert [choice.tokens for choice in first] == [choice.tokens for choice in second]


def test_what_ranks_choose_alike_is_what_rank_0_would_choose_emulated(pair):
    first, second = pair(hccl_steps.answers, "A2", {"top": 3})
    expected, _ = pair(hccl_steps.chosen_by_rank_0, "A2", {"top": 3})
    for mine, other, due in zip(first, second, expected, strict=True):
        assert mine.tokens == other.tokens == due.tokens and mine.reasons == other.reasons
        assert mine.logprobs == pytest.approx(due.logprobs, abs=1e-5) and not other.logprobs
        assert [[token for token, _ in row] for row in mine.top] == [
            [token for token, _ in row] for row in due.top
        ]


def test_all_ranks_stop_at_rank_0s_next_word_emulated(pair):
    """Its words come with the first step and then with every fourth."""
    assert pair(hccl_steps.ended, "A2", "request") == [(4, f"Stopped: {stopping.REASON}")] * 2


def test_a_failing_watch_ends_all_ranks_at_the_next_word_emulated(pair):
    first, second = pair(hccl_steps.ended, "A2", "failure")
    assert first == (4, "ValueError: no text")
    told = "RankError: rank 0 could not choose the next token: ValueError: no text"
    assert second == (4, told)


def test_numbers_that_are_not_finite_end_all_ranks_at_once_and_name_the_layer_emulated(pair):
    first, second = pair(hccl_steps.ended, "A2", "nan")
    assert first == second and first[0] == 2 and "that of layer 1" in first[1]


def test_a_row_that_rank_0s_watch_ends_is_ended_on_all_ranks_emulated(pair):
    first, second = pair(hccl_steps.stopped_row, "A2")
    assert [choice.reasons for choice in first] == [choice.reasons for choice in second]
    assert first[-1].reasons == ["stop", "length"] and len(first) == 12


@pytest.mark.parametrize("chip", ["A2", DUO])
def test_parts_values_and_barriers_need_sums_and_all_gathers_of_hccl_only_emulated(pair, chip):
    whole = [[0.0, 1.0, 1.0]] * 2
    for rank, (everywhere, first, told, counts) in enumerate(pair(hccl_steps.joined, chip)):
        assert everywhere == whole and first == (None if rank else whole) and told == {"rank": 0}
        assert {name for name in counts if name.startswith("hccl")} == {"hccl all_gather"}


def test_one_rank_of_a_session_opens_no_group_and_can_be_stopped():
    group = Alone()
    assert group.size == 1 and group.checkpoint("next") == "next"
    stopping.asked.set()
    try:
        with pytest.raises(Stopped):
            group.checkpoint()
    finally:
        stopping.asked.clear()
