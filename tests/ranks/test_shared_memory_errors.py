"""A call that differs and a rank that is lost are errors that name the rank."""

import os
import re
from collections.abc import Iterator

import pytest
import torch

from neoxlib.errors import RankError, SettingsError
from neoxlib.kernels.cpu import build
from neoxlib.ranks import shared_memory
from neoxlib.ranks.collectives import TorchGroup
from neoxlib.ranks.shared_memory import SharedGroup
from tests.support.process_ranks import Team

pytestmark = pytest.mark.skipif(
    build.compiled("allreduce") is None, reason=build.compile_error("allreduce")
)


def last_words(group: SharedGroup, _: TorchGroup, timeout: float) -> str:
    """Rank 1 is killed between two sums; what the others say when they have waited long enough."""
    group.all_reduce(torch.ones(4))
    if group.rank == 1:
        os.kill(os.getpid(), 9)
    group.rank_group.timeout = int(timeout * 1e9)
    with pytest.raises(RankError) as error:
        group.all_reduce(torch.ones(4))
    return str(error.value)


def differing(_: SharedGroup, gloo: TorchGroup, backend: str, name: str) -> str:
    """The error of each rank when rank 1 makes a different call, after some equal ones."""
    gloo.calls = 0
    gloo.proved = set()
    odd = gloo.rank == 1
    here = shared_memory.share(gloo) if backend == "shared memory" else gloo
    if backend != "gloo":  # which compares the first call of a kind
        here.all_reduce(torch.ones(64))
    values = torch.full((64,), float(here.rank))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RankError) as error:
        patch.setenv("NEOXLIB_DEBUG", str(int(backend == "gloo, debug")))
        if name == "number":
            make_one_more(here) if odd else None
            here.barrier()
        if name == "count":
            here.all_reduce(values[:63] if odd else values)
        if name == "dtype":
            here.all_reduce(values.half() if odd else values)
        if name == "operation":
            here.gather(values) if odd else here.all_reduce(values)
        if name == "rows":
            here.gather(values.reshape(4, 16) if odd else values.reshape(2, 32))
        if name == "dtype of a gather":
            here.gather(values.half() if odd else values)
        if "gather" in CALLS[name][0]:
            here.barrier()  # who only sends does not wait: it hears of it at its next call
    assert odd or torch.equal(values, torch.full((64,), float(here.rank)))  # nothing was added
    return str(error.value)


def make_one_more(group: TorchGroup) -> None:
    """Let the rank's next call have the number after the next."""
    group.calls += 1
    if isinstance(group, SharedGroup):
        group.rank_group.call_number += 1


CALLS = {
    "dtype": ("all_reduce of 64 float16", "all_reduce of 64 float32"),
    "count": ("all_reduce of 63 float32", "all_reduce of 64 float32"),
    "operation": ("gather", "all_reduce of 64 float32"),
    "number": ("barrier", "barrier"),
    "rows": ("gather of 4 float32", "gather of 2 float32"),
    "dtype of a gather": ("gather of 1 float16", "gather of 1 float32"),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    team = Team(2, tmp_path_factory.mktemp("pair"))
    yield team
    team.close()


@pytest.mark.parametrize("backend", ["shared memory", "gloo", "gloo, debug"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_not_every_ranks_is_refused_by_rank_and_call(pair, backend, name):
    for said in pair(differing, backend, name):
        assert said.startswith("the ranks do not make the same call, so nothing was exchanged: ")
        ours, theirs = re.search(
            r"rank 0 makes call (.*); rank 1 makes call (.*)\. A f", said
        ).groups()
        number, _, call = ours.partition(", ")
        other_number, _, other_call = theirs.partition(", ")
        assert call.startswith(CALLS[name][1]) and other_call.startswith(CALLS[name][0])
        assert (number != other_number) == (name == "number")


def test_a_switch_that_means_nothing_is_refused(monkeypatch):
    monkeypatch.setenv("NEOXLIB_BACKEND", "mpi")
    with pytest.raises(SettingsError, match="NEOXLIB_BACKEND is 'mpi'; it may be gloo"):
        shared_memory.share(None)


def test_a_killed_rank_is_an_error_that_names_it(tmp_path):
    team = Team(3, tmp_path)
    try:
        team.send(last_words, 0.5)
        team.ranks[1].join()
        for words in team.answers():
            assert words.startswith(
                "rank 1 did not meet the other ranks within 0.5 s: it has ended or hangs"
            )
    finally:
        team.close()
