"""The variables that ranks are started with, here and in a cluster."""

import os
import subprocess
import sys

import pytest

from neoxlib.errors import SettingsError
from neoxlib.machine import devices
from neoxlib.machine.chips import CHIPS
from neoxlib.machine.launch_env import launch_env
from neoxlib.ranks import surroundings, worker

EXPORTED = ("TASK_QUEUE_ENABLE", "HCCL_IF_IP", "HCCL_SOCKET_IFNAME", "LD_PRELOAD", "MAX_SEQ_LEN")


@pytest.fixture
def on_chip(monkeypatch):
    """A machine with NPUs of this name, and nothing exported that the tests are about."""

    def make(name, arch="x86_64"):
        monkeypatch.setattr(surroundings, "chip_for", lambda device: CHIPS[name])
        monkeypatch.setattr(surroundings, "pick_device", lambda device: "npu")
        monkeypatch.setattr(surroundings.platform, "machine", lambda: arch)
        return monkeypatch

    monkeypatch.setattr(surroundings, "container", lambda: None)
    for variable in EXPORTED:
        monkeypatch.delenv(variable, raising=False)
    return make


@pytest.mark.parametrize("deterministic", [False, True])
def test_ranks_on_npus_get_the_recipe_of_the_chip_and_this_process_keeps_its_own(
    on_chip, deterministic
):
    on_chip("910B3")
    before = dict(os.environ)
    env = surroundings.rank_environment(8, "npu", deterministic).added
    assert env.items() >= launch_env("910B3", 8, deterministic=deterministic).items()
    assert ("HCCL_DETERMINISTIC" in env) is deterministic and dict(os.environ) == before


def test_what_the_user_exported_is_not_replaced_and_is_listed_as_kept(on_chip):
    on_chip("910B3").setenv("TASK_QUEUE_ENABLE", "1")
    found = surroundings.rank_environment(8, "npu", False)
    assert "TASK_QUEUE_ENABLE" not in found.added and found.kept == {"TASK_QUEUE_ENABLE": "1"}


@pytest.mark.parametrize(
    ("chip", "size", "exported", "words"),
    [
        ("300I Pro", 2, {}, "only the 300I Duo has HCCL"),
        ("910A", 3, {}, "1, 2, 4 or 8 ranks"),
        ("910A", 2, {"ASCEND_RT_VISIBLE_DEVICES": "3,4"}, "0 to 3"),
        (
            "910B3",
            1,
            {"PYTORCH_ALLOC_CONF": "a:1", "PYTORCH_NPU_ALLOC_CONF": "a:1"},
            "NPUAllocatorConfig.cpp:52",
        ),
    ],
)
def test_ranks_that_could_not_run_are_refused_before_any_starts(
    on_chip, chip, size, exported, words
):
    patch = on_chip(chip)
    for name, value in exported.items():
        patch.setenv(name, value)
    with pytest.raises(SettingsError, match=words):
        surroundings.rank_environment(size, "npu", False)


def test_a_replicas_part_of_the_machine_is_what_its_ranks_see(on_chip):
    on_chip("910A")
    share = {"ASCEND_RT_VISIBLE_DEVICES": "4,5"}
    assert surroundings.rank_environment(2, "npu", False, share).added.items() >= share.items()


@pytest.mark.parametrize(
    ("device", "arch", "preload"),
    [("npu", "aarch64", "/t/libgomp.so.1"), ("npu", "x86_64", None), ("cpu", "aarch64", None)],
)
def test_npu_ranks_on_aarch64_load_libgomp_first(on_chip, device, arch, preload):
    patch = on_chip("910B3" if device == "npu" else "cpu", arch)
    patch.setattr(surroundings.probes, "libgomp", lambda: ("/t/libgomp.so.1", "/usr/x"))
    env = surroundings.rank_environment(2, device, False).added
    assert env.get("LD_PRELOAD") == preload
    patch.setenv("LD_PRELOAD", "/mine.so")
    assert "LD_PRELOAD" not in surroundings.rank_environment(2, device, False).added


HOSTS = ["here", "here", "there", "there"]


def test_a_rank_of_a_cluster_makes_the_recipe_of_its_own_machine_with_its_own_address(on_chip):
    on_chip("910B3").setattr(surroundings, "address_seen_by", lambda hosts: "10.0.0.7")
    found = surroundings.own_environment(2, HOSTS, "auto", False)
    assert found.added == launch_env("910B3", 4, here=2, servers=2) | {"HCCL_IF_IP": "10.0.0.7"}
    alone = surroundings.own_environment(1, ["here"] * 2, "auto", False)
    assert "HCCL_IF_IP" not in alone.added


@pytest.mark.parametrize("name", ["HCCL_IF_IP", "HCCL_SOCKET_IFNAME"])
def test_an_address_or_an_interface_that_the_user_named_is_left_to_hccl(on_chip, name):
    on_chip("910B3").setenv(name, "=eth1")
    assert "HCCL_IF_IP" not in surroundings.own_environment(2, HOSTS, "auto", False).added


def test_ranks_of_a_duo_on_two_hosts_are_refused_by_the_rank(on_chip):
    on_chip("300I Duo")
    with pytest.raises(SettingsError, match=r"4 ranks on 300I Duo on 2 servers.*one server"):
        surroundings.own_environment(0, HOSTS, "auto", False)


def test_ranks_of_other_machines_are_handed_the_users_variables_but_no_address(on_chip):
    patch = on_chip("910B3")
    for name, value in (("TASK_QUEUE_ENABLE", "1"), ("HCCL_IF_IP", "10.0.0.1"), ("HOME", "/h")):
        patch.setenv(name, value)
    handed = surroundings.handed_on().added
    assert handed["TASK_QUEUE_ENABLE"] == "1" and not {"HCCL_IF_IP", "HOME"} & handed.keys()


def test_a_rank_sets_its_variables_before_torch_is_imported(on_chip):
    """torch_npu reads them when torch loads it."""
    code = (
        "import os, sys\n"
        "from neoxlib.machine.chips import CHIPS\n"
        "from neoxlib.ranks import surroundings, worker\n"
        "surroundings.chip_for = lambda device: CHIPS['910B3']\n"
        "surroundings.pick_device = lambda device: 'npu'\n"
        "found = worker.equip(0, ['here'], 'auto', False, None)\n"
        "assert found.added.items() <= os.environ.items()\n"
        "print(os.environ['TASK_QUEUE_ENABLE'], 'torch' in sys.modules)"
    )
    env = {name: os.environ[name] for name in os.environ if name not in EXPORTED}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "2 False\n", done.stderr


def test_a_rank_that_is_handed_the_answers_of_its_machine_adds_nothing(monkeypatch):
    monkeypatch.setattr(worker, "own_environment", None)
    answers = devices.NpuAnswers(("no card",), None)
    try:
        found = worker.equip(1, ["here"] * 2, "npu", False, answers)
        assert (found.added, found.kept) == ({}, {})
        assert devices.npu_problems() == ("no card",)
    finally:
        devices.take_answers(None)
