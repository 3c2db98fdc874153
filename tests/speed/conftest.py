"""A host for plans that does not depend on the machine of the tests."""

import pytest

from neoxlib.machine.limits import Memory
from neoxlib.speed import target
from neoxlib.speed.peaks import MachinePeaks


@pytest.fixture
def cpu_host(monkeypatch):
    """A machine without an NPU and with 4 GiB of free memory, whatever the real one has."""
    monkeypatch.setattr(target.devices, "pick_device", lambda device: "cpu")
    monkeypatch.setattr(target.limits, "memory", lambda: Memory(8 * 2**30, 4 * 2**30))
    monkeypatch.setattr(target, "of_machine", as_known)


def as_known(size: int, ranks: int, threads: int, formats: tuple[str, ...]) -> MachinePeaks:
    """A machine that reads 20 GB/s and reaches 0.1 TFLOPS, however it is asked."""
    return MachinePeaks(size, ranks, threads, formats, 20.0, 0.1, "a product of float32", "")
