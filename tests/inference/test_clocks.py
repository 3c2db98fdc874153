"""The clocks of a decode step: the four phases, their own ticks, and the loop without clocks."""

import math
from collections.abc import Iterator

import pytest
import torch

from neoxlib.inference.clocks import NoClocks, StepClocks, Stopwatch
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


def test_without_clocks_nothing_is_read_and_nothing_waited_for(ticks, monkeypatch):
    monkeypatch.setattr("torch.cpu.synchronize", lambda: pytest.fail("waited"))
    clocks = NoClocks()
    with clocks.forward():
        pass
    clock, device_ms = clocks.read()
    clocks.resume()
    assert all(map(math.isnan, clock)) and device_ms is None and next(ticks) == 0
