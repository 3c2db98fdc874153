"""The setup report on described machines: its rows, its forms and its tables."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from neoxlib.machine import chips, launch_env
from neoxlib.setup import doctor
from neoxlib.setup.doctor import Report, judge
from tests.support.hosts import A2, CPU, faults, npu, rows


@pytest.mark.parametrize("machine", [A2, npu("310p3", 1), npu("310p3_duo", 2), npu("a3", 4)])
def test_a_healthy_npu_machine_has_nothing_to_repair(machine):
    assert faults(machine) == {}
    assert not any(row.repair for row in judge(machine))


def test_a_machine_without_an_npu_is_told_calmly_that_the_cpu_is_used():
    assert faults(CPU) == {}
    device = rows(CPU)["device"]
    assert device.status == "OK" and "CPU" in device.found and "no NPU" in device.found
    assert (
        not {"CANN toolkit", "torch_npu", "ATB (NNAL)", "device health", "HCCL ports", "driver"}
        & rows(CPU).keys()
    )


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
    code = "import sys; from neoxlib.setup import doctor; print(doctor.check())"
    code += "; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "worst" not in done.stderr and "device" in done.stdout


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
    assert "peak (TFLOPS), bandwidth (GB/s), link: third-party" in table.loc["910B3", "source"]
    assert table.loc["910B2", ["memory (GiB)", "bandwidth (GB/s)"]].tolist() == [
        "not known",
        "not known",
    ]
    assert "cpu" not in table.index


def launch(env, **options):
    inside = replace(A2, container="docker")
    table = doctor.launch_table(chips.CHIPS["910B3"], 8, inside, env=env, **options)
    return table.set_index("variable")


def test_the_launch_environment_is_shown_beside_the_present_one():
    table = launch({}, max_seq_len=1024)
    assert table.loc["MAX_SEQ_LEN"].tolist() == [
        "not set",
        "1024",
        "added",
        "asked for",
        "parameters",
        "",
    ]
    assert table.loc["TASK_QUEUE_ENABLE", ["for the ranks", "change"]].tolist() == ["2", "added"]
    assert table.loc["TIMEIT", ["for the ranks", "change"]].tolist() == ["not needed", "none"]
    set_here = table[table["for the ranks"] != "not needed"]["for the ranks"].to_dict()
    assert set_here == launch_env.launch_env("910B3", 8, container=True, max_seq_len=1024)
    assert "HCCL_DETERMINISTIC" in launch({}, deterministic=True).index


def test_what_the_user_exported_is_kept_and_the_recipes_value_is_named():
    env = {"TASK_QUEUE_ENABLE": "1", "HCCL_BUFFSIZE": "110", "MAX_SEQ_LEN": "512"}
    table = launch(env, max_seq_len=1024)
    shown = ["now", "for the ranks", "change"]
    assert table.loc["TASK_QUEUE_ENABLE", shown].tolist() == ["1", "1", "kept; the recipe has 2"]
    assert table.loc["HCCL_BUFFSIZE", shown].tolist() == ["110", "110", "none"]
    assert table.loc["MAX_SEQ_LEN", shown].tolist() == ["512", "1024", "replaced"]
    left_out = launch({"PYTORCH_ALLOC_CONF": "a:1"}).loc["PYTORCH_NPU_ALLOC_CONF"]
    assert left_out["for the ranks"] == "left out" and "PYTORCH_ALLOC_CONF" in left_out["why"]


def test_a_variable_without_effect_is_marked_with_the_reason_and_the_guides_era_says_so():
    table = launch({})
    assert table.loc["ATB_OPERATION_EXECUTE_ASYNC", "effect"].startswith("none here: ")
    assert table.loc["TASK_QUEUE_ENABLE", "effect"] == ""
    guide = launch({}, era="guide").loc["TASK_QUEUE_ENABLE"]
    assert guide["for the ranks"] == "0" and "the guide's" in guide["why"]


def test_ranks_on_aarch64_are_shown_the_libgomp_that_they_load_first():
    arm = replace(A2, arch="aarch64", libgomp=("/t/libgomp.so.1",))
    table = doctor.launch_table(chips.CHIPS["910B3"], 2, arm, env={}).set_index("variable")
    assert table.loc["LD_PRELOAD", "for the ranks"] == "/t/libgomp.so.1"
    assert "LD_PRELOAD" not in doctor.launch_table(chips.CHIPS["cpu"], 2, arm, env={}).values
