"""A request to stop: all ranks end their call at the same checkpoint, at no further message."""

from collections.abc import Iterator
from typing import Any

import pytest

from neoxlib.errors import Stopped
from neoxlib.model import stopping
from neoxlib.model.group import SOLO
from neoxlib.ranks.collectives import TorchGroup
from tests.support.process_ranks import Team

STEPS = 5
ASKED_AT = 3


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    team = Team(2, tmp_path_factory.mktemp("pair"))
    yield team
    team.close()


def counted(group: TorchGroup, gloo: TorchGroup, backend: str) -> tuple[list[Any], int]:
    """The values a rank receives at each checkpoint, and the number of messages."""
    team = gloo if backend == "gloo" else group
    broadcast = type(team).broadcast
    messages = []
    team.broadcast = lambda value: messages.append(value) or broadcast(team, value)
    heard = [team.checkpoint({"step": n} if team.rank == 0 else None) for n in range(STEPS)]
    del team.broadcast
    return heard, len(messages)


def stopped(group: TorchGroup, gloo: TorchGroup, backend: str, asked: int) -> tuple[int, str]:
    """The step at which a call ends that rank `asked` is told to stop, and why."""
    team = gloo if backend == "gloo" else group
    stopping.asked.clear()
    try:
        for step in range(STEPS):
            if step == ASKED_AT and team.rank == asked:
                stopping.asked.set()
            team.checkpoint(step)
    except Stopped as error:
        return step, str(error)
    finally:
        stopping.asked.clear()
    return STEPS, ""


@pytest.mark.parametrize("backend", ["shared memory", "gloo"])
def test_a_checkpoint_is_one_message_and_gives_every_rank_rank_0s_value(pair, backend):
    assert pair(counted, backend) == [([{"step": n} for n in range(STEPS)], STEPS)] * 2


@pytest.mark.parametrize("backend", ["shared memory", "gloo"])
def test_all_ranks_stop_at_the_same_checkpoint_when_rank_0_is_asked_and_can_go_on(pair, backend):
    assert pair(stopped, backend, 0) == [(ASKED_AT, stopping.REASON)] * 2
    assert pair(stopped, backend, 1) == [(STEPS, "")] * 2
    assert pair(counted, backend)[1][1] == STEPS


def test_one_rank_alone_goes_on_with_its_own_value():
    assert SOLO.checkpoint("next") == "next" and SOLO.checkpoint() is None
