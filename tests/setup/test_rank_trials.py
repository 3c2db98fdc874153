"""The trials over ranks: collectives are exact, and one that errs is found."""

from types import SimpleNamespace

import pytest
import torch

from neoxlib.setup import rank_trials
from tests.support.thread_ranks import ThreadGroup, on_ranks


def errors_of(size: int) -> dict[str, float]:
    weight = torch.zeros(1, dtype=torch.float16)
    return on_ranks(
        size, lambda group: rank_trials.collectives(SimpleNamespace(group=group, weight=weight))
    )[0]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_collectives_are_exact(size):
    assert set(errors_of(size).values()) == {0.0} and len(errors_of(size)) == 4


def gathered_backwards(group, x, dim=-1):
    parts = group._swap(x)[::-1]
    return torch.cat(parts, dim) if group.rank == 0 else None


@pytest.mark.parametrize(
    "method, wrong",
    [
        ("all_reduce", lambda group, x: x),
        ("gather", gathered_backwards),
        ("broadcast", lambda group, value: value),
    ],
)
def test_a_collective_that_errs_is_found(monkeypatch, method, wrong):
    monkeypatch.setattr(ThreadGroup, method, wrong)
    assert max(errors_of(2).values()) > 0


def test_ranks_that_do_not_start_are_a_failure():
    (trial,) = rank_trials.over_ranks("nowhere", "float16", 1)
    assert trial.name == "ranks: 1" and not trial.passed
