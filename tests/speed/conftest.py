"""A host for plans that does not depend on the machine of the tests."""

import pytest

from neoxlib.machine.limits import Memory
from neoxlib.speed import target


@pytest.fixture
def cpu_host(monkeypatch):
    """A machine without an NPU and with 4 GiB of free memory, whatever the real one has."""
    monkeypatch.setattr(target.devices, "pick_device", lambda device: "cpu")
    monkeypatch.setattr(target.limits, "memory", lambda: Memory(8 * 2**30, 4 * 2**30))
    monkeypatch.setattr(target, "measured", lambda: {"bandwidth_gb_s": 20.0, "fp16_tflops": 0.1})
