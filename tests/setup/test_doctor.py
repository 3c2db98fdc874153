"""The setup report on made machines: each must get the verdicts and the repairs that its fault deserves."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from neoxlib.checkpoint import shard
from neoxlib.machine import chips, environment, host, launch_env, limits, npu_smi, probes
from neoxlib.machine.host import Host, read_host
from neoxlib.setup import doctor
from neoxlib.setup.doctor import Report, judge
from neoxlib.setup.machine_checks import GIB, at_least
from neoxlib.setup.model_checks import model_rows

FIXTURES = Path(__file__).parents[1] / "fixtures" / "npu_smi"
PINS = {"torch": "2.13.0", "transformers": "5.23.0"}
CPU = Host(pins=PINS, packages={"torch": "2.13.0+cpu", "transformers": "5.23.0"})
SOURCED = {
    "ASCEND_HOME_PATH": "/usr/local/Ascend/ascend-toolkit/latest",
    "ATB_HOME_PATH": "/usr/local/Ascend/nnal/atb",
}
SET_ENV = ("/usr/local/Ascend/ascend-toolkit/set_env.sh",)


def npu(name, count, **changes):
    """A healthy machine with the chips of one npu-smi text."""
    answer = npu_smi.parse((FIXTURES / f"{name}.txt").read_text())
    healthy = replace(
        CPU,
        smi=answer,
        nodes=tuple(f"/dev/davinci{i}" for i in range(count)),
        torch_npu="2.13.0",
        env=SOURCED,
        set_env=SET_ENV,
        cann="9.1.0",
        cann_kernels="9.1.0",
        governor="performance",
        driver="25.5.0",
        driver_takes="[7.0.0,7.9.99]",
        firmware="7.8.0.5.201",
    )
    return replace(healthy, **changes)


A2 = npu("910b3_x8", 8)


def rows(machine):
    return {row.name: row for row in judge(machine)}


def faults(machine):
    return {row.name: row.status for row in judge(machine) if row.status != "OK"}


@pytest.mark.parametrize("machine", [A2, npu("310p3", 1), npu("310p3_duo", 2), npu("a3", 4)])
def test_a_healthy_npu_machine_has_nothing_to_repair(machine):
    assert faults(machine) == {}
    assert not any(row.repair for row in judge(machine))


def test_a_machine_without_an_npu_is_told_calmly_that_the_cpu_is_used():
    assert faults(CPU) == {}
    device = rows(CPU)["device"]
    assert device.status == "OK" and "CPU" in device.found and "no NPU" in device.found
    assert (
        not {"CANN toolkit", "torch_npu", "ATB (NNAL)", "device health", "HCCL port", "driver"}
        & rows(CPU).keys()
    )


def test_torch_npu_without_cann_is_named_as_what_breaks_import_torch():
    """On such a machine `import torch` itself fails; the cure for CPU work is one variable."""
    for machine in (replace(CPU, torch_npu="2.13.0"), replace(A2, env={})):
        row = rows(machine)["torch_npu"]
        assert row.status == "FAIL" and "import torch" in row.needed
        assert (
            "set_env.sh" in row.repair
        ) == machine.has_npu and "TORCH_DEVICE_BACKEND_AUTOLOAD=0" in row.repair


def test_torch_npu_that_is_kept_out_is_fine_on_the_cpu_and_a_warning_beside_an_npu():
    out = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    assert faults(replace(CPU, torch_npu="2.13.0", env=out)) == {}
    assert rows(replace(A2, env=out))["torch_npu"].status == "WARN"


def test_cann_that_is_not_sourced_names_the_script_that_is_there():
    row = rows(replace(A2, env={}, set_env=("/opt/Ascend/cann-9.1.0/set_env.sh",)))["CANN toolkit"]
    assert row.status == "FAIL" and "source /opt/Ascend/cann-9.1.0/set_env.sh" in row.repair


def test_a_missing_atb_is_a_warning_with_its_script():
    row = rows(replace(A2, env={"ASCEND_HOME_PATH": "/x"}))["ATB (NNAL)"]
    assert row.status == "WARN" and "nnal/atb/set_env.sh" in row.repair


def test_cann_that_is_not_there_is_told_from_cann_that_is_not_sourced():
    row = rows(replace(A2, env={}, set_env=()))["CANN toolkit"]
    assert (
        row.status == "FAIL"
        and "Ascend-cann-toolkit_9.1.0_linux-x86_64.run --install" in row.repair
    )


@pytest.mark.parametrize(
    ("changes", "row", "status", "word"),
    [
        ({"torch_npu": None}, "torch_npu", "FAIL", "torch-npu==2.13.0"),
        ({"packages": {"torch": "2.13.0+cu130"}}, "torch_npu", "FAIL", "torch==2.13.0 --index-url"),
        ({"torch_npu": "2.10.0.post4"}, "pairing", "FAIL", "pip install torch-npu==2.13.0"),
        ({"torch_npu": "2.13.0.post1"}, "pairing", "OK", ""),
        ({"torch_npu": "7.0"}, "pairing", "WARN", "torch-npu==2.13.0"),
        ({"cann": "8.5.0"}, "pairing", "FAIL", "Ascend-cann-toolkit_9.1.0"),
        ({"cann": "9.2.0"}, "pairing", "OK", ""),
        ({"cann": None}, "pairing", "OK", ""),
        ({"python": "3.9.18"}, "pairing", "FAIL", "conda env create"),
        ({"torch_npu": "2.9.0.post6", "cann": "9.1.0"}, "pairing", "FAIL", "torch-npu==2.13.0"),
        (
            {"torch_npu": "2.9.0.post6", "packages": {"torch": "2.9.0"}, "cann": "9.0.0"},
            "pairing",
            "FAIL",
            "torch-npu==2.9.0.post2",
        ),
        (
            {
                "torch_npu": "2.0.1.post1",
                "packages": {"torch": "2.0.1"},
                "cann": "7.0.0",
                "python": "3.9.18",
            },
            "pairing",
            "OK",
            "",
        ),
        (
            {"cann_kernels": None},
            "CANN kernels",
            "WARN",
            "Ascend-cann-910b-ops_9.1.0_linux-x86_64.run",
        ),
        ({"cann_kernels": "9.0.0"}, "CANN kernels", "FAIL", "Ascend-cann-910b-ops_9.1.0"),
        (
            {"cann_needs": ("attrs", "scipy")},
            "CANN's Python packages",
            "FAIL",
            "pip install attrs scipy",
        ),
        (
            {"driver": None},
            "driver",
            "WARN",
            "Ascend-hdk-910b-npu-driver_*_linux-x86_64.run --full",
        ),
        ({"driver": None, "container": "docker"}, "driver", "WARN", "-v /usr/local/Ascend/driver"),
        (
            {"firmware": "6.4.0.4.220"},
            "firmware",
            "FAIL",
            "Ascend-hdk-910b-npu-firmware_*.run --full && reboot",
        ),
        ({"firmware": None}, "firmware", "WARN", "npu-firmware_*.run"),
        ({"driver_takes": None}, "firmware", "OK", ""),
    ],
)
def test_each_fault_of_the_software_below_gives_its_row_and_its_command(changes, row, status, word):
    found = rows(replace(A2, **changes))[row]
    assert (
        found.status == status and word in found.repair and bool(found.repair) == (status != "OK")
    )


def test_a_torch_npu_that_does_not_say_its_version_is_not_judged_by_the_table():
    assert "pairing" not in rows(replace(A2, torch_npu=""))


def test_atb_of_another_abi_than_torchs_is_told():
    """Its set_env.sh asks torch; sourced in a shell that had none, it takes a guess."""
    env = SOURCED | {"ATB_HOME_PATH": "/usr/local/Ascend/nnal/atb/latest/atb/cxx_abi_0"}
    row = rows(replace(A2, env=env, cxx11_abi=True))["C++ ABI"]
    assert row.status == "FAIL" and row.repair.endswith("--cxx_abi=1")
    assert rows(replace(A2, env=env, cxx11_abi=False))["C++ ABI"].status == "OK"
    assert "C++ ABI" not in rows(A2)


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


def test_a_chip_that_is_not_in_the_table_is_a_warning():
    strange = npu_smi.Smi("26", (npu_smi.Card(0, 0, "Atlas 9000", "OK", "0000:01:00.0", 1, 65536),))
    assert rows(replace(A2, smi=strange))["device"].status == "WARN"


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
    ("changes", "name"), [({"gcc": "4.8.5"}, "gcc"), ({"hccl_port_free": False}, "HCCL port")]
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


def test_the_worst_row_decides():
    assert Report(judge(CPU), CPU).worst == "OK"
    assert Report(judge(replace(CPU, disk_free=0)), CPU).worst == "WARN"
    assert Report(judge(replace(CPU, disk_free=0, glibc=None)), CPU).worst == "FAIL"


def test_all_three_forms_say_the_same():
    broken = replace(CPU, os_name="<b>Linux</b>", arch="riscv64")
    report = Report(judge(broken), broken)
    whole = json.loads(report.to_json())
    assert whole["worst"] == "WARN" and whole["host"]["arch"] == "riscv64"
    assert (
        [row["name"] for row in whole["rows"]]
        == [row.name for row in report.rows]
        == report.frame["name"].tolist()
    )
    assert "<b>Linux" not in report._repr_html_() and "&lt;b&gt;Linux" in report._repr_html_()
    assert "repair: uname -m" in repr(report) and report.summary == "13 OK, 1 WARN, 0 FAIL"
    assert json.loads(Report(judge(A2), A2).to_json())["host"]["smi"]["cards"][7]["name"] == "910B3"


def test_this_machine_is_read_without_torch_and_judged_without_a_crash():
    """`doctor` must work just where `import torch` does not."""
    code = "import sys; from neoxlib.setup import doctor; r = doctor.run(); print(r); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "worst" not in done.stderr and "device" in done.stdout


def test_this_machine_has_the_versions_that_neoxlib_was_tested_with(tmp_path):
    machine = read_host(tmp_path)
    assert machine.pins["torch"] == "2.13.0" and machine.packages.keys() == machine.pins.keys()
    assert machine.cores > 0 and machine.memory > machine.memory_free > 0 and machine.disk_free > 0


def test_a_port_in_use_is_seen():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not probes.can_bind(taken.getsockname()[1])
    assert probes.can_bind(0)


def test_a_whole_model_folder_passes(checkpoint):
    found = {row.name: row for row in model_rows(checkpoint)}
    assert {row.status for row in found.values()} == {"OK"}
    assert "3 layers, hidden 64, 8 heads" in found["model config"].found
    assert "float32 in 1 file" in found["model weights"].found
    assert found["model tokenizer"].found == "257 ids for 300 rows"


def test_every_fault_of_a_model_folder_is_told_in_one_go(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    found = {row.name: row for row in model_rows(folder)}
    assert found["model config"].status == "OK"
    assert found["model weights"].status == found["model tokenizer"].status == "FAIL"
    assert all(row.repair for row in found.values() if row.status == "FAIL")


def test_a_tokenizer_of_another_model_is_told(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": 200}
    (folder / "config.json").write_text(json.dumps(config))
    found = {row.name: row for row in model_rows(folder)}
    assert "257 ids, the model 200 rows" in found["model tokenizer"].found
    assert found["model weights"].status == "FAIL"


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_a_damaged_tokenizer_is_a_row_and_not_a_crash(checkpoint, tmp_path, content):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "tokenizer.json").write_text(content)
    assert model_rows(folder)[2].status == "FAIL"


def test_a_cut_is_checked_like_a_checkpoint(checkpoint, tmp_path):
    shard.shard(checkpoint, tmp_path / "cut", 2)
    assert [row.status for row in model_rows(tmp_path / "cut")] == ["OK"] * 3


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


def test_this_machine_is_described_by_what_a_group_leaves(monkeypatch):
    monkeypatch.setattr(host.limits, "read_cores", lambda: limits.Cores(1, 0.5, "cgroup cpu.max"))
    memory = limits.Memory(3 * GIB, GIB, "cgroup memory.max")
    monkeypatch.setattr(host.limits, "memory", lambda: memory)
    here = read_host()
    assert (here.cores, here.cores_limit) == (1, "cgroup cpu.max")
    assert (here.memory, here.memory_free, here.memory_limit) == (3 * GIB, GIB, "cgroup memory.max")
    said = environment.describe("cpu")
    assert (said["cores"], said["memory_gb"]) == (1, 3.2)
    assert said["limits"] == "cgroup cpu.max; cgroup memory.max"


def test_a_folder_that_is_not_there_fails_in_every_row(tmp_path):
    assert {row.status for row in model_rows(tmp_path / "none")} == {"FAIL"}


def test_a_torch_that_cannot_be_imported_is_a_row_and_not_a_crash(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "neoxlib.checkpoint.folder", None)
    assert "torch cannot be used" in model_rows(tmp_path)[1].found


def test_devices_are_listed_with_their_holders_or_as_the_cpu():
    busy = doctor.devices(npu("910b4_busy", 2))
    assert busy["held by"].tolist() == ["31337 python, 31338", "none"]
    assert busy["taken for"].tolist() == ["910B4", "910B4"]
    assert doctor.devices(npu("910a", 1))["taken for"].tolist() == ["910A"]
    assert doctor.devices(CPU)["device"].tolist() == ["CPU, 8 core(s)"]
    assert doctor.devices(CPU)["limited by"].tolist() == ["none"]
    assert doctor.devices(npu("no_permission", 1))["device"].tolist() == ["CPU, 8 core(s)"]


def test_every_figure_of_the_chip_table_is_shown_with_its_source_or_as_not_known():
    table = doctor.chip_table().set_index("chip")
    assert table.loc["910B3", "bandwidth (GB/s)"] == 1600
    assert "peak, bandwidth, link: third-party" in table.loc["910B3", "source"]
    assert table.loc["910B2", ["memory (GiB)", "bandwidth (GB/s)"]].tolist() == [
        "not known",
        "not known",
    ]
    assert "cpu" not in table.index


def test_the_launch_environment_is_shown_beside_the_present_one():
    inside = replace(A2, container="docker")
    table = doctor.launch_table(
        chips.CHIPS["910B3"], 8, inside, 1024, {"TASK_QUEUE_ENABLE": "2"}
    ).set_index("variable")
    assert table.loc["TASK_QUEUE_ENABLE", ["now", "for the ranks"]].tolist() == ["2", "0"]
    assert table.loc["MAX_SEQ_LEN"].tolist() == [
        "not set",
        "1024",
        "added",
        "asked for",
        "parameters",
    ]
    assert table.loc["TASK_QUEUE_ENABLE", "change"] == "replaced"
    assert table.loc["TIMEIT", ["for the ranks", "change"]].tolist() == ["not needed", "none"]
    set_here = table[table["for the ranks"] != "not needed"]["for the ranks"].to_dict()
    assert set_here == launch_env.launch_env("910B3", 8, container=True, max_seq_len=1024)
    assert (
        "HCCL_DETERMINISTIC"
        in doctor.launch_table(chips.CHIPS["910B3"], 8, inside, deterministic=True).values
    )
