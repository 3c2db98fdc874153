"""Who chooses the next tokens, and how often rank 0 speaks where all ranks choose alike.

What ranks choose alike is tested over make-believe NPUs, in tests/ranks/test_collectives.py.
"""

import pytest
import torch

from neoxlib.inference import choosing
from neoxlib.inference.choosing import Alike, ByRankZero, chooser
from neoxlib.inference.rows import Limits, Rows
from neoxlib.inference.sampling import Sampling
from neoxlib.model.group import Group
from tests.support.oracle_models import make_oracle, ours

CPU = torch.device("cpu")
LIMITS = Limits((), 211, 96)


class Pair(Group):
    """Rank 0 of two."""

    size = 2


def rows(watch_ends: bool = False, **settings: object) -> Rows:
    return Rows([[5]], Sampling(**settings), LIMITS, 0, lambda row, token: False, watch_ends)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"repetition_penalty": 2.0}])
def test_on_a_cpu_rank_0_chooses(settings):
    assert isinstance(chooser(ours(make_oracle()), rows(**settings)), ByRankZero)


def test_rank_0_speaks_after_as_many_steps_as_take_a_second_and_after_eight_at_most(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(choosing.time, "perf_counter", lambda: now[0])
    alike = Alike(Pair(), rows(), [106, 105], CPU)
    found = []
    for seconds in (0.01, 0.3, 2.0, 0.45):  # of each step since the last word
        now[0] += seconds * alike.steps
        alike.steps = alike._pause()
        found.append(alike.steps)
    assert found == [8, 3, 1, 2]


def test_rank_0_speaks_at_each_step_where_its_watch_may_end_a_row_or_nobody_listens():
    assert Alike(Pair(), rows(watch_ends=True), [106, 105], CPU)._pause() == 1
    assert Alike(Group(), rows(), [211], CPU)._pause() == 1
