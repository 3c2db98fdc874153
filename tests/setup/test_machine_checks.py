"""The checks that apply to every machine, on described machines with one fault each."""

from dataclasses import replace

import pytest

from neoxlib.setup import doctor
from neoxlib.setup.machine_checks import GIB, at_least
from tests.support.hosts import A2, CPU, SOURCED, faults, rows


def test_aarch64_gets_the_exact_line_that_loads_libgomp_first():
    arm = replace(
        A2, arch="aarch64", libgomp=("/env/lib/torch/lib/libgomp-abc.so.1", "/usr/lib/libgomp.so.1")
    )
    row = rows(arm)["libgomp"]
    assert (
        row.status == "WARN"
        and row.repair == "export LD_PRELOAD=/env/lib/torch/lib/libgomp-abc.so.1"
    )
    assert "libgomp" not in faults(
        replace(arm, env=SOURCED | {"LD_PRELOAD": "/env/lib/torch/lib/libgomp-abc.so.1"})
    )
    assert "libgomp" not in rows(A2)


@pytest.mark.parametrize(
    ("changes", "name", "status"),
    [
        ({"system": "Darwin"}, "OS", "WARN"),
        ({"arch": "riscv64"}, "architecture", "WARN"),
        ({"glibc": "2.17"}, "glibc", "FAIL"),
        ({"glibc": None}, "glibc", "FAIL"),
        ({"python": "3.12.1"}, "Python", "FAIL"),
        ({"python": "3.110.0"}, "Python", "FAIL"),
        ({"packages": {"torch": "2.13.0", "transformers": None}}, "packages", "FAIL"),
        ({"packages": {"torch": "2.12.0+cu130", "transformers": "5.23.0"}}, "packages", "WARN"),
        ({"governor": "powersave"}, "CPU", "WARN"),
        ({"memory_free": GIB}, "memory", "WARN"),
        ({"disk_free": GIB}, "disk", "WARN"),
        ({"shm_free": 64 * 2**20}, "/dev/shm", "WARN"),
        ({"shm_free": None}, "/dev/shm", "WARN"),
        ({"open_files": 256}, "open files", "WARN"),
        ({"loopback": False}, "loopback", "FAIL"),
    ],
)
def test_each_fault_of_a_machine_gives_one_row_with_a_repair(changes, name, status):
    machine = replace(CPU, **changes)
    assert faults(machine) == {name: status}
    assert rows(machine)[name].repair and rows(machine)[name].needed


@pytest.mark.parametrize(
    ("changes", "name"), [({"gcc": "4.8.5"}, "gcc"), ({"hccl_ports_taken": (60000,)}, "HCCL ports")]
)
def test_what_only_npus_need_is_asked_of_npu_machines_only(changes, name):
    assert faults(replace(A2, **changes)) == {name: "WARN"}
    assert faults(replace(CPU, **changes)) == {}


def test_a_missing_package_is_repaired_with_its_pin():
    row = rows(replace(CPU, packages={"torch": "2.12.0"}))["packages"]
    assert row.repair == "pip install transformers==5.23.0 torch==2.13.0"
    assert row.found == "transformers missing, torch 2.12.0"


def test_a_limit_without_end_is_enough_open_files():
    assert rows(replace(CPU, open_files=-1))["open files"].status == "OK"


def test_a_container_is_named_and_is_no_fault():
    row = rows(replace(CPU, container="docker", python_env="conda"))["docker or conda"]
    assert row.status == "OK" and "docker" in row.found and "conda" in row.found


def test_versions_are_compared_as_numbers():
    assert at_least("2.31", "2.27") and at_least("2.27", "2.27") and at_least("12", "7.5")
    assert not at_least("2.4", "2.27") and not at_least(None, "2.27") and not at_least("", "1")


def test_a_groups_limit_is_shown_with_where_it_comes_from_and_what_the_host_has():
    cores = "cgroup cpu.max: 0.5 core(s); the host has 2"
    memory = "cgroup memory.max: 1.5 GiB; the host has 23.5"
    limited = replace(CPU, cores=1, cores_limit=cores)
    limited = replace(limited, memory=3 * GIB // 2, memory_free=GIB, memory_limit=memory)
    assert f"1 core(s) ({cores})" in rows(limited)["CPU"].found
    row = rows(limited)["memory"]
    assert row.status == "WARN" and row.found == f"1.0 of 1.5 GiB free ({memory})"
    assert "a higher limit" in row.repair
    assert doctor.devices(limited)["limited by"].tolist() == [f"{cores}; {memory}"]
