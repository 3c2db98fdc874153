"""The clocks of a decode step: the four phases, their own ticks, and the loop without clocks."""

import math
from collections.abc import Iterator

import pytest
import torch

from neoxlib.inference.clocks import NoClocks, StepClocks, Stopwatch, WallClocks, clocks_for
from neoxlib.model.group import Group


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A clock that advances by one second per look."""
    count = iter(range(10**6))
    monkeypatch.setattr("neoxlib.inference.clocks.time.perf_counter", lambda: next(count))
    return count


def test_the_stopwatch_waits_for_the_device(monkeypatch: pytest.MonkeyPatch):
    waits = []
    monkeypatch.setattr("torch.cpu.synchronize", lambda: waits.append(1))
    lap = Stopwatch(torch.device("cpu"))
    lap()
    lap()
    assert len(waits) == 2


def test_each_phase_has_its_own_tick_and_communication_is_no_part_of_forward(ticks):
    group = Group()
    clocks = StepClocks(group, torch.device("cpu"))
    for _ in range(2):
        group.seconds = 7.0  # before the forward pass: on no step's clock
        with clocks.forward():
            group.seconds += 0.25
        clock, device_ms = clocks.read()
        assert clock == (1000, 750, 250, 1000) and device_ms is None
        next(ticks)  # the caller's own time
        clocks.resume()


def test_sums_are_timed_by_an_accelerator_only_within_a_forward_pass_that_is_timed():
    group = Group()
    clocks = StepClocks(group, torch.device("cpu"))
    with clocks.forward():
        assert group.detail
    assert not group.detail
    with pytest.raises(ValueError), clocks.forward():
        raise ValueError
    assert not group.detail


def test_a_step_as_a_whole_is_timed_without_waiting(ticks, monkeypatch):
    monkeypatch.setattr("torch.cpu.synchronize", lambda: pytest.fail("waited"))
    clocks = WallClocks()
    for _ in range(2):
        with clocks.forward():
            next(ticks)
        clock, device_ms = clocks.read()
        assert clock[:2] == (1000, 2000) and all(map(math.isnan, clock[2:]))
        assert device_ms is None
        next(ticks)  # the caller's own time
        clocks.resume()


def test_a_cpu_is_timed_by_phases_and_an_accelerator_where_detail_is_asked_for(monkeypatch):
    cpu = torch.device("cpu")
    other = torch.device("privateuseone:0")
    assert isinstance(clocks_for(Group(), cpu, timed=True, detail=False), StepClocks)
    assert isinstance(clocks_for(Group(), other, timed=True, detail=False), WallClocks)
    assert isinstance(clocks_for(Group(), other, timed=False, detail=True), NoClocks)


def test_without_clocks_nothing_is_read_and_nothing_waited_for(ticks, monkeypatch):
    monkeypatch.setattr("torch.cpu.synchronize", lambda: pytest.fail("waited"))
    clocks = NoClocks()
    with clocks.forward():
        pass
    clock, device_ms = clocks.read()
    clocks.resume()
    assert all(map(math.isnan, clock)) and device_ms is None and next(ticks) == 0
