"""This machine, as it is described."""

from neoxlib.machine import environment, host, limits
from neoxlib.machine.host import read_host

GIB = 2**30


def test_this_machine_has_the_versions_that_neoxlib_was_tested_with(tmp_path):
    machine = read_host(tmp_path)
    assert machine.pins["torch"] == "2.13.0" and machine.packages.keys() == machine.pins.keys()
    assert machine.cores > 0 and machine.memory > machine.memory_free > 0 and machine.disk_free > 0


def test_this_machine_is_described_by_what_a_group_leaves(monkeypatch):
    monkeypatch.setattr(host.limits, "cores", lambda: limits.Cores(1, 0.5, "cgroup cpu.max"))
    memory = limits.Memory(3 * GIB, GIB, "cgroup memory.max")
    monkeypatch.setattr(host.limits, "memory", lambda: memory)
    here = read_host()
    assert (here.cores, here.cores_limit) == (1, "cgroup cpu.max")
    assert (here.memory, here.memory_free, here.memory_limit) == (3 * GIB, GIB, "cgroup memory.max")
    said = environment.describe("cpu")
    assert (said["cores"], said["memory_gb"]) == (1, 3.2)
    assert said["limits"] == "cgroup cpu.max; cgroup memory.max"
