"""Hosts described by `doctor --json`: each gets the verdicts of its fault and no others."""

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from neoxlib.errors import SettingsError
from neoxlib.machine import host
from neoxlib.machine.host import restore
from neoxlib.setup import doctor

FOLDER = Path(__file__).parents[1] / "fixtures" / "hosts"
HOSTS = {
    path.stem: restore(json.loads(path.read_text(encoding="utf-8")))
    for path in sorted(FOLDER.glob("*.json"))
}

# host -> row: status and a part of the repair; every other row is OK
VERDICTS = {
    "910b3_x8": {},
    "310p3_duo": {},
    "container_healthy": {},
    "no_npu": {},
    "unsourced_cann": {
        "CANN toolkit": ("FAIL", "source /usr/local/Ascend/cann-9.1.0/set_env.sh"),
        "torch_npu": ("FAIL", "export TORCH_DEVICE_BACKEND_AUTOLOAD=0"),
        "libgomp": (
            "WARN",
            "export LD_PRELOAD=/opt/neoxlib/lib/python3.11/site-packages/torch.libs/"
            "libgomp-947d5fa1",
        ),
    },
    "wrong_pairing": {
        "pairing": (
            "FAIL",
            "pip install torch-npu==2.13.0 && chmod +x Ascend-cann-toolkit_9.1.0_linux-aarch64.run",
        ),
    },
    "busy_card": {
        "device memory": (
            "WARN",
            "export ASCEND_RT_VISIBLE_DEVICES=1  # the free ones; or: kill 31337 31338",
        ),
    },
    "container": {
        "device": ("WARN", "--device /dev/davinci_manager"),
        "/dev/shm": ("WARN", "docker run --shm-size=16g"),
    },
    "old_firmware": {
        "firmware": ("FAIL", "Ascend-hdk-910b-npu-firmware_*.run --full && reboot"),
        "CANN kernels": ("FAIL", "Ascend-cann-910b-ops_9.1.0_linux-aarch64.run --install"),
        "C++ ABI": ("FAIL", "source /usr/local/Ascend/nnal/atb/set_env.sh --cxx_abi=0"),
    },
}
EVERY_NPU_ROW = {
    "device",
    "driver",
    "firmware",
    "device health",
    "device memory",
    "variables",
    "HCCL ports",
    "CANN toolkit",
    "CANN kernels",
    "CANN's Python packages",
    "torch_npu",
    "pairing",
    "ATB (NNAL)",
    "C++ ABI",
    "OS",
    "architecture",
    "glibc",
    "gcc",
    "Python",
    "packages",
    "CPU",
    "memory",
    "disk",
    "/dev/shm",
    "open files",
    "docker or conda",
    "loopback",
    "links",
}


def test_every_description_has_its_verdicts():
    assert HOSTS.keys() == VERDICTS.keys()


@pytest.mark.parametrize("name", HOSTS)
def test_a_described_host_gets_its_verdicts_and_no_others(name):
    found = {row.name: row for row in doctor.judge(HOSTS[name]) if row.status != "OK"}
    assert {row: one.status for row, one in found.items()} == {
        row: says[0] for row, says in VERDICTS[name].items()
    }
    for row, (_, repair) in VERDICTS[name].items():
        assert repair in found[row].repair


def test_a_healthy_npu_host_gets_every_row():
    assert {row.name for row in doctor.judge(HOSTS["910b3_x8"])} == EVERY_NPU_ROW | {"libgomp"}
    assert {row.name for row in doctor.judge(HOSTS["310p3_duo"])} == EVERY_NPU_ROW


@pytest.mark.parametrize("name", HOSTS)
def test_every_row_says_what_was_found_and_needed_and_every_repair_is_a_line_for_a_shell(name):
    for row in doctor.judge(HOSTS[name]):
        assert row.found and row.needed and bool(row.repair) == (row.status != "OK")
        if row.repair:
            parsed = subprocess.run(
                ["bash", "-n", "-c", row.repair], capture_output=True, text=True
            )
            assert parsed.returncode == 0 and not parsed.stderr, row.repair
            assert row.repair.split()[0] in {"source", "export", "pip", "docker", "chmod"}, (
                row.repair
            )


@pytest.mark.parametrize("name", HOSTS)
def test_what_doctor_writes_as_json_can_be_judged_elsewhere(name):
    report = doctor.Report(doctor.judge(HOSTS[name]), HOSTS[name])
    again = doctor.from_json(report.to_json())
    assert (
        again.host == HOSTS[name]
        and again.rows == report.rows
        and asdict(again.host) == asdict(HOSTS[name])
    )


def test_a_host_with_something_to_repair_is_told_the_whole_installation_and_a_healthy_one_is_not():
    shown = {name: repr(doctor.Report(doctor.judge(one), one)) for name, one in HOSTS.items()}
    assert 'install-plan --chip "910B3" --arch aarch64 --over' in shown["unsourced_cann"]
    assert "install-plan" not in shown["910b3_x8"] + shown["no_npu"]


@pytest.mark.parametrize(
    "said",
    [
        "[]",
        "{",
        "{}",
        '{"host": {"env": 5}}',
        '{"host": {"cores": "many", "memory": "much"}}',
        '{"host": []}',
        '{"host": {"colour": "red"}}',
        '{"host": {"smi": {"cards": [{"a": 1}]}}}',
    ],
)
def test_what_is_no_description_is_refused(said):
    with pytest.raises(SettingsError):
        doctor.from_json(said)


def test_this_machine_can_be_described_and_restored(tmp_path):
    here = host.read_host(tmp_path)
    assert restore(json.loads(json.dumps(asdict(here)))) == here


def test_devices_are_shown_by_the_id_that_makes_them_visible():
    table = doctor.devices(HOSTS["310p3_duo"])
    assert table["id"].tolist() == [0, 1] and table["taken for"].tolist() == ["300I Duo"] * 2
    assert "directly" in {row.name: row for row in doctor.judge(HOSTS["910b3_x8"])}["links"].found
    assert (
        "over the host"
        in {row.name: row for row in doctor.judge(HOSTS["310p3_duo"])}["links"].found
    )


def test_a_machine_with_cards_is_read_by_way_of_npu_smi(tmp_path, monkeypatch):
    """A fake npu-smi: its table, board, map and links all land in the description."""
    table = FOLDER.parent / "npu_smi" / "910b3_x8.txt"
    script = f"""#!/bin/sh
case "$*" in
  info) cat {table};;
  "info -m") printf '%s\\n' 'NPU ID   Chip ID   Chip Logic ID   Chip Name' \\
      '0   0   0   Ascend 910B3' '0   1   -   Mcu';;
  "info -t topo") printf '%s\\n' '      NPU0  NPU1  CPU Affinity' \\
      'NPU0  X  HCCS  0-3' 'NPU1  HCCS  X  4-7' 'Legend: HCCS';;
  "info -t board"*) printf '  Software Version : 25.5.0\\n  Firmware Version : 7.8.0.5.201\\n';;
esac
"""
    (tmp_path / "npu-smi").write_text(script)
    (tmp_path / "npu-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = host.read_host(tmp_path)
    assert (
        len(found.cards) == 8
        and [one.logic for one in found.positions] == [0]
        and found.links == ("HCCS",)
    )
    assert (found.driver, found.firmware) == ("25.5.0", "7.8.0.5.201")
    assert "device" in {
        row.name for row in doctor.judge(found) if row.status == "FAIL"
    }  # cards, but no device nodes
