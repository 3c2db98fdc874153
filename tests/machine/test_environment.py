"""The one table of environment variables, and its three readers."""

import pytest

from neoxlib.machine import environment

EVERYTHING = {
    "ASCEND_HOME_PATH": {"results", "checks", "sourced"},
    "ATB_HOME_PATH": {"results", "checks", "sourced"},
    "LD_PRELOAD": {"results", "checks", "sourced"},
    "HCCL_BUFFSIZE": {"results", "checks"},
    "LCCL_DETERMINISTIC": {"results", "checks"},
    "MAX_SEQ_LEN": {"results", "checks"},
    "TASK_QUEUE_ENABLE": {"results", "checks"},
    "PYTORCH_NPU_ALLOC_CONF": {"results", "checks"},
    "TORCH_DEVICE_BACKEND_AUTOLOAD": {"results", "checks"},
    "TORCH_LOGS": {"results"},
    "NPU_VISIBLE": {"results"},
    "OMP_NUM_THREADS": {"results"},
    "MKL_NUM_THREADS": {"results"},
    "INT8_FORMAT_NZ_ENABLE": {"results"},
    "INF_NAN_MODE_ENABLE": {"checks"},
    "PYTORCH_ALLOC_CONF": {"results", "checks"},
    "BACKEND": {"checks"},
    "TOOLCHAIN_HOME": {"sourced"},
    "PYTHONPATH": {"sourced"},
    "LD_LIBRARY_PATH": {"sourced"},
    "PATH": {"sourced"},
    "HOME": set(),
    "USER": set(),
    "MY_ASCEND_PASSWORD": set(),
    "BACKEND_KEY": set(),
}


@pytest.mark.parametrize("use", ["results", "checks", "sourced"])
def test_each_reader_gets_the_variables_of_its_use_and_no_others(use):
    found = environment.variables(use, dict.fromkeys(EVERYTHING, "1"))
    assert set(found) == {name for name, uses in EVERYTHING.items() if use in uses}
    assert list(found) == sorted(found)


def test_a_run_records_what_is_set_now_without_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ASCEND_HOME_PATH", f"{tmp_path}/cann")
    assert environment.describe("cpu")["variables"]["ASCEND_HOME_PATH"] == "~/cann"
