"""Shared memory gives what gloo gives, the same bits on each rank, and an error for a lost rank."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from neoxlib.kernels.cpu import build
from neoxlib.ranks import shared_memory
from neoxlib.ranks.collectives import TorchGroup
from neoxlib.ranks.shared_memory import SharedGroup
from tests.support.process_ranks import Team

pytestmark = pytest.mark.skipif(
    build.compiled("allreduce") is None, reason=build.compile_error("allreduce")
)

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    float("inf"),
    float("-inf"),
    float("nan"),
    65504.0,
    3.3e38,
    1e-40,
    6e-8,
    1.00390625,
]


@pytest.fixture(scope="module", params=[2, 4])
def team(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Team]:
    team = Team(request.param, tmp_path_factory.mktemp("team"))
    yield team
    team.close()


def values(seed: int, rank: int, count: int, dtype: torch.dtype) -> Tensor:
    """A rank's term, which every rank can make: wide in scale, special values first."""
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    x = torch.randn(count, generator=generator) * 10.0 ** torch.randint(
        -6, 4, (count,), generator=generator
    )
    special = torch.tensor(SPECIAL)[
        torch.randint(len(SPECIAL), (min(count, 200),), generator=generator)
    ]
    x[: len(special)] = special
    return x.to(dtype)


def in_order(terms: list[Tensor]) -> Tensor:
    """The law: added up in float32, in rank order, and rounded once."""
    total = terms[0].float()
    for term in terms[1:]:
        total = total + term.float()
    return total.to(terms[0].dtype)


def sums(group: SharedGroup, _: TorchGroup, seed: int, counts: list[int]) -> None:
    for count in counts:
        for dtype in FLOATS:
            terms = [values(seed, rank, count, dtype) for rank in range(group.size)]
            mine = terms[group.rank].clone()
            assert group.all_reduce(mine) is mine
            torch.testing.assert_close(mine, in_order(terms), rtol=0, atol=0, equal_nan=True)


def odd_layouts(group: SharedGroup, _: TorchGroup) -> None:
    terms = [values(3, rank, 60, torch.float32).reshape(5, 12) for rank in range(group.size)]
    whole = terms[group.rank].clone()
    group.all_reduce(whole[:, 1::3])
    expected = terms[group.rank].clone()
    expected[:, 1::3] = in_order(terms)[:, 1::3]
    torch.testing.assert_close(whole, expected, rtol=0, atol=0, equal_nan=True)
    misaligned = torch.zeros(101)[1:].fill_(1.0)
    assert (group.all_reduce(misaligned) == group.size).all()
    assert group.all_reduce(torch.zeros(3, 0)).shape == (3, 0)
    counted = group.all_reduce(torch.tensor([group.rank, 1]))  # whole numbers go over gloo
    assert counted.tolist() == [sum(range(group.size)), group.size]


def many_sums(group: SharedGroup, _: TorchGroup) -> None:
    pace = random.Random(group.rank)
    x = torch.empty(257)
    for i in range(3000):
        if pace.random() < 0.003:
            time.sleep(0.002)
        x.fill_(group.rank + i)
        group.all_reduce(x)
        assert (x == sum(range(group.size)) + group.size * i).all(), i


def as_gloo_does(group: SharedGroup, gloo: TorchGroup, seed: int) -> None:
    """Calls of all kinds in a random order, the same on all ranks."""
    rng = random.Random(seed)
    for step in range(40):
        dtype = rng.choice([*FLOATS, torch.int64])
        shape = [rng.choice([1, 2, 3, 17]) for _ in range(rng.choice([1, 2, 3]))]
        dim = rng.randrange(-len(shape), len(shape))
        uneven = [rng.choice([0, 1, 5, 40]) for _ in range(group.size)]
        if rng.random() < 0.1:
            uneven[rng.randrange(group.size)] = 600_000 // (
                len(shape) ** 2
            )  # more than a slot holds
        said = rng.choice([None, [5, None], "两个 " * rng.choice([1, 300_000]), {"a": (1.5, b"x")}])
        kind = rng.choice(["gather", "broadcast", "sum", "barrier"])
        if kind == "gather":
            shape[dim] = uneven[group.rank]
            x = (
                values(step, group.rank, torch.Size(shape).numel(), torch.float32)
                .nan_to_num(0, 1, 1)
                .to(dtype)
            )
            same(group.gather(x.reshape(shape), dim), gloo.gather(x.reshape(shape), dim))
        elif kind == "broadcast":
            assert group.broadcast(said if group.rank == 0 else step) == said
        elif kind == "sum":
            x = torch.full((50,), 1.0 + step / 7 + group.rank / 3)
            torch.testing.assert_close(group.all_reduce(x.clone()), gloo.all_reduce(x))
        else:
            group.barrier()


def same(left: Tensor | None, right: Tensor | None) -> None:
    assert (left is None) == (right is None)
    if left is not None:
        assert left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)


def logits(group: SharedGroup, _: TorchGroup) -> list[int] | None:
    """The two calls of a decode step: columns of the vocabulary, not contiguous, and the choice."""
    here = torch.arange(2 * 3 * 7.0).reshape(2, 3, 7)[:, -1] + 100 * group.rank
    joined = group.gather(here, dim=-1)
    assert joined is None or joined.shape == (2, 7 * group.size)
    return group.broadcast(joined.argmax(-1).tolist() if group.rank == 0 else None)


def clocked(group: SharedGroup, _: TorchGroup, folder: str) -> float:
    """Seconds of an all-reduce by a clock that strikes 1 when rank 0, the last to come, sets out.

    Rank 0 sets out when all others have looked at their clocks: they are in the call by then.
    """
    ready = Path(folder) / "rank 0 sets out"
    looked = [Path(folder) / f"rank {rank} looked" for rank in range(1, group.size)]

    def clock() -> float:
        if ready.exists() or group.rank == 0:
            return float(ready.exists())
        looked[group.rank - 1].touch()
        return 0.0

    group.reset_clock()
    if group.rank == 0:
        while not all(path.exists() for path in looked):
            time.sleep(0.001)
        ready.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_memory.time, "perf_counter", clock)
        group.all_reduce(torch.ones(8))
    spent = group.reset_clock()
    assert group.seconds == 0.0
    return spent


def open_files(*_: Any) -> list[str]:
    """The files in memory that this rank holds."""
    paths = [Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd")]
    return [
        target
        for target in (os.readlink(path) for path in paths if path.exists())
        if "memfd" in target
    ]


def shared_again(
    group: SharedGroup, gloo: TorchGroup, choice: str, rank_without: int | None
) -> str:
    """The backend that the ranks come to under `choice`, when one has no compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEOXLIB_BACKEND", choice)
        if group.rank == rank_without:
            patch.setattr(build, "compiled", lambda name: None)
        again = shared_memory.share(gloo)
        assert again.all_reduce(torch.ones(1)).item() == group.size
        return again.backend


def without_files(group: SharedGroup, gloo: TorchGroup, where: str) -> str:
    """The backend when rank 0 cannot make the memory, or when the others cannot open it."""
    with pytest.MonkeyPatch.context() as patch:
        if where == "made" and group.rank == 0:
            patch.setattr(shared_memory.os, "posix_fallocate", refused)
        if where == "opened" and group.rank > 0:
            patch.setattr(shared_memory.Path, "open", refused)
        return shared_memory.share(gloo).backend


def refused(*_: Any) -> None:
    raise OSError("no room")


def test_sums_are_in_rank_order_and_the_same_bits_on_all_ranks(team):
    team(sums, 0, [1, 7, 12, 513, 1024, 6144, 20_001])


def test_sums_larger_than_the_shared_memory_go_in_turns(team):
    team(sums, 1, [786_433])


def test_sums_of_any_layout_and_of_whole_numbers(team):
    team(odd_layouts)


def test_thousands_of_sums_stay_in_step_when_ranks_are_slow_by_turns(team):
    team(many_sums)


@pytest.mark.parametrize("seed", range(3))
def test_all_calls_in_any_order_give_what_gloo_gives(team, seed):
    team(as_gloo_does, seed)


def test_all_ranks_hear_the_choice_made_of_all_logits(team):
    size = len(team.ranks)
    assert team(logits) == [[7 * size - 1] * 2] * size


def test_the_clock_counts_waiting_for_the_slowest_rank(team, tmp_path):
    assert team(clocked, str(tmp_path)) == [0.0] + [1.0] * (len(team.ranks) - 1)


def test_the_memory_has_no_name_so_it_ends_with_the_last_rank(team):
    for files in team(open_files):
        assert (
            len(files) == 1
            and files[0].startswith("/memfd:neoxlib")
            and files[0].endswith("(deleted)")
        )


@pytest.mark.parametrize(("choice", "rank_without"), [("gloo", None), ("", 0), ("", 1)])
def test_all_ranks_stay_with_gloo_when_asked_or_when_one_cannot_share(team, choice, rank_without):
    assert set(team(shared_again, choice, rank_without)) == {"gloo"}
    assert set(team(shared_again, "", None)) == {"shared memory"}


@pytest.mark.parametrize("where", ["made", "opened"])
def test_all_ranks_stay_with_gloo_when_the_memory_cannot_be_had(team, where):
    before = team(open_files)
    assert set(team(without_files, where)) == {"gloo"}
    assert [len(files) for files in team(open_files)] == [len(files) for files in before]
