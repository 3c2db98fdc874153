"""Ranks of several hosts, on one machine: what they exchange is what one gloo group exchanges."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch

from neoxlib.kernels.cpu import build
from neoxlib.ranks.collectives import TorchGroup
from neoxlib.ranks.two_levels import HostsGroup, join_hosts
from tests.support.process_ranks import Team

pytestmark = pytest.mark.skipif(
    build.compiled("allreduce") is None, reason=build.compile_error("allreduce")
)
PLACES = ["aabb", "abbc", "abcd"]  # the host of each rank
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    team = Team(4, tmp_path_factory.mktemp("team"))
    yield team
    team.close()


@cache
def joined(gloo: TorchGroup, hosts: str) -> HostsGroup:
    group = join_hosts(gloo, hosts)
    assert isinstance(group, HostsGroup)
    return group


def term(rank: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(count, generator=generator).to(dtype)


def sums(_: object, gloo: TorchGroup, hosts: str) -> list[bytes]:
    group = joined(gloo, hosts)
    found = []
    for count in (1, 300, 70_001):
        for dtype in DTYPES:
            terms = [term(rank, count, dtype) for rank in range(4)]
            mine = terms[group.rank].clone()
            assert group.all_reduce(mine) is mine
            exact = torch.stack(terms).double().sum(0)
            unit = 2 * torch.finfo(dtype).eps * torch.stack(terms).double().abs().sum(0)
            assert ((mine.double() - exact).abs() <= unit).all()
            found.append(mine.view(torch.uint8).numpy().tobytes())
        whole = group.all_reduce(torch.full((count,), group.rank + 1))
        assert whole.tolist() == [10] * count
    return found


@pytest.mark.parametrize("hosts", PLACES)
def test_a_sum_over_hosts_is_the_sum_and_every_rank_has_the_same_bits(team: Team, hosts: str):
    first, *others = team(sums, hosts)
    assert all(other == first for other in others)


def columns(_: object, gloo: TorchGroup, hosts: str) -> None:
    group = joined(gloo, hosts)
    sizes = [3, 1, 4, 2]
    parts = [term(rank, 2 * n, torch.float32).view(2, n) for rank, n in enumerate(sizes)]
    for known in (None, sizes):
        whole = group.gather(parts[group.rank], -1, known)
        assert (whole is None) == (group.rank > 0)
        assert whole is None or torch.equal(whole, torch.cat(parts, -1))


@pytest.mark.parametrize("hosts", PLACES)
def test_a_gather_over_hosts_joins_unequal_parts_in_rank_order(team: Team, hosts: str):
    team(columns, hosts)


def values(_: object, gloo: TorchGroup, hosts: str) -> None:
    group = joined(gloo, hosts)
    value = {"tokens": [1, 2], "text": "从零开始" * 1000}
    assert group.broadcast(value if group.rank == 0 else None) == value
    assert group.checkpoint("go" if group.rank == 0 else None) == "go"
    group.barrier()


@pytest.mark.parametrize("hosts", PLACES)
def test_every_host_hears_rank_0s_value(team: Team, hosts: str):
    team(values, hosts)


def crossings(_: object, gloo: TorchGroup, hosts: str) -> int:
    group = joined(gloo, hosts)
    before = group.between.calls if group.between else 0
    group.all_reduce(torch.ones(8))
    return group.between.calls - before if group.between else 0


@pytest.mark.parametrize(("hosts", "speakers"), [("aabb", [1, 0, 1, 0]), ("abbc", [1, 1, 0, 1])])
def test_one_rank_of_each_host_takes_a_sum_over_the_network_once(team, hosts, speakers):
    assert team(crossings, hosts) == speakers


def recorded(_: object, gloo: TorchGroup, hosts: str) -> list:
    group = joined(gloo, hosts)
    group.all_reduce(torch.ones(8))
    group.record = []
    group.all_reduce(torch.ones(8))
    group.all_reduce(torch.ones(3, 4, dtype=torch.bfloat16))
    return [(values, parts.within > 0, parts.between > 0) for values, parts in group.record]


def test_a_sum_is_recorded_with_its_parts_within_and_between_hosts(team: Team):
    first, *_, last = team(recorded, "aabc")
    assert first == [(8, True, True), (12, True, True)]
    assert last == [(8, False, True), (12, False, True)]


def kind(_: object, gloo: TorchGroup, hosts: str) -> str:
    return type(join_hosts(gloo, hosts)).__name__


def test_ranks_that_do_not_follow_each_other_meet_in_one_gloo_group(team: Team):
    assert set(team(kind, "abab")) == {"TorchGroup"}
