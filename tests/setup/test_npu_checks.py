"""The checks of cards, their driver and their memory, on described machines."""

from dataclasses import replace

import pytest

from neoxlib.machine import npu_smi
from neoxlib.setup import doctor
from neoxlib.setup.doctor import Report, judge
from tests.support.hosts import A2, FIXTURES, SOURCED, faults, npu, rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("held_by_another", ("-8020", "another container")),
        ("no_permission", ("-8005", "HwHiAiUser")),
    ],
)
def test_a_driver_that_answers_with_an_error_fails_with_its_cause(text, words):
    row = rows(npu(text, 1))["device"]
    assert row.status == "FAIL" and words[0] in row.found and words[1] in row.repair


def test_devices_that_are_not_mounted_are_told_from_devices_that_are_not_there():
    row = rows(replace(A2, nodes=(), container="docker"))["device"]
    assert row.status == "FAIL" and "--device /dev/davinci0" in row.repair
    row = rows(replace(A2, smi=None))["device"]
    assert (
        row.status == "WARN" and "npu-smi" in row.needed and row.repair.startswith("export PATH=")
    )
    row = rows(replace(A2, smi=None, nodes=(), container="docker"))["device"]
    assert row.status == "WARN" and "--device /dev/davinci0" in row.repair


def test_a_chip_that_is_not_in_the_table_is_a_loud_warning():
    strange = npu_smi.Smi("26", (npu_smi.Card(0, 0, "Atlas 9000", "OK", "0000:01:00.0", 1, 65536),))
    found = rows(replace(A2, smi=strange))
    assert found["device"].status == found["operators"].status == "WARN"
    assert "Atlas 9000" in found["operators"].found and "slower" in found["operators"].found


def test_a_container_without_npu_smi_is_told_that_no_name_is_known_and_how_to_mount_it():
    row = rows(replace(A2, smi=None, container="docker"))["operators"]
    assert row.status == "WARN" and "npu-smi shows none" in row.found
    assert "SoC code" in row.found and "-v /usr/local/bin/npu-smi" in row.repair


def test_a_card_with_one_310p3_is_no_duo():
    assert doctor.devices(npu("310p3", 1))["taken for"].tolist() == ["300I Pro"]
    assert doctor.devices(npu("310p3_duo", 2))["taken for"].tolist() == ["300I Duo"] * 2


def test_a_missing_driver_is_installed_for_a_user_who_exists():
    repair = rows(replace(A2, driver=None))["driver"].repair
    assert repair.index("useradd") < repair.index("npu-driver_") < repair.index("reboot")


def test_an_unwell_card_fails_by_number():
    row = rows(npu("910b4_unwell", 2))["device health"]
    assert (
        row.status == "FAIL" and row.found == "NPU 0 chip 0: Alarm" and row.repair.endswith("-i 0")
    )


def test_a_process_is_called_by_the_pid_that_kill_takes_here():
    """Inside a container the host's pid is another process, or none."""
    for container, pid, other in ((None, "70456", "214"), ("docker", "214", "70456")):
        machine = npu("910b2_containers", 2, container=container)
        row = rows(machine)["device memory"]
        assert row.status == "WARN" and f"pid {pid} (python3.11) 18002 MiB" in row.found
        assert f"kill 70112 {pid}" in row.repair and other not in row.found + row.repair
        held = [f"70112 python, {pid} python3.11", "none"]
        assert doctor.devices(machine)["held by"].tolist() == held


def test_an_edge_board_says_what_it_has_and_what_not():
    """A 310B is on no bus, its memory is the host's own, and no fused operator is known for it."""
    machine = npu("310b1", 1)
    found = rows(machine)
    assert faults(machine) == {"operators": "WARN"} and found["device"].found == "1 × 310B1"
    assert "310B1 runs on PyTorch's own operators" in found["operators"].found
    assert "selftest-npu" in found["operators"].repair and "One rank" in found["operators"].found
    assert found["device memory"].found == "at least 14262 MiB free on each"
    assert doctor.devices(machine)["taken for"].tolist() == ["310B1"]
    bare = npu("310b1", 1, driver=None, torch_npu=None)
    assert "Ascend-hdk-310b-npu-driver-soc_*_linux-x86-64.run" in rows(bare)["driver"].repair
    assert 'install-plan --chip "310B1"' in repr(Report(judge(bare), bare))


def test_a_950_is_known_and_said_to_be_without_figures():
    found = rows(npu("950", 2))
    assert found["device"].found == "2 × Ascend950PR" and found["operators"].status == "WARN"
    assert "no source of its figures" in found["operators"].found and "operators" not in rows(A2)


def test_a_line_of_npu_smi_that_cannot_be_read_fails_and_is_quoted():
    text = (FIXTURES / "910b4_busy.txt").read_text().replace("26101", "26 GB")
    row = rows(replace(A2, smi=npu_smi.parse(text)))["device"]
    assert row.status == "FAIL"
    assert "| 31337         | python                   | 26 GB" in row.found


def test_a_health_that_is_not_shown_is_no_illness():
    card = npu_smi.Card(0, 0, "910B3", "", "0000:01:00.0", 1, 65536)
    row = rows(replace(A2, smi=npu_smi.Smi("27", (card,))))["device health"]
    assert (row.status, row.found) == ("OK", "not shown")


def test_links_within_a_card_and_between_cards_are_direct():
    for links, direct in ((("SIO", "HCCS_SW"), True), (("UB",), True), (("PHB", "SYS"), False)):
        assert ("directly" in rows(replace(A2, links=links))["links"].found) == direct


def test_a_busy_card_names_who_holds_it():
    row = rows(npu("910b4_busy", 2))["device memory"]
    assert row.status == "WARN"
    assert "pid 31337 (python) 26101 MiB" in row.found and "pid 31338 (no name)" in row.found
    assert "NPU 2 chip 0: 3857 of 32768 MiB free" in row.found and "NPU 3" not in row.found


def test_free_cards_are_named_by_the_ids_that_make_them_visible():
    """torch counts by the logic ids of `npu-smi info -m`, which need not follow the table."""
    busy = npu("910b4_busy", 2)
    positions = tuple(
        npu_smi.Position(card.npu, card.chip, logic, card.name)
        for card, logic in zip(busy.cards, (5, 3), strict=True)
    )
    repair = rows(replace(busy, positions=positions))["device memory"].repair
    assert repair.startswith("export ASCEND_RT_VISIBLE_DEVICES=3 ")


@pytest.mark.parametrize(
    ("given", "status", "repair"),
    [
        ("0,1,2,3,4,5,6,7", "OK", ""),
        ("2,5", "OK", ""),
        ("1,0", "FAIL", "=0,1"),
        ("0,0", "FAIL", "=0"),
        ("6,7,8", "FAIL", "=6,7"),
        ("0, 1", "FAIL", "=0"),
        ("", "FAIL", "=0"),
        ("npu0", "FAIL", "=0"),
    ],
)
def test_visible_devices_must_ascend_strictly_and_exist(given, status, repair):
    """torch_npu reads any other list as no device at all, without a word."""
    row = rows(replace(A2, env=SOURCED | {"ASCEND_RT_VISIBLE_DEVICES": given}))["visible devices"]
    assert row.status == status
    assert row.repair == (f"export ASCEND_RT_VISIBLE_DEVICES{repair}" if repair else "")


@pytest.mark.parametrize(
    ("name", "env", "bad"),
    [
        ("910b3_x8", {"INF_NAN_MODE_ENABLE": "0"}, "INF_NAN_MODE_ENABLE"),
        ("910b3_x8", {"INF_NAN_MODE_ENABLE": "0", "INF_NAN_MODE_FORCE_DISABLE": "1"}, None),
        ("310p3", {"INF_NAN_MODE_ENABLE": "0"}, None),
        ("310p3", {"BACKEND": "lccl"}, "BACKEND"),
        ("910b3_x8", {"BACKEND": "lccl"}, None),
        ("910b3_x8", {"PYTORCH_ALLOC_CONF": "a:1"}, None),
        (
            "910b3_x8",
            {"PYTORCH_ALLOC_CONF": "a:1", "PYTORCH_NPU_ALLOC_CONF": "a:1"},
            "PYTORCH_ALLOC_CONF",
        ),
    ],
)
def test_variables_of_old_scripts_that_stop_a_run_are_named(name, env, bad):
    row = rows(npu(name, 8, env=SOURCED | env))["variables"]
    assert (row.status, row.repair) == (("FAIL", f"unset {bad}") if bad else ("OK", ""))
