"""This machine, as it is described."""

import shutil
import subprocess

import pytest

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


def test_the_ports_of_hccl_that_are_taken_are_described(monkeypatch):
    monkeypatch.setattr(host.probes, "ports_in_use", lambda: {22, 50003, 60001, 60031, 60032})
    monkeypatch.delenv("HCCL_IF_BASE_PORT", raising=False)
    assert read_host().hccl_ports_taken == (60001, 60031)
    monkeypatch.setenv("HCCL_IF_BASE_PORT", "50000")
    assert read_host().hccl_ports_taken == (50003,)


def test_a_description_of_an_older_neoxlib_is_still_read():
    assert host.restore({"arch": "aarch64", "hccl_port_free": False}).arch == "aarch64"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/proc/cpuinfo", "processor : 0\nflags\t\t: fpu sse hypervisor avx\nbugs : x"),
        (environment.MADE_BY[1], "KVM Virtual Machine"),
        ("/sys/hypervisor/type", "xen"),
    ],
)
def test_a_virtual_machine_says_so_in_one_of_three_places(path, text, monkeypatch):
    files = {
        "/proc/cpuinfo": "flags : fpu sse\nvendor : hypervisor",
        environment.MADE_BY[0]: "Huawei",
    }
    monkeypatch.setattr(environment.probes, "text", files.get)
    assert environment.kind() == "own"
    monkeypatch.setattr(environment.probes, "text", (files | {path: text}).get)
    assert environment.kind() == "virtual"


@pytest.mark.skipif(not shutil.which("lscpu"), reason="lscpu, the oracle, is not here")
def test_this_machine_is_virtual_as_lscpu_has_it():
    said = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    assert (environment.kind() == "virtual") == ("Hypervisor vendor" in said)
